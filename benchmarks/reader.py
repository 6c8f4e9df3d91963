"""Images per second from the cache into batches, against a plain copy of the same bytes and against NIfTI.

    python benchmarks/reader.py --images 64 --crop 224 192 224

Files are warm, and checksums were verified in a round before the measured ones.  NIfTI is what a study
without a cache decodes in every epoch: gzipped uint8 of 256³ voxels, cropped.  The voxels are a smooth field
within an ellipsoid, so that they compress about as a brain does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "workflow/scripts")]

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.batches import Images  # noqa: E402
from neurotransfer.cache import checksum  # noqa: E402
from neurotransfer.device import choose_device  # noqa: E402
from scipy import ndimage  # noqa: E402

CONFORMED = (256, 256, 256)


def brain(seed: int) -> np.ndarray:
    """A smooth field in an ellipsoid, with noise: uint8 [256, 256, 256]."""
    generator = np.random.default_rng(seed)
    field = ndimage.zoom(generator.normal(110, 40, (16, 16, 16)), 16, order=1)
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in CONFORMED), indexing="ij", sparse=True)
    inside = (grid[0] / 0.55) ** 2 + (grid[1] / 0.55) ** 2 + (grid[2] / 0.7) ** 2 < 1
    return ((field + generator.normal(0, 6, CONFORMED)).clip(1, 255) * inside).astype(np.uint8)


def rate(run: Callable[[], int]) -> float:
    """Images per second."""
    start = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--crop", type=int, nargs=3, default=[224, 192, 224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    choose_device("cpu", 2)
    margins = [(whole - length) // 2 for whole, length in zip(CONFORMED, asked.crop, strict=True)]
    crop = tuple(slice(at, at + length) for at, length in zip(margins, asked.crop, strict=True))
    order = np.array_split(np.random.default_rng(0).permutation(asked.images), -(-asked.images // asked.batch))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (asked.images, *asked.crop))
        for row in range(asked.images):
            whole = brain(row % 4)
            shard[row] = whole[crop]
            if row < 4:
                nibabel.save(nibabel.Nifti1Image(whole, np.eye(4)), folder / f"{row}.nii.gz")
        shard.flush()
        table = pd.DataFrame({"shard": "x", "row": range(asked.images), "checksum": [checksum(one) for one in shard]})
        images = Images(table, folder)
        whole_shard = np.load(folder / "x.npy", mmap_mode="r")
        target = np.empty((asked.batch, *asked.crop), np.uint8)

        def read() -> int:
            return sum(len(batch) for batch in images.batches(order, torch.device("cpu")))

        def copy() -> int:
            for at in range(0, asked.images - asked.batch + 1, asked.batch):
                np.copyto(target, whole_shard[at : at + asked.batch])
            return asked.images // asked.batch * asked.batch

        def decode() -> int:
            for row in range(4):
                target[row] = np.asarray(nibabel.load(folder / f"{row}.nii.gz").dataobj)[crop]
            return 4

        runs = {"reader": read, "plain copy": copy, "NIfTI": decode}
        read()
        rates = {name: [] for name in runs}
        for _ in range(asked.rounds):
            for name, run in runs.items():
                rates[name].append(rate(run))
    print("| what | images/s |\n|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):.0f} |")
    for name in ("plain copy", "NIfTI"):
        ratios = [ours / theirs for ours, theirs in zip(rates["reader"], rates[name], strict=True)]
        print(f"| reader / {name} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
