"""Where the runs of a study take place: in processes on this machine, or in jobs of Slurm, by submitit.

Both places start runs, {run: job}, and tell which jobs have ended and how. A job has the methods `result` and
`exception` of Python's futures.
"""

import io
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stderr

from hig.runs import cli

START_UP = 15.0             # seconds that a run takes besides its training, for estimates
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
           "TF_NUM_INTEROP_THREADS")


class Training:
    """The submit script of one run as a process; what it prints goes to stderr.txt in the run's folder.

    On Slurm it is what submitit calls in a job. A signal of Slurm reaches all processes of the job: after
    SIGTERM the script itself writes its checkpoint and ends, and the job is requeued. At the USR2 by which
    submitit has the end of the time announced, the job is requeued at once, and goes on from the last epoch
    that was saved.

    Args:
        run: hig.runs.study.Run.
    """

    def __init__(self, run):
        self.run, self.process = run, None

    def __call__(self):
        """Trains; returns the exit code and the last line that was printed, as a sentence."""
        by_submitit, environment = "SUBMITIT_EXECUTOR" in os.environ, dict(os.environ)
        if self.run.threads:
            environment.update(dict.fromkeys(THREADS, str(self.run.threads)))
        self.run.folder.mkdir(parents=True, exist_ok=True)
        with open(self.run.folder / "stderr.txt", "wb+") as log:
            self.process = subprocess.Popen(  # on this machine in a session that Ctrl-C does not reach
                self.run.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=not by_submitit)
            code = self.process.wait()
            log.seek(0)
            said = log.read().decode(errors="replace").strip().split("\n")
        if by_submitit and code == 0 and self.run.state() == "interrupted" and not cancelled():
            from submitit import JobEnvironment
            signal.raise_signal(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
        return f"exit code {code}: {said[-1]}"

    def checkpoint(self):
        """What submitit is to do when a job runs again: the same, from the run's checkpoint."""
        from submitit.helpers import DelayedSubmission
        return DelayedSubmission(Training(self.run))


def cancelled():
    """Whether this job of Slurm has got SIGTERM because its user cancelled it."""
    if "SLURM_JOB_ID" not in os.environ:
        return False
    from submitit import JobEnvironment
    number = JobEnvironment().job_id
    states = slurm_states([number])
    return states is not None and states.get(number) not in ("RUNNING", "PREEMPTED")


def outcome(job):
    """How a job has ended, in a sentence."""
    error = job.exception()
    return job.result() if error is None else str(error).strip().split("\n")[-1]


class Here:
    """This machine, with `options.jobs` runs at a time."""

    poll = 1.0              # seconds between two looks at the jobs

    def __init__(self, options):
        self.pool, self.trainings, self.stopped = ThreadPoolExecutor(options.jobs or 1), [], False

    def start(self, runs):
        """{Run: its job}."""
        self.trainings = list(map(Training, runs))
        return {training.run: self.pool.submit(self._train, training) for training in self.trainings}

    def _train(self, training):
        while training.run.state() == "running" and not self.stopped:   # by a process of an earlier call
            time.sleep(self.poll)
        return "" if training.run.done() or self.stopped else training()

    def ended(self, jobs):
        """[(Run, how it ended)] of those of {Run: job} that have."""
        return [(run, outcome(job)) for run, job in jobs.items() if job.done()]

    def stop(self, say):
        """Lets the runs end with the epochs under way; `say` is a function of a text."""
        say("stopping after the epochs under way")
        self.stopped = True
        for training in self.trainings:
            if training.process is not None:
                training.process.terminate()
        self.pool.shutdown(cancel_futures=True)
        say("stopped; the same command goes on")


class Slurm:
    """The jobs of a study on Slurm, submitted at once as an array, of which `options.jobs` run at a time.

    Raises:
        SettingsError: there is no Slurm, or submitit is not installed.
    """

    poll = 10.0             # seconds between two questions to Slurm

    def __init__(self, options):
        missing = [command for command in ("sbatch", "srun", "squeue") if not shutil.which(command)]
        if missing:
            raise cli.SettingsError(f"there is no Slurm on this machine: the command {missing[0]} is missing")
        try:
            import submitit
        except ModuleNotFoundError:
            raise cli.SettingsError("the package submitit is not installed: pip install "
                                    "'hig[cluster]'") from None
        self.folder, self.earlier = options.output / ".jobs", submitit.SlurmJob
        self.executor = submitit.SlurmExecutor(self.folder, max_num_timeout=100)
        defaults = {"time": int((options.max_time + START_UP) // 60) + 10, "cpus_per_task": 1,
                    "job_name": options.output.name[:40]}
        self.executor.update_parameters(ntasks_per_node=1, array_parallelism=options.jobs or 1000,
                                        additional_parameters={"requeue": True}, **defaults | options.slurm)

    def start(self, runs):
        """{Run: its job}, the one that an earlier call of the study has submitted if Slurm still has it."""
        numbers = {run: run.folder / "slurm_job.txt" for run in runs}
        jobs = {run: self.earlier(self.folder, path.read_text())
                for run, path in numbers.items() if path.exists()}
        for run, _ in self.ended(jobs):
            del jobs[run]
        new = [run for run in runs if run not in jobs]
        try:
            with (cli.writing_to(self.folder), redirect_stderr(io.StringIO()),
                  self.executor.batch() if new else nullcontext()):
                jobs |= {run: self.executor.submit(Training(run)) for run in new}
        except RuntimeError as error:
            raise cli.SettingsError(f"Slurm does not take the jobs: {' '.join(str(error).split())}") from None
        for run in new:
            run.folder.mkdir(parents=True, exist_ok=True)
            numbers[run].write_text(jobs[run].job_id)
        return jobs

    def ended(self, jobs):
        """[(Run, how it ended)] of those of {Run: job} that have; while Slurm does not answer, those with a
        result.
        """
        states = slurm_states(job.job_id for job in jobs.values()) if jobs else {}
        told = [run for run, job in jobs.items() if job.paths.result_pickle.exists()]
        lost = [run for run, job in jobs.items() if states is not None and job.job_id not in states]
        return [(run, outcome(jobs[run]) if run in told else "its job ended without a result")
                for run in dict.fromkeys(told + lost)]

    def stop(self, say):
        """Leaves the jobs to Slurm; `say` is a function of a text."""
        say("stopped; the same command goes on, and the Slurm jobs do, too: scancel ends them")


def slurm_states(numbers):
    """{number: state} of those of these jobs that have not ended, {"17_3": "RUNNING"}, by one question.

    Returns:
        None if Slurm does not answer.
    """
    arrays = sorted({number.split("_")[0] for number in numbers})
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return dict(line.split() for line in answer.stdout.splitlines())
