"""Small volumes: each cached image averaged to voxels of about 4 mm, written beside its shard.

Goes in: a cached image.  Comes out: the volume that split/duplicates.py compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .shard_file import ShardFile

COARSE = 4.0  # mm, approximate voxel size of a small volume


def small_volume(cropped: np.ndarray, voxel_size: float) -> np.ndarray:
    """A cached image averaged over blocks of about 4 mm, uint8; voxels beyond the last whole block are left out.

    Parameters
    ----------
    cropped : uint8 [D, H, W]
    voxel_size : of the image, mm
    """
    factor = _factor(voxel_size)
    if factor == 1:
        return cropped
    shape = [edge // factor for edge in cropped.shape]
    sums = cropped[tuple(slice(edge * factor) for edge in shape)]
    for axis, edge in enumerate(shape):  # axis by axis is much faster than a mean over three axes
        sums = sums.reshape(*shape[:axis], edge, factor, *sums.shape[axis + 1 :]).sum(axis + 1, dtype=np.uint32)
    return ((sums + factor**3 // 2) // factor**3).astype(np.uint8)


def small_voxel(voxel_size: float) -> float:
    """Voxel size of the small volume of an image with this voxel size, mm."""
    return voxel_size * _factor(voxel_size)


def _factor(voxel_size: float) -> int:
    return max(1, round(COARSE / voxel_size))


class Volumes(Sequence):
    """The small volumes of an index's images, each read from its shard on access."""

    def __init__(self, images: pd.DataFrame, files: Mapping[str, Path]) -> None:
        self._rows = list(zip(images["shard"], images["row"], strict=True))
        self._files = files
        self._open: dict[str, ShardFile] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, image: int) -> np.ndarray:  # type: ignore[override]  # no slices
        shard, row = self._rows[image]
        if shard not in self._open:
            self._open = {shard: ShardFile(self._files[shard])}
        return self._open[shard].image(row)


def volumes_of(images: pd.DataFrame, files: Iterable[str | Path]) -> Volumes:
    """The small volumes of an index's images.

    Parameters
    ----------
    images : `shard` and `row`
    files : the ``<shard>.small.npy`` of all their shards
    """
    return Volumes(images, {Path(file).name.removesuffix(".small.npy"): Path(file) for file in files})
