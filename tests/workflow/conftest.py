"""One small study, run once from scans to report and shared, read-only, by every test of this folder."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from runs import OVERLAYS, REPOSITORY, copy_of, neurotransfer, snakemake


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The finished small study; never written to (tests that change something take `study`)."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder = shared / "small-study"
    with FileLock(shared / "small-study.lock"):
        if not (folder / "finished").exists():
            shutil.rmtree(folder, ignore_errors=True)
            simulated = neurotransfer("simulate", folder, "--seed", 7, "--processes", os.cpu_count() or 1, "--masks")
            assert simulated.returncode == 0, simulated.stderr
            compiled = neurotransfer("manifest", "--directory", folder, "--configfile", *OVERLAYS)
            assert compiled.returncode == 0, compiled.stderr
            run = snakemake(folder, "--cores", os.cpu_count() or 1, "--quiet", "rules")
            assert run.returncode == 0, run.stdout
            (folder / "finished").touch()
    return folder


@pytest.fixture
def study(small_study: Path, tmp_path: Path) -> Path:
    """A copy of the finished small study that a test may break."""
    return copy_of(small_study, tmp_path / "study")


@pytest.fixture(scope="session")
def repository_rules() -> dict[str, str]:
    """The text of each rule that stands in workflow/rules."""
    texts = {}
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        parts = path.read_text().split("\nrule ")
        texts |= {part.partition(":")[0]: part for part in parts[1:]}
    return texts
