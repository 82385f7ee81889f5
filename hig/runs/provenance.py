"""Where a result comes from: versions, commit, hardware, threads."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from threadpoolctl import threadpool_info

PACKAGES = ("numpy", "scipy", "tensorflow", "keras", "phiflow")


def provenance():
    """What a number depends on besides its settings, as a dict of builtins.

    Keys: "python" and one key per package of PACKAGES (version), "commit" (of this checkout, with "+" if files differ
    from it; None outside a checkout), "cpu" (model), "cores", "blas_threads" (library → threads).
    """
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas_threads": {f"{library['internal_api']} {library.get('version')}": library["num_threads"]
                         for library in threadpool_info()},
    }


def _commit():
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
