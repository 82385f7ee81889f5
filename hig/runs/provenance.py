"""Where a result comes from: versions, commit, hardware, threads."""

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from threadpoolctl import threadpool_info

PACKAGES = ("numpy", "scipy", "tensorflow", "keras", "phiflow")


def provenance():
    """What a number depends on besides its settings, as a dict of builtins.

    Keys: "python" and each of PACKAGES (version, "unknown" if not found), "commit" (of this checkout, with
    "+" if files differ from it; None outside a checkout of hig), "cpu" (model), "cores", "gpus" (their
    names), "blas_threads" (library → threads).
    """
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpus(),
        "blas_threads": {f"{library['internal_api']} {library.get('version')}": library["num_threads"]
                         for library in threadpool_info()},
    }


def _gpus():
    """Names of the GPUs that TensorFlow sees; none where it is not loaded."""
    config = getattr(sys.modules.get("tensorflow"), "config", None)
    return [config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in config.list_physical_devices("GPU")] if config else []


def peak_memory():
    """The most memory that this process has held so far, in bytes (int)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _version(package):
    """Version of a distribution, or of the loaded module if another one brings it, as tensorflow-cpu does."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", "unknown")


def _commit():
    def git(*arguments):
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)      # fails within somebody else's checkout
        return git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
