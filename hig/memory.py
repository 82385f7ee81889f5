"""Whether an update fits into memory, so that a message before the run replaces a killed process.

A process may use the machine's free memory, within the limits of its control groups (Linux' cgroups, version
1 and 2: a container, a Slurm step, a systemd slice). A group's page cache counts as free, because the kernel
releases it before it kills a process.

Source: the kernel's documents admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory.
"""

import subprocess
from pathlib import Path, PurePosixPath

import numpy as np
import psutil

# files with the limit and the use, and the entries of memory.stat that are page cache
_VERSION_2 = "memory.max", "memory.current", ("inactive_file", "active_file")
_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")


def require_memory(rows, columns, numbers, advice):
    """Refuses a batch whose update by a power of the Jacobian takes more memory than is free.

    An update takes K (JᵀJ if n > p), the copy of it that LAPACK reduces, and what is kept of each row of J.

    Args:
        rows, columns: n and p, those of the Jacobian.
        numbers: kept of each row: its p entries, or those of its factors.
        advice: str, what to do, the end of the message.

    Raises:
        MemoryError: one sentence with the numbers and the advice.
    """
    needed, available = 8 * (2 * min(rows, columns)**2 + rows * numbers), available_memory()
    if needed > available:
        raise MemoryError(f"a Jacobian of n = {rows} rows and p = {columns} columns takes "
                          f"{needed / 2**30:.1f} GiB of memory for each update, and {available / 2**30:.1f} "
                          f"GiB are free; {advice}")


def keep_freed_memory():
    """Lets the C library keep freed blocks of up to 32 MB for reuse.

    Without it each update of the oscillators, with matrices of 2 MB, had 990 page faults: 2.6 ms of 28 ms.
    Source: mallopt(3) of glibc, M_MMAP_THRESHOLD, which grows with the largest block freed so far, up to
    32 MB. With other C libraries this has no effect.
    """
    np.empty(2**25 - 2**16, np.uint8)


def available_memory(proc="/proc", groups="/sys/fs/cgroup"):
    """Bytes (int, at least 0) that the machine and every control group of this process leave to it.

    Args:
        proc, groups: where Linux shows processes and control groups.
    """
    left = [_left_by(*group) for group in _groups(Path(proc), Path(groups))]
    return max(0, min([psutil.virtual_memory().available, *(n for n in left if n is not None)]))


def device_memory():
    """Bytes (int) that are free where TensorFlow computes: on the smallest GPU, or on the host without a GPU.

    The driver's nvidia-smi gives the GPUs' memory, and TensorFlow how much of it is in use. Without
    nvidia-smi, the host's free memory is returned.
    """
    import tensorflow as tf  # here, because reading curves does not need it
    devices = [device.name.partition("device:")[2] for device in tf.config.list_logical_devices("GPU")]
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        total = devices and subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        total = ""
    if not total:
        return available_memory()
    used = max(tf.config.experimental.get_memory_info(device)["current"] for device in devices)
    return 2**20 * min(map(int, total.split())) - used


def _groups(proc, groups):
    """The folders of the groups of this process, and the names of their files."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:  # "4:memory:/slurm/job_1", in version 2 "0::/slurm/job_1"
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots, files = (groups, groups / "unified"), _VERSION_2
        elif "memory" in controllers.split(","):
            roots, files = (groups / "memory",), _VERSION_1
        else:
            continue
        # In a container the path may be the host's, but only the container's own group is there, as the root.
        path = PurePosixPath(path.lstrip("/"))
        yield from ((root / part, *files) for root in roots for part in (path, *path.parents))


def _left_by(group, limit, use, cache):
    """Bytes that one group leaves; None if it is not there, has no limit, or cannot be read."""
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / use).read_text()) - sum(int(stat.get(name, 0)) for name in cache)
        return int((group / limit).read_text()) - max(0, used)
    except (OSError, ValueError):                                       # the limit may be "max"
        return None
