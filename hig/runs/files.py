"""Files that are complete or not there: atomic writes, and earlier results that make room."""

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path


def write_atomically(path, data):
    """Write a file so that its name always refers to the complete old or the complete new content.

    Args:
        path: file name (str or Path); its folder must exist.
        data: bytes, the whole content.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; an earlier file is then
            untouched, and the temporary file beside it is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the content must be on the disk before the name points to it
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the new name, too, outlives a power cut; some file systems cannot promise it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def keep_earlier(path):
    """Move an earlier curve out of the way, to a name with its date: `X_RESULTS_2026-11-23_093012.pickle`.

    Any file that is not empty is kept, readable or not. The date is that of its last change, in local time.

    Args:
        path: file name (str or Path).

    Returns:
        The new name (Path), or None if there was nothing to keep. A name in use is not taken:
        `…_093012-2.pickle` follows. The lock of `hig.runs.locks` keeps other processes from taking it.

    Raises:
        OSError: the file cannot be moved.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        return None
    date = time.strftime("%Y-%m-%d_%H%M%S", time.localtime(path.stat().st_mtime))
    names = (path.with_name(f"{path.stem}_{date}{number}{path.suffix}")
             for number in itertools.chain([""], map("-{}".format, itertools.count(2))))
    kept = next(name for name in names if not name.exists())
    os.replace(path, kept)
    return kept
