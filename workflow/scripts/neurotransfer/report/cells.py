"""Counts, shares and ages of people in what can be mailed: no cell with fewer people than `report.smallest_cell`.

Goes in: counts and ages of a study.  Comes out: numbers for a table or a figure, in bins or left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

YEARS = 5  # width of a bin of ages
Grid = Mapping[str, Mapping[str, int]]  # by row and column
Place = tuple[str, str]  # row and column


def shown(count: int, people: int, smallest: int) -> int | str:
    """A count as a cell shows it: itself, or "< 5" if it is of some people, but of fewer than the smallest cell.

    >>> shown(12, 7, 5), shown(0, 0, 5), shown(12, 3, 5)
    (12, 0, '< 5')
    """
    return f"< {smallest}" if 0 < people < smallest else count


def shown_row(counts: Mapping[str, int], people: Mapping[str, int], smallest: int) -> dict[str, int | str]:
    """The cells of a row whose sum is known: never is a single one hidden, because the others would reveal it.

    >>> shown_row({"train": 40, "validation": 9, "test": 2}, {"train": 40, "validation": 9, "test": 2}, 5)
    {'train': 40, 'validation': 'hidden', 'test': '< 5'}
    """
    cells = {name: shown(counts[name], people[name], smallest) for name in counts}
    hidden = [name for name in counts if 0 < people[name] < smallest]
    if len(hidden) == 1 and (others := [name for name in counts if people[name] >= smallest]):
        cells[min(others, key=lambda name: counts[name])] = "hidden"
    return cells


def is_told(counts: Mapping[str, int], people: Mapping[str, int], smallest: int) -> bool:
    """Whether the sum of a row would tell a number of few people, although `shown_row` hides what it can.

    >>> is_told({"failed": 1, "ok": 0}, {"failed": 1, "ok": 0}, 5), is_told({"a": 3, "b": 9}, {"a": 3, "b": 9}, 5)
    (True, False)
    """
    cells = shown_row(counts, people, smallest)
    hidden = [name for name in counts if isinstance(cells[name], str)]
    return bool(hidden) and (len(hidden) == 1 or sum(people[name] for name in hidden) < smallest)


def shown_grid(
    counts: Grid, people: Grid, smallest: int, elsewhere: Mapping[str, Mapping[str, bool]] | None = None
) -> tuple[dict[str, dict[str, int | str]], set[str]]:
    """The cells of a table by row and column whose sums are known, and the rows whose sum must not be shown.

    In each row and column with a hidden cell others are hidden, too, the smallest first, until at least two are, of
    enough people together.  If a row has no other that would stay hidden, its sum has to be.

    Parameters
    ----------
    elsewhere : of cells that another table has, too, whether it hides them; they are hidden or shown as there

    >>> table = {"A": {"train": 40, "failed": 1}, "B": {"train": 30, "failed": 9}}
    >>> shown_grid(table, table, 5)
    ({'A': {'train': 'hidden', 'failed': '< 5'}, 'B': {'train': 'hidden', 'failed': 'hidden'}}, set())
    >>> shown_grid({"A": table["A"]}, {"A": table["A"]}, 5)
    ({'A': {'train': 40, 'failed': '< 5'}}, {'A'})
    """
    places = [(row, column) for row, cells in counts.items() for column in cells]
    few = {(row, column) for row, column in places if 0 < people[row][column] < smallest}
    fixed = {(row, column): there for row, mine in (elsewhere or {}).items() for column, there in mine.items()}
    hidden, changed = few | {at for at in places if fixed.get(at)}, True
    rows = [[at for at in places if at[0] == row] for row in counts]
    columns = [[at for at in places if at[1] == column] for column in dict.fromkeys(column for _, column in places)]

    def is_safe(line: list[Place]) -> bool:
        mine = [at for at in line if at in hidden]
        return not mine or (len(mine) > 1 and sum(people[row][column] for row, column in mine) >= smallest)

    while changed:
        changed = False
        for line in (*rows, *columns):
            left = [at for at in line if at not in hidden and at not in fixed and people[at[0]][at[1]]]
            others = [at for at in left if _has_company(at, places, people)]
            if not is_safe(line) and others:
                hidden.add(min(others, key=lambda at: counts[at[0]][at[1]]))
                changed = True
    words = {at: f"< {smallest}" if at in few else "hidden" for at in hidden}
    cells = {row: {name: words.get((row, name), count) for name, count in mine.items()} for row, mine in counts.items()}
    return cells, {row for row, line in zip(counts, rows, strict=True) if not is_safe(line)}


def _has_company(at: Place, places: list[Place], people: Grid) -> bool:
    """Whether another cell of its column has people; otherwise the column's sum tells it."""
    return any(row != at[0] and column == at[1] and people[row][column] for row, column in places)


def hidden_parts(people: Mapping[Any, int], smallest: int) -> set[Any]:
    """The parts of a known sum that are not shown: those of few people, and the smallest others until at least two are
    hidden, of enough people together.

    >>> sorted(hidden_parts({20: 30, 25: 9, 30: 2}, 5)), sorted(hidden_parts({20: 30, 25: 0, 30: 3, 35: 4}, 5))
    ([25, 30], [30, 35])
    """
    hidden = {part for part, count in people.items() if 0 < count < smallest}
    others = sorted((count, part) for part, count in people.items() if count >= smallest)
    while hidden and others and (len(hidden) == 1 or sum(people[part] for part in hidden) < smallest):
        hidden.add(others.pop(0)[1])
    return hidden


def hidden_roles(people: Grid, smallest: int) -> dict[str, dict[str, bool]]:
    """Whether the count of a cohort's people in a role is hidden, by cohort and role, in every table that has it.

    Certificate, report and Figure 1 have these counts.  If each hid other cells, one would show what another hides.

    >>> roles = {"A": {"train": 40, "validation": 3, "test": 9}, "B": {"train": 30, "validation": 8, "test": 0}}
    >>> {cohort: [role for role in found if found[role]] for cohort, found in hidden_roles(roles, 5).items()}
    {'A': ['train', 'validation'], 'B': ['train', 'validation']}
    """
    cells, _ = shown_grid(people, people, smallest)
    return {row: {name: isinstance(cell, str) for name, cell in mine.items()} for row, mine in cells.items()}


def sum_shown(
    count: int, roles: Collection[str], people: Mapping[str, int], hidden: Mapping[str, bool], smallest: int
) -> int | str:
    """A cohort's count in some roles together; "hidden" if a count that is hidden follows from it, or of the others.

    Parameters
    ----------
    count : of images or people in `roles`
    people, hidden : the cohort's people by role, and whether each role's number is hidden

    >>> people, hidden = {"train": 40, "validation": 3, "test": 9}, {"train": False, "validation": True, "test": True}
    >>> sum_shown(43, ["train", "validation"], people, hidden, 5), sum_shown(52, list(people), people, hidden, 5)
    ('hidden', 52)
    """
    for part in (set(roles), people.keys() - set(roles)):
        few = [people[role] for role in part if hidden[role] and people[role]]
        if few and (len(few) == 1 or sum(few) < smallest):
            return "hidden"
    return count


def sample(known: Mapping[str, Any], smallest: int) -> dict[str, Any]:
    """A set of the certificate as a page shows it: ages in bins of five years, nothing about few people.

    Parameters
    ----------
    known : `participants`, `images`, `age` (`min`, `mean`, `max`; years) and `female_share`
    """
    people, share = known["participants"], known["female_share"]
    found: dict[str, Any] = {name: shown(known[name], people, smallest) for name in ("participants", "images")}
    age, few = known["age"], people < smallest
    if few or age["mean"] is None:
        found["age"] = dict.fromkeys(("min", "mean", "max"))
    else:
        low, high = np.floor(age["min"] / YEARS) * YEARS, (np.floor(age["max"] / YEARS) + 1) * YEARS
        found["age"] = {"min": float(low), "mean": age["mean"], "max": float(high)}
    sexes = () if share is None else (share * people, (1 - share) * people)
    found["female_share"] = None if few or any(0 < round(count) < smallest for count in sexes) else share
    return found


def age_bins(ages: pd.Series, people: pd.Series, smallest: int) -> list[tuple[float, float]]:
    """Bins of five years, each joined with the next ones until it has enough people; the last joins the one before.

    Parameters
    ----------
    ages : in years, of images
    people : participant of each image
    smallest : number of people

    Returns
    -------
    start and end of each bin, in order; empty if there are too few people

    >>> age_bins(pd.Series([20.0, 21, 27, 31, 33, 44]), pd.Series(list("abcdef")), 2)
    [(20.0, 25.0), (25.0, 45.0)]
    """
    known = ages.notna()
    start = np.floor(ages[known].astype(float) / YEARS) * YEARS
    by_bin = people[known].groupby(start).agg(set).sort_index()
    bins: list[tuple[float, float]] = []
    held: set[str] = set()
    first: float | None = None
    for low, mine in by_bin.items():
        first, held = low if first is None else first, held | mine
        if len(held) >= smallest:
            bins.append((first, low + YEARS))
            first, held = None, set()
    if first is not None and bins:
        bins[-1] = (bins[-1][0], float(by_bin.index[-1]) + YEARS)
    return [(float(low), float(high)) for low, high in bins]


def age_spread(ages: pd.Series, people: pd.Series, smallest: int) -> dict[str, float] | None:
    """Where the ages of a group lie, from bins alone: `low`, `quarter`, `median`, `three_quarters`, `high`; years.

    The ends are those of the bins of `age_bins`.  Quartiles are interpolated in the counts of the bins, so they are no
    age of a person.  None if there are too few people.
    """
    bins = age_bins(ages, people, smallest)
    if not bins:
        return None
    edges = np.array([bins[0][0], *(high for _, high in bins)])
    values = ages.dropna().to_numpy(float)
    counts = [np.count_nonzero((values >= low) & (values < high)) for low, high in bins]
    shares = np.concatenate([[0.0], np.cumsum(counts) / sum(counts)])
    quarter, median, three_quarters = np.interp([0.25, 0.5, 0.75], shares, edges)
    return {
        "low": bins[0][0],
        "quarter": float(quarter),
        "median": float(median),
        "three_quarters": float(three_quarters),
        "high": bins[-1][1],
    }


def enough(table: pd.DataFrame, smallest: int) -> pd.DataFrame:
    """The rows of a table of metrics that are of enough participants; all if the table has no such column."""
    return table[table["participants"] >= smallest] if "participants" in table else table


def coarse_share(known: Sequence[bool]) -> float:
    """A share in steps of a tenth."""
    return float(np.round(np.mean(known), 1))
