"""Whether a Jacobian's Gram matrix fits the memory: better a sentence before the run than a killed process."""

import os
import re
from pathlib import Path


def require_memory(rows, network, advice):
    """Refuses a batch whose update by a power of the Jacobian takes more memory than there is.

    Args:
        rows: n = B·d, rows of the Jacobian.
        network: built keras.Model with p weights.
        advice: str, what to reduce.

    Raises:
        SettingsError: with the numbers and the advice.
    """
    from hig.runs.training import SettingsError
    needed, available = update_memory(rows, network), available_memory()
    if needed > available:
        raise SettingsError(f"a Jacobian of {rows} rows takes {needed / 2**30:.1f} GiB of memory for each update, "
                            f"and {available / 2**30:.1f} GiB are free; {advice}")


def update_memory(rows, network):
    """Bytes that an update takes at its peak, about: K and the copy that LAPACK reduces, and the Jacobian's factors.

    Where n > p, JᵀJ takes the place of K, and J itself is formed.
    """
    weights = network.count_params()
    widths = sum(w.shape[-1] for w in network.trainable_variables)
    side = min(rows, weights)
    formed = 2 * rows * weights if rows > weights else 0
    return 8 * (2 * side**2 + formed + 3 * rows * widths)


def available_memory():
    """Bytes that this process may still take: of the machine and, on Linux, of its control group."""
    try:
        free = 1024 * int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1])
    except (OSError, TypeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup")
    try:
        return min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):                                         # no such group, or its limit is "max"
        return free
