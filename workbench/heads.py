"""Simulated heads, masked and cropped as the cache holds them, at a voxel size for training on a CPU at full width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from neurotransfer.seeds import seed_from
from neurotransfer.simulation.anatomy import image_at

CROP, VOXEL_SIZE = 96, 2.0  # voxels along each axis, mm: a whole brain, and 3³ voxels for the global maximum
CENTRE = np.array((0.0, -18.0, 8.0))  # of the brain, RAS mm
NOISE = 3.0  # sd of the intensities' noise


def masked_head(person: Mapping[str, Any], seed: int) -> np.ndarray:
    """A person's masked head in LIA order about the middle of the brain: uint8 [CROP, CROP, CROP].

    Parameters
    ----------
    person : `cohort`, `label`, `session` and the `latent_*` of simulation.study
    """
    generator = np.random.default_rng(seed_from(seed, "image", person["cohort"], person["label"], person["session"]))
    along = (np.arange(CROP) - (CROP - 1) / 2) * VOXEL_SIZE  # mm
    left, inferior, anterior = np.meshgrid(-along, -along, along, indexing="ij")
    points = np.stack([left, anterior, inferior], -1) + CENTRE + generator.normal(0, 1.5, 3)  # RAS mm
    latents = {name.removeprefix("latent_"): value for name, value in person.items() if name.startswith("latent_")}
    shape = seed_from(seed, "shape", person["cohort"], person["label"])
    values, brain = image_at(points, latents, shape, VOXEL_SIZE)  # [CROP, CROP, CROP] each
    values = values + generator.normal(0, NOISE, values.shape)
    return np.where(brain, values, 0).round().clip(0, 255).astype(np.uint8)
