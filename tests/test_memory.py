"""What a process may still take, by the files that Linux shows: control groups of both versions, page cache,
containers.
"""

from types import SimpleNamespace

import psutil
import pytest
import tensorflow as tf

from hig import memory
from hig.memory import available_memory, require_memory

GiB, MiB = 2**30, 2**20
MACHINE = 23 * GiB


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """(/proc/self/cgroup, {group: (limit, use, inactive file, active file)}) → the bytes free."""
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
            total, others = ("total_", "inactive_file 7\nactive_file 9\n") if first else ("", "slab 3\n")
            (folder / "memory.stat").write_text(
                f"anon 5\n{others}{total}inactive_file {inactive}\n{total}active_file {active}\n")
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
    files = {f"system.slice/{name}": numbers for name, numbers in files.items()}
    assert linux("0::/system.slice/job_1/step_0\n", files) == expected


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


@pytest.mark.parametrize("n, p, kept, needed", [(16_000, 100_300, 1200, 2 * 16_000**2 + 16_000 * 1200),
                                                (1_600_000, 800, 1200, 2 * 800**2 + 1_600_000 * 1200)])
def test_a_batch_that_does_not_fit_is_refused(monkeypatch, n, p, kept, needed):
    """Two n × n float64 matrices where n < p, two p × p ones where n > p, and what is kept of each row."""
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * needed)
    require_memory(n, p, kept, "reduce the batch")
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * needed - 1)
    with pytest.raises(MemoryError, match=f"^a Jacobian of n = {n} rows and p = {p} columns takes "
                       rf"{8 * needed / GiB:.1f} GiB of memory for each update, and .*GiB are free; reduce "
                       "the batch$"):
        require_memory(n, p, kept, "reduce the batch")


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
