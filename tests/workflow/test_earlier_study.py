"""A study finished by version 0.1.0 repeats only what is trained by another recipe now, and what follows from it.

The archive contains what a dry run reads: the manifest, Snakemake's records, and the names and times of all results.
"""

import tarfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from neurotransfer.files import read_facts, read_table, write_table, write_text
from neurotransfer.study import layout
from neurotransfer.study.configuration import load_config
from neurotransfer.study.consequences import jobs_after_people
from neurotransfer.study.plan import digest_of_list, read_study
from neurotransfer.study.same_people import COLUMNS, people_of, rows_of
from runs import OVERLAYS, REPOSITORY, planned_jobs

ARCHIVE = Path(__file__).with_name("earlier_study.tar.xz")
# figures show no cell of few people now; the paper's published numbers, their input, are newer in a fresh clone, too
NEWER = {"figures", "report"}
ADDED = {"confounding", "classifiers"}  # rules that version did not have: additional jobs


@pytest.fixture
def earlier_study(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "study", filter="data")
    return tmp_path / "study"


# what the study had, partly as the defaults of its version: another crop and network, gradient descent in steps
SETTINGS = [{"learning_rate": rate, "weight_decay": 0.001, "dropout": 0.2} for rate in (0.01, 0.03)]
OLDER = {
    "cache": {"crop": [32, 40, 32]},
    "network": {"channels": [8, 16, 32, 32, 32]},
    "tasks": {
        "scz_bd": {
            "title": "Schizophrenia or bipolar disorder", "positive": ["SCZ"], "negative": ["BD"], "seed": 0,
        },
    },
    "pretrain": {
        "optimiser": "sgd", "epochs": 60, "learning_rate": 0.01, "weight_decay": 0.001, "warmup": 0, "clip_norm": None,
        "schedule": {"kind": "step", "factor": 0.3, "every": 25},
    },
    "models": {
        "frozen": None,
        "cnn": {
            "optimiser": "sgd", "warmup": 0, "clip_norm": None, "schedule": {"kind": "step", "factor": 0.3, "every": 5},
        },
        "baseline": {"settings": SETTINGS},
        "transfer": {"settings": SETTINGS},
    },
}  # fmt: skip
RECIPE = {"pretrain", "evaluate", "baseline", "transfer", "aggregate", "compare"}  # networks, and what reads them

BEFORE_NETWORKS = {
    *("preprocess", "cache", "quality", "index", "split", "heads", "quality_page", "duplicates", "certificate"),
    *("resample", "linear"),
}


def planned(study, triggers, *changes):
    """The jobs that a dry run lists, with the study's older configuration and further changes."""
    overlays = list(OVERLAYS)
    for number, change in enumerate((OLDER, *changes)):
        overlays.append(study / f"change-{number}.yaml")
        overlays[-1].write_text(yaml.safe_dump(change, sort_keys=False))
    return planned_jobs(study, "--rerun-triggers", *triggers, overlays=overlays)


def planned_rules(study, triggers, *changes):
    """The rules of these jobs."""
    return {job.split()[0] for job in planned(study, triggers, *changes)}


def list_people(study, *groups):
    """Write the list of people with several names, and what the manifest would make of it, as it is; the people."""
    facts, path = read_facts(study / layout.SHARDS), study / "config/same_people.tsv"
    people = people_of(groups, facts["roles"])
    write_text(path, "".join("\t".join(group) + "\n" for group in groups))
    write_table(pd.DataFrame(rows_of(people), columns=list(COLUMNS)), study / layout.SAME_PEOPLE)
    write_table(
        read_table(study / layout.SHARDS), study / layout.SHARDS, facts | {"same_people_sha256": digest_of_list(path)}
    )
    return people


@pytest.mark.parametrize("profile", ["slurm", "local"])
def test_nothing_is_made_again_but_networks_and_what_follows(earlier_study, profile):
    triggers = yaml.safe_load((REPOSITORY / f"profiles/{profile}/config.yaml").read_text())["rerun-triggers"]
    planned = planned_rules(earlier_study, triggers)
    assert RECIPE | ADDED <= planned <= RECIPE | ADDED | NEWER


@pytest.mark.parametrize(
    ("groups", "repeats", "never"),
    [
        ([("coin_CO001", "epsilon_EP001")], {"certificate"}, {"split", "resample"}),  # in no pool together
        ([("mood_MO001", "mood_MO002")], {"certificate", "resample"}, {"split"}),
        ([("alpha_AL001", "memory_ME001")], {"certificate", "split", "resample", "pretrain"}, {"index", "cache"}),
    ],
)
def test_two_names_of_one_person_repeat_what_depends_on_them(earlier_study, groups, repeats, never, monkeypatch):
    triggers = ("mtime", "params", "input", "software-env")
    before = planned(earlier_study, triggers)
    overlays = [*OVERLAYS, earlier_study / "change-0.yaml"]
    config = load_config(REPOSITORY, overlays)
    monkeypatch.chdir(earlier_study)
    study = read_study(config)
    people = list_people(earlier_study, *groups)
    announced = set(jobs_after_people(study, people))
    now = planned(earlier_study, triggers)
    assert announced <= now
    # a certificate that is to be made hides other reasons to train networks until the next run
    assert {job for job in now if job.split()[0] in BEFORE_NETWORKS} == {
        job for job in before | announced if job.split()[0] in BEFORE_NETWORKS
    }
    rules = {job.split()[0] for job in announced}
    assert repeats <= rules and not never & rules
    assert read_study(config).people == people


def test_a_changed_parameter_would_be_noticed(earlier_study):
    """The same dry run finds the jobs that depend on a changed key, so it reads the archive's records."""
    change = {"models": {"linear": {"settings": [{"c": 5.0}]}}}
    triggers = ("mtime", "params", "input", "software-env")
    assert planned_rules(earlier_study, triggers, change) == {"linear", *RECIPE, *ADDED, *NEWER}
