"""How the methods text names the optimiser, whatever it is, and the targets, if anybody has them."""

import numpy as np
import pandas as pd
from neurotransfer.pretrain.targets import as_metadata, known_targets, learn_targets
from neurotransfer.report.methods_text import _optimisation, _pretraining
from neurotransfer.study.configuration import load_config
from neurotransfer.study.targets import TARGETS
from runs import REPOSITORY


def test_each_optimiser_and_schedule_has_its_words():
    settings = load_config(REPOSITORY)["pretrain"]
    default = (
        "AdamW [@loshchilov2019] (learning rate 0.0003, falling along a cosine, after a linear warm-up of 300 steps, "
        "first decay 0.9, weight decay 0.01, gradients limited to a norm of 50)"
    )
    assert _optimisation(settings, {}) == default
    steps = {"kind": "step", "factor": 0.3, "every": 30}
    older = settings | {"optimiser": "sgd", "schedule": steps, "warmup": 0, "clip_norm": None, "weight_average": 0.99}
    assert _optimisation(older, {"times_lowered": 2}) == (
        "stochastic gradient descent (learning rate 0.0003, times 0.3 every 30 epochs, momentum 0.9, "
        "weight decay 0.01, an exponential moving average of the weights with a decay of 0.99, "
        "lowered to a third 2 times because the loss was not finite)"
    )


def test_only_targets_that_a_training_image_had_are_called_learned():
    """As the weights of a training say it: no image had the other four targets."""
    config = load_config(REPOSITORY)
    training = pd.DataFrame({"age": [30.0, 51, 62, None], "sex": [0.0, 1, 1, 0]}).reindex(columns=list(TARGETS))
    for name in ("sex", "age"):
        metadata = {"targets": as_metadata(learn_targets(config["targets"], training))}
        assert {target["name"] for target in metadata["targets"]} == set(config["targets"])
        said = "age and sex together" if name == "sex" else "age"
        assert f"learned {said} from healthy" in " ".join(_pretraining(config, "multitask", metadata).split())
        training[name] = np.nan


def test_a_target_that_all_have_in_class_0_is_told_from_one_that_nobody_has():
    config = load_config(REPOSITORY)
    training = pd.DataFrame({"age": [30.0, 51, 62], "handedness": [0.0, 0, np.nan], "bmi": [np.nan] * 3})
    training = training.reindex(columns=list(TARGETS))

    def said(table):
        targets = learn_targets(config["targets"], table)
        metadata = {"targets": as_metadata(targets), **known_targets(targets, table)}
        return " ".join(_pretraining(config, "multitask", metadata).split()).partition("learned ")[2]

    assert said(training).startswith("age and handedness together from healthy")
    training["handedness"] = np.nan
    assert said(training).startswith("age from healthy")
    # if mean and sd tell it, the metadata are those of earlier versions
    assert known_targets(learn_targets(config["targets"], training), training) == {}
