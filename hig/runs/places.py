"""Where the runs of a study take place: in processes on this machine, or in jobs of Slurm, by submitit.

A place is made from the list of the runs that are left. The caller asks it every `poll` seconds whether it is
still `busy()`, and removes from the list the runs that are done. After Ctrl-C and SIGTERM it calls `stop()`.
"""

import io
import re
import shutil
import signal
import subprocess
import sys
import zlib
from contextlib import redirect_stderr

from hig.runs import cli

START_UP = 15.0             # seconds that a run takes besides its training, for estimates


class Here:
    """This machine, with `options.jobs` runs at a time."""

    poll = 1.0              # seconds

    def __init__(self, runs, options):
        self.waiting, self.processes, self.jobs = list(runs), [], options.jobs

    def busy(self):
        """Starts runs where there is room. A run that an earlier call has started is waited for."""
        self.processes = [process for process in self.processes if process.poll() is None]
        for run in list(self.waiting):
            if len(self.processes) < self.jobs and run.state() != "running":
                self.waiting.remove(run)
                if not run.done():
                    self.processes.append(run.start(start_new_session=True))       # Ctrl-C does not reach it
        return bool(self.waiting or self.processes)

    def stop(self):
        """Lets the runs end with the epochs under way."""
        print("stopping after the epochs under way", file=sys.stderr)
        for end in (subprocess.Popen.terminate, subprocess.Popen.wait):
            for process in self.processes:
                end(process)
        print("stopped; the same command goes on", file=sys.stderr)


class Slurm:
    """Jobs of Slurm, submitted at once as an array, of which `options.jobs` run at a time.

    Jobs of an earlier call of the same study are waited for before what is then left is submitted.

    Raises:
        SettingsError: there is no Slurm, or submitit is not installed.
    """

    poll = 10.0             # seconds

    def __init__(self, runs, options):
        missing = [command for command in ("sbatch", "srun", "squeue") if not shutil.which(command)]
        if missing:
            raise cli.SettingsError(f"there is no Slurm on this machine: the command {missing[0]} is missing")
        try:
            import submitit
        except ModuleNotFoundError:
            raise cli.SettingsError("the package submitit is not installed: pip install "
                                    "'hig[cluster]'") from None
        self.left, self.submitted, self.folder = runs, False, options.output / ".jobs"
        name = re.sub(r"\W", "_", options.output.name[:40])
        self.name = f"{name}_{zlib.crc32(bytes(options.output)):08x}"    # of all jobs, and of no other study
        self.executor = submitit.SlurmExecutor(self.folder, max_num_timeout=100)
        defaults = {"time": int((options.max_time + START_UP) // 60) + 10, "cpus_per_task": 1}
        self.executor.update_parameters(
            job_name=self.name, ntasks_per_node=1, array_parallelism=options.jobs,
            additional_parameters={"requeue": True}, **defaults | options.slurm)

    def busy(self):
        """One question to Slurm for all jobs; while it does not answer, they are taken to go on.

        Raises:
            SettingsError: Slurm does not take the jobs.
        """
        if not self.left:
            return False
        states = job_states(f"--name={self.name}")
        if states != [] or self.submitted:
            return states != []
        try:
            with cli.writing_to(self.folder), redirect_stderr(io.StringIO()), self.executor.batch():
                for run in self.left:
                    (run.folder / "stderr.txt").unlink(missing_ok=True)             # of an earlier attempt
                    self.executor.submit(Job(run))
        except RuntimeError as error:
            raise cli.SettingsError(f"Slurm does not take the jobs: {' '.join(str(error).split())}") from None
        self.submitted = True
        return True

    def stop(self):
        """Leaves the jobs to Slurm."""
        print("stopped; the same command goes on, and the Slurm jobs do, too: scancel ends them",
              file=sys.stderr)


class Job:
    """One run (`hig.runs.study.Run`) as submitit calls it in a job of Slurm.

    Slurm sends its signals to all processes of a job. After SIGTERM the script writes its checkpoint and
    ends, and the job is requeued unless it was cancelled. When the job's time is nearly over, submitit gets
    a signal of its own, USR2, and requeues the job at once; the run then goes on from the last epoch saved.
    """

    def __init__(self, run):
        self.run = run

    def __call__(self):
        """Trains; returns the script's exit code."""
        from submitit import JobEnvironment
        code, job = 0 if self.run.done() else self.run.start().wait(), JobEnvironment()
        if code in (0, -signal.SIGTERM) and not self.run.done():
            states = job_states(f"--jobs={job.job_id}")
            if states is None or {"RUNNING", "PREEMPTED"} & set(states):        # not cancelled
                signal.raise_signal(getattr(signal, f"SIG{job.USR_SIG}"))
        return code

    def checkpoint(self):
        """What the requeued job calls: the same, which goes on from the run's checkpoint."""
        from submitit.helpers import DelayedSubmission
        return DelayedSubmission(self)


def job_states(which):
    """States of the jobs that have not ended, "RUNNING" for instance: list of str; None without an answer.

    Args:
        which: flag of squeue, "--name=peers" for instance.
    """
    answer = subprocess.run(["squeue", "--noheader", "--format=%T", which], capture_output=True, text=True,
                            check=False)
    return answer.stdout.split() if not answer.returncode or "Invalid job id" in answer.stderr else None
