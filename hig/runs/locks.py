"""Two runs must not write the same results: a lock beside them, held by the operating system.

The lock is `flock` on a hidden file, `.NLO_HIG.lock` for instance, in which the process writes its number and
host. The system releases it when the process ends, however it ends. A file left by a killed process or an
earlier boot therefore locks nothing.
"""

import errno
import os
import platform
from contextlib import contextmanager, suppress

PATIENCE = 0.2  # seconds to wait for a process that only looks at the lock, or is just removing its file
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)                  # of a file system without locks


@contextmanager
def locked(name):
    """Holds the lock of the results called `name` (Path without _RESULTS.pickle) while the block runs.

    On file systems without locks (some clusters') it holds nothing, and the user must avoid two runs.

    Raises:
        BlockingIOError: another process holds it; the message names that process.
        OSError: the folder is missing, not writable, or refuses to lock; the message names it.
    """
    from filelock import FileLock, Timeout  # plot.py, which only asks, starts without it

    path = name.with_name(f".{name.name}.lock")
    lock = FileLock(path, timeout=PATIENCE, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        owner = ""
        with suppress(OSError):
            owner = path.read_text(encoding="utf-8", errors="replace")
        raise BlockingIOError(f"{owner or 'another process'} is writing {name.name} in {path.parent}; wait "
                              "for it, stop it, or choose another folder with --output") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(f"cannot lock {name.name} in the folder {path.parent}: "
                          f"{error.strerror or error}") from error
    try:
        with suppress(OSError):                                         # only for others' messages
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):                                         # of a file system that has gone
            path.unlink(missing_ok=True)
        lock.release()


def held(path):
    """Whether a process holds the lock file at `path`; on file systems without locks, whether it exists."""
    import fcntl
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)        # a run that begins now waits for PATIENCE
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in NO_LOCKS
    return False


def state_of(path, results):
    """The state of the run of the pickle at `path` (Path).

    It is "running", "finished", "interrupted", "diverged" or "failed". If the pickle says "running" but no
    process holds the lock, the run was killed: "interrupted". Curves of the published code have no state and
    are "finished".

    Args:
        results: the pickle's content, of `hig.runs.results.load_results`.
    """
    state = results.get("provenance", {}).get("state", "finished")
    lock = path.with_name(f".{path.name.removesuffix('_RESULTS.pickle')}.lock")
    return "interrupted" if state == "running" and not held(lock) else state
