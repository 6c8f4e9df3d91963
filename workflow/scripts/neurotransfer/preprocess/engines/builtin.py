"""The embedded engine: conform, register the MNI152 template, mask, segment, measure; no container needed.

Meant for demos, tests and groups without FastSurfer; it writes the same files.  The template is the
ICBM 2009a nonlinear asymmetric one that nilearn bundles, skull-stripped, at 1 mm.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from scipy import ndimage

from ...errors import ImageError, InputError
from ..volumes import stats_text
from . import EngineInput, Made
from .inputs import read_image
from .outputs import LARGEST, SMALLEST

LEFT_RIGHT = ("Left", "Right")
# SegIds: FreeSurfer's if the meaning agrees, 12000 and up for template regions that have none there.
PRIOR_POWER = 0.5  # 1 would let the template decide, 0 the intensities alone
DARKEST = 3  # percentile of the brain's intensities that is surely fluid
NEAR = 8.0  # mm around the template's brain in which registration compares points
SAMPLES = 20_000  # points of the image in which registration compares intensities
NAMES = {24: "CSF"}
for _side, _ids in enumerate(((2, 4, 8, 7, 17, 10), (41, 43, 47, 46, 53, 49))):
    _parts = "Cerebral-White-Matter Lateral-Ventricle Cerebellum-Cortex Cerebellum-White-Matter Hippocampus Deep-Gray"
    NAMES |= {_id: f"{LEFT_RIGHT[_side]}-{_part}" for _id, _part in zip(_ids, _parts.split(), strict=True)}
    _lobes = ("Frontal", "Parietal", "Temporal", "Occipital")
    NAMES |= {12001 + 10 * _side + _at: f"{LEFT_RIGHT[_side]}-{_lobe}-Cortex" for _at, _lobe in enumerate(_lobes)}


def version() -> str:
    """Version of what this engine computes; raised when its results change."""
    return "1"


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


def run(source: Path, folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Process one image into `folder`; returns a note for the ledger, or None.

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
    orig = conform(head.data, head.affine, settings["voxel_size"], settings["grid"])
    canonical = nibabel.as_closest_canonical(orig)
    image = np.asarray(canonical.dataobj).astype(np.float32)
    to_template = register(image, canonical.affine)
    gm, wm, brain, coordinates = warp_template(to_template, image.shape, canonical.affine)
    mask = brain_mask(image, brain, settings["voxel_size"])
    segmentation = segment(image, mask, gm, wm, coordinates)
    (folder / "mri").mkdir()
    (folder / "stats").mkdir()
    nibabel.save(orig, folder / "mri/orig.mgz")
    for name, values in (("mask", mask.astype(np.uint8)), ("aparc.DKTatlas+aseg.deep", segmentation)):
        nibabel.save(_like(values, canonical, orig), folder / f"mri/{name}.mgz")
    text = stats_text(segmentation, image, mask, NAMES, settings["voxel_size"] ** 3)
    (folder / "stats/aseg+DKT.stats").write_text(text, encoding="utf-8")
    return "; ".join(head.notes) or None


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


@functools.lru_cache(maxsize=1)
def template() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The MNI152 T1, grey matter and white matter at 1 mm, float32 in [0, 255], and their affine (RAS)."""
    # importing nilearn takes 3 s of CPU, and only its files are needed
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise InputError("nilearn", "", "it is not installed, and the template is in it", "pip install nilearn")
    folder = Path(found.origin).parent / "datasets/data"
    images: list[Any] = [
        nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm", "wm")
    ]
    t1, grey, white = (np.asarray(image.dataobj, np.float32) for image in images)
    return t1, grey, white, images[0].affine


@functools.lru_cache(maxsize=2)
def blurred_tissues(blur: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey matter, white matter and brain of the template in [0, 1], blurred by `blur` mm (a standard deviation)."""
    t1, grey, white, _ = template()
    sharp = grey / 255, white / 255, (t1 > 0).astype(np.float32)
    grey, white, brain = (ndimage.gaussian_filter(values, blur) if blur > 0.5 else values for values in sharp)
    return grey, white, brain


@functools.lru_cache(maxsize=2)
def coarse_template(size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What registration needs of the template, at voxels of about `size` mm.

    Returns
    -------
    t1 : float32
    near : uint8, 1 in the brain and within NEAR of it
    affine : of both
    """
    t1, _, _, affine = template()
    step = max(1, int(size / 2))
    smooth = ndimage.gaussian_filter(t1, 0.5 * size)[::step, ::step, ::step]
    brain = SimpleITK.GetImageFromArray((t1 > 0).astype(np.uint8))
    squared = SimpleITK.SignedMaurerDistanceMap(brain, squaredDistance=True, useImageSpacing=False)  # of 1 mm voxels
    near = (SimpleITK.GetArrayFromImage(squared) <= NEAR**2).astype(np.uint8)[::step, ::step, ::step]
    return smooth, near, affine @ np.diag([step, step, step, 1.0])


@functools.lru_cache(maxsize=1)
def grey_between() -> float:
    """Where the template's grey matter lies between its darkest fluid (0) and its white matter (1)."""
    t1, grey, white, _ = template()
    dark = float(np.percentile(t1[t1 > 0], DARKEST))
    middle, bright = (float((t1 * weight).sum() / weight.sum()) for weight in (grey, white))
    return (middle - dark) / (bright - dark)


def _itk(values: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    """An array in RAS order as an ITK image whose points are RAS millimetres (ITK does not mind the name)."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing([float(size) for size in np.diag(affine)[:3]])
    image.SetOrigin([float(at) for at in affine[:3, 3]])
    return image


def register(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The affine map from the image's RAS millimetres to the template's, 4 x 4.

    Mattes mutual information, two levels, first with few degrees of freedom.
    """
    voxel = float(affine[0, 0])
    coarse = max(2.0, voxel)
    t1, near, template_affine = coarse_template(coarse)
    fixed = _itk(ndimage.gaussian_filter(image, 0.5 * coarse / voxel if voxel < coarse else 0), affine)
    moving, mask = (_itk(values, template_affine) for values in (t1, near))
    bright = image > np.percentile(image, 60)
    middle = np.array(ndimage.center_of_mass(bright)) * voxel + affine[:3, 3]
    start = SimpleITK.Similarity3DTransform()
    start.SetCenter(middle.tolist())
    inside = np.array(ndimage.center_of_mass(t1)) * np.diag(template_affine)[:3] + template_affine[:3, 3]
    start.SetTranslation((inside - middle + [0, 0, -10]).tolist())  # the head's centre lies below the brain's
    whole = _optimise(fixed, moving, mask, start, coarse, voxel)
    full = SimpleITK.AffineTransform(3)
    full.SetCenter(whole.GetCenter())
    full.SetMatrix(whole.GetMatrix())
    full.SetTranslation(whole.GetTranslation())
    full = _optimise(fixed, moving, mask, full, coarse, voxel)
    result, centre = np.eye(4), np.array(full.GetCenter())
    result[:3, :3] = np.array(full.GetMatrix()).reshape(3, 3)
    result[:3, 3] = np.array(full.GetTranslation()) + centre - result[:3, :3] @ centre
    return result


def _optimise(fixed, moving, mask, start, coarse: float, voxel: float):
    # only points that fall in or near the template's brain count: it has no head, so scalp must not attract it
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricMovingMask(mask)
    method.SetMetricUseFixedImageGradientFilter(False)  # a filtered gradient of whole images costs more than
    method.SetMetricUseMovingImageGradientFilter(False)  # differences at the points compared, and gains nothing
    finest = max(1, round(coarse / voxel))
    method.SetShrinkFactorsPerLevel([max(1, round(8 / voxel)), finest])
    method.SetSmoothingSigmasPerLevel([4.0, 0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMetricSamplingStrategy(method.REGULAR)
    sizes = np.prod(fixed.GetSize()) / np.array([max(1, round(8 / voxel)), finest]) ** 3
    share = [min(1.0, SAMPLES / size) for size in sizes]
    method.SetMetricSamplingPercentagePerLevel(share, seed=1)  # its default seed is the clock
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.02 * voxel, 80, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving).Downcast()
    return found.GetNthTransform(0).Downcast() if isinstance(found, SimpleITK.CompositeTransform) else found


def warp_template(to_template: np.ndarray, shape: tuple[int, ...], affine: np.ndarray):
    """The template's tissues and brain on the image's grid, and each voxel's template coordinates.

    Returns
    -------
    gm, wm, brain : float32 in [0, 1], [X, Y, Z]
    coordinates : float32 [3, X, Y, Z], template RAS in mm
    """
    mapping = np.linalg.inv(template()[3]) @ to_template @ affine
    warped = [
        ndimage.affine_transform(values, mapping[:3, :3], mapping[:3, 3], shape, order=1)
        for values in blurred_tissues(float(affine[0, 0]) / 2.355)
    ]
    world = to_template @ affine
    axes = np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)
    positions = [sum(world[row, axis] * axes[axis] for axis in range(3)) + world[row, 3] for row in range(3)]
    return *warped, np.stack(positions).astype(np.float32)


def brain_mask(image: np.ndarray, brain: np.ndarray, voxel_size: float) -> np.ndarray:
    """The brain: the template's, its border moved to where the intensities say, one part without holes.

    Raises
    ------
    ImageError
        if what remains is not the size of a brain
    """
    ball = ndimage.generate_binary_structure(3, 1)
    steps = max(1, round(4 / voxel_size))
    prior = brain > 0.5
    core = ndimage.binary_erosion(prior, ball, steps)
    tissue = image[core & (image > 0)]
    if not len(tissue):
        raise ImageError("mask_failed", "the template's brain falls on nothing")
    typical = np.median(tissue)
    reach = ndimage.binary_dilation(prior, ball, max(1, round(3 / voxel_size)))
    # between core and reach, tissue as bright as brain belongs to it; skull is darker, scalp beyond it brighter
    likely = (image > 0.35 * typical) & (image < 1.6 * np.percentile(tissue, 98))
    weight = ndimage.gaussian_filter((brain + 0.5 * likely.astype(np.float32)) * reach, 0.5)
    found = core | (weight > 0.75)
    found = ndimage.binary_opening(found, ball, max(1, round(2 / voxel_size))) | core
    labels, count = ndimage.label(found, ball)
    if count > 1:
        found = labels == 1 + np.argmax(ndimage.sum_labels(found, labels, range(1, count + 1)))
    found = ndimage.binary_fill_holes(ndimage.binary_closing(found, ball, max(1, round(2 / voxel_size))) | found)
    litres = found.sum() * voxel_size**3 / 1e6
    if not SMALLEST < litres < LARGEST:
        raise ImageError("mask_failed", f"the mask has {1000 * litres:.0f} ml, no human brain")
    return found


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
    if white - dark < 3 * float(np.std(values[sure])):
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
