"""Simulated heads, masked and cropped as the cache holds them, without preprocessing: for measuring training alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from neurotransfer.cache.shard_file import checksum, shard_written
from neurotransfer.files import read_table, write_table
from neurotransfer.seeds import seed_from
from neurotransfer.simulation import anatomy, study
from scipy import ndimage

CROP, VOXEL_SIZE = (96, 96, 96), 2.0  # voxels in LIA order, mm: a whole brain, and 3³ voxels for the global maximum
CENTRE = np.array((0.0, -18.0, 8.0))  # of the brain, RAS mm
NOISE = 3.0  # sd of the intensities' noise
PER_SHARD = 16  # images
AROUND = 25.0  # mm about the template's brain, beyond which nobody's brain reaches
SPARE = 1.32  # times as many people are simulated as images are asked for
TARGETS = ("handedness", "bmi", "fluid_intelligence", "neuroticism")  # that not every cohort has


def write_template(path: Path) -> None:
    """Write the simulation's template head, for a machine that lacks nilearn and nibabel: 2 MB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **vars(anatomy.head()))


def use_template(path: Path) -> None:
    """Draw heads from the template that `write_template` wrote."""
    with np.load(path) as arrays:
        template = anatomy.Head(**arrays)
    anatomy.head = lambda: template


def masked_head(
    person: Mapping[str, Any], seed: int, crop: Sequence[int] = CROP, voxel_size: float = VOXEL_SIZE
) -> np.ndarray:
    """A person's masked head in LIA order about the middle of the brain: uint8, of the shape `crop`.

    Parameters
    ----------
    person : `cohort`, `label`, `session` and the `latent_*` of simulation.study
    voxel_size : mm
    """
    generator = np.random.default_rng(seed_from(seed, "image", person["cohort"], person["label"], person["session"]))
    left, inferior, anterior = np.meshgrid(
        *(sign * (np.arange(size) - (size - 1) / 2) * voxel_size for sign, size in zip((-1, -1, 1), crop, strict=True)),
        indexing="ij",
    )
    points = np.stack([left, anterior, inferior], -1) + CENTRE + generator.normal(0, 1.5, 3)  # RAS mm
    latents = {name.removeprefix("latent_"): value for name, value in person.items() if name.startswith("latent_")}
    shape = seed_from(seed, "shape", person["cohort"], person["label"])
    near = _near_brain(points)  # bool, of the shape `crop`: all else would be masked
    values, brain = anatomy.image_at(points[near], latents, shape, voxel_size)
    noise = generator.normal(0, NOISE, near.shape)[near]
    image = np.zeros(near.shape, np.uint8)
    image[near] = np.where(brain, values + noise, 0).round().clip(0, 255)
    return image


def _near_brain(points: np.ndarray) -> np.ndarray:
    """Which points, RAS mm [X, Y, Z, 3], lie within AROUND mm of the template's brain."""
    source = anatomy.head()
    index = np.rint((points - source.affine[:3, 3]) / np.diag(source.affine)[:3]).astype(int)
    inside = (index >= 0).all(-1) & (index < source.brain.shape).all(-1)
    return inside & _around_brain()[tuple(np.moveaxis(np.where(inside[..., None], index, 0), -1, 0))]


@functools.cache
def _around_brain() -> np.ndarray:
    source = anatomy.head()
    return ndimage.distance_transform_edt(source.brain <= 0.5, np.diag(source.affine)[:3]) <= AROUND


def drawn_heads(
    folder: Path,
    cohorts: Sequence[str],
    images: int,
    *,
    crop: Sequence[int] = CROP,
    voxel_size: float = VOXEL_SIZE,
    seed: int = 7,
    processes: int = 1,
) -> pd.DataFrame:
    """The table of so many heads, one of each person, which are drawn into shards if `folder` has none yet.

    Parameters
    ----------
    cohorts : of simulation.study, of which as many people are simulated as it takes
    images : a multiple of PER_SHARD

    Returns
    -------
    a row per image in random order: `image_id`, `participant_id`, `cohort`, `diagnosis`, the targets that the cohort
    records, the latent values, `shard`, `row` and `checksum`
    """
    path = folder / "images.tsv"
    if path.exists():
        return read_table(path)
    folder.mkdir(parents=True, exist_ok=True)
    known = sum(study.design_of(name, study.COHORTS).people for name in cohorts)
    designs = study._designs(cohorts, SPARE * images / known)
    people = [person for design in designs for person in study._people(design, seed) if person["session"] in ("", "01")]
    chosen = np.random.default_rng(seed).permutation(len(people))[:images]
    people = [people[at] for at in chosen]
    names = [f"x-{at:04d}" for at in range(images // PER_SHARD)]
    parts = [people[at * PER_SHARD : (at + 1) * PER_SHARD] for at in range(len(names))]
    with ProcessPoolExecutor(processes) as pool:
        drawing = [
            pool.submit(_draw_shard, folder / f"{name}.npy", part, seed, crop, voxel_size)
            for name, part in zip(names, parts, strict=True)
        ]
        sums = [one for shard in drawing for one in shard.result()]
    table = pd.DataFrame(people).drop(columns="own")
    recorded = {
        design.name: {*design.labels, "bmi"} if "height" in design.labels else set(design.labels) for design in designs
    }
    for target in TARGETS:
        table.loc[[target not in recorded[name] for name in table["cohort"]], target] = np.nan
    table["image_id"] = table["participant_id"] = table["cohort"] + "_" + table["label"]
    table["shard"] = np.repeat(names, PER_SHARD)
    table["row"] = np.tile(np.arange(PER_SHARD), len(names))
    table = table.drop(columns="label").assign(checksum=sums)
    write_table(table, path)
    return table


def _draw_shard(
    path: Path, people: Sequence[Mapping[str, Any]], seed: int, crop: Sequence[int], voxel_size: float
) -> list[str]:
    """Write a shard of people's images; the checksum of each."""
    sums = []
    with shard_written(path, len(people), tuple(crop), None) as write:
        for person in people:
            image = masked_head(person, seed, crop, voxel_size)
            write(image)
            sums.append(checksum(image))
    return sums
