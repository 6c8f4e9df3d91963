"""Simulated heads from real anatomy: a template, deformed and thinned according to a person's latent values.

The template is nilearn's MNI152 (ICBM 2009a nonlinear), skull-stripped, at 1 mm; skull and scalp are added around it.
Coordinates are MNI, RAS, in mm.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..preprocess.engines.interpolation import values_at

GRID = 2.0  # mm, voxel size of the head that images are sampled from
VENTRICLES = ((-13, -8, 20, 17), (13, -8, 20, 17), (-24, -42, 10, 12), (24, -42, 10, 12))  # x, y, z, reach in mm
HIPPOCAMPI = ((-27, -22, -14, 11), (27, -22, -14, 11))
CEREBELLUM = ((-22, -64, -36, 22), (22, -64, -36, 22))


@dataclass(frozen=True)
class Head:
    """The template head on a 2 mm grid: T1 intensities, grey matter in [0, 1], brain, and its affine."""

    t1: np.ndarray
    grey: np.ndarray
    brain: np.ndarray
    affine: np.ndarray


@functools.lru_cache(maxsize=1)
def head() -> Head:
    """The template brain, with CSF rim, skull, scalp, eyes and neck."""
    import nibabel
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    images: list[Any] = [
        nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm")
    ]
    margin = 24  # mm of air and scalp beyond the template's box
    padded = [np.pad(np.asarray(image.dataobj, np.float32), margin) for image in images]
    brain = padded[0] > 0
    t1, grey = (ndimage.zoom(ndimage.gaussian_filter(values, 0.8), 1 / GRID, order=1) for values in padded)
    inside = ndimage.zoom(brain.astype(np.float32), 1 / GRID, order=1)
    affine = np.diag([padded[0].shape[0] / t1.shape[0]] * 3 + [1.0])
    affine[:3, 3] = images[0].affine[:3, 3] - margin
    distance = ndimage.distance_transform_edt(inside < 0.5) * GRID
    z = affine[2, 2] * np.arange(t1.shape[2]) + affine[2, 3]
    y = (affine[1, 1] * np.arange(t1.shape[1]) + affine[1, 3])[:, None]
    below = np.clip((-50 - z) / 30, 0, 1)  # the neck has thicker tissue than the scalp
    layers = np.select(
        [distance <= 3, distance <= 7.5, distance <= 14 + 8 * below], [38.0, 14.0, 165.0 - 30 * below], 0.0
    )
    values = np.where(inside > 0.5, t1, layers)
    for x in (-32, 32):
        points = np.stack(np.meshgrid(*(np.arange(size) for size in t1.shape), indexing="ij"), -1) @ affine[:3, :3]
        eye = np.linalg.norm(points + affine[:3, 3] - (x, 66, -38), axis=-1) < 12
        values[eye & (inside < 0.5)] = 30
    values[(distance > 14) & ((y > 70) & (z < -55))] = 0
    return Head(values.astype(np.float32), (grey / 255).astype(np.float32), inside.astype(np.float32), affine)


def warp(points: np.ndarray, latents: Mapping[str, float], seed: int) -> np.ndarray:
    """The template coordinates of points in a person's head.

    Parameters
    ----------
    points : float [..., 3], RAS mm
    latents : `ventricle`, `hippocampus`, `cerebellum` and `size`, in standard units
    seed : of the person's own smooth deformation

    Returns
    -------
    float [..., 3], RAS mm
    """
    generator = np.random.default_rng(seed)
    scale = 1 - 0.035 * latents["size"] + generator.normal(0, 0.012, 3)  # a larger head has a smaller scale
    axes = [np.ascontiguousarray(points[..., axis]) for axis in range(3)]  # three long rows are faster than short ones
    moved = [
        (own - middle) * factor + middle for own, middle, factor in zip(axes, (0.0, -18.0, 8.0), scale, strict=True)
    ]
    for _ in range(10):  # smooth bumps give each person an own shape
        centre, reach = generator.uniform((-60, -95, -45), (60, 60, 70)), generator.uniform(22, 40)
        push = generator.normal(0, 1.2, 3)
        _, bump = _bump(axes, centre, reach)
        for axis in range(3):
            moved[axis] += push[axis] * bump
    amounts = (
        (VENTRICLES, np.clip(0.10 + 0.20 * latents["ventricle"], -0.3, 0.68)),
        (HIPPOCAMPI, -np.clip(0.05 + 0.18 * latents["hippocampus"], -0.4, 0.65)),
        (CEREBELLUM, 0.06 * latents["cerebellum"]),
    )
    for centres, amount in amounts:
        for x, y, z, reach in centres:
            away, bump = _bump(axes, (x, y, z), reach)
            for axis in range(3):
                moved[axis] -= amount * away[axis] * bump
    return np.stack(moved, -1)


def _bump(
    axes: Sequence[np.ndarray], centre: Sequence[float] | np.ndarray, reach: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """How far points are from a centre along each axis, and a Gaussian of the distance."""
    away = [own - middle for own, middle in zip(axes, centre, strict=True)]
    squares = away[0] ** 2 + away[1] ** 2 + away[2] ** 2
    return away, np.exp(-squares / (2 * reach**2))


def image_at(points: np.ndarray, latents: Mapping[str, float], seed: int, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """A person's T1-weighted intensities and brain mask at points of the head.

    Parameters
    ----------
    points : float [X, Y, Z, 3], RAS mm in the person's own space
    latents : those of `warp`, and `cortex` and `frontal`, the loss of grey matter
    blur : mm, full width at half maximum of the blur within a voxel

    Returns
    -------
    intensities : float32 [X, Y, Z], about 0 to 255
    brain : bool [X, Y, Z]
    """
    source = head()
    origins = warp(points, latents, seed)
    index = np.moveaxis((origins - source.affine[:3, 3]) / np.diag(source.affine)[:3], -1, 0)
    sigma = blur / 2.355 / GRID
    t1, grey, brain = values_at(_blurred(round(sigma, 2)), index.reshape(3, -1)).reshape(3, *points.shape[:-1])
    x, y, z = np.abs(origins[..., 0]), origins[..., 1], origins[..., 2]
    loss = 0.12 + 0.13 * latents["cortex"] + 0.22 * latents["frontal"] * (y > 8) * (z > -15)
    near = (x > 14) & (x < 38) & (y > -40) & (y < -6) & (z > -28) & (z < 0)
    loss = loss + 0.20 * latents["hippocampus"] * near
    thinned = t1 - np.clip(loss, 0, 0.7) * grey * np.maximum(t1 - 38, 0)  # lost grey matter becomes fluid
    return thinned.astype(np.float32), brain > 0.5


@functools.lru_cache(maxsize=4)
def _blurred(sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    source = head()
    return tuple(ndimage.gaussian_filter(values, sigma) for values in (source.t1, source.grey, source.brain))
