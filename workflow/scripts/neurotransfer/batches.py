"""Cached images into batches on the device: uint8 all the way there, augmented there.

The order of images is a function of (seed, epoch), and the augmentation one of (seed, epoch, step), so a
run that stops and goes on sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .cache import open_shard, verify_row
from .seeds import seed_from


class Images:
    """Images of a table, read from their shards when asked for, each checked once against its checksum.

    Parameters
    ----------
    table : with `shard`, `row` and `checksum`
    folder : that holds ``<shard>.npy``
    """

    def __init__(self, table: pd.DataFrame, folder: str | Path) -> None:
        self.shards = table["shard"].tolist()
        self.rows = table["row"].astype(int).tolist()
        self.checksums = table["checksum"].tolist()
        self.folder = Path(folder)
        self.checked = np.zeros(len(table), bool)
        self.open: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: np.ndarray, pinned: bool = False) -> Tensor:
        """The images at these rows of the table: uint8 [len(positions), D, H, W]."""
        batch = None
        for place, position in enumerate(positions):
            shard = self.shards[position]
            if shard not in self.open:
                self.open[shard] = open_shard(self.folder / f"{shard}.npy")
            image = self.open[shard][self.rows[position]]
            if not self.checked[position]:
                verify_row(image, self.checksums[position], self.folder / f"{shard}.npy", self.rows[position])
                self.checked[position] = True
            if batch is None:
                batch = torch.empty((len(positions), *image.shape), dtype=torch.uint8, pin_memory=pinned)
            batch[place] = torch.from_numpy(np.ascontiguousarray(image))
        return batch

    def batches(self, order: list[np.ndarray], device: torch.device) -> Iterator[Tensor]:
        """The batches of `order` on the device, the next one read while the last is used."""
        pinned = device.type == "cuda"
        with ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(self.read, positions, pinned) for positions in order[:2]]
            for step in range(len(order)):
                batch = pending.pop(0).result()
                if step + 2 < len(order):
                    pending.append(reader.submit(self.read, order[step + 2], pinned))
                yield batch.to(device, non_blocking=pinned)


class Held(Images):
    """The same, held on the device: for a resample, which several settings read again and again."""

    def __init__(self, table: pd.DataFrame, folder: str | Path, device: torch.device) -> None:
        super().__init__(table, folder)
        keys = list(zip(self.shards, self.rows, strict=True))
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        unique = sorted(first.values())
        self.place = torch.tensor([unique.index(first[key]) for key in keys])
        self.images = super().read(np.array(unique)).to(device)

    def batches(self, order: list[np.ndarray], device: torch.device) -> Iterator[Tensor]:
        for positions in order:
            yield self.images[self.place[torch.as_tensor(positions)].to(self.images.device)]


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each training batch of an epoch, shuffled.

    A last batch of one image would leave batch norm of a small image nothing to average over: it joins the
    one before.
    """
    order = np.random.default_rng(seed_from(seed, "epoch", epoch)).permutation(count)
    return sequence(order, batch_size)


def sequence(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """`order` cut into batches, a last one of a single image joined to the one before."""
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def as_input(images: Tensor) -> Tensor:
    """uint8 [N, D, H, W] to the network's input, float32 [N, 1, D, H, W], intensities as they are."""
    return images.unsqueeze(1).float()


def augment(images: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
    """Shift by whole voxels along each axis and mirror left-right, each image by itself.

    Parameters
    ----------
    images : uint8 [N, D, H, W] in LIA order, so axis 1 is left-right
    settings : `shift`, the largest shift in voxels (what leaves is lost, what enters is 0); `mirror`
    seed : decides everything, on every device alike
    """
    generator = torch.Generator().manual_seed(seed)
    count, reach = len(images), settings["shift"]
    shifts = torch.randint(-reach, reach + 1, (count, 3), generator=generator).tolist()
    mirrored = (torch.rand(count, generator=generator) < 0.5).tolist()
    result = torch.zeros_like(images)
    for image, out, shift, mirror in zip(images, result, shifts, mirrored, strict=True):
        target = tuple(slice(max(0, by), size + min(0, by)) for by, size in zip(shift, image.shape, strict=True))
        source = tuple(slice(max(0, -by), size + min(0, -by)) for by, size in zip(shift, image.shape, strict=True))
        out[target] = (image.flip(0) if mirror and settings["mirror"] else image)[source]
    return result
