"""A study finished by version 0.1.0, before the library had packages by stage, continues without repeating a job.

The archive contains what a dry run reads: the manifest, Snakemake's records, and the names and times of all results.
"""

import tarfile
from pathlib import Path

import pytest
import yaml
from runs import OVERLAYS, REPOSITORY, planned_jobs

ARCHIVE = Path(__file__).with_name("earlier_study.tar.xz")
# the paper's published numbers are an input of the figures, and this file is newer in a fresh clone
NEWER = {"figures", "report"}


@pytest.fixture
def earlier_study(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "study", filter="data")
    return tmp_path / "study"


@pytest.mark.parametrize("profile", ["slurm", "local"])
def test_nothing_but_figures_and_report_is_made_again(earlier_study, profile):
    triggers = yaml.safe_load((REPOSITORY / f"profiles/{profile}/config.yaml").read_text())["rerun-triggers"]
    assert planned_jobs(earlier_study, "--rerun-triggers", *triggers) <= NEWER


def test_a_changed_parameter_would_be_noticed(earlier_study, tmp_path):
    """The same dry run finds the jobs that depend on a changed key, so it reads the archive's records."""
    change = tmp_path / "change.yaml"
    change.write_text(yaml.safe_dump({"models": {"linear": {"settings": [{"c": 5.0}]}}}))
    triggers = ("mtime", "params", "input", "software-env")
    planned = planned_jobs(earlier_study, "--rerun-triggers", *triggers, overlays=[*OVERLAYS, change])
    assert {job.split()[0] for job in planned} == {"linear", "aggregate", "compare", *NEWER}
