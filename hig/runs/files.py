"""Atomic writes of files, and dated names for earlier results."""

import os
import time
from pathlib import Path


def write_atomically(path, data):
    """Write a file so that its name always refers to the complete old or the complete new content.

    A process that is killed leaves at most `.<name>.tmp` beside it, which the next write replaces.

    Args:
        path: file name (str or Path); its folder must exist, and no other process may be writing the file.
        data: bytes, the whole content.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; an earlier file is then
            untouched, and the temporary file beside it is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the content must be on the disk before the name points to it
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def keep_earlier(path):
    """Give an earlier file a name with its date: `X_RESULTS_2026-11-23_093012.pickle`.

    The date is that of its last change, in local time. If a file has this name, `…_093012-2.pickle` follows.

    Args:
        path: Path.

    Returns:
        The new name (Path), or None if there was nothing to keep.

    Raises:
        OSError: the file cannot be moved.
    """
    if not path.is_file():
        return None
    date = time.strftime("%Y-%m-%d_%H%M%S", time.localtime(path.stat().st_mtime))
    kept, number = path.with_name(f"{path.stem}_{date}{path.suffix}"), 2
    while kept.exists():
        kept, number = path.with_name(f"{path.stem}_{date}-{number}{path.suffix}"), number + 1
    os.replace(path, kept)
    return kept
