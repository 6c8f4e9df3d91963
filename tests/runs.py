"""Runs of the real workflow, with a user's commands, and the jobs of a dry run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[1]
OVERLAYS = [REPOSITORY / "config/demo.yaml", REPOSITORY / "tests/workflow/small.yaml"]


def require_program(*names: str) -> None:
    """Skip the test if a program is missing; in CI, fail."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(missing)} missing, although .ci/run installs them")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def command(folder: Path, *arguments: object, overlays=OVERLAYS) -> list[str]:
    """The command line that starts Snakemake on a study in another folder."""
    line = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder]
    return [str(part) for part in [*line, *arguments, "--configfile", *overlays]]


def snakemake(folder: Path, *arguments: object, overlays=OVERLAYS, timeout=1100) -> subprocess.CompletedProcess:
    """Run Snakemake in a study's folder; its two streams are joined into one text."""
    return subprocess.run(
        command(folder, *arguments, overlays=overlays),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "200"},
    )


def neurotransfer(*arguments: object, cwd=REPOSITORY, timeout=300) -> subprocess.CompletedProcess:
    """Run the console command."""
    line = [sys.executable, "-m", "neurotransfer.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, cwd=cwd)


def planned_jobs(folder: Path, *arguments: object, overlays=OVERLAYS) -> set[str]:
    """The jobs that a dry run lists, as "rule task=ad_hc, n=20, ..." (without `all`)."""
    done = snakemake(folder, "--dry-run", *arguments, overlays=overlays)
    assert done.returncode == 0, done.stdout
    jobs, rule = set(), None
    for line in done.stdout.splitlines():
        if found := re.match(r"\s*(?:local)?rule (\w+):", line):
            if rule:
                jobs.add(rule)
            rule = found[1]
        elif rule and (found := re.match(r"\s+wildcards: (.*)", line)):
            jobs.add(f"{rule} {found[1]}")
            rule = None
        elif rule and line.startswith("Job stats"):
            jobs.add(rule)
            rule = None
    if rule:
        jobs.add(rule)
    return jobs - {"all"}


def finished_study(temporary: pytest.TempPathFactory, worker: str, name: str, *simulation: object, overlays) -> Path:
    """A simulated study, run from scans to report by the first test worker that needs it; the others wait.

    Parameters
    ----------
    temporary, worker : pytest's `tmp_path_factory` and pytest-xdist's `worker_id`
    name : of the study's folder
    simulation : options of ``neurotransfer simulate``
    """
    shared = temporary.getbasetemp() if worker == "master" else temporary.getbasetemp().parent
    folder = shared / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "finished").exists():
            cores = os.cpu_count() or 1
            shutil.rmtree(folder, ignore_errors=True)
            simulated = neurotransfer("simulate", folder, *simulation, "--processes", cores)
            assert simulated.returncode == 0, simulated.stderr
            compiled = neurotransfer("manifest", "--directory", folder, "--configfile", *overlays)
            assert compiled.returncode == 0, compiled.stderr
            run = snakemake(folder, "--cores", cores, "--quiet", "rules", overlays=overlays)
            assert run.returncode == 0, run.stdout
            (folder / "finished").touch()
    return folder


def copy_of(folder: Path, destination: Path) -> Path:
    """A copy of a whole study with the times of its files, which Snakemake depends on."""
    shutil.copytree(folder, destination, symlinks=True)
    return destination
