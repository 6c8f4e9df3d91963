"""Where a head lies: an affine map onto the MNI152 template, and how well it fits.

The template is the ICBM 2009a nonlinear symmetric one that nilearn bundles, skull-stripped, at 1 mm.  Points in and
near its brain are mapped into the image, and the map changes by Gauss-Newton steps until the intensities there agree
with the template's, up to a constant and a factor (the inverse-free form of Lucas and Kanade, 1981, with Cauchy's
weights).  The points are always the same, so the fit of one map can be compared with that of another.  Before that,
the template is tried in each direction, because a header may call an upside-down head upright.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import SimpleITK
from scipy import ndimage

from ...errors import ImageError, InputError

NEAR = 5.0  # mm around the template's brain that count, too: it has no head, so scalp must not attract it
COARSE = 4.0  # mm, the blur of the first levels and of the figure of merit
FINE = 1.0  # mm, the blur of the last level
CAUCHY = 2.5  # robust standard deviations at which a point has half of its weight
STARTS = 3  # maps that are refined, of the upright and of the turned ones
WORST_FIT = 0.85  # [assumed] correlation; real and simulated T1w have 0.90 and more, T2w, CT, turned and cut heads less
WORST_TURNED = 0.7  # [assumed] the same before stretching, in another direction: less shows no head in any direction
ABOVE = tuple(itertools.product((-10.0, 10.0), (0.0, 20.0, 40.0)))  # mm, from the middle of the head to the brain's


class Registration(NamedTuple):
    """An affine map from the image's RAS millimetres to the template's (4 x 4), and the correlation `fit` there."""

    to_template: np.ndarray
    fit: float


class _Points(NamedTuple):
    """Points of the template in mm about the middle of its brain [points, 3], its intensities there, and the middle."""

    positions: np.ndarray
    values: np.ndarray
    middle: np.ndarray


class _Level(NamedTuple):
    """An image, blurred and thinned, with its gradient per mm; in RAS order, without rotation."""

    values: np.ndarray
    gradient: tuple[np.ndarray, ...]
    affine: np.ndarray


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


@functools.lru_cache(maxsize=1)
def _halved_template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template's T1 and the distance from its brain (mm, negative inside) at 2 mm, and their affine."""
    t1, _, _, affine = template()
    even = t1[tuple(slice(0, size // 2 * 2) for size in t1.shape)]
    halved = even.reshape([part for size in even.shape for part in (size // 2, 2)]).mean(axis=(1, 3, 5))
    brain = SimpleITK.GetImageFromArray((halved > 0).astype(np.uint8))
    distance = SimpleITK.GetArrayFromImage(SimpleITK.SignedMaurerDistanceMap(brain, squaredDistance=False))
    half = affine @ np.diag([2, 2, 2, 1.0])
    half[:3, 3] = (affine @ [0.5, 0.5, 0.5, 1])[:3]
    return halved, 2 * distance, half


@functools.lru_cache(maxsize=4)
def _points(spacing: int, blur: float) -> _Points:
    """Points every `spacing` mm (even) of the template under a blur (a standard deviation in mm)."""
    halved, distance, affine = _halved_template()
    step = spacing // 2
    smooth = ndimage.gaussian_filter(halved, np.sqrt(max(blur**2 - 1 / 3, 0)) / 2)  # the mean of 2 mm is a blur, too
    indices = np.argwhere(distance[::step, ::step, ::step] <= NEAR) * step
    at = tuple(indices.T)
    world = indices @ affine[:3, :3].T + affine[:3, 3]
    middle = world[distance[at] <= 0].mean(axis=0)
    return _Points(world - middle, smooth[at].astype(np.float64), middle)


def register(image: np.ndarray, affine: np.ndarray) -> Registration:
    """Find the template's place in an image.

    Parameters
    ----------
    image : float32 [X, Y, Z]
    affine : from voxels to RAS millimetres: equal voxels, no rotation

    Raises
    ------
    ImageError
        ``mask_failed`` if the template fits nowhere, or fits better in another direction
    """
    points, level = _points(8, COARSE), _level(image, affine, COARSE)
    bright = level.values > np.percentile(level.values, 60)
    if not bright.any():
        raise ImageError("mask_failed", "there is no head: fewer than half of the voxels differ")
    middle = np.array(ndimage.center_of_mass(bright)) * np.diag(level.affine)[:3] + level.affine[:3, 3]
    (fit, start), (turned_fit, turned) = (
        max((_refine(level, points, start, SIMILARITY, 12, 0.3) for start in starts), key=lambda found: found[0])
        for starts in _starts(level, points, middle)
    )
    if turned_fit > max(fit, WORST_TURNED):
        axes = "".join(nibabel.aff2axcodes(np.vstack([turned, [0, 0, 0, 1]])))
        what = f"the head lies as {axes} in RAS axes (correlation with the template {turned_fit:.2f}, not {fit:.2f})"
        raise ImageError("mask_failed", f"{what}: the header's axes are wrong, or it is no head")
    _, found = _refine(level, points, start, AFFINE, 15, 0.1)
    fine = _points(4, FINE)
    _, found = _refine(_level(image, affine, FINE), fine, found, AFFINE, 20, 0.003, damping=1e-4)
    fit = _correlation(_sample(level.values, level.affine, _moved(points.positions, found)), points.values)
    if fit < WORST_FIT:
        what = f"its correlation with the template is {fit:.2f}, less than {WORST_FIT:g}"
        raise ImageError("mask_failed", f"the template fits nowhere: {what}")
    to_image = np.eye(4)
    to_image[:3, :3] = found[:, :3]
    to_image[:3, 3] = found[:, 3] - found[:, :3] @ fine.middle
    return Registration(np.linalg.inv(to_image), fit)


def _level(image: np.ndarray, affine: np.ndarray, blur: float) -> _Level:
    """An image under a blur (a standard deviation in mm), of which its own voxels are a part."""
    voxel = float(affine[0, 0])
    more = np.sqrt(max(blur**2 - (0.4 * voxel) ** 2, 0)) / voxel
    step = max(1, int(0.8 * blur / voxel))
    values = ndimage.gaussian_filter(image, more) if more > 0.1 else image
    values = np.ascontiguousarray(values[::step, ::step, ::step], np.float32)
    gradient = tuple(np.gradient(values, step * voxel))
    return _Level(values, gradient, affine @ np.diag([step, step, step, 1.0]))


def _starts(level: _Level, points: _Points, middle: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The best maps of the upright template, and of the template in the best other directions.

    The brain is nearly its own mirror image, so left and right are not told apart: 24 directions are left.
    """
    few = _Points(points.positions[::4], points.values[::4], points.middle)
    tried: list[tuple[float, bool, np.ndarray]] = []
    for order in itertools.permutations(range(3)):
        for forward, up in itertools.product((1.0, -1.0), repeat=2):
            turn = np.eye(3)[list(order)] * [1.0, forward, up]
            best = (-2.0, np.zeros((3, 4)))
            for y, z in ABOVE:
                start = np.hstack([0.95 * turn, (middle + turn @ [0, y, z])[:, None]])
                fit = _correlation(_sample(level.values, level.affine, _moved(few.positions, start)), few.values)
                if is_upright := np.array_equal(turn, np.eye(3)):
                    tried.append((fit, True, start))
                elif fit > best[0]:
                    best = (fit, start)
            if not is_upright:
                tried.append((best[0], False, best[1]))
    tried.sort(key=lambda one: -one[0])
    upright, turned = ([start for _, is_so, start in tried if is_so is wanted][:STARTS] for wanted in (True, False))
    return upright, turned


def _changes(names: Sequence[str]) -> np.ndarray:
    """Directions in which a map can change, each a 3 x 4 matrix."""
    found = []
    for row, column in itertools.product(range(3), range(3)):
        unit = np.zeros((3, 4))
        unit[row, column] = 1
        if "stretch" in names:
            found.append(unit)
        elif row < column:
            unit[column, row] = -1
            found.append(unit)
    if "scale" in names:
        found.append(np.eye(3, 4))
    for row in range(3):
        unit = np.zeros((3, 4))
        unit[row, 3] = 50  # mm for as much as a turn by one radian moves the average point
        found.append(unit)
    return np.stack(found)


SIMILARITY, AFFINE = _changes(["scale"]), _changes(["stretch"])


def _refine(
    level: _Level,
    points: _Points,
    start: np.ndarray,
    changes: np.ndarray,
    steps: int,
    stop: float,
    damping: float = 0.02,
) -> tuple[float, np.ndarray]:
    """The best correlation met by Gauss-Newton steps from a map, and its map (3 x 4, points to RAS millimetres).

    Parameters
    ----------
    changes : SIMILARITY or AFFINE
    steps : at most so many
    stop : mm; a step that moves the average point by less is the last one
    damping : of a step, relative to the mean of the normal equations' diagonal
    """
    values, count = points.values, len(points.values)
    homogeneous = np.hstack([points.positions, np.ones((count, 1))])
    directions = np.einsum("kij,nj->kni", changes, homogeneous)
    best, at = (-2.0, start), start
    for _ in range(steps):
        where = homogeneous @ at.T
        seen = _sample(level.values, level.affine, where)
        fit = _correlation(seen, values)
        if fit > best[0]:
            best = (fit, at)
        spread = float(seen.std())
        if spread == 0:
            break
        factor = fit * float(values.std()) / spread if fit > 0 else 0.3 * float(values.std()) / spread
        rest = values - values.mean() - factor * (seen - seen.mean())
        scale = 1.4826 * float(np.median(np.abs(rest))) + 1e-6
        weights = 1 / (1 + (rest / (CAUCHY * scale)) ** 2)
        slopes = np.stack([_sample(part, level.affine, where) for part in level.gradient], axis=1) @ at[:, :3]
        columns = [
            *(factor * np.einsum("kni,ni->kn", directions, slopes)),
            np.ones(count),
            (seen - seen.mean()) / spread,
        ]
        design = np.stack(columns, axis=1)
        normal = (design * weights[:, None]).T @ design
        diagonal = np.zeros(len(normal))
        diagonal[: len(changes)] = damping * np.trace(normal[: len(changes), : len(changes)]) / len(changes) + 1e-9
        try:
            solved = np.linalg.solve(normal + np.diag(diagonal), (design * weights[:, None]).T @ rest)
        except np.linalg.LinAlgError:
            break
        step = np.tensordot(solved[: len(changes)], changes, 1)
        step = np.hstack([at[:, :3] @ step[:, :3], at[:, :3] @ step[:, 3:]])
        moved = float(np.abs(homogeneous @ step.T).mean())
        at = at + step * min(1.0, COARSE * 2 / max(moved, 1e-9))
        if moved < stop:
            break
    fit = _correlation(_sample(level.values, level.affine, homogeneous @ at.T), values)
    return (fit, at) if fit >= best[0] else best


def _moved(positions: np.ndarray, to_image: np.ndarray) -> np.ndarray:
    return positions @ to_image[:, :3].T + to_image[:, 3]


def _sample(values: np.ndarray, affine: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values at RAS millimetres [points, 3]; 0 outside the grid."""
    indices = (where - affine[:3, 3]) / np.diag(affine)[:3]
    return ndimage.map_coordinates(values, indices.T, order=1, mode="constant").astype(np.float64)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation; 0 if one of the two is constant."""
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else 0.0
