"""Where a head lies: an affine map onto the MNI152 template, and how well it fits.

The template is the ICBM 2009a nonlinear symmetric one that nilearn bundles, skull-stripped, at 1 mm.  Points in its
brain are mapped into the image, and the map changes by Gauss-Newton steps until the intensities there agree with the
template's, up to a constant and a factor that changes slowly over the head (the inverse-free form of Lucas and Kanade,
1981, with Cauchy's weights).  The points are always the same, so the fit of one map can be compared with that of
another.  Before that, the template is tried in each direction, because a header may call an upside-down head upright.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from scipy import ndimage

from ...errors import ImageError, InputError
from .interpolation import values_at

COARSE = 4.0  # mm, the blur of the first levels and of the figure of merit
FINE = 1.0  # mm, the blur of the last level
CAUCHY = 2.5  # robust standard deviations at which a point has half of its weight
STARTS = 3  # maps that are refined, of the upright and of the turned ones
SPAN = 60.0  # mm, in which the places of a smooth field are counted
STRONGEST = 2.5  # a smooth field of sensitivity changes the brain's intensities by no more
WORST_FIT = 0.65  # [assumed] correlation; 30 real heads of old people and patients have 0.69 and more
SIZES = (0.5, 1.4)  # [assumed] the brain's volume over the template's; real heads have 0.6 to 1.04
MOST_STRETCHED = 1.35  # [assumed] the template's largest stretch over its smallest; real heads have up to 1.2
SMALLER, BETTER = 0.7, 0.03  # [assumed] a start of so much of the size, and by how much more it must fit
EMPTY = 0.1  # of the brain's median intensity: less is air or lies outside of the image
TOP_SHARE = 0.1  # of the template's brain, its uppermost part
MOST_EMPTY = 0.15  # [assumed] share of that part that may be empty; a stripped brain had 0.12, cut ones 0.17 and more
WORST_TURNED = 0.7  # [assumed] the same before stretching, in another direction: less shows no head in any direction
TOP = 72.0  # mm from the top of the head down to the middle of its brain
UPPER = 110.0  # mm below the top are the head without its neck
AROUND = tuple(itertools.product((-10.0, 10.0), (-15.0, 0.0, 15.0)))  # mm forward and up from there that are tried


class Registration(NamedTuple):
    """An affine map from the image's RAS millimetres to the template's (4 x 4), and the correlation `fit` there.

    `stretch` is the template's largest stretch over its smallest.
    `gain` [7] are the parts of the smooth field (`field`) by which the image is multiplied to be even, about `middle`,
    a point of the template in mm.
    """

    to_template: np.ndarray
    fit: float
    stretch: float
    gain: np.ndarray
    middle: np.ndarray

    def evened(self, image: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
        """The image without its smooth field of sensitivity, for template coordinates in mm [3, X, Y, Z]."""
        parts = [(coordinates[axis] - self.middle[axis]) / SPAN for axis in range(3)]
        gain = np.full(image.shape, self.gain[0], np.float32)
        for axis, part in enumerate(parts):
            gain += part * np.float32(self.gain[1 + axis]) + part**2 * np.float32(self.gain[4 + axis])
        return image * np.clip(gain, 1 / STRONGEST, STRONGEST)


class _Points(NamedTuple):
    """Points of the template's brain in mm about its middle [points, 3], the intensities there, and the middle.

    `field` are a smooth field's parts there: 1, x, y, z (in `SPAN`) and their squares [points, 7].  `parts` are these
    and 1 [points, 8], `homogeneous` the positions and 1 [points, 4].
    """

    positions: np.ndarray
    values: np.ndarray
    middle: np.ndarray
    field: np.ndarray
    parts: np.ndarray
    homogeneous: np.ndarray

    @classmethod
    def at(cls, positions: np.ndarray, values: np.ndarray, middle: np.ndarray) -> _Points:
        """These points."""
        along, one = positions / SPAN, np.ones((len(positions), 1))
        field = np.hstack([one, along, along**2])
        return cls(positions, values, middle, field, np.hstack([field, one]), np.hstack([positions, one]))


class _Explained(NamedTuple):
    """How well an image explains the template, apart from a smooth field of its sensitivity.

    `fit` is the correlation of the template with what the image explains; negative if bright and dark are exchanged.
    `gain` is the factor at each point [points]; 0 if the image is constant there.  `modelled` are the template's
    intensities as the image explains them [points], out of the parts `contrast` [points, 8].
    """

    fit: float
    gain: np.ndarray
    modelled: np.ndarray
    contrast: np.ndarray


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
def halved_template() -> tuple[np.ndarray, np.ndarray]:
    """The template's T1 at 2 mm, the mean of 2³ voxels, and its affine (RAS)."""
    t1, _, _, affine = template()
    even = t1[tuple(slice(0, size // 2 * 2) for size in t1.shape)]
    halved = even.reshape([part for size in even.shape for part in (size // 2, 2)]).mean(axis=(1, 3, 5))
    half = affine @ np.diag([2, 2, 2, 1.0])
    half[:3, 3] = (affine @ [0.5, 0.5, 0.5, 1])[:3]
    return halved, half


@functools.lru_cache(maxsize=4)
def _points(spacing: int, blur: float) -> _Points:
    """Points every `spacing` mm (even) of the template's brain under a blur (a standard deviation in mm).

    None lies outside: the template has no head, and a real one's scalp would pull the brain's border to itself.
    """
    halved, affine = halved_template()
    step = spacing // 2
    smooth = ndimage.gaussian_filter(halved, np.sqrt(max(blur**2 - 1 / 3, 0)) / 2)  # the mean of 2 mm is a blur, too
    indices = np.argwhere(halved[::step, ::step, ::step] > 0) * step
    world = indices @ affine[:3, :3].T + affine[:3, 3]
    middle = world.mean(axis=0)
    return _Points.at(world - middle, smooth[tuple(indices.T)].astype(np.float64), middle)


def register(image: np.ndarray, affine: np.ndarray) -> Registration:
    """Find the template's place in an image.

    Parameters
    ----------
    image : float32 [X, Y, Z]
    affine : from voxels to RAS millimetres: equal voxels, no rotation

    Raises
    ------
    ImageError
        ``mask_failed`` if no voxels are brighter than the others, if the template fits nowhere, fits better in another
        direction or much smaller, or fits only if its volume or its shape is not that of a brain, and if the top of
        the brain lies outside of the head
    """
    points, level = _points(8, COARSE), _level(image, affine, COARSE)
    bright = level.values > 0.15 * np.percentile(level.values, 99)
    if bright.all() or not bright.any():
        raise ImageError("mask_failed", "there is no head: no voxels are brighter than the others")
    head = np.argwhere(bright) * np.diag(level.affine)[:3] + level.affine[:3, 3]
    (fit, start), (turned_fit, turned) = (
        max((_refine(level, points, start, SIMILARITY, 12, 0.3) for start in starts), key=lambda found: found[0])
        for starts in _starts(level, points, head)
    )
    if turned_fit > max(fit, WORST_TURNED):
        axes = "".join(nibabel.aff2axcodes(np.vstack([turned, [0, 0, 0, 1]])))
        what = f"the head lies as {axes} in RAS axes (correlation with the template {turned_fit:.2f}, not {fit:.2f})"
        raise ImageError("mask_failed", f"{what}: the header's axes are wrong, or it is no head")
    _, found = _refine(level, points, start, AFFINE, 15, 0.1)
    fine = _points(4, FINE)
    _, found = _refine(_level(image, affine, FINE), fine, found, AFFINE, 20, 0.003, damping=1e-4)
    seen = _sample(level.values, level.affine, _moved(points.positions, found))
    fit, gain, _, _ = _explain(seen, points)
    if fit < WORST_FIT:
        what = f"its correlation with the template is {fit:.2f}, less than {WORST_FIT:g}"
        raise ImageError("mask_failed", f"the template fits nowhere: {what}")
    stretch = _check_shape(found[:, :3])
    _check_smaller(level, points, start, fit)
    _check_top(_sample(image, affine, _moved(points.positions, found)), points.positions[:, 2])
    to_image = np.eye(4)
    to_image[:3, :3] = found[:, :3]
    to_image[:3, 3] = found[:, 3] - found[:, :3] @ fine.middle
    parts = np.linalg.lstsq(points.field, gain / gain.mean(), rcond=None)[0]
    return Registration(np.linalg.inv(to_image), fit, stretch, parts, points.middle)


def _check_shape(stretches: np.ndarray) -> float:
    """Refuse a map (3 x 3, from the template to the image) that makes no human brain of the template.

    Returns the largest stretch over the smallest.
    """
    volume = abs(float(np.linalg.det(stretches)))
    sizes = np.linalg.svd(stretches, compute_uv=False)
    if not SIZES[0] < volume < SIZES[1]:
        what = f"the template fits best at {volume:.2f} of its volume, and brains have {SIZES[0]:g} to {SIZES[1]:g}"
        raise ImageError("mask_failed", f"{what}: a part of a head, another contrast, or no head")
    if sizes[0] > MOST_STRETCHED * sizes[-1]:
        what = f"the template fits best if it is stretched {sizes[0] / max(sizes[-1], 1e-9):.2f} times in one direction"
        raise ImageError("mask_failed", f"{what} (at most {MOST_STRETCHED:g}): a part of a head, or another contrast")
    return float(sizes[0] / sizes[-1])


def _check_smaller(level: _Level, points: _Points, start: np.ndarray, fit: float) -> None:
    """Refuse an image that a template too small for a brain fits better than the best one found from `start`."""
    if fit + BETTER > 1:
        return  # no correlation is larger
    small = np.hstack([SMALLER * start[:, :3], start[:, 3:]])
    smaller_fit, found = _refine(level, points, small, SIMILARITY, 12, 0.3)
    volume = abs(float(np.linalg.det(found[:, :3])))
    if smaller_fit > fit + BETTER and volume < SIZES[0]:
        what = f"the template fits better at {volume:.2f} of its volume (correlation {smaller_fit:.2f}, not {fit:.2f})"
        raise ImageError(
            "mask_failed", f"{what}, and brains have {SIZES[0]:g} or more: the voxels are larger, or no head"
        )


def _check_top(seen: np.ndarray, heights: np.ndarray) -> None:
    """Refuse an image whose values [points] are air, or outside, where the top of the brain should be."""
    empty = float((seen < EMPTY * np.median(seen))[heights > np.quantile(heights, 1 - TOP_SHARE)].mean())
    if empty > MOST_EMPTY:
        what = f"{empty:.0%} of the top of the brain lies outside of the head (at most {MOST_EMPTY:.0%})"
        raise ImageError("mask_failed", f"{what}: its top is cut off or stripped away, or it is another contrast")


def _level(image: np.ndarray, affine: np.ndarray, blur: float) -> _Level:
    """An image under a blur (a standard deviation in mm), of which its own voxels are a part."""
    voxel = float(affine[0, 0])
    more = np.sqrt(max(blur**2 - (0.4 * voxel) ** 2, 0)) / voxel
    step = max(1, int(0.8 * blur / voxel))
    values = ndimage.gaussian_filter(image, more) if more > 0.1 else image
    values = np.ascontiguousarray(values[::step, ::step, ::step], np.float32)
    gradient = tuple(np.gradient(values, step * voxel))
    return _Level(values, gradient, affine @ np.diag([step, step, step, 1.0]))


def _starts(level: _Level, points: _Points, head: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The best maps of the upright template, and of the template in the best other directions.

    In each direction it starts below the top of the `head`, bright points in mm [points, 3], because a scan may show
    little or much of the neck.
    The brain is nearly its own mirror image, so left and right are not told apart: 24 directions are left.
    """
    few = _Points.at(points.positions[::4], points.values[::4], points.middle)
    tried: list[tuple[float, bool, np.ndarray]] = []
    middles: dict[tuple[float, ...], np.ndarray] = {}
    for order in itertools.permutations(range(3)):
        for forward, up in itertools.product((1.0, -1.0), repeat=2):
            turn = np.eye(3)[list(order)] * [1.0, forward, up]
            is_upright = np.array_equal(turn, np.eye(3))
            best = (-2.0, np.zeros((3, 4)))
            upward = tuple(turn[:, 2])
            if upward not in middles:
                middles[upward] = _middle_of_brain(head, turn[:, 2])
            starts = [np.hstack([0.95 * turn, (middles[upward] + turn @ [0, y, z])[:, None]]) for y, z in AROUND]
            where = np.concatenate([_moved(few.positions, start) for start in starts])
            seen = _sample(level.values, level.affine, where).reshape(len(starts), -1)
            for start, values in zip(starts, seen, strict=True):
                fit = _explain(values, few).fit
                if is_upright:
                    tried.append((fit, True, start))
                elif fit > best[0]:
                    best = (fit, start)
            if not is_upright:
                tried.append((best[0], False, best[1]))
    tried.sort(key=lambda one: -one[0])
    upright, turned = ([start for _, is_so, start in tried if is_so is wanted][:STARTS] for wanted in (True, False))
    return upright, turned


def _middle_of_brain(head: np.ndarray, upward: np.ndarray) -> np.ndarray:
    """Where the brain's middle is in mm [3], below the top of a `head`, bright points in mm [points, 3]."""
    height = head @ upward
    top = float(np.percentile(height, 99.5))
    middle = head[height > top - UPPER].mean(axis=0)
    middle += upward * (top - TOP - middle @ upward)
    return middle


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
    homogeneous = points.homogeneous
    maps = [level.values, *level.gradient]
    count = len(changes)
    design = np.empty((len(homogeneous), count + points.parts.shape[1]))
    best, at = (-2.0, start), start
    for _ in range(steps):
        indices = _indices(level.affine, homogeneous @ at.T)
        found = values_at(maps, indices)  # [1 + 3, points]
        fit, gain, modelled, contrast = _explain(found[0].astype(np.float64), points)
        if fit > best[0]:
            best = (fit, at)
        if not gain.any():
            break
        rest = points.values - modelled
        scale = 1.4826 * float(np.median(np.abs(rest))) + 1e-6
        weights = 1 / (1 + (rest / (CAUCHY * scale)) ** 2)
        slopes = found[1:].T.astype(np.float64, order="C") @ at[:, :3]
        for column, slope in enumerate(_slopes_by_change(changes, points, slopes)):
            np.multiply(gain, slope, out=design[:, column])
        design[:, count:] = contrast
        weighted = design * weights[:, None]
        normal = weighted.T @ design
        diagonal = np.full(len(normal), 1e-9)
        diagonal[:count] += damping * np.trace(normal[:count, :count]) / count
        try:
            solved = np.linalg.solve(normal + np.diag(diagonal), weighted.T @ rest)
        except np.linalg.LinAlgError:
            break
        step = np.tensordot(solved[:count], changes, 1)
        step = np.hstack([at[:, :3] @ step[:, :3], at[:, :3] @ step[:, 3:]])
        moved = float(np.abs(homogeneous @ step.T).mean())
        at = at + step * min(1.0, COARSE * 2 / max(moved, 1e-9))
        if moved < stop:
            break
    fit = _explain(_sample(level.values, level.affine, homogeneous @ at.T), points).fit
    return (fit, at) if fit >= best[0] else best


def _slopes_by_change(changes: np.ndarray, points: _Points, slopes: np.ndarray) -> Iterator[np.ndarray]:
    """By how much the image changes at the points [points], by each of the changes of the map.

    Parameters
    ----------
    slopes : of the image along the template's axes, per mm [points, 3]
    """
    positions = np.ascontiguousarray(points.homogeneous.T)
    along = np.ascontiguousarray(slopes.T)
    for change in changes:
        rows, columns = np.nonzero(change)
        if len(rows) == len(change):  # a change of scale: the products of all three axes
            yield np.einsum("ni,ni->n", points.positions, slopes)
        else:
            yield functools.reduce(
                np.add,
                [
                    positions[column] * change[row, column] * along[row]
                    for row, column in zip(rows, columns, strict=True)
                ],
            )


def _contrast(seen: np.ndarray, points: _Points) -> np.ndarray:
    """What the template's intensities are made of: the image's under a smooth field, and a constant [points, 8]."""
    count = points.parts.shape[1]
    parts = np.repeat(seen, count).reshape(-1, count)
    parts *= points.parts
    parts /= max(float(seen.std()), 1e-6)
    parts[:, -1] = 1
    return parts


def _explain(seen: np.ndarray, points: _Points) -> _Explained:
    """How well an image explains the template, if it has these intensities at the points [points]."""
    spread, values = float(seen.std()), points.values
    parts = _contrast(seen, points)
    if spread == 0:
        return _Explained(0.0, np.zeros(len(seen)), np.full(len(seen), values.mean()), parts)
    found = np.linalg.solve(parts.T @ parts + 1e-6 * len(seen) * np.eye(parts.shape[1]), parts.T @ values)
    gain, modelled = points.field @ found[:-1] / spread, parts @ found
    if gain.mean() > 0:
        return _Explained(_correlation(modelled, values), gain, modelled, parts)
    # exchanged: a map is sought at which they are not
    gain = np.full(len(seen), 0.3 * float(values.std()) / spread)
    fit = -abs(_correlation(seen, values))
    return _Explained(fit, gain, values.mean() + gain * (seen - seen.mean()), parts)


def _moved(positions: np.ndarray, to_image: np.ndarray) -> np.ndarray:
    return positions @ to_image[:, :3].T + to_image[:, 3]


def _sample(values: np.ndarray, affine: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values at RAS millimetres [points, 3]; 0 outside the grid."""
    found = ndimage.map_coordinates(values, _indices(affine, where), order=1, mode="constant")
    return found.astype(np.float64)


def _indices(affine: np.ndarray, where: np.ndarray) -> np.ndarray:
    """RAS millimetres [points, 3] in voxels of a grid without rotation [3, points]."""
    return np.ascontiguousarray(((where - affine[:3, 3]) / np.diag(affine)[:3]).T)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation; 0 if one of the two is constant."""
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else 0.0
