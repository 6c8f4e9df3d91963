"""A task's pool of labelled images, and the replicates drawn from it, whose sets share no participant.

The draw follows Leonardsen et al. (2025): n training images with replacement, then validation and test images
without replacement from participants not drawn yet.  `resampling.by`, `per_participant` and `stratify` change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cache.provenance import made_by
from ..errors import InputError
from ..files import digest_of_rows, fingerprint, read_facts, read_table, write_table
from ..study import layout
from ..text import counted
from .roles import SETS

COLUMNS = ["image_id", "participant_id", "role", "label", "cohort", "shard", "row", "index_row", "checksum"]
INFEASIBLE = 0.01  # a task x n is infeasible if a larger share of its resamples would fail


def labelled(images: pd.DataFrame, task: Mapping[str, Any], converters: str) -> pd.DataFrame:
    """The images with one of a task's diagnoses, with `label` 1 (positive) or 0 (negative).

    Parameters
    ----------
    images : at least `image_id`, `participant_id` and `diagnosis`
    task : `positive` and `negative`, lists of values of the diagnosis column
    converters : "by_session" labels each image by the diagnosis of its session; "exclude" leaves out participants
        with images of both labels

    Returns
    -------
    the rows, sorted by `image_id`
    """
    positive = images["diagnosis"].isin(task["positive"])
    pool = images[positive | images["diagnosis"].isin(task["negative"])].copy()
    pool["label"] = positive[pool.index].astype(int)
    if converters == "exclude":
        pool = pool[pool.groupby("participant_id")["label"].transform("nunique") == 1]
    return pool.sort_values("image_id", ignore_index=True)


def pool_of_task(
    indices: Sequence[pd.DataFrame], splits: Sequence[pd.DataFrame], task: Mapping[str, Any], converters: str
) -> pd.DataFrame:
    """A task's pool: the labelled images of its cohorts whose role in the split is "test".

    `index_row` is an image's row in its cohort's index and in its cohort's table of volumes.

    Raises
    ------
    InputError
        if an image has no role because a split is older than its index
    """
    images = pd.concat([index.assign(index_row=np.arange(len(index))) for index in indices], ignore_index=True)
    roles = pd.concat(splits, ignore_index=True).set_index("image_id")["role"]
    role = images["image_id"].map(roles)
    if role.isna().any():
        cohorts = ", ".join(sorted(images.loc[role.isna(), "cohort"].unique()))
        what = counted(int(role.isna().sum()), f"image of {cohorts} has no role", f"images of {cohorts} have no role")
        raise InputError(layout.COHORT_SPLITS, "image_id", what, "delete the cohort's file there and run again")
    return labelled(images[role == "test"], task, converters)


def sizes(n: int, settings: Mapping[str, Any]) -> tuple[int, int, int]:
    """Numbers of images for training, validation and test."""
    return n, round(n * settings["validation_share"]), round(n * settings["test_share"])


def draw(pool: pd.DataFrame, n: int, settings: Mapping[str, Any], seed: int) -> tuple[pd.DataFrame, int]:
    """Draw one replicate.

    Parameters
    ----------
    pool : from `pool_of_task`; the order of its rows has no effect
    n : number of training images
    settings : `validation_share`, `test_share` (of n), `min_per_class`, `max_redraws`; see `options_of` for others

    Returns
    -------
    table : training, validation and test rows with `role`, in the order drawn and with duplicates
    redraws : number of draws that were discarded because a set was too small or lacked a class

    Raises
    ------
    InputError
        if the pool is empty, or all 1 + `max_redraws` draws were invalid

    Examples
    --------
    A pool of 100 people with two images each gives 20 training images, and half as many for each other set:

    >>> number = np.arange(200)
    >>> people = [f"p{person:02d}" for person in number // 2]
    >>> images = [f"{person}_{image % 2}" for person, image in zip(people, number, strict=True)]
    >>> pool = pd.DataFrame({"image_id": images, "participant_id": people, "label": number // 2 % 2})
    >>> settings = {"validation_share": 0.5, "test_share": 0.5, "min_per_class": 2, "max_redraws": 10}
    >>> resample, redraws = draw(pool, 20, settings, seed=7)
    >>> resample["role"].value_counts().to_dict()
    {'train': 20, 'validation': 10, 'test': 10}

    No participant is in two sets:

    >>> int(resample.groupby("participant_id")["role"].nunique().max())
    1
    """
    if pool.empty:
        what = "the task's pool is empty"
        raise InputError("resampling", f"n = {n}", what, "check the task's diagnoses and its cohorts' failed images")
    generator = np.random.default_rng(seed)
    pool = pool.sort_values("image_id", ignore_index=True)
    labels = pool["label"].to_numpy()
    people, options = pd.factorize(pool["participant_id"])[0], options_of(pool, settings)
    for redraws in range(settings["max_redraws"] + 1):
        sets = draw_rows(labels, people, sizes(n, settings), settings["min_per_class"], generator, **options)
        if sets is not None:
            parts = [pool.iloc[rows].assign(role=role) for role, rows in zip(SETS, sets, strict=True)]
            return pd.concat(parts, ignore_index=True), redraws
    what = f"{redraws + 1} draws in a row gave no valid sets: {_contents_of(pool)}"
    raise InputError("resampling", f"n = {n}", what, "choose a smaller n or add cohorts to the task")


def drawing_of(
    key: Mapping[str, Any], seed: int, task: Mapping[str, Any], settings: Mapping[str, Any], converters: str
) -> str:
    """Fingerprint of everything that a resample depends on, except its pool.

    Parameters
    ----------
    key : `task`, `n` and `replicate`
    seed : of the study
    task : the task's configuration
    settings : the configuration's `resampling`, without n and replicates
    converters : see `labelled`
    """
    return fingerprint([dict(key), seed, dict(task), dict(settings), converters])


def options_of(pool: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `draw_rows` that a configuration chooses; a key that is not there means the paper's draw.

    Parameters
    ----------
    pool : in the order of the draw; `cohort` if `by` is cohort
    settings : the configuration's `resampling`: `by` (participant or cohort: test sets are of cohorts that neither
        train nor validate), `per_participant` (all or one: an image of each, drawn for each replicate), `stratify`
        (each set has the pool's share of positive images)
    """
    return {
        "cohorts": pd.factorize(pool["cohort"])[0] if settings.get("by") == "cohort" else None,
        "one_image": settings.get("per_participant") == "one",
        "stratify": settings.get("stratify", False),
    }


def draw_rows(
    labels: np.ndarray,
    people: np.ndarray,
    counts: Sequence[int],
    min_per_class: int,
    generator: np.random.Generator,
    *,
    cohorts: np.ndarray | None = None,
    one_image: bool = False,
    stratify: bool = False,
) -> list[np.ndarray] | None:
    """Rows of the three sets in one draw; None if a set is too small or lacks a class.

    Parameters
    ----------
    labels : int [images], 0 or 1
    people : int [images], participants numbered from 0
    counts : numbers of training, validation and test images
    cohorts : int [images], numbered from 0, if whole cohorts are left to the test set: the first in random order that
        hold it
    one_image : whether one image of each participant takes part in this draw
    stratify : whether each set has the share of positive images of all that take part
    """
    rows = np.arange(len(labels))
    if one_image:
        order = generator.permutation(rows)
        rows = np.sort(order[np.unique(people[order], return_index=True)[1]])
    sources = [rows, rows, rows]
    if cohorts is not None:
        tests = _tested_cohorts(labels[rows], cohorts[rows], counts[2], min_per_class, generator)
        sources = [rows[~tests], rows[~tests], rows[tests]]
    share = labels[rows].mean() if stratify else None
    drawn = np.zeros(people.max() + 1, dtype=bool)
    sets: list[np.ndarray] = []
    for source, count in zip(sources, counts, strict=True):
        free = source[~drawn[people[source]]]
        chosen = _choose(free, labels, count, share, bool(sets), generator)
        if chosen is None:
            return None
        drawn[people[chosen]] = True
        sets.append(chosen)
    for chosen in sets:
        if np.bincount(labels[chosen], minlength=2).min() < min_per_class:
            return None
    return sets


def _tested_cohorts(
    labels: np.ndarray, cohorts: np.ndarray, count: int, min_per_class: int, generator: np.random.Generator
) -> np.ndarray:
    """Which images are of the test set's cohorts: the first ones in random order that hold enough of each class."""
    tests = np.zeros(len(labels), dtype=bool)
    for cohort in generator.permutation(cohorts.max() + 1):
        tests |= cohorts == cohort
        if tests.sum() >= count and np.bincount(labels[tests], minlength=2).min() >= min_per_class:
            break
    return tests


def _choose(
    rows: np.ndarray,
    labels: np.ndarray,
    count: int,
    share: float | None,
    once: bool,
    generator: np.random.Generator,
) -> np.ndarray | None:
    """So many of some rows, each at most once or with replacement; with a share, so many of them positive."""
    parts = [(rows, count)]
    if share is not None:
        positive = round(count * share)
        parts = [(rows[labels[rows] == 1], positive), (rows[labels[rows] == 0], count - positive)]
    chosen = []
    for part, size in parts:
        if len(part) < (size if once else min(size, 1)):
            return None
        take = (
            generator.choice(part, size=size, replace=False) if once else part[generator.integers(len(part), size=size)]
        )
        chosen.append(take)
    return np.concatenate(chosen)


def write_resample(resample: pd.DataFrame, path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write a resample with its facts, to which the digest of its rows and the engines of its images are added.

    Parameters
    ----------
    resample : COLUMNS, and the index's `engine` and `engine_version`
    facts : `task`, `n`, `replicate`, `redraws` and `fingerprint`
    """
    rows = resample[COLUMNS]
    write_table(rows, path, {**facts, "images_made_by": made_by(resample), "rows": digest_of_rows(rows)})


def read_resample(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A resample and its facts.

    Raises
    ------
    InputError
        if the rows have changed since the draw, or a participant is in two sets
    """
    resample, facts = read_table(path), read_facts(path)
    if facts.get("rows") != digest_of_rows(Path(path)):
        raise InputError(path, "", "its rows have changed since they were drawn", "delete the file and run again")
    check_disjoint(resample, path)
    return resample, facts


def check_disjoint(resample: pd.DataFrame, file: str | Path = "resample") -> None:
    """Refuse a resample in which a participant is in two sets.

    Parameters
    ----------
    file : the resample's path, for the message

    Raises
    ------
    InputError
        with the number of participants concerned
    """
    crossing = int((resample.groupby("participant_id")["role"].nunique() > 1).sum())
    if crossing:
        raise InputError(
            file,
            "",
            f"{counted(crossing, 'participant is', 'participants are')} in two sets",
            "delete the file and run again",
        )


def check_not_pretrained(resample: pd.DataFrame, splits: Sequence[pd.DataFrame], file: str | Path = "resample") -> None:
    """Refuse a resample with a participant of whom any image is in pretraining's training or validation set.

    Parameters
    ----------
    splits : `participant_id` and `role` of the task's cohorts, from ``results/split/cohorts``

    Raises
    ------
    InputError
        with the number of participants concerned
    """
    roles = pd.concat(splits, ignore_index=True)
    pretrains = set(roles.loc[roles["role"].isin(["train", "validation"]), "participant_id"])
    seen = len(pretrains & set(resample["participant_id"]))
    if seen:
        both = "participants also train or validate"
        fix = f"delete {layout.SPLIT} and {layout.RESAMPLES} and run again"
        raise InputError(
            file,
            "participant_id",
            f"{counted(seen, 'participant also trains or validates', both)} the pretraining",
            fix,
        )


def invalid_share(pool: pd.DataFrame, n: int, settings: Mapping[str, Any], seed: int, draws: int = 1000) -> float:
    """The share of single draws that are invalid, without redraws; 1 if the pool has one class or none.

    Parameters
    ----------
    pool : `participant_id` and `label`, from `pool_of_task` or, before any job, from `labelled`
    draws : number of simulated draws
    """
    if pool["label"].nunique() < 2:
        return 1.0
    generator = np.random.default_rng(seed)
    labels, people = pool["label"].to_numpy(), pd.factorize(pool["participant_id"])[0]
    counts = sizes(n, settings)
    options, fewest = options_of(pool, settings), settings["min_per_class"]
    invalid = [draw_rows(labels, people, counts, fewest, generator, **options) is None for _ in range(draws)]
    return float(np.mean(invalid))


def failing_share(pool: pd.DataFrame, n: int, settings: Mapping[str, Any], seed: int, draws: int = 1000) -> float:
    """The share of resamples that would fail after all their redraws.

    Draws are independent: with the share p of invalid draws, a resample fails with probability
    p ** (1 + `max_redraws`).  So it is enough to simulate single draws.
    """
    return invalid_share(pool, n, settings, seed, draws) ** (settings["max_redraws"] + 1)


def _contents_of(pool: pd.DataFrame) -> str:
    people = pool.groupby("label")["participant_id"].nunique()
    counts = f"{people.get(1, 0)} positive and {people.get(0, 0)} negative participants"
    return f"the pool holds {counted(len(pool), 'image')} of {counts}"


def check_task(
    name: str,
    pool: pd.DataFrame,
    sample_sizes: Sequence[int],
    settings: Mapping[str, Any],
    seed: int,
    draws: int = 1000,
) -> None:
    """Refuse a task whose pool has one class or none, or is too small for one of the sample sizes.

    Raises
    ------
    InputError
        with the task, the n, the contents of the pool and the fix
    """
    contents = _contents_of(pool)
    if pool["label"].nunique() < 2:
        fix = (
            "compare the task's diagnoses with the diagnosis column of its cohorts; if both classes are there, lower "
            "the cohorts' pretraining_share, because participants that pretrain are not in the pool"
        )
        raise InputError("configuration", f"tasks.{name}", f"the pool has one class or none: {contents}", fix)
    for n in sample_sizes:
        if failing_share(pool, n, settings, seed, draws) > INFEASIBLE:
            train, validation, test = sizes(n, settings)
            others = "participants" if settings.get("by") != "cohort" else "participants, the latter of other cohorts"
            what = (
                f"the pool of task {name} is too small for n = {n} ({train} training images, then {validation} "
                f"validation and {test} test images of other {others}): {contents}"
            )
            now = f"now {settings['validation_share']:g} and {settings['test_share']:g}"
            fix = (
                "choose a smaller n (the last --configfile that sets it counts), smaller validation_share and "
                f"test_share ({now}), or more cohorts; if a class is rare, larger shares, because each set needs "
                f"{settings['min_per_class']} images of each class"
            )
            raise InputError("configuration", "resampling.n", what, fix)
