"""Preprocessed images into shards: brain only, cropped around the mask, uint8, with a checksum each.

A shard is one file of images (shard_file.py).  Its rows follow the shard's manifest; an image that failed or was
withdrawn has a row of zeros.  Beside the shard are its table (rows, figures, checksums), the regional volumes of its
images, and three slices of each image for visual inspection.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from nibabel.freesurfer.mghformat import MGHHeader

from ..errors import InputError
from ..files import digest_of_file, digest_of_rows, read_bytes, write_table
from ..preprocess.engines.outputs import UNREADABLE as DAMAGED
from ..preprocess.volumes import Statistics, statistics_of
from ..study import layout
from .image_figures import FIGURES, Box, bounding_box, quality_figures
from .provenance import BOUNDING_BOX, PYMENT
from .shard_file import checksum, shard_written
from .small_volumes import small_volume

FROM_LEDGER = ("image_id", "status", "reason", "engine", "engine_version")
COLUMNS = ["image_id", "row", *FROM_LEDGER[1:], *FIGURES, "checksum"]
UNREADABLE = "delete this folder and the shard's ledgers, then run the same command again"
GZIP = 31  # zlib's code for data with a gzip header; zlib then checks its checksum and length
PLANES = 3  # slices of each image


def read_mgz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (read-only, in the file's own memory order) and affine of an ``.mgz`` file.

    Decompressing all bytes at once takes two thirds of the time of a streaming read.

    Raises
    ------
    InputError
        if it is missing, damaged or incomplete
    """
    try:
        raw = _unpacked(read_bytes(path))
        header = MGHHeader.from_fileobj(io.BytesIO(raw))
        shape = header.get_data_shape()
        voxels = np.frombuffer(raw, header.get_data_dtype(), int(np.prod(shape)), header.get_data_offset())
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(path, "", f"it can't be read ({error})", UNREADABLE) from None
    return voxels.reshape(shape, order="F"), header.get_affine()


def _unpacked(packed: bytes) -> bytes:
    """The content of a gzip file; programs that compress in parallel write several members, one behind the other."""
    first = zlib.decompressobj(GZIP)
    raw = first.decompress(packed)
    return raw if first.eof and not first.unused_data else gzip.decompress(packed)


def read_subject(folder: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """``mri/orig.mgz`` and ``mri/mask.mgz`` of one image, in LIA order.

    Returns
    -------
    orig : uint8 [D, H, W]
    mask : bool [D, H, W]
    voxel_volume : mm³

    Raises
    ------
    InputError
        if one can't be read, or is not what an engine writes
    """
    for name in ("mri/orig.mgz", "mri/mask.mgz"):
        if (path := folder / name).is_symlink() and not path.is_file():
            fix = "restore the file, or try the image again with neurotransfer retry --image"
            raise InputError(folder, name, f"it is a link to {path.readlink()}, which is missing", fix)
    (orig, affine), (mask, _) = (read_mgz(folder / "mri" / name) for name in ("orig.mgz", "mask.mgz"))
    if nibabel.aff2axcodes(affine) != ("L", "I", "A") or orig.shape != mask.shape:
        raise InputError(folder, "mri", "orig.mgz and mask.mgz are not on one grid in LIA order", UNREADABLE)
    if orig.dtype != np.uint8:
        raise InputError(
            folder, "mri/orig.mgz", f"its data type is {orig.dtype.name}; a conformed image is uint8", UNREADABLE
        )
    mask = mask > 0
    if not mask.any():
        raise InputError(folder, "mri/mask.mgz", "the mask is empty", UNREADABLE)
    return orig, mask, float(abs(np.linalg.det(affine[:3, :3])))


def crop_slices(box: Box, shape: Sequence[int], crop: Sequence[int], rule: str = BOUNDING_BOX) -> tuple[Box, Box]:
    """The part of an image that a crop around a bounding box covers, and the part of the crop that it fills.

    Parameters
    ----------
    box : the bounding box of the mask; for the rule "pyment" of the voxels in the mask that are not 0
    shape : of the image
    crop : size of the result; beyond the end of the image the crop keeps zeros
    rule : "bounding_box": the crop's middle is the box's, rounded up, also if the crop then leaves the image; "pyment":
        it is rounded to the even voxel, and the crop slides until it is inside an image that is larger than it
        (pyment/preprocessing/crop.py and pad.py, version 5); `crop` must be even
    """
    source, target = [], []
    for along, length, size in zip(box, shape, crop, strict=True):
        start = (along.start + along.stop) // 2 - size // 2
        if rule == PYMENT and length >= size:
            start = min(max(round((along.start + along.stop - 1) / 2) - size // 2, 0), length - size)
        elif rule == PYMENT:
            start = -((size - length) // 2)
        low, high = max(start, 0), min(start + size, length)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    return (source[0], source[1], source[2]), (target[0], target[1], target[2])


def _meet(box: Box, source: Box, target: Box) -> tuple[Box, Box]:
    """The part of a box that a crop covers, in the box's own indices and in the crop's."""
    in_box, in_crop = [], []
    for edges, from_, to in zip(box, source, target, strict=True):
        low, high = max(edges.start, from_.start), min(edges.stop, from_.stop)
        in_box.append(slice(low - edges.start, max(low, high) - edges.start))
        in_crop.append(slice(low - from_.start + to.start, max(low, high) - from_.start + to.start))
    return (in_box[0], in_box[1], in_box[2]), (in_crop[0], in_crop[1], in_crop[2])


def slices_size(crop: Sequence[int]) -> int:
    """Edge of an image's slices in voxels: that of the crop and a margin; 256 for the paper's crop of 224."""
    return max(crop) * 8 // 7


def middle_slices(orig: np.ndarray, mask: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Sagittal, axial and coronal slice through the middle of a mask's bounding box: uint8 [3, size, size].

    A voxel's last bit is 1 in the mask; its other bits are the intensity.  Rows and columns are the other two axes of
    the image, in their order; 0 outside the image.
    """
    result = np.zeros((PLANES, size, size), np.uint8)
    source, target = crop_slices(box, orig.shape, [size] * 3)
    for axis in range(PLANES):
        middle = (box[axis].start + box[axis].stop) // 2
        plane = tuple(slice(middle, middle + 1) if other == axis else source[other] for other in range(3))
        shown = tuple(target[other] for other in range(3) if other != axis)
        result[axis][shown] = ((orig[plane] & 0xFE) | mask[plane]).squeeze(axis)
    return result


def images_of_shard(images: pd.DataFrame, ledger: pd.DataFrame, name: str) -> pd.DataFrame:
    """The ledgers' rows of a shard's images, in the order of the shard.

    Parameters
    ----------
    images : the shard's manifest, with `image_id`
    ledger : of its preprocessing jobs
    name : of the shard, for the message

    Raises
    ------
    InputError
        if an image has no row in the ledgers: a row of the shard would be missing
    """
    rows = images[["image_id"]].merge(ledger, on="image_id", how="left", validate="one_to_one")
    if rows["status"].isna().any():
        image = rows.loc[rows["status"].isna(), "image_id"].iloc[0]
        what = f"the ledgers of the shard have no row for {image}"
        raise InputError(
            f"{layout.PREPROCESSED}/{name}", "", what, "delete the ledgers there, then run snakemake again"
        )
    return rows


def write_shard(
    path: str | Path,
    subjects: Iterable[Path],
    images: pd.DataFrame,
    crop: Sequence[int],
    voxel_size: float,
    compression: str | None = None,
    crop_rule: str = BOUNDING_BOX,
) -> tuple[pd.DataFrame, dict[str, Statistics]]:
    """Write one shard, with its slices and small volumes beside it, image by image.

    Parameters
    ----------
    path : the shard, ``<shard>.npy``; the slices are written to ``<shard>.slices.npy``, uint8 [images, 3, size, size],
        the small volumes to ``<shard>.small.npy``, uint8 [images, d, h, w]
    subjects : each image's folder of preprocessed files
    images : `image_id`, `status`, `reason`, `engine` and `engine_version` of the same images, from the ledger
    voxel_size : of the images, mm
    compression : of the shard itself, see `shard_file.shard_written`
    crop_rule : see `crop_slices`

    Returns
    -------
    table : the columns of `images`, `row`, the figures of image_figures.py and `checksum`
    statistics : of each image that is ok
    """
    rows, statistics = [], {}
    size, cropped = slices_size(crop), np.zeros(tuple(crop), np.uint8)
    files = [
        shard_written(path, len(images), cropped.shape, compression),
        shard_written(Path(path).with_suffix(".slices.npy"), len(images), (PLANES, size, size)),
        shard_written(Path(path).with_suffix(".small.npy"), len(images), small_volume(cropped, voxel_size).shape),
    ]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(file) for file in files]
        for row, (image, folder) in enumerate(zip(images.itertuples(), subjects, strict=True)):
            cropped[...] = 0
            shown = np.zeros((PLANES, size, size), np.uint8)
            figures, digest = {}, None
            if image.status == "ok":
                orig, mask, voxel_volume = read_subject(folder)
                box = bounding_box(mask)
                brain, inside, target = _brain(orig, mask, box, crop, crop_rule)
                _fill(cropped, brain[inside], target, orig.shape, crop_rule)
                shown = middle_slices(orig, mask, box, size)
                statistics[image.image_id] = statistics_of(folder)
                figures = quality_figures(brain, mask[box], inside, voxel_volume, statistics[image.image_id])
                digest = checksum(cropped)
            for write, values in zip(writers, (cropped, shown, small_volume(cropped, voxel_size)), strict=True):
                write(values)
            from_ledger = {name: getattr(image, name) for name in FROM_LEDGER}
            rows.append({**from_ledger, **figures, "row": row, "checksum": digest})
    return pd.DataFrame(rows, columns=COLUMNS), statistics


def _brain(
    orig: np.ndarray, mask: np.ndarray, box: Box, crop: Sequence[int], rule: str = BOUNDING_BOX
) -> tuple[np.ndarray, Box, Box]:
    """The image in the mask's box, 0 outside the mask; the part of it in the crop, and its position there."""
    brain = orig[box] * mask[box]
    around = box
    if rule == PYMENT and brain.any():
        along, across, up = (
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(box, bounding_box(brain > 0), strict=True)
        )
        around = (along, across, up)
    source, target = crop_slices(around, orig.shape, crop, rule)
    return brain, *_meet(box, source, target)


def cropped_brain(orig: np.ndarray, mask: np.ndarray, crop: Sequence[int], rule: str = BOUNDING_BOX) -> np.ndarray:
    """An image as the cache has it: 0 outside the mask, cropped or padded; uint8 [D, H, W].

    Parameters
    ----------
    orig, mask : from `read_subject`
    """
    cropped = np.zeros(tuple(crop), np.uint8)
    brain, inside, target = _brain(orig, mask, bounding_box(mask), crop, rule)
    _fill(cropped, brain[inside], target, orig.shape, rule)
    return cropped


def _fill(cropped: np.ndarray, brain: np.ndarray, target: Box, shape: Sequence[int], rule: str) -> None:
    """Copy a brain into its crop of zeros.

    By the rule "pyment" an image that is smaller than its crop goes on beyond its ends with its outermost planes.

    Parameters
    ----------
    shape : of the image
    """
    _copy(brain, cropped[target])
    for axis, (length, size) in enumerate(zip(shape, cropped.shape, strict=True)):
        if rule == PYMENT and length < size:
            along, first = np.moveaxis(cropped, axis, 0), (size - length) // 2
            along[:first] = along[first]
            along[first + length :] = along[first + length - 1]


def _copy(values: np.ndarray, target: np.ndarray) -> None:
    """Copy between arrays of opposite memory order, plane by plane, because a plane fits into a processor cache."""
    for plane in range(values.shape[1]):
        target[:, plane] = values[:, plane]


def write_cache_table(
    table: pd.DataFrame,
    path: str | Path,
    crop: Sequence[int],
    beside: Sequence[str | Path],
    crop_rule: str = BOUNDING_BOX,
) -> None:
    """Write a shard's table; its first line has the digests of its rows and of the files beside the shard.

    Parameters
    ----------
    table : from `write_shard`
    beside : files in the same folder that were made together with the shard
    """
    facts: dict[str, object] = {"crop": list(crop), "rows": digest_of_rows(table)}
    if crop_rule != BOUNDING_BOX:
        facts["crop_rule"] = crop_rule
    facts["files"] = {Path(file).name: digest_of_file(file) for file in beside}
    write_table(table, path, facts)
