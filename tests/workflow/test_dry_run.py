"""Dry runs of the paper's configuration on smaller tables of the same shape have the expected jobs."""

import json
import shlex
import subprocess
import sys

import pytest
from runs import REPOSITORY, copy_of, neurotransfer, planned_jobs

from workbench.measured import empty_snakemake, fastest, jobs_by_rule, manifest, snakemake
from workbench.paper_study import designs, write_study

SHARE, REPLICATES = 0.02, 3


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables' folder, an overlay with a job per image, and the number of images per cohort."""
    folder = tmp_path_factory.mktemp("paper")
    cohorts = write_study(folder, SHARE)
    overlay = folder / "jobs.yaml"
    overlay.write_text(f"manifest: {{images_per_job: 1}}\nresampling: {{replicates: {REPLICATES}}}\n")
    return folder, overlay, {cohort.name: cohort.images for cohort in cohorts}


def test_the_whole_study_has_the_papers_numbers():
    cohorts = {cohort.name: cohort for cohort in designs()}
    assert len(cohorts) == 45
    assert sum(cohort.images for cohort in cohorts.values()) == 114_257
    assert sum(cohort.participants for cohort in cohorts.values()) == 80_931
    assert (cohorts["ADNI"].images, cohorts["ADNI"].participants) == (10_660, 1_678)
    assert (cohorts["TOP"].images, cohorts["TOP"].participants) == (1_037, 861)
    assert sum("pretraining" in cohort.roles for cohort in cohorts.values()) == 25


def test_every_image_has_a_job_and_every_replicate_its_fits(tables):
    folder, overlay, images = tables
    compiled = manifest(folder, overlay)
    jobs = jobs_by_rule(snakemake(folder, overlay, "--dry-run", "--quiet", "rules").text)
    shards = sum(-(-count // 256) for count in images.values())
    assert jobs["preprocess"] == sum(images.values())
    assert jobs["cache"] == shards and jobs["index"] == jobs["split"] == 45
    resamples = 2 * 5 * REPLICATES
    assert jobs["resample"] == jobs["linear"] == jobs["baseline"] == jobs["transfer"] == resamples
    assert jobs["pretrain"] == jobs["evaluate"] == jobs["report"] == 1
    assert jobs["total"] == sum(count for rule, count in jobs.items() if rule != "total")
    assert compiled.mib < 500


def test_parsing_is_short_beside_snakemakes_own_start(tables):
    """Every job parses the Snakefile; the bound is generous because of other work on the machine."""
    folder, overlay, _ = tables
    if not (folder / "results").exists():
        manifest(folder, overlay)
    empty = fastest(2, lambda: empty_snakemake(folder))
    ours = fastest(2, lambda: snakemake(folder, overlay, "--list-rules"))
    assert ours.cpu - empty.cpu < 1.0


def test_the_catalogues_study_dry_runs(tmp_path):
    """The command in .test/config.yaml."""
    study = copy_of(REPOSITORY / ".test", tmp_path / "study")
    planned = planned_jobs(study, overlays=[REPOSITORY / "config/demo.yaml", study / "config.yaml"])
    fits = {f"{model} task=ad_hc, n=18, replicate={at}" for model in ("linear", "transfer") for at in ("001", "002")}
    assert fits | {"pretrain", "report", "preprocess shard=memory-0001, job=0000"} <= planned
    features = {job for job in planned if job.startswith("features ")}
    assert features == {"features cohort=memory"}  # once per image of the pool, for the demo's arm frozen
    off = study / "off.yaml"
    off.write_text("models: {frozen: null}")
    without = planned_jobs(study, overlays=[REPOSITORY / "config/demo.yaml", study / "config.yaml", off])
    assert planned - without == features and not without - planned


def test_the_repositorys_own_snakefile_asks_for_the_whole_study(tmp_path):
    """An included file loses its default target; without a target Snakemake would silently do nothing."""
    study = copy_of(REPOSITORY / ".test", tmp_path / "study")
    overlays = [REPOSITORY / "config/demo.yaml", study / "config.yaml"]
    assert planned_jobs(study, overlays=overlays) == planned_jobs(study, "all", overlays=overlays)


@pytest.mark.parametrize("place", ["study", "repository"])
def test_the_command_that_makes_a_failed_job_again_works_as_printed(tmp_path, place):
    study = copy_of(REPOSITORY / ".test", tmp_path / "study")
    record = study / "results/failures/linear/ad_hc-18-001.json"
    record.parent.mkdir(parents=True)
    facts = {"rule": "linear", "key": "ad_hc-18-001", "cause": "the disk was full", "time": 1.0}
    record.write_text(json.dumps(facts | {"wildcards": ["ad_hc", "18", "001"]}))
    folder, directory, overlay = (study, [], "config.yaml")
    if place == "repository":
        folder, directory, overlay = REPOSITORY, ["--directory", study], study / "config.yaml"
    overlays = ["--configfile", REPOSITORY / "config/demo.yaml", overlay]
    said = neurotransfer("failures", "--profile", "local", *directory, *overlays, cwd=folder)
    (line,) = [line.strip() for line in said.stdout.splitlines() if line.strip().startswith("snakemake ")]
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(line), "--dry-run"], capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert done.returncode == 0, line + done.stdout + done.stderr
    assert "results/fits/ad_hc/n18/001/linear.json" in done.stdout
