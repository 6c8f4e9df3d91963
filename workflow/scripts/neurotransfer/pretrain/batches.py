"""Cached images into batches on the device: uint8 all the way there, augmented there.

The order of images is a function of (seed, epoch), and the augmentation one of (seed, epoch, step) and the place
in the batch.  So a run that stops and goes on sees what an undisturbed one would have seen, and several ranks see
together what one would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from ..cache.shard_file import ShardFile, verify_row
from ..network.kernel_choice import missing_for_kernels
from ..network.sfcn import SFCN
from ..seeds import seed_from

READERS = 4  # threads that read, check and decompress
BUFFERS = 3  # batches in memory: one in use, and two being read


class Images:
    """Images of a table, read from their shards when asked for, each checked once against its checksum.

    Parameters
    ----------
    table : with `shard`, `row` and `checksum`
    folder : that holds ``<shard>.npy``

    Examples
    --------
    A shard of three images of 2³ voxels, and its table:

    >>> import tempfile
    >>> import pandas as pd
    >>> from neurotransfer.cache.shard_file import checksum
    >>> folder = tempfile.TemporaryDirectory()
    >>> voxels = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    >>> np.save(Path(folder.name, "a-0001.npy"), voxels)
    >>> table = pd.DataFrame({"shard": "a-0001", "row": [0, 1, 2], "checksum": [checksum(image) for image in voxels]})
    >>> Images(table, folder.name).read([2, 0])[:, 0, 0].tolist()
    [[16, 17], [0, 1]]
    >>> folder.cleanup()
    """

    def __init__(self, table: pd.DataFrame, folder: str | Path) -> None:
        self.shards = table["shard"].tolist()
        self.rows = table["row"].astype(int).tolist()
        self.checksums = table["checksum"].tolist()
        self.folder = Path(folder)
        self.checked = np.zeros(len(table), bool)
        self.known: dict[str, ShardFile] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Sequence[int] | np.ndarray) -> Tensor:
        """The images at these rows of the table: uint8 [len(positions), D, H, W].

        Raises
        ------
        InputError
            naming the shard, if an image is not the one that was cached
        """
        images = self._empty(len(positions))
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(self._read_into, images.numpy(), positions))
        return images

    def batches(self, order: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
        """The batches of `order` on the device, the next ones read by threads while one is used.

        Memory is taken once and filled again and again: a batch holds its images until the next one is asked for.
        """
        pinned = device.type == "cuda"
        copying = torch.cuda.Stream(device) if pinned else None  # beside what the device computes
        buffers = [self._empty(max(map(len, order), default=0), pinned) for _ in order[:BUFFERS]]
        copied: dict[int, torch.cuda.Event] = {}
        with ThreadPoolExecutor(READERS) as readers:

            def begin(step: int) -> tuple[Tensor, list[Future]]:
                if event := copied.pop(step - BUFFERS, None):
                    event.synchronize()  # the device has what the buffer held before
                buffer = buffers[step % BUFFERS][: len(order[step])]
                targets = zip(buffer.numpy(), order[step], strict=True)
                return buffer, [readers.submit(self._read_into, *target) for target in targets]

            begun = [begin(step) for step in range(len(buffers))]
            for step in range(len(order)):
                buffer, reads = begun.pop(0)
                for read in reads:
                    read.result()
                if copying is None:
                    batch = buffer.to(device)
                else:
                    with torch.cuda.stream(copying):
                        batch = buffer.to(device, non_blocking=True)
                        copied[step] = copying.record_event()
                    computing = torch.cuda.current_stream(device)
                    computing.wait_event(copied[step])
                    batch.record_stream(computing)
                yield batch
                if step + BUFFERS < len(order):
                    begun.append(begin(step + BUFFERS))

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of an image along each axis."""
        return self._shard(self.shards[0]).shape[1:]

    def _empty(self, count: int, pinned: bool = False) -> Tensor:
        return torch.empty((count, *self.size), dtype=torch.uint8, pin_memory=pinned)

    def _read_into(self, image: np.ndarray, position: int) -> None:
        shard, row = self._shard(self.shards[position]), self.rows[position]
        shard.read(row, image)
        if not self.checked[position]:
            verify_row(image, self.checksums[position], shard.path, row)
            self.checked[position] = True

    def _shard(self, name: str) -> ShardFile:
        if name not in self.known:
            self.known[name] = ShardFile(self.folder / f"{name}.npy")
        return self.known[name]


class ResidentImages(Images):
    """The same, resident on the device: for a resample, which several settings read again and again.

    An image that the table has several times is held once.
    """

    def __init__(self, table: pd.DataFrame, folder: str | Path, device: torch.device) -> None:
        super().__init__(table, folder)
        known: dict[tuple[str, int, str], int] = {}
        keys = zip(self.shards, self.rows, self.checksums, strict=True)
        self.image_of_row = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
        first = np.unique(self.image_of_row, return_index=True)[1]
        self.images = self.read(first).to(device)

    def batches(self, order: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
        """The batches of `order`, on the device that holds them."""
        for positions in order:
            yield self.images[on_device(torch.from_numpy(self.image_of_row[positions]), device)]


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU, copied without waiting for what the device has to do before."""
    return values.to(device, non_blocking=True)


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each training batch of an epoch, shuffled.

    Batches are as equal as can be and none exceeds `batch_size`: 18 images in batches of 8 are three times
    6, not 8, 8 and 2, because batch norm's statistics over a remainder of one or two images are worthless.
    """
    order = np.random.default_rng(seed_from(seed, "epoch", epoch)).permutation(count)
    return np.array_split(order, -(-count // batch_size))


def as_input(images: Tensor) -> Tensor:
    """uint8 [N, D, H, W] as the network's input, uint8 [N, 1, D, H, W], which it makes floats where it has to."""
    return images.unsqueeze(1)


def augment(
    images: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    positions: np.ndarray | None = None,
    count: int | None = None,
) -> Tensor:
    """Shift by whole voxels along each axis, mirror left-right, brighten or darken, each image by itself.

    On a CPU slices copy whole rows of voxels; gathering a batch by index in one call took 8 to 12 times as long.  A GPU
    does it in one kernel, with the same result.

    Parameters
    ----------
    images : uint8 [N, D, H, W] in LIA order, so axis 1 is left-right
    settings : `shift`, the largest shift in voxels (what leaves is lost, what enters is 0); `mirror`;
        `intensity`, the largest share by which intensities grow or shrink (up to 255), 0 if it is left out
    seed : decides everything, on every device alike
    positions, count : which images these are of a batch of `count`, if they are not the whole batch
    """
    generator = torch.Generator().manual_seed(seed)
    count, reach = count or len(images), settings["shift"]
    positions = np.arange(count) if positions is None else positions
    shifts = torch.randint(-reach, reach + 1, (count, 3), generator=generator)[positions]
    mirrored = (torch.rand(count, generator=generator) < 0.5)[positions] & settings["mirror"]
    gains = 1 + settings.get("intensity", 0.0) * (2 * torch.rand(count, generator=generator) - 1)[positions]
    if images.device.type == "cuda" and missing_for_kernels(images.device) is None:
        from ..network import triton_kernels

        moves = torch.cat([shifts, mirrored[:, None]], 1).int()
        return triton_kernels.augment(images, on_device(moves, images.device), on_device(gains, images.device))
    return _augment(images, shifts, mirrored, gains)


def _augment(images: Tensor, shifts: Tensor, mirrored: Tensor, gains: Tensor) -> Tensor:
    """`augment` by torch; shifts [N, 3], mirrored and gains [N] are on the CPU."""
    result = torch.zeros_like(images)
    drawn = zip(images, result, shifts.tolist(), mirrored.tolist(), gains.tolist(), strict=True)
    for image, out, shift, mirror, gain in drawn:
        target = tuple(slice(max(0, by), size + min(0, by)) for by, size in zip(shift, image.shape, strict=True))
        source = tuple(slice(max(0, -by), size + min(0, -by)) for by, size in zip(shift, image.shape, strict=True))
        moved = (image.flip(0) if mirror else image)[source]
        out[target] = moved if gain == 1 else (moved.float() * gain).round_().clamp_(0, 255).to(torch.uint8)
    return result


def dropout_mask(model: SFCN, count: int, seed: int) -> Tensor:
    """What dropout multiplies the pooled features of a batch by, float32 [count, features], on the CPU.

    It is drawn for the whole batch: it is the same on every device, however a batch is divided.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond to prepare GPUs, too
        return functional.dropout(torch.ones(count, model.head.in_features), model.dropout.p)
