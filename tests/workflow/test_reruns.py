"""Partial reruns: the exact jobs that each change repeats."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from neurotransfer.cache.shard_file import ShardFile
from neurotransfer.files import read_json
from neurotransfer.study.plan import CNNS, MODELS
from runs import OVERLAYS, neurotransfer, planned_jobs, snakemake

TASKS = ("ad_hc", "control")
N = (18,)
REPLICATES = tuple(f"{replicate:03d}" for replicate in range(1, 7))
SUMMARY = {"aggregate", "confounding", "classifiers", "compare", "figures", "report"}


def replicate_jobs(rule: str, task: str) -> set[str]:
    return {f"{rule} task={task}, n={n}, replicate={replicate}" for n in N for replicate in REPLICATES}


@pytest.fixture
def overlay(tmp_path: Path):
    """Write one more configuration after the small study's and return all of them."""

    def write(values: dict) -> list[Path]:
        path = tmp_path / "change.yaml"
        path.write_text(yaml.safe_dump(values))
        return [*OVERLAYS, path]

    return write


def test_a_finished_study_has_nothing_to_do(small_study):
    assert planned_jobs(small_study) == set()


def test_an_analysis_plan_makes_the_report_alone_again_which_says_that_results_follow_it(study, tmp_path):
    """The plan is written while fits, statistics and report lie elsewhere, and they return as they were."""
    away = tmp_path / "away"
    away.mkdir()
    for name in ("fits", "statistics", "report"):
        (study / "results" / name).rename(away / name)
    written = neurotransfer("freeze", "--directory", study, "--configfile", *OVERLAYS)
    assert written.returncode == 0, written.stderr
    for path in away.iterdir():
        path.rename(study / "results" / path.name)
    assert planned_jobs(study) == {"report"}
    done = snakemake(study, "--cores", 1)
    assert done.returncode == 0, done.stdout
    assert "The results follow this plan" in (study / "results/report/report.html").read_text()
    assert neurotransfer("freeze", "--directory", study, "--configfile", *OVERLAYS).returncode == 2


def test_a_deleted_fit_reruns_that_fit_and_the_summaries(study):
    (study / "results/fits/ad_hc/n18/002/transfer.json").unlink()
    assert planned_jobs(study) == {"transfer task=ad_hc, n=18, replicate=002"} | SUMMARY


def test_a_deleted_resample_reruns_its_fits(study):
    (study / "results/resamples/control/n18/006.tsv").unlink()
    rules = ("resample", *MODELS)
    assert planned_jobs(study) == {f"{rule} task=control, n=18, replicate=006" for rule in rules} | SUMMARY


def test_a_changed_seed_of_one_task_reruns_that_task_only(small_study, overlay):
    changed = overlay({"tasks": {"control": {"seed": 1}}})
    jobs = set().union(*(replicate_jobs(rule, "control") for rule in ("resample", *MODELS)))
    assert planned_jobs(small_study, overlays=changed) == jobs | SUMMARY


def test_a_changed_learning_rate_of_transfer_reruns_only_transfer(small_study, overlay):
    settings = [{"learning_rate": rate, "weight_decay": 0.001, "dropout": 0.2} for rate in (0.02, 0.04)]
    changed = overlay({"models": {"transfer": {"settings": settings}}})
    jobs = set().union(*(replicate_jobs("transfer", task) for task in TASKS))
    assert planned_jobs(small_study, overlays=changed) == jobs | SUMMARY


def test_second_seeds_of_a_finished_study_are_additional_jobs(study, overlay):
    """Of a third of the replicates; those of other n and replicates are added later, and a deleted one comes back."""
    changed = overlay({"resampling": {"second_seeds": 0.3}})
    wanted = {
        f"second_seed task={task}, n=18, replicate={replicate}, model={model}"
        for task in TASKS for replicate in ("001", "002") for model in CNNS
    }  # fmt: skip
    assert planned_jobs(study, overlays=changed) == wanted | SUMMARY
    path = study / "results/second_seeds/ad_hc/n18/001/transfer.json"
    done = snakemake(study, path.relative_to(study), "--cores", 1, overlays=changed)
    assert done.returncode == 0, done.stdout
    again, first = read_json(path), read_json(study / "results/fits/ad_hc/n18/001/transfer.json")
    assert again["settings"][0]["values"] == first["settings"][first["chosen"]]["values"]
    assert again["test"]["score"] != first["test"]["score"]
    made = "second_seed task=ad_hc, n=18, replicate=001, model=transfer"
    assert planned_jobs(study, overlays=changed) == wanted - {made} | SUMMARY
    (study / "results/fits/ad_hc/n18/001/transfer.json").unlink()
    assert {made, "transfer task=ad_hc, n=18, replicate=001"} <= planned_jobs(study, overlays=changed)


def test_a_changed_setting_of_statistics_reruns_no_fit(small_study, overlay):
    assert planned_jobs(small_study, overlays=overlay({"statistics": {"permutations": 5000}})) == SUMMARY - {
        "aggregate",
        "classifiers",  # they take no test
    }


def test_changed_compression_reruns_only_the_report_and_applies_to_new_shards(study, overlay):
    changed, target = overlay({"cache": {"compression": "zstd"}}), "results/cache/mood-0001.npy"
    assert planned_jobs(study, overlays=changed) == {"report"}  # which shows the configuration
    before = np.load(study / target)
    (study / target).unlink()
    done = snakemake(study, target, "--cores", 1, overlays=changed)
    assert done.returncode == 0, done.stdout
    shard = ShardFile(study / target)
    assert shard.compressed
    assert np.array_equal(np.stack([shard.image(row) for row in range(len(before))]), before)
    verified = neurotransfer("verify", "--directory", study, "--configfile", *changed)
    assert verified.returncode == 0 and verified.stdout.endswith("all as written\n"), verified.stdout


def test_a_new_cohort_reruns_no_old_shard_no_pretraining_and_no_fit(study):
    """A new holdout cohort is preprocessed, cached, split and evaluated, and the report includes it."""
    new = study / "data/newcomer"
    shutil.copytree(next(path for path in (study / "data").iterdir() if path.is_dir()), new)
    table = (study / "cohorts.tsv").read_text().splitlines()
    columns = table[0].split("\t")
    source = dict(zip(columns, next(row for row in table[1:] if "pretraining" in row).split("\t"), strict=True))
    source_folder = study / source["path"]
    shutil.rmtree(new)
    shutil.copytree(source_folder, new)
    row = source | {"cohort": "newcomer", "path": "data/newcomer", "roles": "holdout", "images_per_job": ""}
    with (study / "cohorts.tsv").open("a") as file:
        file.write("\t".join(row[column] for column in columns) + "\n")
    before = {path: path.read_bytes() for path in (study / "results/manifest/shards").iterdir()}

    compiled = neurotransfer("manifest", "--directory", study, "--configfile", *OVERLAYS)
    assert compiled.returncode == 0, compiled.stderr

    assert all(path.read_bytes() == content for path, content in before.items())
    jobs = planned_jobs(study)
    per_cohort = {job for job in jobs if "newcomer" in job}
    assert {job.split()[0] for job in per_cohort} == {"preprocess", "cache", "quality", "index", "split", "heads"}
    over_all = {"quality_page", "evaluate run=multitask", "duplicates", "certificate", "figures", "report"}
    assert jobs - per_cohort == over_all

    shutil.rmtree(study / ".snakemake/metadata")  # as after a `kill -9`: Snakemake has no record of the inputs
    assert per_cohort <= planned_jobs(study)


@pytest.mark.parametrize("gone", [(), ("split/certificate.json", "quality/quality.html", "report/report.html")])
def test_a_deleted_ledger_reruns_its_job_also_if_later_results_are_missing(study, gone):
    ledger = next((study / "results/preprocessed").glob("coin-*/*.tsv"))
    for path in (ledger, *(study / "results" / name for name in gone)):
        path.unlink()
    shard = ledger.parent.name
    wanted = {f"preprocess shard={shard}, job={ledger.stem}", f"cache shard={shard}", "index cohort=coin", *SUMMARY}
    assert wanted <= (jobs := planned_jobs(study))
    assert sum(job.startswith(("preprocess ", "cache ", "index ")) for job in jobs) == 3


def test_a_shard_has_several_jobs_if_its_cohort_sets_fewer_images_per_job(small_study):
    manifest = small_study / "results/manifest/shards"
    tables = (small_study / "results/preprocessed").glob("*-*")
    jobs = {folder.name: len(list(folder.glob("*.tsv"))) for folder in tables}
    images = {shard: len((manifest / f"{shard}.tsv").read_text().splitlines()) - 1 for shard in jobs}
    assert images["epsilon-0001"] == 18 and jobs.pop("epsilon-0001") == 2
    assert set(jobs.values()) == {1}


def test_without_a_manifest_one_line_names_the_command(tmp_path, small_study):
    for name in ("cohorts.tsv", "truth.tsv"):
        shutil.copy(small_study / name, tmp_path)
    done = snakemake(tmp_path, "--dry-run")
    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if "run neurotransfer manifest" in line]
    assert "Traceback" not in done.stdout


def test_a_stale_manifest_is_noticed(study):
    with (study / "cohorts.tsv").open("a") as file:
        file.write("\n")
    done = snakemake(study, "--dry-run")
    assert done.returncode != 0
    assert "cohorts.tsv has changed since it was compiled; run neurotransfer manifest" in done.stdout


def test_a_touched_log_reruns_nothing(study):
    for path in (study / "logs").rglob("*.log"):
        os.utime(path)
    assert planned_jobs(study) == set()
