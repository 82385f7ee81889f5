"""Where the runs of a study take place: in processes on this machine, or in jobs of Slurm, by submitit.

Both places say how many runs may start (`free`), start them, and tell which have ended and why. The job of a
run is None if an earlier call of the same study still works on that run.
"""

import io
import os
import signal
import subprocess
import sys
from contextlib import nullcontext, redirect_stderr, suppress

from tqdm import tqdm

from hig.runs import cli

START_UP = 15.0             # seconds that a run takes besides its training, for estimates
ARRAY = 1000                # jobs that are submitted at once, as one array: Slurm's own limit is 1001
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
           "TF_NUM_INTEROP_THREADS")
ALIVE = ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD",
         "PREEMPTED")


class Process:
    """The submit script of a run, started; what it prints goes to stderr.txt in the run's folder.

    Args:
        run: Run.
        **options: of subprocess.Popen.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, run, **options):
        with cli.writing_to(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
            self.log = run.folder / "stderr.txt"
            environment = {**os.environ, **dict.fromkeys(THREADS if run.threads else (), str(run.threads))}
            with open(self.log, "ab") as log:
                self.begin = log.tell()
                self.process = subprocess.Popen(run.command(), stdout=log, stderr=log, env=environment,
                                                stdin=subprocess.DEVNULL, **options)

    def ended(self):
        """Whether it has."""
        return self.process.poll() is not None

    def outcome(self):
        """Its exit code and the last line on its stderr, as a sentence; waits for its end."""
        code = self.process.wait()
        said = self.log.read_bytes()[self.begin:].decode(errors="replace").strip().splitlines()
        return f"exit code {code}: {said[-1] if said else ''}"


class Here:
    """The processes of a study on this machine, `options.jobs` at a time."""

    poll = 1.0              # seconds between two looks at the runs

    def __init__(self, options):
        self.jobs = options.jobs or 1

    def free(self, active):
        """How many more may start."""
        return max(0, self.jobs - len(active))

    def start(self, runs):
        """{Run: Process, or None if another process works on it}."""
        # in sessions of their own, which Ctrl-C does not reach
        return {run: None if run.state() == "running" else Process(run, start_new_session=True)
                for run in runs}

    def ended(self, active):
        """Those of {Run: Process} that will do no more."""
        return [run for run, job in active.items()
                if (run.state() != "running" if job is None else job.ended())]

    def why(self, job, state):
        """Why a run has failed."""
        return job.outcome()

    def stop(self, active):
        """Lets the runs end with the epochs under way; says so."""
        own = [job for job in active.values() if job is not None]
        for job in own:
            job.process.terminate()
        tqdm.write("stopping after the epochs under way", file=sys.stderr)
        with suppress(KeyboardInterrupt):  # the user need not wait for that
            for job in own:
                job.process.wait()
        return "stopped; the same command goes on"


class Job:
    """What submitit calls in a job of Slurm: trains one run, and stops it in order when the job has to go.

    Args:
        run: Run.
    """

    def __init__(self, run):
        self.run, self.training = run, None

    def __call__(self):
        """How the run ended, as `Process.outcome`."""
        from submitit import JobEnvironment
        # submitit answers this signal by `checkpoint`
        preemption = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        signal.signal(signal.SIGTERM,
                      lambda *_: os.kill(os.getpid(), preemption) if wanted() else self.stop())
        # Slurm sends it to the whole job; the run is to ignore it
        self.training = Process(self.run, preexec_fn=lambda: signal.signal(preemption, signal.SIG_IGN))
        return self.training.outcome()

    def stop(self):
        """Lets the run write its checkpoint after the epoch under way, and waits for that."""
        for number in (signal.SIGTERM, signal.SIGUSR2):                # once is enough
            signal.signal(number, signal.SIG_IGN)
        if self.training is not None:                                  # it has begun
            with suppress(ChildProcessError):                          # and not ended
                self.training.process.send_signal(signal.SIGTERM)
                # not `wait`, which holds its lock
                os.waitid(os.P_PID, self.training.process.pid, os.WEXITED | os.WNOWAIT)

    def checkpoint(self):
        """What submitit is to do when the job runs again: the same, from the checkpoint."""
        from submitit.helpers import DelayedSubmission
        self.stop()
        return DelayedSubmission(Job(self.run))


def wanted():
    """Whether a job that got SIGTERM goes on later: not if its user cancelled it."""
    if "SLURM_JOB_ID" not in os.environ:
        return True
    from submitit import JobEnvironment
    number = JobEnvironment().job_id
    states = slurm_states([number])
    return states is None or states.get(number) in ("RUNNING", "PREEMPTED")


class Slurm:
    """The jobs of a study on Slurm, submitted at once as an array, of which `options.jobs` run at a time.

    Raises:
        SettingsError: submitit is not installed.
    """

    poll = 10.0             # seconds between two questions to Slurm

    def __init__(self, options):
        try:
            import submitit
        except ModuleNotFoundError:
            raise cli.SettingsError("the package submitit is not installed: pip install "
                                    "'hig[cluster]'") from None
        self.folder, self.jobs = options.output / ".jobs", options.jobs or sys.maxsize
        self.numbers = {}                                               # Run → its job's
        self.executor = submitit.SlurmExecutor(self.folder, max_num_timeout=100)
        given = {"partition": options.partition, "account": options.account,
                 "gpus_per_task": options.gpus_per_task, "mem": options.mem
                 and f"{round(1024 * options.mem)}M"}
        self.executor.update_parameters(
            job_name=options.output.name[:40],
            time=options.time or int((options.max_time + START_UP) // 60) + 10,
            cpus_per_task=options.cpus_per_task or 1, ntasks_per_node=1,
            array_parallelism=min(self.jobs, ARRAY), additional_parameters={"requeue": True},
            **{key: value for key, value in given.items() if value is not None})

    def free(self, active):
        """How many more may be submitted."""
        return ARRAY

    def start(self, runs):
        """{Run: submitit's job, or None if a job of an earlier call still works on it}."""
        for run in runs:
            if (path := run.folder / "slurm_job.txt").exists():
                self.numbers[run] = path.read_text().strip()
        earlier = self.living(run for run in runs if run in self.numbers)
        new = [run for run in runs if run not in earlier]
        try:                                                            # a job must not be without its number
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            with (cli.writing_to(self.folder), redirect_stderr(io.StringIO()),
                  self.executor.batch() if new else nullcontext()):
                jobs = [self.executor.submit(Job(run)) for run in new]
            for run, job in zip(new, jobs):
                with cli.writing_to(run.folder):
                    run.folder.mkdir(parents=True, exist_ok=True)
                    (run.folder / "slurm_job.txt").write_text(job.job_id)
                self.numbers[run] = job.job_id
        except RuntimeError as error:
            raise cli.SettingsError(f"Slurm does not take the jobs: {' '.join(str(error).split())}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        return {**dict.fromkeys(earlier), **dict(zip(new, jobs))}

    def living(self, runs):
        """Those runs whose jobs Slurm still has; all of them while Slurm does not answer."""
        runs = list(runs)
        states = slurm_states(self.numbers[run] for run in runs) if runs else {}
        return [run for run in runs if states is None or states.get(self.numbers[run]) in ALIVE]

    def ended(self, active):
        """Those of {Run: job} that will do no more."""
        living = self.living(active)
        return [run for run, job in active.items()
                if run not in living or (job is not None and job.paths.result_pickle.exists())]

    def why(self, job, state):
        """Why a run has failed."""
        if not job.paths.result_pickle.exists():
            return f"the job ended while the run was {state}"
        error = job.exception()
        return job.result() if error is None else str(error).strip().splitlines()[-1]

    def stop(self, active):
        """Leaves the jobs to Slurm; says so."""
        return "stopped; the same command goes on, and the Slurm jobs do, too: scancel ends them"


def slurm_states(numbers):
    """{number: state} of those of these jobs that Slurm still knows, "17_3": "RUNNING", by one question.

    Returns:
        None if Slurm does not answer.
    """
    arrays = sorted({number.split("_")[0] for number in numbers})
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T",
               f"--jobs={','.join(arrays)}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return dict(line.split() for line in answer.stdout.splitlines())
