"""What several unit tests start from."""

from pathlib import Path

import pytest
from data_sets import people, write_cohort, write_cohorts
from neurotransfer.study.configuration import load_config
from runs import REPOSITORY


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two cohorts in the working directory, its configuration, and the rows of its cohort table."""
    monkeypatch.chdir(tmp_path)
    config = load_config(REPOSITORY)
    config["cohorts"] = "cohorts.tsv"
    config["tasks"]["scz_bd"] = None
    config["resampling"] |= {"n": [8], "validation_share": 0.5, "test_share": 0.5}
    config["manifest"] |= {"images_per_shard": 8, "images_per_job": 4}
    write_cohort(Path("A"), people(20))
    write_cohort(Path("B"), people(30) + people(30, "AD", 31))
    rows = [
        {"cohort": "A", "path": "A", "roles": "pretraining"},
        {"cohort": "B", "path": "B", "roles": "holdout, ad_hc"},
    ]
    write_cohorts(rows)
    return config, rows
