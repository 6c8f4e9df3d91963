"""Is a real head's mask by the builtin engine the same in any unit, grid and border, and is a spoiled head refused?

    python benchmarks/real_heads.py HEAD.nii.gz ... [--voxel-size 4.5]
    python benchmarks/real_heads.py HEAD.nii.gz ... --dice [--other CHECKOUT]

Each head is processed as it is, with other intensities, moved by half a voxel and with a border: the masks should have
one volume.  Turned upside down, back to front, cut and reduced to its lower part, it should be refused.

With `--dice`, the mask is compared with the one beside the head (HEAD_mask.nii.gz, on a grid of its own), and with
`--other` so is the mask of another version, in one run.  CPU seconds are of this machine; only their ratio counts.
docs/preprocessing.md says which public heads were tried, and where they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = Path(os.environ.get("REAL_HEADS_TREE", HERE.parents[1]))  # the checkout whose engine runs in this process
sys.path[:0] = [str(ROOT / "workflow/scripts")]

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
from neurotransfer.errors import ImageError  # noqa: E402
from neurotransfer.preprocess.engines import builtin  # noqa: E402
from neurotransfer.text import MISSING, aligned  # noqa: E402
from scipy import ndimage  # noqa: E402

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


def processed(image: Image, voxel_size: float) -> tuple[nibabel.spatialimages.SpatialImage | None, str, float]:
    """The mask, or None and the reason and detail of the failure; and seconds of CPU."""
    grid = [int(288 / voxel_size) // 2 * 2] * 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image[0].astype(np.float32), image[1]), path)
        made = Path(folder) / "made"
        made.mkdir()
        started = time.process_time()
        try:
            builtin.run(path, made, {"voxel_size": voxel_size, "grid": grid, "threads": 1})
        except ImageError as error:
            return None, str(error), time.process_time() - started
        seconds = time.process_time() - started
        mask = nibabel.load(made / "mri/mask.mgz")
        return nibabel.Nifti1Image(np.asarray(mask.dataobj), mask.affine), "", seconds


def dice(mask: nibabel.spatialimages.SpatialImage, reference: Path) -> float:
    """Dice of a mask and a reference, which is brought onto the mask's grid; 0 to 1."""
    truth = nibabel.load(reference)
    voxels = np.linalg.inv(truth.affine) @ mask.affine
    values = (np.asarray(truth.dataobj) > 0).astype(np.float32)
    blur = np.linalg.norm(mask.affine[:3, :3], axis=0) / np.linalg.norm(truth.affine[:3, :3], axis=0) / 2.355
    values = ndimage.gaussian_filter(values, np.where(blur > 0.5, blur, 0))
    there = ndimage.affine_transform(values, voxels[:3, :3], voxels[:3, 3], mask.shape, order=1) > 0.5
    here = np.asarray(mask.dataobj) > 0
    return float(2 * (here & there).sum() / (here.sum() + there.sum()))


def answer(voxel_size: float) -> None:
    """Read names of heads, a line each; write the Dice, CPU seconds and the reason of a failure as a line of JSON.

    The first head is processed twice, because loading the template is no part of an image.
    """
    for number, line in enumerate(sys.stdin):
        path = Path(line.strip())
        head = nibabel.load(path)
        image = np.asarray(head.dataobj, np.float32), head.affine
        if not number:
            processed(image, voxel_size)
        mask, refused, seconds = processed(image, voxel_size)
        reference = path.with_name(path.name.partition(".")[0] + "_mask.nii.gz")
        print(json.dumps([dice(mask, reference) if mask else 0.0, seconds, refused]), flush=True)


def compare(heads: list[Path], voxel_size: float, checkouts: list[Path]) -> list[list[str]]:
    """Rows of a table: Dice and CPU seconds per head and checkout; a process per checkout, heads in turn."""
    command = [sys.executable, str(HERE), "--answer", "--voxel-size", str(voxel_size)]
    workers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"REAL_HEADS_TREE": str(tree)},
        )
        for tree in checkouts
    ]
    rows = [["head", *(f"{what} {tree.name}" for tree in checkouts for what in ("Dice", "CPU s", "refused"))]]
    figures = []
    for path in heads:
        found = []
        for worker in workers:
            assert worker.stdin and worker.stdout
            print(path.resolve(), file=worker.stdin, flush=True)
            found.append(json.loads(worker.stdout.readline()))
        figures.append(found)
        rows.append([path.name.partition(".")[0]])
        rows[-1] += [cell for one, seconds, why in found for cell in (f"{one:.4f}", f"{seconds:.2f}", why[:70])]
        print(*rows[-1], file=sys.stderr, flush=True)
    for worker in workers:
        worker.communicate()
    numbers = np.array([[(one, seconds) for one, seconds, _ in found] for found in figures])
    for name, summary in (("mean", numbers.mean(axis=0)), ("worst", [(one, np.nan) for one in numbers[..., 0].min(0)])):
        rows.append(
            [name, *(cell for one, s in summary for cell in (f"{one:.4f}", "" if np.isnan(s) else f"{s:.2f}", ""))]
        )
    return rows


def main() -> None:
    """Process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, nargs="*", help="T1-weighted images of whole heads")
    parser.add_argument("--voxel-size", type=float, default=4.5, help="mm; default: %(default)s")
    parser.add_argument("--dice", action="store_true", help="compare with HEAD_mask.nii.gz")
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.answer:
        answer(asked.voxel_size)
        return
    if asked.dice:
        checkouts = [ROOT, *([asked.other.resolve()] if asked.other else [])]
        print(aligned(compare(asked.heads, asked.voxel_size, checkouts), "l" + "rrl" * len(checkouts)))
        return
    rows = [["head", "form", "mask, ml", "CPU s", "refused"]]
    for path in asked.heads:
        head = nibabel.as_closest_canonical(nibabel.load(path))
        values, affine = np.asarray(head.dataobj, np.float32), head.affine
        for name, image in [*variants(values, affine), *spoiled(values, affine)]:
            mask, refused, seconds = processed(image, asked.voxel_size)
            volume = f"{np.asarray(mask.dataobj).sum() * asked.voxel_size**3 / 1000:.0f}" if mask else MISSING
            rows.append([path.name.partition(".")[0], name, volume, f"{seconds:.1f}", refused])
            print(f"{path.name}: {name}", file=sys.stderr, flush=True)
    print(aligned(rows, "llrrl"))


if __name__ == "__main__":
    main()
