"""Rehearsals of a small study, each with one thing that would break the real run: it is found and named."""

import os

import pytest
import yaml
from neurotransfer.files import read_json
from runs import REPOSITORY, neurotransfer

OVERLAYS = [REPOSITORY / "config/demo.yaml", REPOSITORY / "tests/slurm/study.yaml"]
CUTTING = {"cache": {"crop": [32, 40, 32]}}  # voxels of 4.5 mm: too few from back to front
WHOLE = {"cache": {"crop": [40, 40, 48]}}  # every brain


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One simulated cohort in every role, with its manifest; nothing has run."""
    folder = tmp_path_factory.mktemp("study")
    simulated = neurotransfer("simulate", folder, "--cohorts", "memory", "--processes", os.cpu_count() or 1)
    assert simulated.returncode == 0, simulated.stderr
    compiled = neurotransfer("manifest", "--directory", folder, "--configfile", *OVERLAYS)
    assert compiled.returncode == 0, compiled.stderr
    return folder


def rehearse(study, changes, *options):
    """The console command's run with overrides on top of the study's."""
    overlay = study / "changes.yaml"
    overlay.write_text(yaml.safe_dump(changes))
    where = ("--directory", study, "--configfile", *OVERLAYS, overlay)
    return neurotransfer("rehearse", *where, "--cores", os.cpu_count() or 1, *options, timeout=900)


def test_it_finds_what_would_break_and_leaves_the_study_alone(study):
    """A brain that the crop cuts; then, with a larger crop, a rate at which training diverges; then an engine."""
    manifest = {path: path.read_bytes() for path in (study / "results").rglob("*") if path.is_file()}

    cut = rehearse(study, CUTTING)
    assert cut.returncode == 1, cut.stdout + cut.stderr
    assert "one thing will not work" in cut.stdout
    assert "the crop of 32 × 40 × 32 voxels cuts" in cut.stdout
    for name in ("preprocess", "pretrain", "baseline", "transfer", "linear"):
        assert f"\n{name} " in cut.stdout
    costs = read_json(study / "rehearsal/costs.json")
    assert costs["baseline"]["seconds"] > 0 and costs["disk"]["bytes"] > 1000
    assert "rehearsed on" in cut.stdout.split("The whole study")[1]
    page = (study / "rehearsal/rehearsal.html").read_text()
    assert "<b>Private.</b> This page shows people's heads" in page
    assert page.count('<div class="brain">') == 3 and "cuts" in page

    diverging = rehearse(study, WHOLE | {"pretrain": {"learning_rate": 1e30}})
    assert diverging.returncode == 1
    assert "pretrain failed (1 job): " in diverging.stdout and "not finite" in diverging.stdout
    assert "cuts" not in diverging.stdout

    broken = study / "run_fastsurfer.sh"
    broken.write_text("#!/bin/sh\necho 'python3: No module named torch' >&2\nexit 1\n")
    broken.chmod(0o755)
    native = {"version": "2.4.2", "runs_in": "native", "script": str(broken)}
    engine = {"engine": "fastsurfer", "voxel_size": 1.0, "gpus": 0, "fastsurfer": native}
    failing = rehearse(study, {"preprocessing": engine})
    assert failing.returncode == 1
    assert "preprocess failed" in failing.stdout or "the engine refused every image" in failing.stdout

    assert manifest == {path: path.read_bytes() for path in (study / "results").rglob("*") if path.is_file()}


def test_a_stale_manifest_is_refused(study):
    table = study / "cohorts.tsv"
    before = table.read_text()
    table.write_text(f"{before}\n")
    try:
        refused = rehearse(study, {})
    finally:
        table.write_text(before)
    assert refused.returncode == 2
    assert "has changed since it was compiled" in refused.stderr
