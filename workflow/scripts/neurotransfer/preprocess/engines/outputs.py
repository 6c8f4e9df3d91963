"""What an engine must leave behind: the files, whole, on one grid, with the volume of a brain.

The same check for FastSurfer's fresh outputs and for derivatives made elsewhere.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHError

from ...errors import ImageError, InputError
from ..volumes import Statistics, read_stats
from .compression import read_mgz

ORIG, MASK, SEGMENTATION = "mri/orig.mgz", "mri/mask.mgz", "mri/aparc.DKTatlas+aseg.deep.mgz"
STATISTICS = "stats/aseg+DKT.stats"
NEEDED = (ORIG, MASK, SEGMENTATION, STATISTICS)  # what later stages read; preprocessing.keep may keep nothing else
ASEG = "mri/aseg.auto_noCCseg.mgz"  # FastSurfer's own, which its bias-field correction reads
KEPT = (ORIG, MASK, SEGMENTATION, ASEG)  # of an image without volumes, and what its volumes can be made from
# [assumed] litres of a brain mask that is one: from an infant's to a large head's with its CSF.  FastSurfer's own
# check (quick_qc.py) warns below 0.7 of segmented tissue, which severe atrophy comes near.
SMALLEST, LARGEST = 0.4, 2.8
SOME_UNLISTED = 0.1  # [assumed] share of labels without statistics that another version may have
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, zlib.error, MGHError),
    *(nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError),
)


@dataclass(frozen=True)
class Outputs:
    """Where one image's outputs are."""

    orig: Path
    mask: Path
    segmentation: Path
    statistics: Path

    @classmethod
    def of(cls, folder: Path) -> Outputs:
        """Under FastSurfer's names in an image's folder."""
        return cls(folder / ORIG, folder / MASK, folder / SEGMENTATION, folder / STATISTICS)


def check_outputs(outputs: Outputs, voxel_size: float, *, all_listed: bool = False, volumes: bool = True) -> None:
    """Refuse outputs that later stages could not use, or that no brain gave.

    Parameters
    ----------
    voxel_size : mm, of the configuration
    all_listed : the statistics are of this very segmentation, so labels without a row show a file that ends
        too early
    volumes : whether there must be statistics

    Raises
    ------
    ImageError
        ``output_missing``, ``output_damaged``, ``wrong_grid`` or ``implausible_volume``
    """
    for path in (outputs.orig, outputs.mask, outputs.segmentation, *([outputs.statistics] if volumes else [])):
        if not path.is_file():
            raise ImageError("output_missing", f"there is no {path.parent.name}/{path.name}")
    orig, _ = _read(outputs.orig)
    mask, in_mask = _read(outputs.mask)
    segmentation, labels = _read(outputs.segmentation)
    if nibabel.aff2axcodes(orig.affine) != ("L", "I", "A"):
        axes = "".join(str(code) for code in nibabel.aff2axcodes(orig.affine))
        raise ImageError("wrong_grid", f"{outputs.orig.name} is in {axes} order, not LIA")
    sizes = np.linalg.norm(orig.affine[:3, :3], axis=0)
    if not np.allclose(sizes, voxel_size, atol=1e-3):
        found = " x ".join(f"{size:.4g}" for size in sizes)
        raise ImageError("wrong_grid", f"{outputs.orig.name} has voxels of {found} mm, not {voxel_size:g}")
    for path, image in ((outputs.mask, mask), (outputs.segmentation, segmentation)):
        if image.shape != orig.shape or not np.allclose(image.affine, orig.affine, atol=1e-3):
            raise ImageError("wrong_grid", f"{path.name} and {outputs.orig.name} are not on one grid")
    if not labels.any():
        raise ImageError("implausible_volume", f"{outputs.segmentation.name} is empty")
    litres = {"mask": float(np.count_nonzero(in_mask > 0) * np.prod(sizes))}
    if volumes:
        litres["statistics"] = _statistics_of(outputs.statistics, labels if all_listed else None).mask_volume
    for where, volume in litres.items():
        if not SMALLEST <= volume / 1e6 <= LARGEST:
            what = f"the {where} says {volume / 1e6:.2f} l of brain, not {SMALLEST:g} to {LARGEST:g}"
            raise ImageError("implausible_volume", what)


def _statistics_of(path: Path, labels: np.ndarray | None) -> Statistics:
    """The statistics in a file; damaged if, of `labels` that it should list, too many are not there."""
    try:
        statistics = read_stats(path)
    except (InputError, *UNREADABLE) as error:
        what = error.what if isinstance(error, InputError) else error
        raise ImageError("output_damaged", f"{path.name}: {what}") from None
    if labels is not None:
        present = np.flatnonzero(np.bincount(labels.ravel().astype(np.int64)))
        absent = [label for label in present if label and label not in statistics.volumes]
        if len(absent) > SOME_UNLISTED * len(present):
            what = f"{len(absent)} of {len(present)} labels of the segmentation have no row"
            raise ImageError("output_damaged", f"{path.name}: {what}")
    return statistics


def _read(path: Path) -> tuple[nibabel.MGHImage, np.ndarray]:
    """An image and its voxels; the file is read to its end, with its checksum."""
    try:
        image = read_mgz(path)
        voxels = np.asarray(image.dataobj)
    except UNREADABLE as error:
        raise ImageError("output_damaged", f"{path.name}: {error}") from None
    if not np.isfinite(image.affine).all():
        raise ImageError("output_damaged", f"{path.name}: its place in space is not finite")
    return image, voxels
