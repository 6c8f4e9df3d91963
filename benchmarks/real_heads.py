"""Is a real head's mask by the builtin engine the same in any unit, grid and border, and is a spoiled head refused?

    python benchmarks/real_heads.py HEAD.nii.gz ... [--voxel-size 4.5]

Each head is processed as it is, with other intensities, moved by half a voxel and with a border: the masks should have
one volume.  Turned upside down, back to front, cut and reduced to its lower part, it should be refused.  Heads that can
be fetched: github.com/niivue/niivue-demo-images (chris_t1, MR_Gd, register/T1_head_ext2), MNI averages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts")]

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
from neurotransfer.errors import ImageError  # noqa: E402
from neurotransfer.preprocess.engines import builtin  # noqa: E402
from neurotransfer.text import MISSING, aligned  # noqa: E402

Image = tuple[np.ndarray, np.ndarray]  # intensities float32 [X, Y, Z], and the affine to RAS mm


def variants(values: np.ndarray, affine: np.ndarray) -> Iterator[tuple[str, Image]]:
    """The same head in other forms."""
    yield "as it is", (values, affine)
    yield "other unit", (values * np.float32(0.0123) - np.float32(37.5), affine)
    moved = affine.copy()
    moved[:3, 3] += moved[:3, :3] @ np.full(3, 0.5)
    yield "half a voxel", (values, moved)
    wider = affine.copy()
    wider[:3, 3] -= wider[:3, :3] @ np.full(3, 40)
    yield "with a border", (np.pad(values, 40, constant_values=values.min()), wider)


def spoiled(values: np.ndarray, affine: np.ndarray) -> Iterator[tuple[str, Image]]:
    """The head in forms that no study should take; `values` in RAS order."""
    yield "upside down", (values[:, :, ::-1].copy(), affine)
    yield "back to front", (values[:, ::-1].copy(), affine)
    yield "axes exchanged", (np.swapaxes(values, 1, 2).copy(), affine)
    height = values.shape[2]
    yield "lower 0.7", (values[:, :, : int(0.7 * height)].copy(), affine)
    yield "lower 0.4", (values[:, :, : int(0.4 * height)].copy(), affine)


def processed(image: Image, voxel_size: float) -> tuple[str, str, float]:
    """Millilitres of the mask, or the reason and detail of the failure; and seconds of CPU."""
    grid = [int(288 / voxel_size) // 2 * 2] * 3
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image[0].astype(np.float32), image[1]), path)
        made = Path(folder) / "made"
        made.mkdir()
        try:
            builtin.run(path, made, {"voxel_size": voxel_size, "grid": grid, "threads": 1})
        except ImageError as error:
            return MISSING, str(error), time.process_time() - started
        mask = np.asarray(nibabel.load(made / "mri/mask.mgz").dataobj)
    return f"{mask.sum() * voxel_size**3 / 1000:.0f}", "", time.process_time() - started


def main() -> None:
    """Process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, nargs="+", help="T1-weighted images of whole heads")
    parser.add_argument("--voxel-size", type=float, default=4.5, help="mm; default: %(default)s")
    asked = parser.parse_args()
    rows = [["head", "form", "mask, ml", "CPU s", "refused"]]
    for path in asked.heads:
        head = nibabel.as_closest_canonical(nibabel.load(path))
        values, affine = np.asarray(head.dataobj, np.float32), head.affine
        for name, image in [*variants(values, affine), *spoiled(values, affine)]:
            volume, refused, seconds = processed(image, asked.voxel_size)
            rows.append([path.name.partition(".")[0], name, volume, f"{seconds:.1f}", refused])
            print(f"{path.name}: {name}", file=sys.stderr, flush=True)
    print(aligned(rows, "llrrl"))


if __name__ == "__main__":
    main()
