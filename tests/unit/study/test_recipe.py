"""What results depend on: a key that was added later counts only if it is used."""

import copy

import pytest
from neurotransfer.study.configuration import load_config
from neurotransfer.study.recipe import ADDED, identity
from runs import REPOSITORY

GROUPS = (
    *("targets", "network", "quality", "split", "statistics", "resampling", "pretrain"),
    *("models.cnn", "models.linear", "models.covariates"),
)


@pytest.fixture
def config():
    return load_config(REPOSITORY)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_whole_except_for_added_keys_at_their_former_value(config, group):
    values = config
    for key in group.split("."):
        values = values[key]
    left_out = copy.deepcopy(values)
    if group == "quality":
        assert left_out["page"].pop("flag_below_mm3") == ADDED["quality.page.flag_below_mm3"]
    assert identity(config, group) == {
        key: value for key, value in left_out.items() if ADDED.get(f"{group}.{key}", ...) != value
    }


@pytest.mark.parametrize("group", ["pretrain", "models.cnn"])
def test_an_older_configuration_has_the_identity_that_it_had(config, group):
    """Stochastic gradient descent in steps, without what came later, is what an older version wrote."""
    config = copy.deepcopy(config)
    values = config["pretrain"] if group == "pretrain" else config["models"]["cnn"]
    older = {key: value for key, value in values.items() if f"{group}.{key}" not in ADDED}
    older["schedule"] = {"factor": 0.3, "every": 30}
    values |= {"optimiser": "sgd", "warmup": 0, "clip_norm": None, "weight_average": None}
    values["schedule"] = {"kind": "step", "factor": 0.3, "every": 30}
    assert identity(config, group) == older
    assert identity(config, group, ["epochs"]) == {key: value for key, value in older.items() if key != "epochs"}


def test_a_used_key_counts(config):
    assert identity(config, "pretrain")["optimiser"] == "adamw"
    assert identity(config, "pretrain")["schedule"] == {"kind": "cosine"}
