"""Which counts of a study's images and people are hidden in its pages and figures, the same ones in each.

Goes in: tables of images, ledgers, files that were left out.  Comes out: names of counts.  The certificate's page is
written first, Figure 1 next, the report last.  What an earlier one shows is taken as known for the later ones.

Names of counts: ``("role", role)``, ``("usable",)``, ``("cohort", cohort, role)`` and ``("cohort", cohort, "train",
"validation")`` of the certificate, each of images and of people; of Figure 1 ``("cohort", cohort)`` (of its usable
images), ``("age", role)`` (images with an age) and ``("age", role, bin)``; of the report ``("manifest",)``,
``("found",)``, ``("found", cohort)``, ``("people", cohort)`` (who have usable images), ``("account", status, reason)``,
``("account", status, reason, cohort)``, and ``("cohort", cohort, "failed")`` or ``"left_out"``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
# a person's first image, the first of another role, and any other: the first kind counts the people of a cohort, the
# first two those of a role
FIRST, BESIDE, AGAIN = "first", "beside", "again"
Counts = Mapping[str, Mapping[str, Mapping[str, Any]]]  # `images` and `participants` by cohort and role


def hidden_in_certificate(counts: Counts, smallest: int) -> set[Name]:
    """The hidden counts of the certificate.

    Parameters
    ----------
    counts : `images` and `participants` by cohort and role

    >>> sizes = {"A": {"train": 40, "validation": 3, "test": 9}, "B": {"train": 30, "validation": 8, "test": 0}}
    >>> roles = {
    ...     cohort: {role: {"images": size, "participants": size} for role, size in mine.items()}
    ...     for cohort, mine in sizes.items()
    ... }
    >>> sorted(name for name in hidden_in_certificate(roles, 5) if name[0] == "cohort")
    [('cohort', 'A', 'train'), ('cohort', 'A', 'validation'), ('cohort', 'B', 'train'), ('cohort', 'B', 'validation')]
    """
    groups: dict[Name, list[str]] = {}
    for cohort in sorted(counts):  # the same order for every page
        for role in ROLES:
            has = counts[cohort][role]
            people = [f"{cohort} {role} {at}" for at in range(has["participants"])]
            groups[cohort, role, None, None, FIRST] = people
            more = has["images"] - len(people)  # of whom is not known here
            groups[cohort, role, None, None, AGAIN] = [people[at % len(people)] for at in range(more)]
    return _hidden(groups, _of_roles(groups), smallest)


def hidden_in_figure1(images: pd.DataFrame, smallest: int) -> set[Name]:
    """The hidden counts of the certificate and of Figure 1.

    Parameters
    ----------
    images : `participant_id`, `cohort`, `role` and `age` (years) of each usable image
    """
    earlier = hidden_in_certificate(counts_by_role(images), smallest)
    groups = _grouped(_usable(images))
    known = _of_roles(groups)
    shown = {name for name in known.keys() - earlier if not _is_cohort(name)}  # the certificate has no cohort's sum
    return _hidden(groups, known | _of_ages(groups), smallest, shown, earlier)


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
    cases = [*_usable(images), *_cases(lost, lost["status"], people)]
    groups = _grouped([*cases, *_cases(excluded, [LEFT] * len(excluded), people_of_files(excluded))])
    known = _of_roles(groups) | _of_ages(groups)
    sums = dict(known)
    sums["manifest",] = [group for group in groups if group[1] != LEFT]
    sums["found",] = list(groups)
    for cohort in dict.fromkeys(group[0] for group in groups):
        sums["found", cohort] = [group for group in groups if group[0] == cohort]
        if ("cohort", cohort) in earlier and sums["found", cohort] == sums["cohort", cohort]:
            earlier.add(("found", cohort))
        sums["people", cohort] = [group for group in groups if group[0] == cohort and group[4] == FIRST]
    for group in (group for group in groups if group[1] not in SETS):
        cohort, status, reason, *_ = group
        sums.setdefault(("account", status, reason), []).append(group)
        if status != "unused":
            sums.setdefault(("cohort", cohort, LEFT if status == LEFT else "failed"), []).append(group)
        if status not in ("unused", LEFT):
            sums.setdefault(("account", status, reason, cohort), []).append(group)
    return _hidden(groups, sums, smallest, known.keys() - earlier, earlier)


def _hidden(
    groups: Mapping[Name, Sequence[str]],
    sums: Mapping[Name, Sequence[Name]],
    smallest: int,
    shown: Collection[Name] = (),
    earlier: Collection[Name] = (),
) -> set[Name]:
    """What is hidden of sums; images and people of a cell together."""
    free = [group for group in groups if group[4] == AGAIN]
    tested = {group[0] for group in groups if group[1] == "test"}
    people = {
        name: [group for group in parts if group[4] != AGAIN]
        for name, parts in sums.items()
        # the certificate has the people who pretrain of cohorts that are in both
        if name[0] in ("role", "cohort") and not _is_cohort(name) and (len(name) < 4 or name[1] in tested)
    }
    people = {name: parts for name, parts in people.items() if parts != sums[name]}
    return hidden_sums(groups, _ordered(sums, groups), smallest, shown, earlier, free, people) | set(earlier)


def _is_cohort(name: Name) -> bool:
    return len(name) == 2 and name[0] == "cohort"


def _usable(images: pd.DataFrame) -> Iterable[tuple[Name, str]]:
    """Cohort, role, reason if unused, bin of ages and kind of each image, and its person."""
    ages = images["age"].astype(float) if "age" in images else pd.Series(np.nan, images.index)
    table = images.assign(start=np.floor(ages / YEARS) * YEARS, beside=~images["role"].isin(SETS))
    table = table.sort_values("beside", kind="stable")
    again, beside = (table.duplicated(["cohort", "participant_id", *of]).to_numpy() for of in (["role"], []))
    kinds = np.select([again, beside], [AGAIN, BESIDE], FIRST).tolist()
    return _cases(table, table["role"], table["participant_id"], table["start"], kinds)


def _cases(
    table: pd.DataFrame,
    status: Iterable[str],
    people: Iterable[str],
    bins: Iterable[float] | None = None,
    kinds: Iterable[str] | None = None,
) -> Iterable[tuple[Name, str]]:
    nothing = [None] * len(table)
    reasons = table.get("reason", nothing)
    starts = nothing if bins is None else [None if is_missing(start) else start for start in bins]
    rows = zip(table["cohort"], status, reasons, starts, kinds or nothing, people, strict=True)
    for cohort, role, reason, start, kind, person in rows:
        yield (str(cohort), role, None if role in SETS or is_missing(reason) else str(reason), start, kind), person


def counts_by_role(images: pd.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """The number of `images` and `participants` by cohort and role.

    Parameters
    ----------
    images : `participant_id`, `cohort` and `role`
    """
    counts = images.groupby(["cohort", "role"], observed=True)["participant_id"].agg(["size", "nunique"])
    found = {
        (str(cohort), role): {"images": int(size), "participants": int(people)}
        for (cohort, role), size, people in counts.itertuples(name=None)
    }
    cohorts = dict.fromkeys(str(cohort) for cohort in images["cohort"])
    nobody = {"images": 0, "participants": 0}
    return {cohort: {role: found.get((cohort, role), nobody) for role in ROLES} for cohort in cohorts}


def people_of_files(excluded: pd.DataFrame) -> pd.Series:
    """The participant of each file that the manifest leaves out; a file without a label is one."""
    labels = excluded["file"].astype(str).str.extract(r"(sub-[^/_]+)")[0].fillna(excluded["file"])
    return excluded["cohort"].astype(str) + " " + labels


def _of_roles(groups: Iterable[Name]) -> dict[Name, list[Name]]:
    """The sums that the certificate has, and those of cohorts, of groups whose names begin with cohort and role."""
    used = [group for group in groups if group[1] in ROLES]
    sums: dict[Name, list[Name]] = {}
    for role in ROLES:
        sums["role", role] = [group for group in used if group[1] == role]
    cohorts = dict.fromkeys(group[0] for group in used)
    for cohort in cohorts:
        sums["cohort", cohort] = [group for group in used if group[0] == cohort]
    sums["usable",] = used
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
