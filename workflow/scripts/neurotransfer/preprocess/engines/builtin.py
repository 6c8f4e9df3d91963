"""The embedded engine: conform, register the MNI152 template, mask, segment, measure; no container needed.

Meant for demos, tests and groups without FastSurfer; it writes the same files.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from scipy import ndimage

from ...errors import ImageError
from ..reasons import FIT
from ..volumes import stats_text
from . import EngineInput, Made
from .flat_faces import check_faces
from .inputs import HeadImage, read_image
from .interpolation import occupied, transformed
from .outputs import LARGEST, SMALLEST
from .registration import CAUCHY, register, template

LEFT_RIGHT = ("Left", "Right")
# SegIds: FreeSurfer's if the meaning agrees, 12000 and up for template regions that have none there.
PRIOR_POWER = 0.5  # 1 would let the template decide, 0 the intensities alone
DARKEST = 3  # percentile of the brain's intensities that is surely fluid
DARKER = 0.95  # [assumed] fluid over grey, grey over white matter: real T1w have up to 0.83 and 0.87, EPI 1.07
BRIGHTEST = 1.33  # [assumed] of white matter over its median: 106 real T1w have up to 1.28, 17 FLAIR 1.37 and more
COARSE = 4.5  # mm, the voxels at which that was measured
MOST_OUTSIDE = 0.2  # [assumed] of the image; necks and shoulders are less
NAMES = {24: "CSF"}
for _side, _ids in enumerate(((2, 4, 8, 7, 17, 10), (41, 43, 47, 46, 53, 49))):
    _parts = "Cerebral-White-Matter Lateral-Ventricle Cerebellum-Cortex Cerebellum-White-Matter Hippocampus Deep-Gray"
    NAMES |= {_id: f"{LEFT_RIGHT[_side]}-{_part}" for _id, _part in zip(_ids, _parts.split(), strict=True)}
    _lobes = ("Frontal", "Parietal", "Temporal", "Occipital")
    NAMES |= {12001 + 10 * _side + _at: f"{LEFT_RIGHT[_side]}-{_lobe}-Cortex" for _at, _lobe in enumerate(_lobes)}


def version() -> str:
    """Version of what this engine computes; raised when its results change."""
    return "4"


class Builtin:
    """The engine for one job; see `Engine`."""

    at_once = 1  # it works in this process

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def check(self) -> None:
        """Nothing outside of Python is needed."""

    def facts(self, scan: EngineInput) -> dict[str, Any]:
        """What the outputs depend on."""
        return {"version": version()} | {name: self._settings[name] for name in ("voxel_size", "grid")}

    def made_by(self, scan: EngineInput) -> tuple[str, str]:
        """This engine, in this version."""
        return "builtin", version()

    def run(self, scan: EngineInput, folder: Path, *, alone: bool = False) -> Made:
        """See `Engine`."""
        return Made(run(scan.t1w, folder, self._settings))

    def stop(self) -> None:
        """Nothing runs but this process."""

    def close(self) -> None:
        """Nothing is held."""


def run(source: Path, folder: Path, settings: Mapping[str, Any]) -> str:
    """Process one image into `folder`; returns a note for the ledger.

    Parameters
    ----------
    settings : `voxel_size` (mm), `grid` (voxels) and `threads`

    Raises
    ------
    ImageError
        with a reason of reasons.REASONS
    """
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(settings["threads"])
    head = read_image(source)
    notes = [*head.notes, *_outside(head, settings)]
    try:
        fit, found = _process(head, folder, settings)
    except ImageError as failure:
        raise ImageError(failure.reason, "; ".join([failure.detail or "", *notes])) from None
    return "; ".join([f"{FIT} {fit:.2f}", *found, *notes])


def _outside(head: HeadImage, settings: Mapping[str, Any]) -> list[str]:
    """A note if much of what is bright lies outside of the cube about the image's centre that is used."""
    few, step = head.data[::4, ::4, ::4], np.diag([4.0, 4, 4, 1])
    bright = np.argwhere(few > 0.15 * np.percentile(few, 99))
    middle = (head.affine @ np.append((np.array(head.data.shape) - 1) / 2, 1))[:3]
    away = np.abs(bright @ (head.affine @ step)[:3, :3].T + head.affine[:3, 3] - middle)
    used = settings["voxel_size"] * np.array(settings["grid"])
    share = float((away > used / 2).any(axis=1).mean()) if len(bright) else 0.0
    if share < MOST_OUTSIDE:
        return []
    size = " x ".join(f"{length:.0f}" for length in used)
    return [f"{share:.0%} of the image lies outside of the middle {size} mm, which are used: crop it about the head"]


def _process(head: HeadImage, folder: Path, settings: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Write the outputs of an image; returns the correlation with the template, and notes."""
    orig = conform(head.data, head.affine, settings["voxel_size"], settings["grid"])
    canonical = nibabel.as_closest_canonical(orig)
    image = np.asarray(canonical.dataobj).astype(np.float32)
    found = register(image, canonical.affine)
    gm, wm, brain, coordinates = warp_template(found.to_template, image.shape, canonical.affine)
    even = found.evened(image, coordinates)
    mask = brain_mask(even, brain, settings["voxel_size"])
    check_contrast(even, brain, gm, wm, settings["voxel_size"])
    notes = check_faces(head.data, head.affine, _like(mask.astype(np.uint8), canonical, orig), found.stretch)
    segmentation = segment(even, mask, gm, wm, coordinates)
    (folder / "mri").mkdir()
    (folder / "stats").mkdir()
    nibabel.save(orig, folder / "mri/orig.mgz")
    for name, values in (("mask", mask.astype(np.uint8)), ("aparc.DKTatlas+aseg.deep", segmentation)):
        nibabel.save(_like(values, canonical, orig), folder / f"mri/{name}.mgz")
    text = stats_text(segmentation, image, mask, NAMES, settings["voxel_size"] ** 3)
    (folder / "stats/aseg+DKT.stats").write_text(text, encoding="utf-8")
    return found.fit, [notes] if notes else []


def _like(
    values: np.ndarray, canonical: nibabel.spatialimages.SpatialImage, orig: nibabel.MGHImage
) -> nibabel.MGHImage:
    """An array on the canonical grid as an MGH image on the conformed one."""
    start = nibabel.io_orientation(canonical.affine)
    change = nibabel.orientations.ornt_transform(start, nibabel.io_orientation(orig.affine))
    return nibabel.MGHImage(nibabel.apply_orientation(values, change), orig.affine)


def conform(data: np.ndarray, affine: np.ndarray, voxel_size: float, grid: list[int]) -> nibabel.MGHImage:
    """Resample to a cube of voxels in LIA order about the image's centre, uint8 by robust scaling.

    Scaling maps the 0.1 and 99.9 percentiles of the head's intensities to 0 and 255.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    blur = np.sqrt(np.maximum((voxel_size / sizes) ** 2 - 1, 0)) / 2.355  # as wide as the new voxel, against aliasing
    smooth = ndimage.gaussian_filter(data, blur) if blur.max() > 0.2 else data
    to_world = np.diag([-voxel_size, 1, 1, 1.0])
    to_world[:3, :3] = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]]) * voxel_size  # L, I, A
    centre = affine @ np.append((np.array(data.shape) - 1) / 2, 1)
    to_world[:3, 3] = centre[:3] - to_world[:3, :3] @ ((np.array(grid) - 1) / 2)
    mapping = np.linalg.inv(affine) @ to_world
    values = ndimage.affine_transform(smooth, mapping[:3, :3], mapping[:3, 3], tuple(grid), order=1, cval=smooth.min())
    low = np.percentile(values, 0.1)
    head = values[values > low + 0.1 * (np.percentile(values, 99.5) - low)]
    high = np.percentile(head, 99.9) if len(head) else values.max()
    scaled = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255)
    return nibabel.MGHImage(np.round(scaled).astype(np.uint8), to_world)


@functools.lru_cache(maxsize=2)
def blurred_tissues(blur: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey matter, white matter and brain of the template in [0, 1], blurred by `blur` mm (a standard deviation)."""
    t1, grey, white, _ = template()
    used = _box_about((t1 > 0) | (grey > 0) | (white > 0), int(4 * blur + 0.5))  # as far as scipy's blur reaches
    blurred = np.zeros((3, *t1.shape), np.float32)
    sharp = grey[used] / 255, white[used] / 255, (t1[used] > 0).astype(np.float32)
    for values, out in zip(sharp, blurred, strict=True):
        out[used] = ndimage.gaussian_filter(values, blur) if blur > 0.5 else values
    grey, white, brain = blurred
    return grey, white, brain


@functools.lru_cache(maxsize=2)
def _where_tissue_is(blur: float) -> np.ndarray:
    """`interpolation.occupied` of the blurred template."""
    return occupied(blurred_tissues(blur))


@functools.lru_cache(maxsize=1)
def grey_between() -> float:
    """Where the template's grey matter lies between its darkest fluid (0) and its white matter (1)."""
    t1, grey, white, _ = template()
    dark = float(np.percentile(t1[t1 > 0], DARKEST))
    middle, bright = (float((t1 * weight).sum() / weight.sum()) for weight in (grey, white))
    return (middle - dark) / (bright - dark)


def warp_template(to_template: np.ndarray, shape: tuple[int, ...], affine: np.ndarray):
    """The template's tissues and brain on the image's grid, and each voxel's template coordinates.

    Returns
    -------
    gm, wm, brain : float32 in [0, 1], [X, Y, Z]
    coordinates : float32 [3, X, Y, Z], template RAS in mm
    """
    mapping = np.linalg.inv(template()[3]) @ to_template @ affine
    blur = float(affine[0, 0]) / 2.355
    warped = transformed(blurred_tissues(blur), _where_tissue_is(blur), mapping, shape)
    world = to_template @ affine
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    coordinates = np.empty((3, *shape), np.float32)
    for row, out in zip(world, coordinates, strict=False):
        np.add(row[0] * x + row[1] * y + row[2] * z, row[3], out=out, casting="same_kind")
    return *warped, coordinates


def brain_mask(image: np.ndarray, brain: np.ndarray, voxel_size: float) -> np.ndarray:
    """The brain: the template's, its border moved to where the intensities say, one part without holes.

    Raises
    ------
    ImageError
        if what remains is not the size of a brain
    """
    ball = ndimage.generate_binary_structure(3, 1)
    deep, outward, rough = (max(1, round(length / voxel_size)) for length in (4, 3, 2))  # voxels
    mask = np.zeros(image.shape, bool)
    used = _box_about(brain > 0.5, outward + 2 * rough + 2)  # nothing farther away has an effect
    image, brain = image[used], brain[used]
    prior = brain > 0.5
    core = ndimage.binary_erosion(prior, ball, deep)
    tissue = image[core & (image > 0)]
    if not len(tissue):
        raise ImageError("mask_failed", "the template's brain falls on nothing")
    typical = np.median(tissue)
    reach = ndimage.binary_dilation(prior, ball, outward)
    # between core and reach, tissue as bright as brain belongs to it; skull is darker, scalp beyond it brighter
    likely = (image > 0.4 * typical) & (image < 1.6 * np.percentile(tissue, 98))
    weight = ndimage.gaussian_filter((brain + 0.5 * likely.astype(np.float32)) * reach, 0.5)
    found = core | (weight > 0.75)
    found = ndimage.binary_opening(found, ball, rough) | core
    labels, count = ndimage.label(found, ball)
    if count > 1:
        found = labels == 1 + np.argmax(ndimage.sum_labels(found, labels, range(1, count + 1)))
    found = ndimage.binary_fill_holes(ndimage.binary_closing(found, ball, rough) | found)
    litres = found.sum() * voxel_size**3 / 1e6
    if not SMALLEST < litres < LARGEST:
        raise ImageError("mask_failed", f"the mask has {1000 * litres:.0f} ml, no human brain")
    mask[used] = found
    return mask


def _box_about(there: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The smallest box with everything that is true in `there` [X, Y, Z], and so many voxels around it."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(there.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(0, found[0] - margin), found[-1] + margin + 1) if len(found) else slice(0))
    return tuple(box)


def check_contrast(image: np.ndarray, brain: np.ndarray, gm: np.ndarray, wm: np.ndarray, voxel_size: float) -> None:
    """Refuse an image whose fluid is not darker than its grey matter, or that not darker than its white matter.

    The intensities of the three are estimated by least squares, with Cauchy's weights, from the template's shares of
    them in each voxel, because the voxels of an EPI volume hold several.  The outer 6 mm of the brain are left out:
    their fluid lies beside skull, and there every contrast looks like another.

    Parameters
    ----------
    image, brain, gm, wm : float32 [X, Y, Z]; the image without its smooth field, the template's shares in [0, 1]

    Raises
    ------
    ImageError
        ``mask_failed``
    """
    used = _box_about(brain > 0.5, 1)
    inner = ndimage.binary_erosion(brain[used] > 0.5, iterations=max(1, round(6 / voxel_size)))
    white, grey = wm[used][inner], gm[used][inner]
    shares = np.stack([white, grey, 1 - white - grey], axis=1).astype(np.float64)  # [voxels, 3]
    values, weights, found = image[used][inner].astype(np.float64), np.ones((int(inner.sum()), 1)), np.zeros(3)
    for _ in range(8):
        found = np.linalg.lstsq(shares * weights, values * weights[:, 0], rcond=None)[0]
        rest = values - shares @ found
        spread = 1.4826 * float(np.median(np.abs(rest))) + 1e-6
        weights = 1 / np.sqrt(1 + (rest / (CAUCHY * spread)) ** 2)[:, None]
    white, grey, fluid = found
    if not (fluid < DARKER * grey and grey < DARKER * white):
        what = f"fluid, grey and white matter have the intensities {fluid:.0f}, {grey:.0f} and {white:.0f}"
        raise ImageError("mask_failed", f"{what}, and in a T1-weighted image each is brighter than the one before")
    bright = brightest_white(image, wm, voxel_size)
    if bright > BRIGHTEST:
        what = f"parts of the white matter are {bright:.2f} times as bright as the rest (at most {BRIGHTEST:g})"
        raise ImageError("mask_failed", f"{what}: in a T1-weighted image nothing is brighter, and in FLAIR lesions are")


def brightest_white(image: np.ndarray, wm: np.ndarray, voxel_size: float) -> float:
    """The 98th percentile of the white matter's intensities over their median, in voxels of about 4.5 mm."""
    step = max(1, round(COARSE / voxel_size))
    even = tuple(slice(0, size // step * step) for size in image.shape)
    blocks = [part for size in image.shape for part in (size // step, step)]
    coarse, white = (values[even].reshape(blocks).mean(axis=(1, 3, 5)) for values in (image, wm))
    values = coarse[white > 0.9]
    return float(np.percentile(values, 98) / max(float(np.median(values)), 1e-6)) if len(values) else 1.0


def tissues(image: np.ndarray, mask: np.ndarray, gm: np.ndarray, wm: np.ndarray) -> np.ndarray:
    """Cerebrospinal fluid (0), grey (1) or white matter (2) per voxel of the mask: int8 [voxels].

    Each voxel goes to the likeliest of three normal distributions under flattened template priors.  Their
    means are anchored: white matter's where the template is sure of it, fluid's at the mask's darkest
    voxels, and grey matter's between them as in the template, so lost grey matter is fewer voxels and
    not a darker class.

    Raises
    ------
    ImageError
        if white matter is not brighter than the darkest part of the mask
    """
    values = image[mask]
    sure = wm[mask] > min(0.8, float(np.quantile(wm[mask], 0.95)))
    white, dark = float(np.median(values[sure])), float(np.percentile(values, DARKEST))
    spread = 1.4826 * float(np.median(np.abs(values[sure] - white)))  # lesions do not count
    if white - dark < 3 * spread:
        raise ImageError("mask_failed", "white matter does not stand out: no T1-weighted brain")
    mean = np.array([dark, dark + grey_between() * (white - dark), white])
    prior = np.stack([1 - gm[mask] - wm[mask], gm[mask], wm[mask]]).clip(0.02, 1) ** PRIOR_POWER
    likelihood = prior * np.exp(-0.5 * ((values - mean[:, None]) / ((white - dark) / 7)) ** 2)
    return likelihood.argmax(0).astype(np.int8)


def segment(image, mask, gm, wm, coordinates) -> np.ndarray:
    """SegIds per voxel, int32 [X, Y, Z]: tissue by template region; 0 outside the mask."""
    tissue = tissues(image, mask, gm, wm)
    x, y, z = coordinates[:, mask]
    right = (x > 0).astype(int)
    lobe = np.select([(z < -2 + 0.3 * (y + 20)) & (y > -60) & (np.abs(x) > 22), y < -65, y < -20], [2, 3, 1], 0)
    ids = np.where(tissue == 1, 12001 + 10 * right + lobe, np.where(tissue == 2, np.where(right, 41, 2), 24))
    cerebellum = (y < -35) & (z < -16 + 0.35 * (-40 - y).clip(0))
    ids = np.where(cerebellum & (tissue == 1), np.where(right, 47, 8), ids)
    ids = np.where(cerebellum & (tissue == 2), np.where(right, 46, 7), ids)
    hippocampus = (np.abs(x) > 14) & (np.abs(x) < 38) & (y > -40) & (y < -6) & (z > -28) & (z < 2)
    ids = np.where(hippocampus & (tissue == 1), np.where(right, 53, 17), ids)
    deep = (np.abs(x) < 34) & (y > -34) & (y < 22) & (z > -10) & (z < 20)
    ids = np.where(deep & (tissue == 1) & ~hippocampus, np.where(right, 49, 10), ids)
    ventricle = (np.abs(x) < 32) & (y > -52) & (y < 36) & (z > -12) & (z < 34)
    ids = np.where(ventricle & (tissue == 0), np.where(right, 43, 4), ids)
    segmentation = np.zeros(mask.shape, np.int32)
    segmentation[mask] = ids
    return segmentation
