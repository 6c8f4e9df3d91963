"""The final network of a task: all images of its pool, with the setting that won most often over the replicates.

It stands outside the comparisons.  It has no test set of its own: what to expect of it is the test AUC of the
replicates, which had fewer images.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..network.device import choose_device, place
from ..network.sfcn import calibrate, folded, training_scale
from ..pretrain.batches import Images, as_input
from ..pretrain.optimiser import WeightAverage, make_optimiser
from ..study import layout
from .finetuning import first_of_setting, train_epoch
from .settings import seeds_of_fit

logger = logging.getLogger("neurotransfer")
REPLICATE = "final"  # takes the place of a replicate's number in the seeds


class Winner(NamedTuple):
    """The setting that replicates chose most often: its position, how many chose it, and epochs to train for."""

    position: int
    won: int
    epochs: int


def settings_that_won(records: Sequence[Mapping[str, Any]]) -> Winner:
    """The setting that most fits have chosen, and the median number of epochs after which they kept their network.

    Ties go to the higher mean validation AUC over all fits, then to the first setting.
    """
    counts = Counter(record["chosen"] for record in records)

    def order(position: int) -> tuple[int, float, int]:
        aucs = [record["settings"][position]["validation_auc"] for record in records]
        known = [auc for auc in aucs if auc is not None]
        return -counts[position], -float(np.mean(known)), position

    position = min(counts, key=order)
    epochs = [record["settings"][position]["epoch"] + 1 for record in records if record["chosen"] == position]
    return Winner(position, counts[position], int(np.median(epochs)))


def expectation(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The replicates' test AUC: `n`, `replicates`, `median`, and the 2.5 and 97.5 percentiles `low` and `high`."""
    aucs = [record["test_auc"] for record in records]
    low, median, high = (float(value) for value in np.quantile(aucs, (0.025, 0.5, 0.975)))
    return {"n": records[0]["n"], "replicates": len(aucs), "median": median, "low": low, "high": high}


def fit_final(
    pool: pd.DataFrame,
    task: str,
    winner: Winner,
    fitting: Mapping[str, Any],
    trunk: Mapping[str, torch.Tensor],
    folder: str | Path = layout.CACHE,
) -> dict[str, torch.Tensor]:
    """The state of a network trained on all images of a pool, for a head that takes pooled features as they are.

    The learning rate follows the schedule of the replicates, and training stops after the winner's epochs.

    Parameters
    ----------
    pool : from `pool_of_task`, with `shard`, `row`, `checksum` and `label`
    fitting : of transfer: `seed`, `network`, `training` and `settings`
    folder : of the cache
    """
    training, values = fitting["training"], fitting["settings"][winner.position]
    settings = {**training, **values}
    device = choose_device(training["device"], training["threads"])
    images = Images(pool, folder)  # from the disk: a whole pool may not fit on a GPU
    labels = torch.tensor(pool["label"].to_numpy(), dtype=torch.float32)
    rows, seeds = np.arange(len(pool)), seeds_of_fit(fitting["seed"], task, 0, REPLICATE, "transfer", winner.position)
    model = first_of_setting(images, rows, fitting["network"], training, values, seeds, trunk, device)
    place(model, device, settings["data_type"], compiled=settings["compile"])
    optimiser, average = make_optimiser(model, settings), WeightAverage(model, settings.get("weight_average"))
    for epoch in range(winner.epochs):
        seen = train_epoch(images, labels, rows, model, optimiser, average, settings, seeds, device, epoch)
        logger.info("epoch %d of %d", epoch + 1, winner.epochs)
    with average.in_use():
        calibrate(model, map(as_input, images.batches(seen, device)))
        state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return folded(state, training_scale(fitting["network"]["bottleneck"]))
