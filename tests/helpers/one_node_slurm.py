"""Starts a Slurm with one node on this machine, and follows its jobs. See tests/slurm/one_node.sh."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "slurm" / "one_node.sh"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PATH = f"{os.environ['PATH']}:/usr/sbin"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")  # states in which a job stays
TIMEOUT = 900  # seconds, on a busy machine; Slurm checks the time limits every 30 s


def missing_commands() -> list[str]:
    """Commands of Slurm that are not installed."""
    return [command for command in COMMANDS if not shutil.which(command, path=PATH)]


class Slurm:
    """A running Slurm.

    Attributes:
        environment: variables that Slurm's commands need.
        logs: folder of the logs of the daemons ("slurmctld", "slurmd") and of ended jobs ("jobs").
    """

    def __init__(self, configuration: Path) -> None:
        self.environment = {"SLURM_CONF": str(configuration), "PATH": PATH}
        self.logs = configuration.parent / "logs"

    def run(self, *command: str) -> str:
        """Runs a command of Slurm. Returns its output."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`, e.g. JobState, Restarts, ExitCode."""
        words = self.run("scontrol", "show", "job", "--oneliner", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def update(self, job_id: str, **fields: str) -> None:
        """Changes fields of a job, e.g. TimeLimit."""
        self.run("scontrol", "update", f"JobId={job_id}", *(f"{name}={value}" for name, value in fields.items()))

    def wait(self, job_id: str, goal: str, is_reached: Callable[[dict[str, str]], object]) -> dict[str, str]:
        """Waits until `is_reached(fields of the job)` is true. Returns the fields.

        Fails with the state and the logs of the job if the job ends first, or after TIMEOUT seconds.
        """
        end = time.monotonic() + TIMEOUT
        while True:
            job = self.job(job_id)
            if is_reached(job):
                return job
            assert job["JobState"] not in ENDED and time.monotonic() < end, (
                f"job {job_id} did not reach: {goal}\n{self.describe(job)}"
            )
            time.sleep(0.3)

    def wait_for_state(self, job_id: str, state: str) -> dict[str, str]:
        """Waits until the job has this state. Returns its fields."""
        return self.wait(job_id, f"state {state}", lambda job: job["JobState"] == state)

    def task(self, job_id: str) -> int:
        """Waits until the first step of the job runs. Returns the process id of its task."""
        pattern = re.compile(rf"^(\d+) +{job_id} +0 +0 +0 *$", re.M)  # PID JOBID STEPID LOCALID GLOBALID

        def find(_: dict[str, str]) -> re.Match | None:
            return pattern.search(self.run("bash", "-c", f"scontrol listpids {job_id} 2>/dev/null || true"))

        self.wait(job_id, "a running task", find)
        return int(find({})[1])

    def ended_jobs(self) -> list[tuple[str, str]]:
        """Job id and state of each end of a job, in order, as Slurm's job completion log records them."""
        file = self.logs / "jobs"
        return re.findall(r"JobId=(\d+) .*?JobState=(\w+) ", file.read_text()) if file.exists() else []

    def describe(self, job: dict[str, str]) -> str:
        """State, last log lines and last lines of the controller's log, for error messages."""
        files = [file for file in (Path(job["StdOut"]), self.logs / "slurmctld") if file.exists()]
        tails = ["\n".join(file.read_text().splitlines()[-20:]) for file in files]
        return "\n".join([f"{job['JobState']}, reason {job['Reason']}", *tails])


def is_running(process_id: int) -> bool:
    """Whether the process exists. A zombie process does not count."""
    return read_status(process_id).get("State", "Z")[0] not in "ZX"


def is_stopped(process_id: int) -> bool:
    """Whether the process is stopped and no SIGTERM waits for it."""
    status = read_status(process_id)
    return status.get("State", "Z")[0] == "T" and not int(status["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1


def read_status(process_id: int) -> dict[str, str]:
    """The fields of /proc/PID/status; empty if the process does not exist."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(line.split(":\t", 1) for line in lines)


def wait_for_sigterm(process_id: int) -> None:
    """Waits until a stopped process has a SIGTERM, or has ended. Raises TimeoutError after a minute."""
    deadline = time.monotonic() + 60
    while is_stopped(process_id):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process_id} has no SIGTERM")
        time.sleep(0.1)


def resume(process_id: int) -> None:
    """Continues a stopped process. It may have ended: some versions of Slurm continue it when they send SIGTERM."""
    with suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGCONT)


@contextmanager
def one_node_slurm() -> Iterator[Slurm]:
    """Starts a Slurm, and ends it with all its jobs. The Slurm also ends if this process is killed."""
    command = ["bash", str(SCRIPT)]
    # Ctrl-C reaches this process only. Afterwards the script still ends the daemons, because its input ends.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as script:
        try:
            configuration = script.stdout.readline().strip()
            assert configuration, "Slurm does not start: see the output of one_node.sh"
            yield Slurm(Path(configuration))
        finally:
            script.stdin.close()
            status = script.wait()
    assert status == 0, "not all processes of Slurm have ended"
