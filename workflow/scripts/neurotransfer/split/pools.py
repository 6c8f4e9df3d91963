"""Check that a manifest has enough images for pretraining and for each task's resamples.

Goes in: the manifest's images, before any is preprocessed.  Comes out: one line for each set or pool that is too small,
and for each task whose label is known from the site; and what a person should see of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import InputError, Mistakes
from ..manifest.cohorts import Cohort
from ..seeds import seed_from
from ..study.same_people import NOBODY, People
from .confounding import check_confounding, confounding_of, in_words
from .resampling import INFEASIBLE, check_task, failing_share, labelled
from .roles import split_cohort


def check_pools(
    config: Mapping[str, Any],
    images: pd.DataFrame,
    cohorts: Sequence[Cohort],
    mistakes: Mistakes,
    people: People = NOBODY,
) -> list[str]:
    """Check that pretraining has both its sets, and that each task's pool allows its resamples and is no site's label.

    The check is optimistic, because the images that preprocessing will fail on are not known yet.

    Parameters
    ----------
    images : of the manifest, with `scanner` if any is known
    people : who has several names

    Returns
    -------
    lines about each task's labels by site
    """
    parts, lines = [], []
    for cohort in cohorts:
        index = images[images["cohort"] == cohort.name]
        drawing = (cohort.roles, cohort.pretraining_share, config["split"], config["seed"], people)
        split = split_cohort(index, *drawing)
        parts.append(split["role"])
    role = pd.concat(parts)
    if not config["pretrain"]["weights"]:
        for name in ("train", "validation"):
            if not (role == name).any():
                what = f"no healthy participant of the pretraining cohorts is left for {name}"
                fix = "add participants or cohorts, or change split.validation_share or split.healthy"
                mistakes.add(InputError(config["cohorts"], "roles", what, fix))
    for name, task in config["tasks"].items():
        if task is None:
            continue
        has = [cohort.name for cohort in cohorts if name in cohort.roles]
        among = images[images["cohort"].isin(has)]
        if wrong := _unknown_words(name, task, among):
            mistakes.add(wrong)
            continue
        unseen = among[role.reindex(among.index) == "test"]
        pool = labelled(people.among(has).named(unseen), task, config["manifest"]["converters"])
        try:
            settings = config["resampling"]
            check_task(name, pool, settings["n"], settings, seed_from(config["seed"], "check", name))
        except InputError as error:
            mistakes.add(error)
            continue
        found = confounding_of(pool)
        for wrong in check_confounding(name, found, config["confounding"]):
            mistakes.add(wrong)
        lines += in_words(name, found, config["confounding"])
    return lines


def _unknown_words(name: str, task: Mapping[str, Any], images: pd.DataFrame) -> InputError | None:
    """The mistake that nobody has one of a task's diagnoses, such as one in another spelling; None if somebody has.

    Parameters
    ----------
    images : all of the task's cohorts, those that pretrain included
    """
    known = images["diagnosis"].value_counts()
    for side in ("positive", "negative"):
        if known.empty or set(task[side]) & set(known.index):
            continue
        what = f"no image of its cohorts has the diagnosis {' or '.join(map(repr, task[side]))}"
        there = ", ".join(f"{word} {count:,}" for word, count in known.head(8).items())
        return InputError("configuration", f"tasks.{name}.{side}", what, f"there are: {there}")
    return None


def feasible_sizes(
    positive: int, negative: int, sample_sizes: Sequence[int], settings: Mapping[str, Any], seed: int
) -> list[int]:
    """The sample sizes whose resamples can be drawn of so many people of one cohort with one image each.

    None can if `settings` leave whole cohorts to the test set.

    Parameters
    ----------
    positive, negative : numbers of people with either label
    settings : the configuration's `resampling`
    """
    people = pd.DataFrame({"participant_id": range(positive + negative), "label": [1] * positive + [0] * negative})
    pool = people.assign(cohort="one")
    return [n for n in sample_sizes if failing_share(pool, n, settings, seed) <= INFEASIBLE]
