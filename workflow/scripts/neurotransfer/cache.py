"""Preprocessed images into shards: brain only, cropped around the mask, uint8, a checksum for each.

A shard is one ``.npy`` of [images, D, H, W], read by memory map; its rows follow the shard's manifest, and
an image that failed keeps a row of zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from .errors import InputError
from .files import written_whole
from .quality import quality_figures

COLUMNS = ["image_id", "row", "status", "reason", "mask_volume_mm3", "outside_crop", "clipped", "checksum"]
AGAIN = "delete it, then run the same command again"


def read_subject(folder: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """``mri/orig.mgz`` and ``mri/mask.mgz`` of one image, in LIA order.

    Returns
    -------
    orig : uint8 [D, H, W]
    mask : bool [D, H, W]
    voxel_volume : mm³
    """
    for name in ("mri/orig.mgz", "mri/mask.mgz"):
        if (path := folder / name).is_symlink() and not path.is_file():
            fix = "bring it back, or have the image looked at again with neurotransfer retry --image"
            raise InputError(folder, name, f"it is a link to {path.readlink()}, which is gone", fix)
    orig, mask = (nibabel.load(folder / "mri" / name) for name in ("orig.mgz", "mask.mgz"))
    if nibabel.aff2axcodes(orig.affine) != ("L", "I", "A") or orig.shape != mask.shape:
        raise InputError(folder, "mri", "orig.mgz and mask.mgz are not on one grid in LIA order", AGAIN)
    voxel_volume = float(abs(np.linalg.det(orig.affine[:3, :3])))
    return np.asarray(orig.dataobj).astype(np.uint8), np.asarray(mask.dataobj) > 0, voxel_volume


def crop_slices(mask: np.ndarray, crop: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a crop around the mask's bounding box is in the image, and where that lands in the crop.

    Parameters
    ----------
    mask : bool [D, H, W], not empty
    crop : size of the result; where the image ends before the crop does, the crop keeps zeros
    """
    source, target = [], []
    for axis, size in enumerate(crop):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        start = (along[0] + along[-1] + 1) // 2 - size // 2
        low, high = max(start, 0), min(start + size, mask.shape[axis])
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    return tuple(source), tuple(target)


def checksum(image: np.ndarray) -> str:
    """BLAKE2b of an image's bytes in C order, 16 bytes in hexadecimal."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()


def write_shard(path: str | Path, subjects: Iterable[Path], images: pd.DataFrame, crop: Sequence[int]) -> pd.DataFrame:
    """Write one shard, an image at a time, and return its table.

    Parameters
    ----------
    subjects : each image's folder of preprocessed files
    images : `image_id`, `status` and `reason` of the same images, from the ledger

    Returns
    -------
    image_id, row, status, reason, mask_volume_mm3, outside_crop and clipped (shares), checksum
    """
    rows = []
    shape = (len(images), *crop)
    with written_whole(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row, (image, folder) in enumerate(zip(images.itertuples(), subjects, strict=True)):
            cropped = np.zeros(tuple(crop), np.uint8)
            facts = {"image_id": image.image_id, "row": row, "status": image.status, "reason": image.reason}
            if image.status == "ok":
                orig, mask, voxel_volume = read_subject(folder)
                source, target = crop_slices(mask, crop)
                cropped[target] = np.where(mask[source], orig[source], 0)
                facts |= quality_figures(orig, mask, source, voxel_volume) | {"checksum": checksum(cropped)}
            file.write(cropped.tobytes())
            rows.append(facts)
    return pd.DataFrame(rows, columns=COLUMNS)


def open_shard(path: str | Path) -> np.ndarray:
    """A shard as a memory map, uint8 [images, D, H, W].

    Raises
    ------
    InputError
        where it is missing or not whole
    """
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, "", f"the shard can't be read ({error})", AGAIN) from None
    if shard.dtype != np.uint8 or shard.ndim != 4:
        raise InputError(path, "", f"a shard is uint8 with 4 axes, this is {shard.dtype} with {shard.ndim}", AGAIN)
    return shard


def verify_row(image: np.ndarray, expected: str, path: str | Path, row: int) -> None:
    """Refuse an image that is not the one that was cached.

    Raises
    ------
    InputError
        naming the shard and the row
    """
    if checksum(image) != expected:
        raise InputError(path, f"row {row}", "the image's bytes do not match its checksum", AGAIN)


def build_index(images: pd.DataFrame, cached: pd.DataFrame) -> pd.DataFrame:
    """Every usable image of a cohort: its manifest row, its cache row, its figures.

    Parameters
    ----------
    images : the cohort's manifest rows
    cached : the tables of its shards
    """
    usable = cached[cached["status"] == "ok"].drop(columns=["status", "reason"])
    return images.merge(usable, on="image_id", how="inner", validate="one_to_one")
