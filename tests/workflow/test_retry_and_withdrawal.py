"""A retry repeats the announced jobs; withdrawn participants are in no result.  Real runs of Snakemake."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from neurotransfer.files import read_json, read_table, write_table
from neurotransfer.text import counted
from runs import OVERLAYS, neurotransfer, planned_jobs, snakemake

CORES = ("--cores", os.cpu_count() or 1)


def ask(folder: Path, *words: str):
    """Run a command of neurotransfer on the study."""
    return neurotransfer(words[0], "--directory", folder, "--configfile", *OVERLAYS, *words[1:])


def announced_jobs(text: str, first: str) -> dict[str, int]:
    """Jobs by rule, from lines as "rule  12" (retry), or "rule 12, rule 3" after a colon (manifest)."""
    part = text[text.index(first) :]
    listed = part.splitlines()[0].partition(": ")[2]
    pairs = re.findall(r"(\w+) ([\d,]+)", listed) if listed else re.findall(r"^  (\w+) +([\d,]+)", part, re.MULTILINE)
    return {rule: int(count.replace(",", "")) for rule, count in pairs}


def by_rule(jobs: set[str]) -> dict[str, int]:
    rules = [job.split()[0] for job in jobs]
    return {rule: rules.count(rule) for rule in rules}


def statuses(folder: Path) -> dict[str, int]:
    found = (folder / "results/preprocessed/subjects").glob("*/*/status.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def images_of(folder: Path, roles: str) -> pd.DataFrame:
    """The manifest's images of the first cohort with exactly these roles."""
    cohorts = read_table(folder / "cohorts.tsv")
    name = cohorts.loc[cohorts["roles"] == roles, "cohort"].iloc[0]
    images = read_table(folder / "results/manifest/images.tsv")
    return images[images["cohort"] == name]


@pytest.fixture
def broken(study: Path) -> tuple[Path, list[str]]:
    """The study with two truncated scans of one job, run up to the ledger; and the two images."""
    images = images_of(study, "holdout,scz_bd").iloc[[1, 3]]
    for image in images.itertuples():
        scan = study / image.t1w
        scan.with_suffix(".whole").write_bytes(scan.read_bytes())
        scan.write_bytes(scan.read_bytes()[:5000])
    marked = ask(study, "retry", "--image", *images["image_id"])
    assert marked.returncode == 0, marked.stderr
    done = snakemake(study, *CORES, "--until", "preprocess")
    assert done.returncode == 0, done.stdout
    return study, images["image_id"].tolist()


def test_status_and_retry_of_a_real_study(broken):
    """Two truncated scans fail; after a repair and a retry only they are repeated, by the announced jobs."""
    study, names = broken
    cohort, images = names[0].split("_")[0], len(read_table(study / "results/manifest/images.tsv"))
    lines = ask(study, "status").stdout.splitlines()
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total == ["total", str(images), str(images - 2), "2", "0", "0"]
    assert any(line.split()[:5] == ["failed", "truncated", "2", cohort, "2"] for line in lines)

    for path in (study / "data").rglob("*.whole"):
        path.with_suffix(".gz").write_bytes(path.read_bytes())
    before, ledger = statuses(study), set((study / "results/preprocessed").glob("*/*.tsv"))
    wrong = ask(study, "retry", "--reason", "trunkated")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1 and "truncated (2)" in wrong.stderr
    looked = ask(study, "retry", "--reason", "truncated", "--cohort", cohort, "--dry-run")
    assert "nothing is marked" in looked.stdout
    assert statuses(study) == before and set((study / "results/preprocessed").glob("*/*.tsv")) == ledger

    marked = ask(study, "retry", "--reason", "truncated", "--cohort", cohort)
    assert marked.returncode == 0, marked.stderr
    assert all(f"  {name}  " in marked.stdout for name in names)
    planned = planned_jobs(study)
    assert announced_jobs(marked.stdout, "the next run of snakemake does") == by_rule(planned)
    assert sum(job.startswith("preprocess ") for job in planned) == 1

    done = snakemake(study, *CORES, "--until", "index")
    assert done.returncode == 0, done.stdout
    after = statuses(study)
    assert {name for name in after if after[name] != before.get(name)} == set(names)
    assert set(names) <= set(read_table(study / f"results/index/{cohort}.tsv")["image_id"])


def test_a_withdrawn_participant_is_in_no_result(study):
    """Shards keep their numbering, the cache row is zero, and every later stage is repeated without the participant."""
    images = images_of(study, "control")
    resample = read_table(study / "results/resamples/control/n18/001.tsv")
    person = resample["participant_id"].iloc[0]
    gone = images[images["participant_id"] == person]
    shard = gone["shard"].iloc[0]
    cache = np.load(study / f"results/cache/{shard}.npy")
    table = read_table(study / f"results/cache/{shard}.tsv")
    rows = table["image_id"].isin(gone["image_id"]).to_numpy()
    assert cache[rows].any(axis=(1, 2, 3)).all()

    (study / "config").mkdir(exist_ok=True)
    (study / "config/withdrawn.tsv").write_text(f"participant_id\tdate\n{person}\t2026-02-03\n")
    stale = snakemake(study, "--dry-run")
    assert (
        stale.returncode
        and "withdrawn.tsv has changed since it was compiled; run neurotransfer manifest" in stale.stdout
    )
    compiled = ask(study, "manifest")
    assert compiled.returncode == 0, compiled.stderr
    assert f"withdrawn: {counted(len(gone), 'image')} of 1 person" in compiled.stdout
    planned = planned_jobs(study)
    assert announced_jobs(compiled.stdout, "because of the withdrawals") == by_rule(planned)
    assert "pretrain" not in planned, "the cohort is not used in pretraining"
    before = statuses(study)

    # without the networks, which take longest, and later jobs, whose files name no participant
    networks = ("baseline", "transfer")
    done = snakemake(study, *CORES, "--quiet", "rules", "--omit-from", *networks)
    assert done.returncode == 0, done.stdout
    left = {job.split()[0] for job in planned_jobs(study)}
    assert left == {*networks, "aggregate", "confounding", "classifiers", "compare", "figures", "report"}

    ledgers = sorted((study / f"results/preprocessed/{shard}").glob("*.tsv"))
    tables = [*(str(path.relative_to(study)) for path in ledgers), f"results/cache/{shard}.tsv"]
    assert files_that_name(study, person) == set(), "a number stands in place of the name"
    for path in tables:
        mine = read_table(study / path).set_index("image_id")
        mine = mine[mine.index.str.contains("_withdrawn-")]
        assert (mine["status"] == "withdrawn").all()
        assert mine.drop(columns=["status", "row"], errors="ignore").isna().all(axis=None), path
    assert len(mine) == len(gone), "the cache's table"
    new = np.load(study / f"results/cache/{shard}.npy")
    assert not new[rows].any() and np.array_equal(new[~rows], cache[~rows])
    after = statuses(study)
    assert set(before) - set(after) == set(gone["image_id"]) - set(after) == set(gone["image_id"])
    assert all(before[name] == after[name] for name in after), "no other image is processed again"
    facts = read_json(study / "results/split/certificate.json")
    assert facts["counts"]["test"]["images"] > 0
    shown = ask(study, "status").stdout
    assert shown.splitlines()[0].split()[-1] == "(withdrawn)"
    assert ask(study, "withdraw").returncode == 0
    searched = ask(study, "withdraw", "--verify")
    assert searched.returncode == 0 and "found: nothing" in (study / "withdrawal-statement.txt").read_text()

    # a job that ran during the withdrawal has written the person again, later than the manifest
    ledger = ledgers[0]
    rows = read_table(ledger)
    rows.loc[0, "image_id"] = gone["image_id"].iloc[0]
    write_table(rows, ledger)
    again = snakemake(study, *CORES, "--nolock", "--quiet", "rules", "--until", "cache")
    assert again.returncode == 0 and "files of 1 shard are made again without the people" in again.stdout
    assert files_that_name(study, person) == set()


def files_that_name(study: Path, word: str) -> set[str]:
    """The results and logs whose name or bytes contain a word that is not part of a longer one."""
    whole = re.compile(rb"(?<![A-Za-z0-9-])" + word.encode() + rb"(?![A-Za-z0-9-])")
    found = set()
    for top in ("results", "logs"):
        for path in (study / top).rglob("*"):
            name = str(path.relative_to(study))
            if whole.search(name.encode()) or (path.is_file() and whole.search(path.read_bytes())):
                found.add(name)
    return found
