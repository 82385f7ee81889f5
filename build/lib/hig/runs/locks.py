"""Two runs must not write the same results: a lock beside them, held by the operating system.

The lock is `flock` on the hidden file `.NLO_HIG.lock`, for instance, in which the process writes its number and host.
The system gives it up when the process ends, however it ends, so that a file left by a killed process or an earlier
boot locks nothing, even when another process has got its number since.
"""

import errno
import os
import platform
import re
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 0.2                                                          # seconds, for one who is just removing the file
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)                  # says a file system that knows none


@contextmanager
def locked(name):
    """Holds the lock of the results called `name` (Path without _RESULTS.pickle) while the block runs.

    On file systems that know no locks (some of clusters) it holds nothing, and two runs are the user's care.

    Raises:
        BlockingIOError: another process holds it; the message names that process.
        OSError: the folder is missing or not writable.
    """
    path = name.with_name(f".{name.name}.lock")
    lock = FileLock(path, timeout=PATIENCE, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{_owner(path) or 'another process'} is writing {name.name} in {path.parent}; wait for it, "
                              "stop it, or choose another folder with --output") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        with suppress(OSError):                                         # the number is only for the other's message
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        try:
            path.unlink(missing_ok=True)                                # before the lock is given up
        finally:
            lock.release()


def held(name):
    """Whether a living process holds the lock of the results called `name` (as in `locked`).

    The lock is not tried: taking it for a moment could refuse a run that begins just then. It is looked up whether the
    process named in the file still has it open; one on another host, of another user, or on a system without /proc is
    taken at its word.
    """
    path = name.with_name(f".{name.name}.lock")
    try:
        lock = path.stat()
    except OSError:
        return False
    owner = re.fullmatch(r"process (\d+) on (.*)", _owner(path))
    if not owner or owner[2] != platform.node() or not Path("/proc/self/fd").is_dir():
        return bool(owner)
    try:
        descriptors = list(Path("/proc", owner[1], "fd").iterdir())
    except PermissionError:
        return True
    except OSError:                                                     # that process has ended
        return False
    for descriptor in descriptors:
        with suppress(OSError):                                         # closed meanwhile
            if os.path.samestat(lock, descriptor.stat()):
                return True
    return False


def state_of(path, results):
    """How the run of the pickle at `path` (Path) stands: "running", "finished", "interrupted" or "diverged".

    A run that its pickle calls running, but whose lock no process holds, was killed: interrupted. Curves without a state,
    those of the published code, are finished.

    Args:
        results: the pickle's content, of `hig.runs.results.load_results`.
    """
    state = results.get("provenance", {}).get("state", "finished")
    if state == "running" and not held(path.with_name(path.name.removesuffix("_RESULTS.pickle"))):
        return "interrupted"
    return state


def _owner(path):
    """What the lock file says: "process 123 on host"; empty if nothing can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip("\0")
    except OSError:
        return ""
