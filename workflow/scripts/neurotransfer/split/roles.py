"""The split: which images train or validate the pretraining, and which stay unseen for the tasks.

Goes in: a cohort's index and its roles.  Comes out: a role per image.  The unit is the participant: the used images
of a participant have one role.  certificate.py proves the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..seeds import seed_from
from ..study import layout
from ..study.same_people import NOBODY, TESTS, TRAINS, People
from ..study.targets import TARGETS

SETS = ("train", "validation", "test")
ROLES = (*SETS, "unused")
COLUMNS = ["image_id", "participant_id", "cohort", "role", "reason"]
ABOUT = [*TARGETS, "diagnosis"]


def split_cohort(
    index: pd.DataFrame,
    roles: Collection[str],
    pretraining_share: float,
    settings: Mapping[str, Any],
    seed: int,
    people: People = NOBODY,
) -> pd.DataFrame:
    """The role of each image of one cohort; it does not depend on other cohorts.

    - A cohort without the role ``pretraining``: all images are test.
    - A cohort with this role only: healthy participants train or validate, the others are unused.
    - A cohort with this role and another one (ADNI in Leonardsen et al., 2025): `pretraining_share` of its healthy
      participants train or validate, all others are test.

    A validation participant is represented by one image [paper], drawn at random; the others are unused.
    Participants are drawn within strata of age band and sex by a hash of seed and name.  So the order of rows has
    no effect, and one more participant changes the roles of few others.

    A person with several names in the cohort is one participant.  One with names in several cohorts never pretrains
    if one of these has another role than pretraining, and else trains and never validates, because no cohort's split
    depends on another's images.

    Parameters
    ----------
    index : `image_id`, `participant_id`, `cohort`, `age` (years), `sex` and `diagnosis` of one cohort's images
    roles : the cohort's roles
    pretraining_share : share of the healthy participants that pretrain if the cohort has another role, too
    settings : `validation_share` (of pretraining participants), `healthy` (diagnoses; a missing diagnosis counts as
        healthy; every session must be healthy), `age_band` (years)
    seed : the study's seed
    people : who has several names, of the whole study

    Returns
    -------
    `image_id`, `participant_id`, `cohort`, `role` (train, validation, test, unused) and `reason` (of unused ones)
    """
    table = index[["image_id", "participant_id", "cohort"]].copy()
    table["role"], table["reason"] = "test", None
    if "pretraining" not in roles or table.empty:
        return table[COLUMNS]
    people = people.for_split(index["cohort"].iloc[0])
    index = people.named(index)
    everyone = _participants(index, settings["healthy"], settings["age_band"])
    tests, trains = people.part(TESTS), people.part(TRAINS)
    able = everyone[everyone["healthy"] & ~everyone.index.isin(tests)]
    pretrains = set(able.index)
    if set(roles) != {"pretraining"}:
        pretrains = _draw(able, pretraining_share, seed, "pretraining")
    drawn = everyone.index.isin(pretrains - trains)
    validates = _draw(everyone[drawn], settings["validation_share"], seed, "validation")
    person = index["participant_id"]
    table.loc[person.isin(pretrains - validates), "role"] = "train"
    table.loc[person.isin(validates), "role"] = "validation"
    if set(roles) == {"pretraining"}:
        sick = ~person.isin(pretrains)
        table.loc[sick, "role"], table.loc[sick, "reason"] = "unused", "not_healthy"
        table.loc[person.isin(tests), "reason"] = "tests_under_another_name"
    order = table["image_id"].map(lambda image: seed_from(seed, "split", "validation image", image))
    kept = order[table["role"] == "validation"].groupby(person).idxmin()
    further = (table["role"] == "validation") & ~table.index.isin(kept)
    table.loc[further, "role"], table.loc[further, "reason"] = "unused", "validation_takes_one_image"
    return table[COLUMNS]


def _participants(index: pd.DataFrame, healthy: Collection[str], age_band: float) -> pd.DataFrame:
    """One row per participant, sorted by name: `healthy`, and the `stratum` of age band (at the first scan) and sex."""
    well = index["diagnosis"].isna() | index["diagnosis"].isin(list(healthy))
    by_person = index.assign(well=well).groupby("participant_id", sort=True)
    people = by_person.agg(healthy=("well", "all"), age=("age", "min"), sex=("sex", "first"))
    band = np.floor(people["age"].astype(float) / age_band)
    # unknown ages and unknown sexes form strata of their own
    people["stratum"] = [f"{age} {sex}" for age, sex in zip(band, people["sex"].astype(float), strict=True)]
    return people


def _draw(people: pd.DataFrame, share: float, seed: int, purpose: str) -> set[str]:
    """Draw `share` of the participants, rounded, and the same share of each stratum within one participant.

    Each stratum gives the integer part of its quota; the rest is taken from the strata with the largest remainders.
    Within a stratum, the participants with the lowest hashes are drawn.
    """
    strata = people.groupby("stratum", sort=True).groups
    # rounded, because for example 0.29 * 100 = 28.999999999999996 must count as 29
    quota = {name: round(len(members) * share, 9) for name, members in strata.items()}
    take = {name: int(quota[name]) for name in strata}
    left = round(len(people) * share) - sum(take.values())
    by_remainder = sorted(strata, key=lambda name: (take[name] - quota[name], seed_from(seed, purpose, name)))
    for name in by_remainder[: max(left, 0)]:
        take[name] += 1
    drawn: set[str] = set()
    for name, members in strata.items():
        ranked = sorted(members, key=lambda person: seed_from(seed, "split", purpose, person))
        drawn.update(ranked[: take[name]])
    return drawn


def join_splits(splits: Sequence[pd.DataFrame], indices: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All cohorts' roles in one table, with the targets and the diagnosis of each image.

    Parameters
    ----------
    splits : from `split_cohort`, one table per cohort
    indices : the cohorts' indices, in the same order

    Raises
    ------
    InputError
        if a split and its index list different images
    """
    joined = []
    for split, index in zip(splits, indices, strict=True):
        same = len(split) == len(index) and split["image_id"].tolist() == index["image_id"].tolist()
        if not same or split["participant_id"].tolist() != index["participant_id"].tolist():
            cohort = next(iter([*split["cohort"], *index["cohort"]]), "")
            what = "its images are not those of the cohort's index"
            raise InputError(layout.cohort_split(cohort), "", what, "delete it and run again")
        joined.append(pd.concat([split[COLUMNS], index[ABOUT].set_axis(split.index)], axis=1))
    return pd.concat(joined, ignore_index=True)
