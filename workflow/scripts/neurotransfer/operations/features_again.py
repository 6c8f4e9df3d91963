"""Whether a cohort's table of features is that of its cached images: the network computes them again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..network.device import choose_device, place
from ..pretrain.step import features_of
from ..pretrain.weights import network_from, read_weights

VOXELS = 1e9  # through the network at most, for a cohort: a hundred images of the paper's crop, minutes on a CPU
CLOSE = {"float32": 0.01, "bfloat16": 0.05, "auto": 0.05}  # of a row's largest feature, computed twice


@dataclass(frozen=True)
class FeaturesAgain:
    """How a study's features are made.

    Parameters
    ----------
    weights : the file whose trunk made them
    crop : of the cached images, voxels
    layers : "trunk" or "blocks", as `models.frozen`
    data_type : of the computation that made them, as in the configuration; here it is float32
    """

    weights: Path
    crop: tuple[int, int, int]
    layers: str
    batch_size: int
    data_type: str
    threads: int

    def rows_to_check(self, features: np.ndarray) -> np.ndarray:
        """Rows that have values: all of them if that takes minutes, and otherwise rows at equal distances."""
        rows = np.flatnonzero(np.isfinite(features).any(1))
        most = max(1, int(VOXELS / math.prod(self.crop)))
        return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]

    def differing(self, features: np.ndarray, index: pd.DataFrame, cache: str | Path, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that are not the features of their image.

        Parameters
        ----------
        features : float [images, features], of an index's images
        cache : the folder with its shards

        Raises
        ------
        InputError
            if the weights or a shard cannot be read
        """
        state, facts = read_weights(self.weights)
        model = network_from(facts)
        model.load_state_dict(state)
        device = choose_device("auto", self.threads)
        place(model, device, "float32")
        again = features_of(model, index, cache, rows, self.batch_size, device, layers=self.layers)[rows]
        if again.shape[1] != features.shape[1]:
            return rows
        distance = np.abs(again - features[rows]).max(1)
        limit = CLOSE[self.data_type] * np.abs(again).max(1)
        return rows[~(distance <= limit)]  # a NaN is no match
