"""Two runs must not write the same results: a lock beside them, held by the operating system.

The lock is `flock` on the hidden file `.NLO_HIG.lock`, for instance, in which the process writes its number and host.
The system gives it up when the process ends, however it ends, so that a file left by a killed process or an earlier
boot locks nothing, even when another process has got its number since.
"""

import os
import platform
import re
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:                                                     # Windows: no lock
    fcntl = None


@contextmanager
def locked(name):
    """Holds the lock of the results called `name` (Path without _RESULTS.pickle) while the block runs.

    On file systems that know no locks (some of clusters) it holds nothing, and two runs are the user's care.

    Raises:
        BlockingIOError: another process holds it; the message names that process.
        OSError: the folder is missing or not writable.
    """
    path = name.with_name(f".{name.name}.lock")
    file = _open(path)
    try:
        with suppress(OSError):                                         # the number is only for the other's message
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)                                    # before the lock is given up
        with suppress(OSError):
            file.close()


def held(name):
    """Whether a living process holds the lock of the results called `name` (as in `locked`).

    The lock is not tried: taking it for a moment could refuse a run that begins just then. It is looked up whether the
    process named in the file still has it open; one on another host, of another user, or on a system without /proc is
    taken at its word.
    """
    path = name.with_name(f".{name.name}.lock")
    try:
        lock, owner = path.stat(), re.fullmatch(r"process (\d+) on (.*)", path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
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


def _open(path):
    """The locked file."""
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200) or "another process"
            file.close()
            raise BlockingIOError(f"{owner} is writing {path.name[1:-5]} in {path.parent}; wait for it, stop it, "
                                  "or choose another folder with --output") from None
        except OSError:                                                 # a file system without locks
            return file
        with suppress(FileNotFoundError):                               # its owner removed it before we had the lock
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
