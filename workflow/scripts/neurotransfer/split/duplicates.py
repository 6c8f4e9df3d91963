"""The same scan, or the same head in two scans, under the names of two participants.

Goes in: a small volume per image, written beside the cache.  Comes out: pairs of similar images.

1. `head_of` estimates the pose of a head, and the deformation of a template into it: a few hundred numbers that do
   not depend on intensity scale, pose or format, and little on the scanner's shading and noise.
2. `find_pairs` compares the shapes of all pairs in blocks of matrix products.  Shapes are whitened by the study's own
   covariance, shrunk by the method of Ledoit and Wolf (2004, J Multivar Anal 88: 365-411), which works from twenty
   images on; features that all heads share then do not count as similarity.
3. `compare_closely` registers two similar volumes: two copies of one scan have the same pose in the scanner and equal
   voxels, two scans of one head have neither.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, special
from scipy.spatial.transform import Rotation

from ..preprocess.engines.interpolation import values_at

SCAN, HEAD = "scan", "head"
COLUMNS = ["image_1", "participant_1", "cohort_1", "image_2", "participant_2", "cohort_2"]
COLUMNS += ["similarity", "correlation", "rotation", "kind"]
WIDTH = 4.0  # mm, sd of the blur before shapes are fitted
SHADING = 25.0  # mm, sd of the blur that estimates the scanner's shading
SPACING = 8.0  # mm between the points that are compared in head and template
WAVES = (5, 6, 5)  # cosines of the deformation along left-right, back-front and bottom-top
STIFFNESS = 3e3  # penalty on the deformation
STEPS = 8  # of the fit of the shape; the last step is less than a thousandth of the first
POSE = 3  # the first numbers of a head's row: a rotation vector in radians; the shape follows
NUMBERS = POSE + 3 * int(np.prod(WAVES)) + 1  # pose, coefficients of the deformation, size
SAMPLE = 20_000  # largest number of images for the covariance
STRANGERS = 3_000  # largest number of images for the distribution over pairs of different people
LEAST_SPREAD = 0.05  # lower bound of that distribution's sd, which few images underestimate
TURNED = np.radians(2.0)  # pairs rotated further are no copies; the largest error in 200 copies was 0.4 degrees
BATCH = 512  # volumes that are sent to the processes at once
MOST = 10_000  # largest number of pairs in the result; the most similar ones are kept


def heads_of(volumes: Iterable[np.ndarray], voxel: float, processes: int = 1) -> np.ndarray:
    """`head_of` of many small volumes: float32 [images, NUMBERS]; a row of NaN for a volume without a head."""
    work = functools.partial(head_of, voxel=voxel)
    rows: list[np.ndarray] = []
    if processes > 1:
        _template()  # before the fork, so that the workers inherit it
        remaining = iter(volumes)
        with ProcessPoolExecutor(processes, initializer=_use_one_thread) as pool:
            while batch := list(itertools.islice(remaining, BATCH)):
                rows += pool.map(work, batch, chunksize=8)
    else:
        rows = [work(volume) for volume in volumes]
    return np.array(rows, np.float32).reshape(len(rows), NUMBERS)


def _use_one_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)  # the processes already use all cores


def head_of(volume: np.ndarray, voxel: float) -> np.ndarray:
    """Pose and shape of a head: float32 [NUMBERS], all NaN if they can't be estimated.

    Parameters
    ----------
    volume : uint8 [D, H, W] in LIA order, brain only
    voxel : voxel size, mm
    """
    nothing = np.full(NUMBERS, np.nan, np.float32)
    if int(np.count_nonzero(volume)) < 500 or volume.max() == volume[volume > 0].min():
        return nothing
    channels = _channels(np.pad(volume.astype(np.float32), 4), voxel)
    try:
        pose, shift, scale = _lay_on_template(channels, voxel)
    except np.linalg.LinAlgError:
        return nothing
    template = _template()
    count = template.waves.shape[1]
    bend = np.zeros(3 * count)
    for _ in range(STEPS):
        moved = template.points + np.stack([template.waves @ bend[axis * count :][:count] for axis in range(3)], 1)
        indices = _index_of(scale * (moved - template.centre) @ pose.T + shift, channels[0].shape, voxel)
        pull = -template.penalty * bend
        found = values_at(channels, indices)
        for values, wanted, slopes in zip(found, template.values, template.slopes, strict=True):
            missing = wanted - values
            pull += missing.astype(np.float32) @ slopes
        bend += template.inverse @ pull
    row = np.concatenate([Rotation.from_matrix(pose).as_rotvec(), bend @ template.root, [30 * np.log(scale)]])
    return row.astype(np.float32) if np.isfinite(row).all() else nothing


def _channels(volume: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    """The two compared channels of a volume: the brain mask, and contrasts without scale and shading."""
    brain = np.clip(volume / (0.5 * _typical(volume)), 0, 1)
    return _blur(brain, WIDTH, voxel), _blur(_flattened(volume, brain > 0.5, SHADING, voxel), WIDTH, voxel)


def _typical(volume: np.ndarray) -> float:
    return float(np.median(volume[volume > 0.3 * np.percentile(volume[volume > 0], 99)]))


def _flattened(volume: np.ndarray, inside: np.ndarray, width: float, voxel: float) -> np.ndarray:
    """Intensities relative to their surroundings, in standard deviations; 0 outside."""
    around = _blur(volume * inside, width, voxel) / np.maximum(_blur(inside.astype(np.float32), width, voxel), 0.02)
    ratio = np.where(inside, volume / np.maximum(around, 1e-3) - 1, 0)
    return ratio / max(float(ratio[inside].std()), 1e-6)


def _blur(volume: np.ndarray, width: float, voxel: float) -> np.ndarray:
    return ndimage.gaussian_filter(volume, width / voxel, truncate=3, output=np.float32)


def _index_of(points: np.ndarray, shape: Sequence[int], voxel: float) -> np.ndarray:
    """Points (mm to the right, front and top of a volume's middle) as voxel coordinates in LIA order, [3, points]."""
    middle = (np.array(shape) - 1) / 2
    return np.stack(
        [middle[0] - points[:, 0] / voxel, middle[1] - points[:, 2] / voxel, middle[2] + points[:, 1] / voxel]
    )


def _slopes(along: np.ndarray, voxel: float) -> np.ndarray:
    """A gradient per voxel in LIA order [3, points] as one per mm to the right, front and top [points, 3]."""
    return np.stack([-along[0], along[2], -along[1]], 1) / voxel


class _Template:
    """The MNI152 brain at a few thousand points, with the matrices for a step of the deformation."""

    def __init__(self) -> None:
        from ..preprocess.engines.registration import halved_template

        t1, affine = halved_template()
        t1 = np.pad(t1, 10)
        start = affine[:3, 3] - 20  # of the padded volume's first voxel, 2 mm wide
        channels = _channels(t1, 2.0)
        box = np.meshgrid(
            *(np.arange(low, high, SPACING) for low, high in ((-84, 85), (-120, 96), (-76, 92))), indexing="ij"
        )
        points = np.stack(box, -1).reshape(-1, 3)
        near = ndimage.map_coordinates(channels[0], ((points - start) / 2).T, order=1)
        points = points[near > 0.02]
        indices = ((points - start) / 2).T
        self.points = points
        self.values = [ndimage.map_coordinates(channel, indices, order=1) for channel in channels]
        self.centre = (points * self.values[0][:, None]).sum(0) / self.values[0].sum()
        low, size = points.min(0) - 6, np.ptp(points, axis=0) + 12
        numbers = np.stack(np.meshgrid(*map(np.arange, WAVES), indexing="ij"), -1).reshape(-1, 3)
        self.waves = np.cos(np.pi * numbers[None] * ((points - low) / size)[:, None]).prod(-1)
        bending = ((np.pi * numbers / size) ** 2).sum(1) ** 2  # squared Laplacian of each wave
        self.penalty = STIFFNESS * len(points) * np.tile(bending, 3)
        self.slopes, hessian = [], np.diag(self.penalty + 1e-6)
        for channel, weight in zip(channels, (0.3, 1.0), strict=True):
            slope = np.stack([ndimage.map_coordinates(g, indices, order=1) for g in np.gradient(channel, 2.0)], 1)
            jacobian = (slope[:, :, None] * self.waves[:, None]).reshape(len(points), -1)
            self.slopes.append((weight * jacobian).astype(np.float32))
            hessian += weight * jacobian.T @ jacobian
        self.inverse = np.linalg.inv(hessian)
        self.root = np.linalg.cholesky(hessian)  # scales the coefficients to equal precision


@functools.lru_cache(maxsize=1)
def _template() -> _Template:
    return _Template()


def _lay_on_template(channels: Sequence[np.ndarray], voxel: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The similarity transform from the template's points to the volume's, by Gauss-Newton on squared differences.

    Returns
    -------
    pose : rotation, [3, 3]
    shift : mm
    scale : of the head; the template has 1
    """
    template = _template()
    brain = np.array(ndimage.center_of_mass(channels[0])) - (np.array(channels[0].shape) - 1) / 2
    pose, scale = np.eye(3), 1.0
    shift = np.array([-brain[0], brain[2], -brain[1]]) * voxel
    maps = [*channels, *(slope for channel in channels for slope in np.gradient(channel))]
    for _ in range(12):
        turned = scale * (template.points - template.centre) @ pose.T
        indices = _index_of(turned + shift, channels[0].shape, voxel)
        matrix, pull = np.zeros((7, 7)), np.zeros(7)
        found = values_at(maps, indices)
        slopes = [_slopes(along, voxel) for along in (found[2:5], found[5:])]
        for values, slope, wanted, weight in zip(found[:2], slopes, template.values, (1.0, 0.35), strict=True):
            columns = np.concatenate([np.cross(turned, slope), slope, (slope * turned).sum(1, keepdims=True)], 1)
            matrix += weight * columns.T @ columns
            pull += weight * columns.T @ (wanted - values)
        step = np.linalg.solve(matrix + 1e-6 * np.diag(np.diag(matrix)), pull)
        pose = Rotation.from_rotvec(np.clip(step[:3], -0.3, 0.3)).as_matrix() @ pose
        shift, scale = shift + step[3:6], scale * np.exp(np.clip(step[6], -0.1, 0.1))
        if np.abs(step[:3]).max() < 2e-4 and np.abs(step[3:6]).max() < 0.02:
            break
    return pose, shift, float(scale)


def directions(shapes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Whitened shapes as unit vectors, float32 [images, numbers]; products of different people scatter around 0.

    Parameters
    ----------
    shapes : float32 [images, numbers], finite
    """
    from sklearn.covariance import ledoit_wolf

    chosen = np.random.default_rng(seed).permutation(len(shapes))[:SAMPLE]
    mean = shapes[chosen].mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(ledoit_wolf(shapes[chosen] - mean)[0])
    whitening = (vectors / np.sqrt(np.maximum(values, 1e-12 * values.max()))).astype(np.float32)
    white = (shapes - mean.astype(np.float32)) @ whitening
    return white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)


def spread_of_strangers(rows: np.ndarray, people: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Robust centre and standard deviation of the products of different people."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:STRANGERS]
    products = rows[chosen] @ rows[chosen].T
    strangers = np.triu(people[chosen][:, None] != people[chosen][None], 1)
    values = products[strangers]
    middle = float(np.median(values))
    return middle, max(1.4826 * float(np.median(np.abs(values - middle))), LEAST_SPREAD)


def least_by_chance(images: int, chance_pairs: float) -> float:
    """The similarity, in standard deviations, that `chance_pairs` of all pairs exceed under a normal distribution."""
    return float(
        -special.ndtri(min(chance_pairs / (images * (images - 1) / 2), 0.5))
    )  # scipy.stats takes long to import


def alike(rows: np.ndarray, people: np.ndarray, least: float, most: int = MOST, block: int = 4096) -> pd.DataFrame:
    """All pairs of different people whose product is at least `least`, from the upper triangle, block by block.

    Needs memory for `rows`, one block of products and the kept pairs only.

    Parameters
    ----------
    rows : float32 [images, numbers], of length 1
    people : int [images]
    most : largest number of pairs; those with the largest products are kept

    Returns
    -------
    `first`, `second` (rows, first < second) and `product`, in descending order; `.attrs["found"]` is the number of
    all pairs, kept or not
    """
    found, kept = 0, np.empty((0, 2), np.int64)
    products = np.empty(0, np.float32)
    buffer = np.empty((block, block), np.float32)
    for start in range(0, len(rows), block):
        for other in range(start, len(rows), block):
            left, right = rows[start : start + block], rows[other : other + block]
            part = buffer[: len(left), : len(right)]
            np.matmul(left, right.T, out=part)
            first, second = np.nonzero(part >= least)
            value = part[first, second]
            first, second = first + start, second + other
            good = (first < second) & (people[first] != people[second])
            found += int(good.sum())
            kept = np.concatenate([kept, np.stack([first[good], second[good]], 1)])
            products = np.concatenate([products, value[good]])
            if len(products) > most:
                best = np.argsort(-products, kind="stable")[:most]
                kept, products = kept[best], products[best]
                least = max(least, float(products[-1])) if len(products) == most else least
    order = np.lexsort((kept[:, 1], kept[:, 0], -products))
    table = pd.DataFrame({"first": kept[order, 0], "second": kept[order, 1], "product": products[order]})
    table.attrs["found"] = found
    return table


def find_pairs(
    heads: np.ndarray,
    images: pd.DataFrame,
    volumes: Sequence[np.ndarray],
    voxel: float,
    settings: Mapping[str, float],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Pairs of images of two participants that look like one scan or one head.

    A pair's similarity is its product's distance above the centre of different people's products, in their standard
    deviations.  The threshold is `same_head`, or more in large studies: under a normal distribution no more than
    `chance_pairs` pairs of the whole study exceed it by chance.

    Parameters
    ----------
    heads : float32 [images, NUMBERS], from `heads_of`
    images : `image_id`, `participant_id`, `cohort` and `checksum` of the same images
    volumes : the small volumes of the same images
    voxel : voxel size of the small volumes, mm
    settings : `same_head`, `chance_pairs`, `same_scan` (smallest correlation) and `same_pose` (largest angle, degrees)

    Returns
    -------
    pairs : COLUMNS; correlation and rotation (degrees) only for pairs that were compared closely
    summary : JSON values: numbers of images and pairs, and thresholds
    """
    usable = np.flatnonzero(np.isfinite(heads).all(1))
    people = pd.factorize(images["participant_id"])[0]
    rows = []
    found, threshold, comparisons = 0, None, len(usable) * (len(usable) - 1) // 2
    if len(np.unique(people[usable])) > 2:
        units = directions(heads[usable, POSE:])
        middle, spread = spread_of_strangers(units, people[usable])
        threshold = max(settings["same_head"], least_by_chance(len(usable), settings["chance_pairs"]))
        pairs = alike(units, people[usable], middle + threshold * spread)
        found = pairs.attrs["found"]
        for pair in pairs.itertuples():
            first, second = (int(usable[row]) for row in (pair.first, pair.second))
            correlation = rotation = np.nan
            kind = HEAD
            poses = Rotation.from_rotvec(heads[[first, second], :POSE])
            if (poses[1] * poses[0].inv()).magnitude() < TURNED:
                correlation, rotation = compare_closely(volumes[first], volumes[second], voxel, poses)
                if correlation >= settings["same_scan"] and rotation <= settings["same_pose"]:
                    kind = SCAN
            row = {"first": first, "second": second, "similarity": (pair.product - middle) / spread}
            rows.append({**row, "correlation": correlation, "rotation": rotation, "kind": kind})
    table = pd.DataFrame(rows, columns=["first", "second", "similarity", "correlation", "rotation", "kind"])
    for number, side in ((1, "first"), (2, "second")):
        chosen = images.iloc[table[side].astype(int)]
        for column, name in (("image_id", "image"), ("participant_id", "participant"), ("cohort", "cohort")):
            table[f"{name}_{number}"] = chosen[column].to_numpy()
    summary = {
        "images": len(images),
        "images_compared": len(usable),
        "pairs_compared": comparisons,
        "least_similarity": threshold,
        "pairs_found": found,
        "pairs_listed": len(table),
        "scans": int((table["kind"] == SCAN).sum()),
        "heads": int((table["kind"] == HEAD).sum()),
        "settings": dict(settings),
    }
    return table[COLUMNS].round({"similarity": 2, "correlation": 4, "rotation": 2}), summary


def compare_closely(first: np.ndarray, second: np.ndarray, voxel: float, poses: Rotation) -> tuple[float, float]:
    """Register the second small volume rigidly to the first.

    Parameters
    ----------
    first, second : uint8 [D, H, W]
    poses : of both heads, the starting point

    Returns
    -------
    correlation : of their contrasts in the common brain mask
    rotation : angle between the two, degrees
    """
    sides = []
    for volume in (first, second):
        padded = np.pad(volume.astype(np.float32), 4)
        inside = ndimage.binary_erosion(padded > 0.25 * _typical(padded))
        sides.append((_blur(_flattened(padded, inside, 15.0, voxel), 2.0, voxel), inside))
    (fixed, brain), (moving, other) = sides
    voxels = np.argwhere(brain)
    middle = (np.array(fixed.shape) - 1) / 2
    points = np.stack([middle[0] - voxels[:, 0], voxels[:, 2] - middle[2], middle[1] - voxels[:, 1]], 1) * voxel
    wanted = fixed[brain]
    start = (poses[1] * poses[0].inv()).as_matrix()
    pose, points_middle = start, points.mean(0)
    there = np.array(ndimage.center_of_mass(other)) - (np.array(other.shape) - 1) / 2
    shift = np.array([-there[0], there[2], -there[1]]) * voxel
    maps = [moving, *np.gradient(moving)]
    for _ in range(12):
        turned = (points - points_middle) @ pose.T
        indices = _index_of(turned + shift, moving.shape, voxel)
        found = values_at(maps, indices)
        slope = _slopes(found[1:], voxel)
        columns = np.concatenate([np.cross(turned, slope), slope], 1)
        matrix = columns.T @ columns
        pull = columns.T @ (wanted - found[0])
        step = np.linalg.solve(matrix + 1e-6 * np.diag(np.diag(matrix)) + 1e-9 * np.eye(6), pull)
        pose = Rotation.from_rotvec(np.clip(step[:3], -0.1, 0.1)).as_matrix() @ pose
        shift = shift + step[3:]
        if np.abs(step[:3]).max() < 2e-4 and np.abs(step[3:]).max() < 0.02:
            break
    indices = _index_of((points - points_middle) @ pose.T + shift, moving.shape, voxel)
    both = ndimage.map_coordinates(other.astype(np.float32), indices, order=1) > 0.99
    values = ndimage.map_coordinates(moving, indices, order=1)
    if both.sum() < 100:
        return 0.0, float(np.degrees(Rotation.from_matrix(pose).magnitude()))
    correlation = float(np.corrcoef(wanted[both], values[both])[0, 1])
    return correlation, float(np.degrees(Rotation.from_matrix(pose).magnitude()))
