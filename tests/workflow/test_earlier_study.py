"""A study finished by version 0.1.0 repeats only what is trained by another recipe now, and what follows from it.

The archive contains what a dry run reads: the manifest, Snakemake's records, and the names and times of all results.
"""

import tarfile
from pathlib import Path

import pytest
import yaml
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


def planned_rules(study, triggers, *changes):
    """The rules of the jobs that a dry run lists, with the study's older configuration and further changes."""
    overlays = list(OVERLAYS)
    for number, change in enumerate((OLDER, *changes)):
        overlays.append(study / f"change-{number}.yaml")
        overlays[-1].write_text(yaml.safe_dump(change, sort_keys=False))
    return {job.split()[0] for job in planned_jobs(study, "--rerun-triggers", *triggers, overlays=overlays)}


@pytest.mark.parametrize("profile", ["slurm", "local"])
def test_nothing_is_made_again_but_networks_and_what_follows(earlier_study, profile):
    triggers = yaml.safe_load((REPOSITORY / f"profiles/{profile}/config.yaml").read_text())["rerun-triggers"]
    planned = planned_rules(earlier_study, triggers)
    assert RECIPE | ADDED <= planned <= RECIPE | ADDED | NEWER


def test_a_changed_parameter_would_be_noticed(earlier_study):
    """The same dry run finds the jobs that depend on a changed key, so it reads the archive's records."""
    change = {"models": {"linear": {"settings": [{"c": 5.0}]}}}
    triggers = ("mtime", "params", "input", "software-env")
    assert planned_rules(earlier_study, triggers, change) == {"linear", *RECIPE, *ADDED, *NEWER}
