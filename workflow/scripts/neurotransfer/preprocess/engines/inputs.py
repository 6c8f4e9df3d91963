"""The T1-weighted image that an engine is given: whether it is there, whole, and an image that can be a head."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ...errors import ImageError
from .compression import check_compression


def check_file(source: Path) -> None:
    """Raise ImageError if the file is missing (or a link to nothing), empty or not readable for this user."""
    if not source.is_file():
        raise ImageError("missing", f"{source} is not there")
    if not source.stat().st_size:
        raise ImageError("empty", f"{source} has no bytes")
    if not os.access(source, os.R_OK):
        raise ImageError("unreadable", f"{source} may not be read")


def read_image(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels, float32 [X, Y, Z], and affine of a T1-weighted image, checked."""
    try:
        check_compression(source)
        image: Any = nibabel.load(source)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except nibabel.filebasedimages.ImageFileError as error:
        raise ImageError("not_an_image", f"{source.name}: {error}") from None
    except (OSError, EOFError, ValueError, zlib.error, nibabel.spatialimages.HeaderDataError) as error:
        raise ImageError("truncated", f"{source.name}: {error}") from None
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim == 2 or (data.ndim == 3 and min(data.shape) < 16):
        raise ImageError("flat", f"{source.name}: {' x '.join(map(str, data.shape))} voxels")
    if data.ndim != 3:
        raise ImageError("not_3d", f"{source.name}: {data.ndim} axes, {' x '.join(map(str, data.shape))} voxels")
    if not np.isfinite(data).all():
        raise ImageError("not_finite", f"{source.name}: {np.mean(~np.isfinite(data)):.1%} of the voxels")
    if data.min() == data.max():
        raise ImageError("all_zero", f"{source.name}: every voxel is {data.flat[0]:g}")
    affine = np.asarray(image.affine, float)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (sizes < 0.2).any() or (sizes > 12).any():
        raise ImageError("bad_affine", f"{source.name}: voxels of {sizes} mm")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.5:
        raise ImageError("bad_affine", f"{source.name}: its axes lie in one plane")
    return data, affine
