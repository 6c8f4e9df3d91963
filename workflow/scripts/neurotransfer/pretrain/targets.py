"""The targets of pretraining: standardised, masked if missing, their loss and their metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from ..study.targets import KNOWN, TARGETS, UNKNOWN


@dataclass(frozen=True)
class Target:
    """One target of the network, with an output of its own.

    `mean` and `sd` are the training set's, in the target's unit; a binary target's mean is its prevalence.
    `positive_weight` multiplies the loss of class 1.  `bins` is (start, width, number) if the target has an output per
    bin, as Peng et al.'s age has: softmax makes them probabilities, and the prediction is the mean of the centres.
    Such heads are read and never trained.
    """

    name: str
    kind: str
    weight: float
    loss: str
    mean: float
    sd: float
    positive_weight: float
    bins: tuple[float, float, int] | None = None

    @property
    def outputs(self) -> int:
        """Outputs of the network that belong to the target."""
        return 1 if self.bins is None else self.bins[2]


def learn_targets(settings: Mapping[str, Mapping[str, Any]], training: pd.DataFrame) -> list[Target]:
    """Targets in the published order, standardised by the training set's images.

    A target that no training image has keeps its output with mean 0 and sd 1, and never costs anything.
    """
    targets = []
    for name in TARGETS:
        if name not in settings:
            continue
        chosen, values = settings[name], training[name].dropna().astype(float)
        mean = float(values.mean()) if len(values) else 0.0
        sd, positive = 1.0, 1.0
        if chosen["kind"] == "continuous" and len(values) > 1 and values.std() > 0:
            sd = float(values.std())
        if chosen["kind"] == "binary" and chosen.get("class_weights") and 0 < mean < 1:
            positive = (1 - mean) / mean
        loss = chosen.get("loss", "logistic")
        targets.append(Target(name, chosen["kind"], chosen["weight"], loss, mean, sd, positive))
    return targets


def known_targets(targets: Sequence[Target], training: pd.DataFrame) -> dict[str, list[str]]:
    """For the metadata of weights: the targets that a training image has, if mean and sd do not tell which they are.

    They don't if all images are of class 0, or all have the value 0; otherwise nothing is returned.
    """
    known = [target for target in targets if training[target.name].notna().any()]
    if all((target.mean, target.sd) != UNKNOWN for target in known):
        return {}
    return {KNOWN: [target.name for target in known]}


def encode(table: pd.DataFrame, targets: list[Target]) -> Tensor:
    """Targets of a table's rows as the network learns them: float32 [rows, targets], NaN if missing."""
    columns = []
    for target in targets:
        values = table[target.name].to_numpy(float)
        columns.append((values - target.mean) / target.sd if target.kind == "continuous" else values)
    return torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)


def decode(outputs: np.ndarray, targets: list[Target]) -> np.ndarray:
    """The network's outputs in the targets' units; a binary target's is the probability of class 1.

    Parameters
    ----------
    outputs : [N, outputs]

    Returns
    -------
    float64 [N, targets]
    """
    columns, edges = [], np.cumsum([target.outputs for target in targets])
    for part, target in zip(np.split(outputs.astype(float), edges[:-1], axis=1), targets, strict=True):
        if target.bins is not None:
            start, width, count = target.bins
            shares = np.exp(part - part.max(1, keepdims=True))  # [N, bins]
            column = shares @ (start + (np.arange(count) + 0.5) * width) / shares.sum(1)
        else:
            column = part[:, 0]
        continuous = target.kind == "continuous"
        columns.append(column * target.sd + target.mean if continuous else 0.5 * (1 + np.tanh(column / 2)))
    return np.stack(columns, axis=1)


def first_biases(targets: list[Target]) -> Tensor:
    """Biases of a head that has learnt nothing yet: the training set's means, as outputs; float32 [targets].

    0 is the mean of a standardised target; a binary one starts at the logit of its prevalence, moved by its
    class weight, because learning that a class is rare would cost epochs.
    """
    biases = [0.0] * len(targets)
    for column, target in enumerate(targets):
        if target.kind == "binary" and 0 < target.mean < 1:
            biases[column] = math.log(target.positive_weight * target.mean / (1 - target.mean))
    return torch.tensor(biases)


def target_losses(outputs: Tensor, truth: Tensor, targets: list[Target], known: Tensor | None = None) -> Tensor:
    """Each target's part of the loss; their sum is the weighted mean of the losses of the targets that a batch has.

    A target's loss is the mean over the images that have the target.  A target that no image of the batch has adds
    nothing to the loss and nothing to any gradient, and its weight does not count in the mean.

    Parameters
    ----------
    outputs : float32 [N, targets]; of continuous targets standardised values, of binary ones logits
    truth : float32 [N, targets], from `encode`: NaN if missing
    known : images that have each target, [targets], if these N are part of a batch whose losses add up

    Returns
    -------
    float32 [targets]
    """
    present = ~torch.isnan(truth)  # [N, targets]
    filled = torch.where(present, truth, 0.0)  # [N, targets]
    counts = present.sum(0) if known is None else known  # [targets]
    weights = torch.tensor([target.weight for target in targets]).to(outputs.device, non_blocking=True)  # [targets]
    in_batch = (weights * (counts > 0)).sum()
    shares = weights / torch.where(in_batch > 0, in_batch, 1.0)  # [targets]
    parts = []
    for column, target in enumerate(targets):
        if target.weight == 0:
            parts.append(torch.zeros((), device=outputs.device))
            continue
        output, wanted = outputs[:, column], filled[:, column]  # [N] each
        if target.kind == "binary":
            weight = torch.full((), target.positive_weight, device=outputs.device)
            losses = functional.binary_cross_entropy_with_logits(output, wanted, pos_weight=weight, reduction="none")
        elif target.loss == "absolute":
            losses = (output - wanted).abs()
        else:
            losses = (output - wanted) ** 2
        total = torch.where(present[:, column], losses, 0.0).sum()
        parts.append(shares[column] * total / counts[column].clamp(min=1))
    return torch.stack(parts)


def masked_loss(outputs: Tensor, truth: Tensor, targets: list[Target], known: Tensor | None = None) -> Tensor:
    """The sum of `target_losses`."""
    return target_losses(outputs, truth, targets, known).sum()


def as_metadata(targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Targets as JSON values, for the metadata of weights."""
    return [
        {name: value for name, value in asdict(target).items() if name != "bins" or value is not None}
        for target in targets
    ]


def from_metadata(values: list[dict[str, Any]]) -> list[Target]:
    """The inverse of `as_metadata`."""
    targets = []
    for value in values:
        bins = value.get("bins")
        targets.append(Target(**{**value, "bins": None if bins is None else (bins[0], bins[1], int(bins[2]))}))
    return targets
