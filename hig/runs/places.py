"""Where the runs of a study take place: in processes on this machine, or in jobs of Slurm, by submitit.

A place is a generator that carries out a list of runs. It yields the number of seconds until it wants to look
after them again. Meanwhile the caller removes the runs that are done from the list. Ctrl-C and `close()` stop
it.
"""

import io
import re
import shutil
import signal
import subprocess
import zlib
from contextlib import redirect_stderr

from hig.runs import cli
from hig.runs.progress import say

START_UP = 15.0             # seconds that a run takes besides its training, for estimates
PAUSE = 10.0                # seconds between two questions to Slurm


def local(left, options):
    """This machine, with `options.jobs` runs at a time; runs that an earlier call has started are waited for.

    If it is stopped, the runs end with the epochs under way.
    """
    waiting, processes = list(left), []
    try:
        while waiting or processes:
            processes = [process for process in processes if process.poll() is None]
            for run in list(waiting):
                if len(processes) < options.jobs and run.state() != "running":
                    waiting.remove(run)
                    if not run.done():
                        processes.append(run.start(start_new_session=True))         # Ctrl-C does not reach it
            yield 1.0
    except (KeyboardInterrupt, GeneratorExit):
        say("stopping after the epochs under way")
        for end in (subprocess.Popen.terminate, subprocess.Popen.wait):
            for process in processes:
                end(process)
        say("stopped; the same command goes on")
        raise


def slurm(left, options):
    """Jobs of Slurm, submitted at once as an array, of which `options.jobs` run at a time.

    Jobs of an earlier call of the same study are waited for before what is then left is submitted. If it is
    stopped, the jobs go on.

    Raises:
        SettingsError: there is no Slurm, it does not answer the first question, it does not take the jobs, or
            submitit is not installed.
    """
    missing = [command for command in ("sbatch", "srun", "squeue") if not shutil.which(command)]
    if missing:
        raise cli.SettingsError(f"there is no Slurm on this machine: the command {missing[0]} is missing")
    try:
        import submitit
    except ModuleNotFoundError:
        raise cli.SettingsError("the package submitit is not installed: pip install 'hig[cluster]'") from None
    folder = options.output / ".jobs"
    name = re.sub(r"\W", "_", options.output.name[:40])
    name = f"{name}_{zlib.crc32(bytes(options.output)):08x}"            # of all jobs, and of no other study
    executor = submitit.SlurmExecutor(folder, max_num_timeout=100)
    defaults = {"time": int((options.max_time + START_UP) // 60) + 10, "cpus_per_task": 1}
    executor.update_parameters(job_name=name, ntasks_per_node=1, array_parallelism=options.jobs,
                               additional_parameters={"requeue": True}, **defaults | options.slurm)

    answered = False

    def busy():
        """One question for all jobs; while Slurm does not answer again, they are taken to go on."""
        nonlocal answered
        states = left and job_states(f"--name={name}")
        if states is None and not answered:
            raise cli.SettingsError("Slurm does not answer: see what the command squeue says")
        answered = True
        return states != []

    try:
        while busy():
            yield PAUSE
        if not left:
            return
        with cli.writing_to(folder), redirect_stderr(io.StringIO()), executor.batch():
            for run in left:
                (run.folder / "stderr.txt").unlink(missing_ok=True)                 # of an earlier attempt
                executor.submit(Job(run))
        while busy():
            yield PAUSE
    except RuntimeError as error:
        raise cli.SettingsError(f"Slurm does not take the jobs: {' '.join(str(error).split())}") from None
    except (KeyboardInterrupt, GeneratorExit):
        say("stopped; the same command goes on, and the Slurm jobs do, too: scancel ends them")
        raise


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
