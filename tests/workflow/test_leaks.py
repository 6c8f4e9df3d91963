"""Leaks planted in a real study: each stops the workflow with one line, and the old certificate stays."""

import json
import os
import shutil
from pathlib import Path

from runs import OVERLAYS, neurotransfer, planned_jobs, snakemake

CORES = ("--cores", os.cpu_count() or 1)
SPLIT = "results/split/cohorts"


def change(path: Path, old: str, new: str, *, unnoticed: bool) -> None:
    """Replace text in a file; if `unnoticed`, keep its times, which Snakemake depends on."""
    times = path.stat()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if unnoticed:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cause(study: Path, rule: str) -> str:
    """The line with the cause of a rule's failure."""
    (failure,) = (study / "results/failures" / rule).glob("*.json")
    return json.loads(failure.read_text())["cause"]


def test_an_edited_split_is_noticed_when_it_is_used_and_when_it_is_certified_again(study):
    split = study / SPLIT / "memory.tsv"
    change(split, "\ttrain\t", "\ttest\t", unnoticed=True)
    (study / "results/statistics/aucs.tsv").unlink()
    assert snakemake(study, *CORES, "--until", "aggregate").returncode != 0
    assert f"{SPLIT}/memory.tsv: it differs from the file that was certified" in cause(study, "aggregate")

    os.utime(split)
    assert snakemake(study, *CORES, "--until", "certificate").returncode != 0
    assert f"{SPLIT}/memory.tsv: role: its roles are not those that the configuration draws" in cause(
        study, "certificate"
    )


def test_an_edited_resample_is_refused_by_the_statistics(study):
    change(study / "results/resamples/ad_hc/n18/002.tsv", "\tvalidation\t", "\ttest\t", unnoticed=True)
    (study / "results/statistics/aucs.tsv").unlink()
    assert snakemake(study, *CORES, "--until", "aggregate").returncode != 0
    assert "ad_hc/n18/002.tsv: its rows have changed since they were drawn" in cause(study, "aggregate")


def test_a_new_cohort_of_known_scans_fails_the_certificate_and_changes_no_old_result(study):
    """Six participants of pretraining are also in a new cohort for testing."""
    known = study / "data/alpha"
    new = study / "data/newcomer"
    people = sorted(path.name for path in known.glob("sub-*"))
    shutil.copytree(known, new, ignore=shutil.ignore_patterns(*people[6:]))
    table = study / "cohorts.tsv"
    columns, *rows = [line.split("\t") for line in table.read_text().splitlines()]
    row = dict(zip(columns, next(row for row in rows if row[0] == "alpha"), strict=True))
    row |= {"cohort": "newcomer", "path": "data/newcomer", "roles": "holdout", "images_per_job": ""}
    participants = (new / "participants.tsv").read_text().splitlines()
    kept = [line for line in participants[1:] if line.split("\t")[0] in people[:6]]
    (new / "participants.tsv").write_text("\n".join([participants[0], *kept]) + "\n")
    with table.open("a") as file:
        file.write("\t".join(row[column] for column in columns) + "\n")
    assert neurotransfer("manifest", "--directory", study, "--configfile", *OVERLAYS).returncode == 0
    before = (study / "results/split/certificate.json").read_bytes()

    assert snakemake(study, *CORES, "--until", "certificate", "--keep-going").returncode != 0

    lines = cause(study, "certificate").splitlines()
    assert lines and all("results/duplicates/pairs.tsv: newcomer_" in line for line in lines)
    assert all("it is the same scan as alpha_" in line and "split.waived_duplicates" in line for line in lines)
    assert (study / "results/split/certificate.json").read_bytes() == before
    after = {"certificate", "quality_page", "evaluate run=multitask", "figures", "report"}
    assert planned_jobs(study) == after, "the failed job is tried again, and no fit"
