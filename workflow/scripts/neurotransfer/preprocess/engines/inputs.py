"""The T1-weighted image that an engine is given: whether it is there, whole, and an image that can be a head.

The header is judged before a voxel is read, because a file of a few megabytes can claim, and hold, more voxels than
a node has memory.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from scipy import ndimage

from ...errors import ImageError
from .compression import check_start, is_gzip, read_voxels

HEADER_BYTES = 352  # of a NIfTI file; its voxels come after them
FEWEST = 16  # voxels along an axis
SHORTEST, LONGEST = 80.0, 600.0  # [assumed] mm along an axis: less than an infant's brain, more than a scanner's bore
LARGEST = 512**3  # [assumed] voxels: 0.5 mm in a field of 256 mm
FINEST, COARSEST = 0.2, 12.0  # mm of a voxel's side
SIZE_DIFFERENCE = 0.03  # [assumed] by which two voxel sizes in one header may differ
TURN_NOTED, TURN_REFUSED = 5.0, 45.0  # [assumed] degrees between sform and qform
FARTHEST = 1e5  # [assumed] mm from the scanner's middle; single precision has 0.01 mm there
LEAST_RANGE = 1e-6  # [assumed] of intensities; R1 per millisecond, the smallest map in use, has some 1e-3
OUTLYING = 100  # [assumed] times the range of 99.8 % of the voxels
BUSY = 0.2  # of the largest standard deviation in a slice: such a slice lies within the head
AFTER_NOTED = 4096  # [assumed] bytes after the last voxel that programs write as padding
UNITS = {"meter": ("metres", 1000.0), "micron": ("micrometres", 0.001)}  # in mm; a header may also say nothing


# what nibabel raises on a damaged header or on voxels that are not whole
DAMAGED = (OSError, EOFError, ValueError, KeyError, OverflowError, zlib.error)


class HeadImage(NamedTuple):
    """A T1-weighted image that has been checked.

    `data` are its voxels, float32 [X, Y, Z]; `notes` say what in the file was taken in one of several ways; `is_filled`
    says that `data` has background in place of the file's NaN.
    """

    data: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...]
    is_filled: bool


def check_file(source: Path) -> None:
    """Raise ImageError if it is missing (or a link to nothing), no file, empty or not readable for this user."""
    if source.exists() and not source.is_file():
        raise ImageError("not_an_image", f"{source.name} is no regular file")
    if not source.is_file():
        raise ImageError("missing", f"{source} is not there")
    if not source.stat().st_size:
        raise ImageError("empty", f"{source} has no bytes")
    if not os.access(source, os.R_OK):
        raise ImageError("unreadable", f"{source} may not be read")


def read_image(source: Path) -> HeadImage:
    """A T1-weighted image, checked: first its name and header, then its voxels.

    Raises
    ------
    ImageError
        with a reason of reasons.REASONS
    """
    if found := re.search(r"_(chunk-[A-Za-z0-9]+)_", source.name):
        raise ImageError("part_of_head", f"{source.name}: {found[1]} is one part of an image")
    check_file(source)
    image = _open(source)
    _check_shape(source, image)
    notes = _check_affine(source, image)
    try:
        data, left = read_voxels(source, image, np.float32)
    except DAMAGED as error:
        raise ImageError("truncated", f"{source.name}: {error}") from None
    if left > AFTER_NOTED:
        notes += (f"{left:,} bytes follow the last voxel: the header's shape or type may be wrong",)
    data, share = without_nan_background(data.reshape(image.shape[:3]))
    if not np.isfinite(data).all():
        raise ImageError("not_finite", f"{source.name}: {np.mean(~np.isfinite(data)):.1%} of the voxels")
    if share:
        notes += (f"NaN in {share:.1%} of the voxels, all connected with the border, is taken as background",)
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise ImageError("all_zero", f"{source.name}: every voxel is {low:g}")
    if high - low < LEAST_RANGE:
        raise ImageError("tiny_values", f"{source.name}: the intensities are between {low:.3g} and {high:.3g}")
    _check_slices(source, data)
    few = data[::2, ::2, ::2]
    usual = [float(value) for value in np.percentile(few, (0.1, 99.9))]
    if high - low > OUTLYING * (usual[1] - usual[0]) > 0:
        between = f"nearly all between {usual[0]:.3g} and {usual[1]:.3g}"
        notes += (f"the intensities are between {low:.3g} and {high:.3g}, {between}: single voxels are damaged",)
    return HeadImage(data, np.asarray(image.affine, float), notes, bool(share))


def _open(source: Path) -> Any:
    """The image with its header read, and no voxel."""
    if source.suffix in (".gz", ".nii") and is_gzip(source) != (source.suffix == ".gz"):
        what = "is named .gz and is not compressed" if source.suffix == ".gz" else "is compressed and not named .nii.gz"
        raise ImageError("not_an_image", f"{source.name} {what}")
    if source.suffix == ".gz":
        try:
            check_start(source)
        except OSError as error:
            raise ImageError("truncated", f"{source.name}: {error}") from None
    try:
        image: Any = nibabel.load(source)
        voxels: Any = image.dataobj
        offset = voxels.offset if isinstance(image, nibabel.Nifti1Image) else HEADER_BYTES
    except nibabel.filebasedimages.ImageFileError:
        raise ImageError("not_an_image", f"{source.name}: nibabel does not know what kind of file it is") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError("truncated", f"{source.name}: {error}") from None
    except (nibabel.spatialimages.HeaderDataError, *DAMAGED) as error:  # no number of the header's has a meaning
        is_qform = "w2 should be positive" in str(error)  # nibabel's words for a quaternion that is none
        what = "the qform is no rotation, and there is no sform" if is_qform else f"its header has no meaning ({error})"
        raise ImageError("bad_affine" if is_qform else "not_an_image", f"{source.name}: {what}") from None
    if offset < HEADER_BYTES:
        what = f"the header says that its voxels begin at byte {offset}, which is a part of the header"
        raise ImageError("not_an_image", f"{source.name}: {what}")
    return image


def _check_shape(source: Path, image: Any) -> None:
    """Refuse what is no image of one number per voxel, not of three axes, too flat or too large."""
    kind = image.get_data_dtype()
    if kind.kind not in "biuf":
        what = "complex numbers" if kind.kind == "c" else "colours"
        raise ImageError("not_intensities", f"{source.name}: its voxels are {what}")
    shape = image.shape
    said = f"{' x '.join(map(str, shape))} voxels"
    if len(shape) < 3 or (len(shape) == 3 and min(shape) < FEWEST):
        raise ImageError("flat", f"{source.name}: {said}")
    if len(shape) > 3 and set(shape[3:]) != {1}:
        raise ImageError("not_3d", f"{source.name}: {len(shape)} axes, {said}")
    if min(shape[:3]) < FEWEST:
        raise ImageError("flat", f"{source.name}: {said}")
    if np.prod(shape, dtype=float) > LARGEST:
        raise ImageError("too_large", f"{source.name}: {said}, more than {LARGEST:,}")


def _check_affine(source: Path, image: Any) -> tuple[str, ...]:
    """Refuse a header that says two things of the voxels' size or direction; smaller differences are noted."""
    affine = np.asarray(image.affine, float)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    notes = []
    if isinstance(image.header, nibabel.Nifti1Header):
        notes += _units(source, image.header, sizes)
    if not np.isfinite(affine).all():
        raise ImageError("bad_affine", f"{source.name}: the affine has infinite values or NaN")
    if np.abs(affine[:3, 3]).max() > FARTHEST:
        what = f"the first voxel lies {np.abs(affine[:3, 3]).max():.3g} mm from the scanner's middle"
        raise ImageError("bad_affine", f"{source.name}: {what}")
    if (sizes < FINEST).any() or (sizes > COARSEST).any():
        raise ImageError("bad_affine", f"{source.name}: voxels of {_by(sizes)} mm")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.5:
        raise ImageError("bad_affine", f"{source.name}: its axes lie in one plane")
    if isinstance(image.header, nibabel.Nifti1Header):
        notes += _two_affines(source, image.header, sizes)
    lengths = sizes * image.shape[:3]
    if lengths.min() < SHORTEST:
        raise ImageError("flat", f"{source.name}: it covers {_by(lengths)} mm; a head needs {SHORTEST:g} mm or more")
    if lengths.max() > LONGEST:
        raise ImageError("too_large", f"{source.name}: it covers {_by(lengths)} mm, more than {LONGEST:g}")
    return tuple(notes)


def _units(source: Path, header: Any, sizes: np.ndarray) -> list[str]:
    """A note if the header's unit cannot be true, because the numbers are plausible as millimetres."""
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        return ["the header's unit of length has no meaning; mm is assumed"]
    if unit not in UNITS:
        return []
    word, factor = UNITS[unit]
    said = f"voxels of {_by(sizes)} {word}, which are {_by(sizes * factor)} mm"
    if (sizes < FINEST).any() or (sizes > COARSEST).any():
        raise ImageError("bad_affine", f"{source.name}: the header says {said}")
    return [f"the header says {said}; mm is assumed"]


def _two_affines(source: Path, header: Any, sizes: np.ndarray) -> list[str]:
    """Compare the voxel size of the affine in use with pixdim, and sform with qform, if the header has both."""
    sform, qform = (_coded(header, name) for name in ("sform", "qform"))
    zooms = np.abs(np.array(header.get_zooms()[:3], float))
    agree = np.isfinite(zooms) & (np.abs(sizes - zooms) <= SIZE_DIFFERENCE * zooms)
    if sform is not None and not agree.all():
        what = f"voxels of {_by(sizes)} mm by the sform and {_by(zooms)} mm by pixdim"
        raise ImageError("bad_affine", f"{source.name}: {what}")
    if sform is None and qform is None:
        return ["the header has neither sform nor qform: the directions of its axes are assumed"]
    if sform is None or qform is None or not np.isfinite(qform).all():
        return []
    one, other = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform))
    axes = [" ".join(map(str, nibabel.aff2axcodes(affine))) for affine in (sform, qform)]
    if np.linalg.det(one) * np.linalg.det(other) < 0:
        what = f"mirror images: axes {axes[0]} and {axes[1]}"
    else:
        # a sheared sform is compared by its nearest rotation
        left, _, right = np.linalg.svd(one.T @ other)
        cosine = (np.trace(left @ right) - 1) / 2
        turn = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        if turn <= TURN_NOTED:
            return []
        what = f"{turn:.0f} degrees apart: axes {axes[0]} and {axes[1]}"
        if turn <= TURN_REFUSED:
            return [f"sform and qform are {what}; the sform is used"]
    raise ImageError("bad_affine", f"{source.name}: sform and qform are {what}")


def _coded(header: Any, name: str) -> np.ndarray | None:
    """The header's sform or qform; None if its code is 0 or it has no meaning."""
    try:
        affine, code = getattr(header, f"get_{name}")(coded=True)
    except nibabel.spatialimages.HeaderDataError:
        return None
    return np.asarray(affine, float) if code else None


def _check_slices(source: Path, data: np.ndarray) -> None:
    """Refuse an image with slices of one value between others of the head, along any axis: they were lost."""
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        constant = data.max(axis=others) == data.min(axis=others)
        if not constant.any():
            continue
        # every second voxel of a slice tells whether the head is in it
        few = data[tuple(slice(None) if at == axis else slice(None, None, 2) for at in range(3))]
        spread = few.std(axis=others, dtype=np.float64)
        busy = np.flatnonzero(spread > BUSY * spread.max())
        if len(busy) and (lost := int(constant[busy[0] : busy[-1]].sum())):
            what = f"{lost} of the {busy[-1] - busy[0] + 1} slices of the head along axis {axis + 1} are empty"
            raise ImageError("empty_slices", f"{source.name}: {what}")


def _by(numbers: np.ndarray) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def without_nan_background(data: np.ndarray) -> tuple[np.ndarray, float]:
    """An image in which NaN that is connected with the border is background, and the share of such voxels.

    Background is 0, or the smallest value if that is negative.  NaN elsewhere stays, and so does an image without a
    finite voxel.

    Parameters
    ----------
    data : float [X, Y, Z]
    """
    missing = np.isnan(data)
    if not missing.any() or not np.isfinite(data).any():
        return data, 0.0
    labels, count = ndimage.label(missing)
    is_outside = np.zeros(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            is_outside[labels.take(end, axis)] = True
    is_outside[0] = False
    outside = is_outside[labels]
    filled = data.copy()
    filled[outside] = min(0.0, float(np.min(data, initial=0.0, where=np.isfinite(data))))
    return filled, float(outside.mean())
