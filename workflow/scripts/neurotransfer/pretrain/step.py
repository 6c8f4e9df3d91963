"""A training step's forward and backward passes, and prediction: what pretraining and fits do with a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..network.sfcn import SFCN
from .batches import Images, as_input, augment, dropout_mask, on_device
from .evaluation import PREDICTIONS, long_form
from .targets import Target, decode


def backward_passes(
    model: SFCN,
    reading: Iterator[Tensor],
    passes: Sequence[np.ndarray],
    count: int,
    *,
    seeds: Mapping[str, int],
    augmentation: Mapping[str, Any],
    loss_of: Callable[[Tensor, np.ndarray], Tensor],
    device: torch.device,
    before_pass: Callable[[int], None] = lambda number: None,
) -> Tensor:
    """Run a step's passes forward and backward; gradients add up in the parameters, which must hold none before.

    Parameters
    ----------
    reading : gives the images of the next pass, uint8 [n, D, H, W]
    passes : of this rank; each has the positions, in the whole batch, of the images that it works on
    count : images of the whole batch, over all passes and ranks
    seeds : `augmentation` and `dropout`; both are drawn for the whole batch, however it is shared out
    augmentation : settings of `batches.augment`
    loss_of : from the network's outputs, float32 [n, outputs], and their positions in the batch to losses, a
        scalar or [losses], whose sum is trained on; those of all passes and ranks add up to the batch's
    before_pass : called with the pass's number before each pass

    Returns
    -------
    the sums of this rank's losses, on the device, without a gradient
    """
    kept = dropout_mask(model, count, seeds["dropout"])  # [count, features]
    total = torch.zeros((), device=device)
    for number, positions in enumerate(passes):
        before_pass(number)
        images = augment(next(reading), augmentation, seeds["augmentation"], positions, count)  # uint8 [n, D, H, W]
        outputs = model(as_input(images), on_device(kept[positions], device))  # [n, outputs]
        losses = loss_of(outputs, positions)  # [losses]
        losses.sum().backward()
        total = total + losses.detach()
    return total


@torch.no_grad()
def predict(
    model: SFCN,
    images: Images,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    after_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The network's raw outputs for rows of `images`: float32 [len(rows), outputs]."""
    model.eval()
    outputs = []
    for batch in images.batches([rows[at : at + batch_size] for at in range(0, len(rows), batch_size)], device):
        outputs.append(model(as_input(batch)))
        after_batch()
    return torch.cat(outputs).cpu().numpy()


@torch.no_grad()
def features_of(
    model: SFCN,
    table: pd.DataFrame,
    folder: str | Path,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    *,
    layers: str,
) -> np.ndarray:
    """The network's features of images.

    Parameters
    ----------
    table : of an index
    rows : of the table, those whose images go through the network
    layers : "trunk" for the pooled features before the head, "blocks" for the pooled output of every block, too

    Returns
    -------
    float32 [len(table), features], NaN in all other rows
    """
    model.eval()
    width = model.head.in_features
    if layers == "blocks":
        width += sum(block.conv.out_channels for block in model.blocks)  # type: ignore[union-attr, misc]
    features = np.full((len(table), width), np.nan, np.float32)
    if not len(rows):
        return features
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    for batch, images in zip(batches, Images(table, folder).batches(batches, device), strict=True):
        inputs = as_input(images)  # [batch, 1, D, H, W]
        found = model.features_of_layers(inputs) if layers == "blocks" else model.pooled(inputs)  # [batch, features]
        features[batch] = found.float().cpu().numpy()
    return features


def predictions_of(
    model: SFCN,
    parts: Mapping[str, pd.DataFrame],
    folder: str | Path,
    targets: list[Target],
    batch_size: int,
    device: torch.device,
) -> pd.DataFrame:
    """Predictions in long form (see evaluation.PREDICTIONS) of index rows by split; none if there is no image."""
    found = []
    for split, table in parts.items():
        if len(table):
            outputs = predict(model, Images(table, folder), np.arange(len(table)), batch_size, device)
            found.append(long_form(table, decode(outputs, targets), targets, split))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=PREDICTIONS)
