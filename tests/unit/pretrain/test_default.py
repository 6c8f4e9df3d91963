"""The default configuration trains: the network at full width, on heads, at the full rate from the first step on.

Crop and voxel size (2 mm), steps, warm-up and the size of a batch are the test's; channels, optimiser, rate, pooling,
losses and augmentation are config.yaml's.  That it learns is shown by `make bench-training`.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from neurotransfer.cache.shard_file import checksum, shard_written
from neurotransfer.pretrain import loop
from neurotransfer.pretrain.batches import Images
from neurotransfer.pretrain.checkpoints import Checkpoints
from neurotransfer.pretrain.targets import learn_targets
from neurotransfer.simulation import study
from neurotransfer.study.configuration import load_config
from runs import REPOSITORY

from workbench.heads import CROP, masked_head

IMAGES, BATCH, EPOCHS = 6, 2, 4  # of the images 4 train, so an epoch has 2 steps


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A shard of six heads and their table."""
    folder = tmp_path_factory.mktemp("heads")
    people = study._people(study.design_of("alpha", study.COHORTS), seed=7)[:IMAGES]
    images = [masked_head(person, seed=7) for person in people]
    with shard_written(folder / "alpha-0001.npy", IMAGES, CROP, None) as write:
        for image in images:
            write(image)
    table = pd.DataFrame(people).assign(shard="alpha-0001", row=np.arange(IMAGES))
    table["image_id"] = table["participant_id"] = table["label"]
    for target in ("handedness", "bmi", "fluid_intelligence", "neuroticism"):
        table[target] = table.get(target, np.nan)
    return folder, table.assign(checksum=[checksum(image) for image in images])


def test_the_default_does_not_diverge_and_few_features_die(heads, tmp_path, monkeypatch):
    folder, table = heads
    config = load_config(REPOSITORY)
    tables = table[:4].reset_index(drop=True), table[4:].reset_index(drop=True)
    losses, real = [], loop.Progress.tell

    def tell(self, epoch, step, images, loss):
        losses.append(loss)
        real(self, epoch, step, images, loss)

    monkeypatch.setattr(loop.Progress, "tell", tell)
    torch.set_num_threads(1)
    result = loop.pretrain(
        *(Images(part, folder) for part in tables),
        tables,
        targets=learn_targets(config["targets"], tables[0]),
        network=config["network"],
        settings=config["pretrain"] | {"epochs": EPOCHS, "batch_size": BATCH, "warmup": 0, "data_type": "float32"},
        seed=config["seed"],
        device=torch.device("cpu"),
        checkpoints=Checkpoints(tmp_path, "default"),
    )
    assert len(losses) == 4 // BATCH * EPOCHS
    assert max(losses) <= 3 * losses[0], losses
    assert (result.history["dead_features"] <= config["network"]["bottleneck"] / 2).all(), result.history
