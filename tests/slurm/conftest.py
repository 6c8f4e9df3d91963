"""A real Slurm cluster, and a study of 19 jobs that ran undisturbed: what every test of this folder takes."""

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
# the profile as it is, but for polling: the tests would wait for its patience
QUICK = ("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20")
QUICK += ("--max-jobs-per-timespan", "100/1s")  # the profile's 10 in 10 s are for a controller of others


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, worker_id: str):
    """Four nodes that are idle when the tests begin, and gone when they end."""
    require_program(*PROGRAMS)
    place = Cluster(tmp_path_factory.mktemp("cluster"), row=int("".join(filter(str.isdigit, worker_id)) or 0))
    try:
        place.up()
        yield place
    finally:
        place.down()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, worker_id: str) -> Path:
    """The study as it ends when nothing happens to it; never written to.

    NEUROTRANSFER_UNDISTURBED names one that ran before, for people who work on these tests.
    """
    if prepared := os.environ.get("NEUROTRANSFER_UNDISTURBED"):
        return Path(prepared)
    return finished_study(tmp_path_factory, worker_id, "undisturbed", *COHORT, overlays=OVERLAYS)


@pytest.fixture
def study(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the finished study that a test may break."""
    return copy_of(undisturbed, tmp_path / "study")


class Run:
    """Snakemake on the cluster, started as a person would, beside the test.

    `text` is what it said so far; `memory` (MB, its peak) and `cpu` (seconds) are its own, without its jobs'.
    Waiting is for events, with bounds that a crowded machine keeps.
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
        """Wait until `condition` gives something true, which is returned; fail where Snakemake ends before."""
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
        """kill -9; its jobs go on."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def job_of(self, rule: str, *wildcards: str) -> str | None:
        """Slurm's id of the newest job of a rule with these wildcards in its log's path, or of a group."""
        found = re.findall(r"with SLURM jobid (\d+) \(log: (.*?)\)\.", self.text)
        of_it = re.compile(rf"/(rule_{rule}|group_{rule}\w*)/")
        names = [
            job for job, log in found if of_it.search(log) and all(part in re.split("[/_]", log) for part in wildcards)
        ]
        return names[-1] if names else None


@pytest.fixture
def start(cluster):
    """Start Snakemake on the cluster; whatever still runs at the end of the test is ended."""
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
