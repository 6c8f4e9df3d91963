"""Which counts of a study's images and people are hidden in its pages and figures, the same ones in each.

Goes in: tables of images, ledgers, files that were left out.  Comes out: names of counts.  The certificate's page is
written first, Figure 1 next, the report last.  What an earlier one shows is taken as known for the later ones.

Names of counts: ``("role", role)``, ``("cohort", cohort)`` (of its usable images), ``("cohort", cohort, role)`` and
``("cohort", cohort, "train", "validation")``; of Figure 1 ``("age", role)`` (images with an age) and
``("age", role, bin)``; of the report ``("usable",)``, ``("manifest",)``, ``("found",)``, ``("found", cohort)``,
``("account", status, reason)``, ``("account", status, reason, cohort)``, and ``("cohort", cohort, "failed")`` or
``"left_out"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..manifest.withdrawal import participant_of
from ..split.roles import ROLES, SETS
from ..text import is_missing
from .disclosure import hidden_sums

Name = tuple[Any, ...]
SIDES = (("train", "validation"), ("test",))  # what pretrains, and what does not
YEARS = 5  # width of a bin of ages
LEFT = "left_out"  # the status of a file that is not in the manifest


def hidden_in_certificate(people: Mapping[str, Mapping[str, int]], smallest: int) -> set[Name]:
    """The hidden counts of the certificate.

    Parameters
    ----------
    people : number by cohort and role

    >>> roles = {"A": {"train": 40, "validation": 3, "test": 9}, "B": {"train": 30, "validation": 8, "test": 0}}
    >>> sorted(hidden_in_certificate(roles, 5))
    [('cohort', 'A', 'train'), ('cohort', 'A', 'validation'), ('cohort', 'B', 'train'), ('cohort', 'B', 'validation')]
    """
    groups = {
        (cohort, role): [f"{cohort} {role} {at}" for at in range(count)]
        for cohort, mine in people.items()
        for role, count in mine.items()
    }
    return hidden_sums(groups, _ordered(_of_roles(groups), groups), smallest)


def hidden_in_figure1(images: pd.DataFrame, smallest: int) -> set[Name]:
    """The hidden counts of the certificate and of Figure 1.

    Parameters
    ----------
    images : `participant_id`, `cohort`, `role` and `age` (years) of each usable image
    """
    earlier = hidden_in_certificate(people_by_role(images), smallest)
    groups = _grouped(_usable(images))
    known = _of_roles(groups)
    return earlier | hidden_sums(
        groups, _ordered(known | _of_ages(groups), groups), smallest, known.keys() - earlier, earlier
    )


def hidden_in_report(images: pd.DataFrame, ledger: pd.DataFrame, excluded: pd.DataFrame, smallest: int) -> set[Name]:
    """The hidden counts of the certificate, of Figure 1, and of the report's tables of images.

    Parameters
    ----------
    images : `image_id`, `participant_id`, `cohort`, `role` and, if known, `reason` and `age` of each usable image
    ledger : `image_id`, `cohort`, `status` and `reason` of each image of the manifest
    excluded : `cohort`, `file` and `reason` of what is not in the manifest
    """
    earlier = hidden_in_figure1(images, smallest)
    lost = ledger[ledger["status"] != "ok"]
    people = lost["image_id"].map(participant_of)
    cases = [*_cases(images, images["role"], images["participant_id"]), *_cases(lost, lost["status"], people)]
    groups = _grouped([*cases, *_cases(excluded, [LEFT] * len(excluded), people_of_files(excluded))])
    known = _of_roles(groups)
    sums: dict[Name, list[Name]] = {("usable",): [group for group in groups if group[1] in ROLES]} | known
    sums["manifest",] = [group for group in groups if group[1] != LEFT]
    sums["found",] = list(groups)
    for cohort in dict.fromkeys(group[0] for group in groups):
        sums["found", cohort] = [group for group in groups if group[0] == cohort]
    for group in (group for group in groups if group[1] not in SETS):
        cohort, status, reason, _ = group
        sums.setdefault(("account", status, reason), []).append(group)
        if status != "unused":
            sums.setdefault(("cohort", cohort, LEFT if status == LEFT else "failed"), []).append(group)
        if status not in ("unused", LEFT):
            sums.setdefault(("account", status, reason, cohort), []).append(group)
    return earlier | hidden_sums(groups, _ordered(sums, groups), smallest, known.keys() - earlier, earlier)


def _usable(images: pd.DataFrame) -> Iterable[tuple[Name, str]]:
    """Cohort, role, reason if unused, and bin of ages of each image, and its person."""
    ages = images["age"].astype(float) if "age" in images else pd.Series(np.nan, images.index)
    return _cases(images, images["role"], images["participant_id"], np.floor(ages / YEARS) * YEARS)


def _cases(
    table: pd.DataFrame, status: Iterable[str], people: Iterable[str], bins: Iterable[float] | None = None
) -> Iterable[tuple[Name, str]]:
    reasons = table["reason"] if "reason" in table else [None] * len(table)
    starts = [None] * len(table) if bins is None else [None if is_missing(start) else start for start in bins]
    for cohort, kind, reason, start, person in zip(table["cohort"], status, reasons, starts, people, strict=True):
        yield (str(cohort), kind, None if kind in SETS or is_missing(reason) else str(reason), start), person


def people_by_role(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The number of people by cohort and role.

    Parameters
    ----------
    images : `participant_id`, `cohort` and `role`
    """
    counts = images.groupby(["cohort", "role"], observed=True)["participant_id"].nunique()
    cohorts = dict.fromkeys(str(cohort) for cohort in images["cohort"])
    found = {(str(cohort), role): int(count) for (cohort, role), count in counts.items()}
    return {cohort: {role: found.get((cohort, role), 0) for role in ROLES} for cohort in cohorts}


def people_of_files(excluded: pd.DataFrame) -> pd.Series:
    """The participant of each file that the manifest leaves out; a file without a label is one."""
    labels = excluded["file"].astype(str).str.extract(r"(sub-[^/_]+)")[0].fillna(excluded["file"])
    return excluded["cohort"].astype(str) + " " + labels


def _of_roles(groups: Iterable[Name]) -> dict[Name, list[Name]]:
    """The sums that the certificate has, of groups whose names begin with cohort and role."""
    used = [group for group in groups if group[1] in ROLES]
    sums: dict[Name, list[Name]] = {}
    for role in ROLES:
        sums["role", role] = [group for group in used if group[1] == role]
    cohorts = dict.fromkeys(group[0] for group in used)
    for cohort in cohorts:
        sums["cohort", cohort] = [group for group in used if group[0] == cohort]
    for cohort in cohorts:
        for roles in (*((role,) for role in ROLES), SIDES[0]):
            sums["cohort", cohort, *roles] = [group for group in used if group[0] == cohort and group[1] in roles]
    return sums


def _of_ages(groups: Iterable[Name]) -> dict[Name, list[Name]]:
    """The sums that Figure 1 has besides those of the certificate: images with an age, and of each bin, by role."""
    aged = [group for group in groups if group[1] in ROLES and group[3] is not None]
    sums: dict[Name, list[Name]] = {}
    for group in aged:
        sums.setdefault(("age", group[1]), []).append(group)
        sums.setdefault(("age", group[1], group[3]), []).append(group)
    return sums


def _ordered(sums: Mapping[Name, Sequence[Name]], groups: Any) -> dict[Name, Sequence[Name]]:
    """Sums of more groups first, and the larger ones of cells."""
    sizes = {name: sum(len(groups[part]) for part in parts) for name, parts in sums.items()}
    is_cell = {name: len(name) > 2 for name in sums}
    return dict(sorted(sums.items(), key=lambda one: (is_cell[one[0]], -sizes[one[0]] if is_cell[one[0]] else 0)))


def _grouped(cases: Iterable[tuple[Name, str]]) -> dict[Name, list[str]]:
    groups: dict[Name, list[str]] = {}
    for group, person in cases:
        groups.setdefault(group, []).append(person)
    return groups
