"""What a process may still take, by the files that Linux shows: control groups of both versions, page cache,
containers.
"""

from types import SimpleNamespace

import psutil
import pytest
import tensorflow as tf

from hig import memory
from hig.memory import available_memory, require_memory, update_memory

GiB, MiB = 2**30, 2**20
MACHINE = 23 * GiB


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A function of /proc/self/cgroup and {group: (limit, use, inactive file, active file)} that gives the
    bytes free.
    """
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Machine", (), {"available": MACHINE}))
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def available(membership, files):
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text(membership)
        for name, (limit, use, inactive, active) in files.items():
            folder = groups / name
            folder.mkdir(parents=True, exist_ok=True)
            first = name.split("/")[0] == "memory"
            (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{limit}\n")
            (folder / ("memory.usage_in_bytes" if first else "memory.current")).write_text(f"{use}\n")
            # Version 1 also has the numbers of the group without its children, which count for nothing here.
            (folder / "memory.stat").write_text(
                f"anon 5\ninactive_file 7\nactive_file 9\ntotal_inactive_file {inactive}\ntotal_active_file "
                f"{active}\n"
                if first else f"anon 5\ninactive_file {inactive}\nactive_file {active}\nslab 3\n")
        return available_memory(proc, groups)
    return available


UNLIMITED = 9223372036854771712                                         # what version 1 says for "no limit"


@pytest.mark.parametrize("files, expected", [
    ({"job_1/step_0": (4 * GiB, 3700 * MiB, 2 * GiB, 628 * MiB), "job_1": (16 * GiB, GiB, 0, 0)}, 3072 * MiB),
    ({"job_1/step_0": ("max", GiB, 0, 0), "job_1": (4 * GiB, GiB, 0, 0)}, 3 * GiB),
    # the parent is the tighter
    ({"job_1/step_0": (8 * GiB, GiB, 0, 0), "job_1": (4 * GiB, 3 * GiB, 0, 0)}, GiB),
    ({"job_1/step_0": ("max", GiB, 0, 0), "job_1": ("max", GiB, 0, 0)}, MACHINE),
    ({"job_1/step_0": (GiB, 2 * GiB, 0, 0)}, 0)])
def test_a_slurm_step_of_version_2(linux, files, expected):
    assert linux("0::/system.slice/job_1/step_0\n", {f"system.slice/{k}": v for k,
                                                     v in files.items()}) == expected


@pytest.mark.parametrize("membership, files, expected", [
    ("8:memory:/slurm/uid_1/job_1/step_0\n", {
        "memory/slurm/uid_1/job_1/step_0": (4 * GiB, GiB, 0, 0),
        "memory/slurm/uid_1/job_1": (4 * GiB, 3700 * MiB, 2 * GiB, GiB),
        "memory/slurm/uid_1": (UNLIMITED, 90 * GiB, 0, 0)}, 3 * GiB),
    ("5:cpu,cpuacct:/batch\n4:memory:/batch\n1:name=systemd:/init.scope\n", {
        "memory": (UNLIMITED, 9 * GiB, 0, 0),
        "memory/batch": (GiB, 200 * MiB, 30 * MiB, 10 * MiB)}, 864 * MiB)])
def test_groups_of_version_1(linux, membership, files, expected):
    assert linux(membership, files) == expected


@pytest.mark.parametrize("membership, name", [("0::/\n", "."), ("4:memory:/\n0::/\n", "memory")])
def test_page_cache_is_free(linux, membership, name):
    """A group of 4 GiB, full but for 0.1, of which 3.4 are files that were read."""
    assert linux(membership, {name: (4 * GiB, 3996 * MiB, 3 * GiB, 400 * MiB)}) == (100 + 3072 + 400) * MiB


@pytest.mark.parametrize("membership, name", [
    ("0::/docker/1234\n", "."), ("4:memory:/docker/1234\n", "memory"), ("0::/../../x:y\n", "."),
    ("4:cpu:/a\n0::/user.slice\n", "unified/user.slice")])
def test_containers_show_their_group_as_the_root(linux, membership, name):
    assert linux(membership, {name: (2 * GiB, GiB, 0, 0)}) == GiB


def test_without_groups_the_machine_counts(linux, tmp_path):
    assert available_memory(tmp_path / "none", tmp_path) == MACHINE
    assert linux("0::/a\n3:pids:/b\n", {}) == MACHINE
    (tmp_path / "cgroup" / "a").mkdir(parents=True)
    (tmp_path / "cgroup" / "a" / "memory.max").write_text("1000")       # and nothing else
    assert available_memory(tmp_path / "proc", tmp_path / "cgroup") == MACHINE


def test_here():
    assert 0 < available_memory() <= psutil.virtual_memory().total


def test_the_memory_of_an_update():
    """Two n × n float64 matrices where n < p, two p × p ones where n > p; n = 4096 of Poisson."""
    assert 2 * 4096**2 * 8 < update_memory(4096, 100_000, 3 * 500) < 1.5e9
    assert update_memory(1000, 8, 12) == 8 * (2 * 8**2 + 1000 * 12)


def test_a_batch_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * GiB)
    require_memory(8000, 100_300, 1200, "reduce the batch")
    needed = update_memory(16000, 100_300, 1200) / GiB
    with pytest.raises(MemoryError,
                       match=rf"^a Jacobian of n = 16000 rows and p = 100300 columns takes {needed:.1f} GiB "
                             r"of memory for each update, and 2\.0 GiB are free; reduce the batch$"):
        require_memory(16000, 100_300, 1200, "reduce the batch")


@pytest.mark.parametrize("program, expected", [
    ("echo 8000; echo 16000", 8000 * 2**20 - 1000), ("exit 9", "the host's"), (None, "the host's")])
def test_the_memory_of_the_smallest_gpu_or_of_the_host(tmp_path, monkeypatch, program, expected):
    """With two GPUs that TensorFlow is made to see, and a program in the place of nvidia-smi, if any."""
    if program:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(memory, "available_memory", lambda: "the host's")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [
        SimpleNamespace(name=f"/job:a/replica:0/task:0/device:{kind}:{number}") for number in range(2)])
    monkeypatch.setattr(tf.config.experimental, "get_memory_info",
                        lambda device: {"current": {"GPU:0": 1000, "GPU:1": 600}[device]})
    assert memory.device_memory() == expected
