"""How the methods text names the optimiser, whatever it is, and the targets, if anybody has them."""

import numpy as np
import pandas as pd
from neurotransfer.pretrain.targets import as_metadata, learn_targets
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
