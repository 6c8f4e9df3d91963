"""How many people a network has learnt from, by cohort and age, in cells that single nobody out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

FEWEST = 5  # participants in a cell
BAND = 10  # years


class _Cell(NamedTuple):
    """Participants with ages of `low` to `high` (whole years, inclusive; None if unknown), and their images."""

    low: int | None
    high: int | None
    participants: int
    images: int


def people_by_age(images: pd.DataFrame) -> list[dict[str, Any]]:
    """Participants and images by cohort and age; every cell has at least 5 participants.

    Bands of ten years with fewer are joined with their neighbour, people without an age with the last band, and
    cohorts with fewer than 5 participants with the smallest other cohort.  Nothing is left out, so no small count can
    be found by subtraction.

    Parameters
    ----------
    images : `participant_id`, `cohort` and `age` (years)

    Returns
    -------
    `cohort`, `ages` ("20 to 39", "unknown"), `participants` and `images` of each cell; none if there are fewer than 5
    participants in all
    """
    people = images.groupby("participant_id", sort=False).agg(
        cohort=("cohort", "first"), age=("age", "min"), images=("cohort", "size")
    )
    if len(people) < FEWEST:
        return []
    rows = []
    for cohort, part in people.assign(cohort=_joined_cohorts(people["cohort"])).groupby("cohort", sort=True):
        rows += [{"cohort": cohort, **cell} for cell in _described(_joined(_bands(part)))]
    return rows


def _joined_cohorts(cohorts: pd.Series) -> pd.Series:
    """Names of cohorts of which each has enough participants; small ones share a name, as "A and B"."""
    groups = [([str(name)], int(count)) for name, count in cohorts.value_counts().sort_index().items()]
    while len(groups) > 1 and min(count for _, count in groups) < FEWEST:
        groups.sort(key=lambda group: group[1])
        (names, count), (others, more), *rest = groups
        groups = [(sorted(names + others), count + more), *rest]
    return cohorts.astype(str).map({name: " and ".join(names) for names, _ in groups for name in names})


def _bands(people: pd.DataFrame) -> list[_Cell]:
    low = people["age"].astype(float) // BAND * BAND
    cells = [
        _Cell(int(start), int(start) + BAND - 1, len(part), int(part["images"].sum()))
        for start, part in people.groupby(low, sort=True)
    ]
    unknown = people[low.isna()]
    return cells + ([_Cell(None, None, len(unknown), int(unknown["images"].sum()))] if len(unknown) else [])


def _joined(cells: list[_Cell]) -> list[tuple[_Cell, bool]]:
    """Neighbours joined until each cell has enough participants; the flag says that it has people without an age."""
    found = [(cell, cell.low is None) for cell in cells]
    while (
        len(found) > 1 and (at := next((i for i, (cell, _) in enumerate(found) if cell[2] < FEWEST), None)) is not None
    ):
        first = min(at, len(found) - 2)
        (one, unknown), (other, more) = found[first : first + 2]
        high = one.high if other.high is None else other.high
        joined = _Cell(one.low, high, one.participants + other.participants, one.images + other.images)
        found[first : first + 2] = [(joined, unknown or more)]
    return found


def _described(cells: Iterable[tuple[_Cell, bool]]) -> list[dict[str, Any]]:
    rows = []
    for cell, unknown in cells:
        ages = "unknown" if cell.low is None else f"{cell.low} to {cell.high}" + (" or unknown" if unknown else "")
        rows.append({"ages": ages, "participants": cell.participants, "images": cell.images})
    return rows
