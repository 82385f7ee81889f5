"""A Slurm of one machine for a test: its own ports, keys and state in a temporary folder; whatever it starts,
it ends.

A requeued job waits until its credentials have expired, 120 s by default (cred_expire): 5 s here.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager


def missing():
    """Why there can be no Slurm here; empty if there can."""
    absent = [name for name in ("munged", "slurmctld", "slurmd", "squeue") if not shutil.which(name)]
    if absent:
        return f"Slurm is not installed: {', '.join(absent)} missing (Debian's slurm-wlm and munge)"
    return "" if os.getuid() == 0 else "Slurm's daemons want to be started by root"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(folder):
    """Starts Slurm in a folder (Path); gives the path of its slurm.conf, which SLURM_CONF has to name."""
    key, munge, configuration = (folder / name for name in ("munge.key", "munge.socket", "slurm.conf"))
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    configuration.write_text(f"""ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthInfo=socket={munge},cred_expire=5
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PlugStackConfig=/dev/null
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName=localhost NodeAddr=127.0.0.1 CPUs={os.cpu_count()}
PartitionName=test Nodes=localhost Default=YES
""")
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    commands = [["munged", "--foreground", "--force", "--socket", munge, "--key-file", key,
                 "--pid-file", folder / "munge.pid", "--seed-file", folder / "munge.seed"],
                ["slurmctld", "-D", "-f", configuration], ["slurmd", "-D", "-N", "localhost"]]
    with ExitStack() as stack:
        for command in commands:
            log = stack.enter_context(open(folder / f"{command[0]}.out", "w"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            stack.callback(process.terminate)                           # and then it is waited for
            if command[0] == "munged":
                wait_for(munge.exists)
        stack.callback(subprocess.run, ["scancel", "--full", "--signal=KILL", "--user=root"], env=environment,
                       capture_output=True)
        wait_for(lambda: subprocess.run(["srun", "--immediate=5", "true"], env=environment,
                                        capture_output=True).returncode == 0)
        yield configuration


def wait_for(condition):
    """Until it holds; five minutes are far beyond what a busy machine takes."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError("what the test waits for did not come about")
