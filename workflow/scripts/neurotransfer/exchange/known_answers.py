"""Known answers: whether a file of weights predicts of images what was published of them.

Goes in: a file of weights, a folder of images and a table of published predictions.  Comes out: each difference, and,
if all are within the tolerance, a record in the file's metadata.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from .. import __version__
from ..cache.provenance import BOUNDING_BOX, PYMENT
from ..cache.write import cropped_brain, read_subject
from ..errors import InputError
from ..files import digest_of_file, read_bytes
from ..network.device import choose_device, place
from ..network.sfcn import SFCN
from ..pretrain.targets import decode, from_metadata
from ..pretrain.weights import network_from, read_weights, write_weights
from ..study.imported_weights import FACT, PASSED
from ..text import aligned, counted

TOLERANCE = 1e-3  # in the target's unit; pyment's own tests have the same
FEWEST = 3  # images: one or two could agree by chance
ENDINGS = ("/mri/crop.mgz", "/crop.mgz", ".mgz", ".nii.gz", ".nii")


@dataclass(frozen=True)
class Answer:
    """A published prediction and the one that was found, in the target's unit."""

    image: str
    target: str
    published: float
    found: float

    @property
    def difference(self) -> float:
        """How far the two are apart."""
        return abs(self.found - self.published)


@dataclass(frozen=True)
class Check:
    """The answers of a check, the images that have none, and the tolerance."""

    answers: list[Answer]
    missing: list[str]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every answer is within the tolerance."""
        return all(answer.difference <= self.tolerance for answer in self.answers)

    def text(self) -> str:
        """A line per answer, and the outcome."""
        rows = [["image", "target", "published", "found", "difference"]]
        for answer in self.answers:
            numbers = [f"{value:.6f}" for value in (answer.published, answer.found)]
            rows.append([answer.image, answer.target, *numbers, f"{answer.difference:.2g}"])
        images, largest = len({answer.image for answer in self.answers}), max(a.difference for a in self.answers)
        lines = [aligned(rows, "llrrr")]
        if self.missing:
            missing = counted(len(self.missing), "image of the table is", "images of the table are")
            lines.append(f"{missing} not in the folder, such as {self.missing[0]}")
        outcome = "passed, and recorded in the file" if self.passed else "not passed: the file stays as it was"
        predictions = f"{counted(len(self.answers), 'prediction')} of {counted(images, 'image')}"
        compared = f"{predictions}, largest difference {largest:.2g}"
        return "\n".join([*lines, f"{compared}, tolerance {self.tolerance:g}: {outcome}"])


def check_weights_file(
    weights: str | Path,
    crops: str | Path,
    expected: str | Path,
    *,
    tolerance: float = TOLERANCE,
    column: str | None = None,
    threads: int = 1,
) -> Check:
    """Compare what weights predict with what was published, and record in their file that they passed.

    Parameters
    ----------
    crops : folder of the images (`read_image`)
    expected : CSV or TSV; its first column names the images, others are named after targets
    column : the column with the first target's predictions, if it is not named after it
    threads : of the CPU

    Raises
    ------
    InputError
        if a file cannot be read, no column is known, or fewer than three images of the table are in the folder
    """
    state, metadata = read_weights(weights)
    targets = from_metadata(metadata["targets"])
    column = column or metadata.get("source", {}).get("answers") or None
    published = read_expected(expected, [target.name for target in targets], column)
    found = {name: path for name in published if (path := find_image(Path(crops), name)) is not None}
    if len(found) < FEWEST:
        what = f"{len(found)} of the {len(published)} images of {expected} are in it; a check needs {FEWEST}"
        names = ", ".join(f"{next(iter(published))}{ending}" for ending in ENDINGS[:3])
        raise InputError(crops, "", what, f"put them there, each as one of {names}")
    model = network_from(metadata)
    model.load_state_dict(state)
    device = choose_device("cpu", threads)  # a few images, and float32 without a GPU's shortcuts
    place(model, device, "float32")
    answers = []
    for name, path in found.items():
        values = decode(predict_image(model, read_image(path, metadata), device)[None], targets)[0]
        by_target = {target.name: float(value) for target, value in zip(targets, values, strict=True)}
        answers += [Answer(name, target, value, by_target[target]) for target, value in published[name].items()]
    check = Check(answers, [name for name in published if name not in found], tolerance)
    if check.passed:
        record = {
            "state": PASSED,
            "images": len(found),
            "predictions": len(answers),
            "largest_difference": max(answer.difference for answer in answers),
            "tolerance": tolerance,
            "expected_sha256": digest_of_file(expected),
            "version": __version__,
        }
        kept = {name: fact for name, fact in metadata.items() if name not in ("format", "checksum")}
        write_weights(weights, state, kept | {FACT: record})
    return check


def read_expected(path: str | Path, targets: list[str], column: str | None) -> dict[str, dict[str, float]]:
    """Published predictions by image and target.

    Parameters
    ----------
    path : CSV or TSV; an image is named by the first column's last part, if it is a path
    column : of the first target, if it is not named after it

    Raises
    ------
    InputError
        if the file has no such column, an image twice, or a value that is no number
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "", f"it can't be read ({error})", "correct --expected") from None
    rows = list(csv.reader(text.splitlines(), delimiter="\t" if "\t" in text.partition("\n")[0] else ","))
    header = rows[0] if rows else []
    columns = {name: at for at, name in enumerate(header) if at and name in targets}
    if column is not None and column in header[1:]:
        columns[targets[0]] = header.index(column)
    if not columns:
        what = f"none of its columns {', '.join(header[1:8])} is one of {', '.join(targets)}"
        raise InputError(path, "", what, f"name the column of {targets[0]}: --column NAME")
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        name = Path(row[0]).name
        if name in found:
            raise InputError(path, f"line {number}", f"{name} is there twice", "keep one row for each image")
        found[name] = {}
        for target, at in columns.items():
            try:
                value = float(row[at])
            except (ValueError, IndexError):
                value = float("nan")
            if not np.isfinite(value):
                raise InputError(path, f"line {number}", f"the prediction of {target} is no number", "correct it")
            found[name][target] = value
    return found


def find_image(folder: Path, name: str) -> Path | None:
    """The image of this name: a crop, or a folder with FastSurfer's mri/orig.mgz and mri/mask.mgz; None if neither."""
    for ending in ENDINGS:
        if (path := folder / f"{name}{ending}").is_file():
            return path
    subject = folder / name
    return subject if all((subject / "mri" / file).is_file() for file in ("orig.mgz", "mask.mgz")) else None


def images_in(folder: str | Path) -> list[Path]:
    """The images in a folder: files, and folders with a crop or with FastSurfer's mri/orig.mgz and mri/mask.mgz."""
    names = sorted({path.name for path in Path(folder).glob("*")})
    files = [Path(folder, name) for name in names if name.endswith((".mgz", ".nii.gz", ".nii"))]
    return files + [path for name in names if (path := find_image(Path(folder), name)) is not None]


def read_image(path: Path, metadata: Mapping[str, Any]) -> np.ndarray:
    """An image as the weights take it: float32 [D, H, W], in LIA order and of their crop.

    A file that is larger is cropped in its middle if that is the weights' rule.  A folder's orig.mgz is masked and
    cropped by the weights' rule.

    Raises
    ------
    InputError
        if the image cannot be read, or is of another size
    """
    crop, rule = tuple(metadata["crop"]), metadata.get("crop_rule", BOUNDING_BOX)
    if path.is_dir():
        if rule not in (BOUNDING_BOX, PYMENT):
            raise InputError(path, "", f"there is no crop of it, and {rule!r} is not a rule here", "give crops")
        orig, mask, _ = read_subject(path)
        return cropped_brain(orig, mask, crop, rule).astype(np.float32)
    try:
        image = nibabel.load(path)
        start = nibabel.io_orientation(image.affine)  # type: ignore[attr-defined]
        change = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(("L", "I", "A")))
        voxels = nibabel.orientations.apply_orientation(np.asarray(image.dataobj, np.float32), change)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(path, "", f"it can't be read ({error})", "download it again") from None
    if voxels.shape != crop and rule not in (BOUNDING_BOX, PYMENT) and all(np.greater_equal(voxels.shape, crop)):
        starts = [(length - size) // 2 for length, size in zip(voxels.shape, crop, strict=True)]
        voxels = voxels[tuple(slice(at, at + size) for at, size in zip(starts, crop, strict=True))]
    if voxels.shape != crop:
        what = f"it has {list(voxels.shape)} voxels in LIA order, the weights take {list(crop)}"
        raise InputError(path, "", what, "give crops of that size, or FastSurfer's folders")
    return np.ascontiguousarray(voxels)


@torch.no_grad()
def predict_image(model: SFCN, image: np.ndarray, device: torch.device) -> np.ndarray:
    """The network's outputs of one image [D, H, W]: float32 [outputs]."""
    model.eval()
    return model(torch.from_numpy(image).to(device)[None, None])[0].float().cpu().numpy()
