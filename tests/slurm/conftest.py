"""A real Slurm cluster, and a study of 19 jobs that ran undisturbed, for all tests of this folder."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster import PROGRAMS, Cluster, cpu_seconds_of, peak_mb_of
from runs import REPOSITORY, command, copy_of, finished_study, require_program

OVERLAYS = [REPOSITORY / "config/demo.yaml", REPOSITORY / "tests/slurm/study.yaml"]
COHORT = ("--cohorts", "memory", "--participants", "0.6")
# the profile with shorter polling intervals
QUICK = ("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20")
QUICK += ("--max-jobs-per-timespan", "100/1s")  # the profile's 10 in 10 s spare a shared controller


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, worker_id: str):
    """Four nodes that are idle at the start of the tests and removed at their end."""
    require_program(*PROGRAMS)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), row=int("".join(filter(str.isdigit, worker_id)) or 0))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, worker_id: str) -> Path:
    """The study after an undisturbed run; read-only.

    NEUROTRANSFER_UNDISTURBED may name the folder of an earlier run, which saves time.
    """
    if prepared := os.environ.get("NEUROTRANSFER_UNDISTURBED"):
        return Path(prepared)
    return finished_study(tmp_path_factory, worker_id, "undisturbed", *COHORT, overlays=OVERLAYS)


@pytest.fixture
def study(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the finished study that a test may break."""
    return copy_of(undisturbed, tmp_path / "study")


class Run:
    """Snakemake on the cluster, started by a user's command, in parallel to the test.

    `text` is its output so far; `memory` (peak, MB) and `cpu` (seconds) are its own, without its jobs.  Tests wait for
    events, with bounds that a busy machine can keep.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, *targets: str, options=(), overlays=OVERLAYS, repository=None
    ) -> None:
        self.cluster, self.folder, self.overlays = cluster, folder, overlays
        number = len(list(folder.glob("snakemake.*.out"))) + 1
        self.output = folder / f"snakemake.{number}.out"
        line = command(folder, *targets, *QUICK, *options, overlays=overlays)
        if repository:
            line[line.index("--snakefile") + 1] = str(repository / "Snakefile")
        self.memory = self.cpu = 0.0
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                line, cwd=REPOSITORY, env=cluster.environment, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, condition, what: str, seconds: float = 300):
        """Wait until `condition` returns a true value, and return it; fail if Snakemake ends before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            if found := condition():
                return found
            assert not ended, f"Snakemake ended before {what}\n{self.text[-3000:]}"
            time.sleep(0.1)
        raise AssertionError(f"no {what} within {seconds:.0f} s\n{self.text[-3000:]}")

    def wait(self, seconds: float = 400) -> int:
        """Snakemake's exit status."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self.memory = max(self.memory, peak_mb_of(self.process.pid))
            self.cpu = max(self.cpu, cpu_seconds_of(self.process.pid))
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"Snakemake runs for more than {seconds:.0f} s\n{self.text[-3000:]}")
            time.sleep(0.2)
        return self.process.returncode

    def kill(self) -> None:
        """kill -9; its jobs continue."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def job_of(self, rule: str, *wildcards: str) -> str | None:
        """Slurm's id of the newest job, or group, of a rule with these wildcards in its log's path."""
        found = re.findall(r"with SLURM jobid (\d+) \(log: (.*?)\)\.", self.text)
        of_it = re.compile(rf"/(rule_{rule}|group_{rule}\w*)/")
        names = [
            job for job, log in found if of_it.search(log) and all(part in re.split("[/_]", log) for part in wildcards)
        ]
        return names[-1] if names else None


@pytest.fixture
def start(cluster):
    """Start Snakemake on the cluster; runs that have not ended at the end of the test are killed."""
    runs: list[Run] = []

    def begin(folder: Path, *targets: str, **options) -> Run:
        runs.append(Run(cluster, folder, *targets, **options))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.kill()
    cluster.ask("scancel", "--user", str(os.getuid()))
    if shutil.which("squeue"):
        end = time.monotonic() + 60
        while cluster.ask("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(0.2)
