"""Counts, shares and ages of people in what can be mailed: no cell with fewer people than `report.smallest_cell`.

Goes in: counts and ages of a study.  Comes out: numbers for a table or a figure, in bins or left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .disclosure import hidden_sums

YEARS = 5  # width of a bin of ages
Grid = Mapping[str, Mapping[str, int]]  # by row and column


def shown(count: int, people: int, smallest: int) -> int | str:
    """A count as a cell shows it: itself, or "< 5" if it is of some people, but of fewer than the smallest cell.

    >>> shown(12, 7, 5), shown(0, 0, 5), shown(12, 3, 5)
    (12, 0, '< 5')
    """
    return f"< {smallest}" if 0 < people < smallest else count


def cell(count: int, people: int, smallest: int, is_hidden: bool) -> int | str:
    """A count as a cell shows it, or "hidden" if another one, of few people, would follow from it.

    >>> cell(12, 7, 5, False), cell(12, 7, 5, True), cell(3, 3, 5, True)
    (12, 'hidden', '< 5')
    """
    return "hidden" if is_hidden and people >= smallest else shown(count, people, smallest)


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


def shown_grid(counts: Grid, people: Grid, smallest: int) -> tuple[dict[str, dict[str, int | str]], set[str]]:
    """The cells of a table by row and column whose sums are known, and the rows whose sum must not be shown.

    >>> table = {"A": {"train": 40, "failed": 1}, "B": {"train": 30, "failed": 9}}
    >>> shown_grid(table, table, 5)
    ({'A': {'train': 'hidden', 'failed': '< 5'}, 'B': {'train': 'hidden', 'failed': 'hidden'}}, set())
    >>> shown_grid({"A": table["A"]}, {"A": table["A"]}, 5)
    ({'A': {'train': 40, 'failed': '< 5'}}, {'A'})
    """
    groups = {
        (row, column): [f"{row} {column} {at}" for at in range(count)]
        for row, mine in people.items()
        for column, count in mine.items()
    }
    columns = dict.fromkeys(column for _, column in groups)
    sums = {("column", column): [at for at in groups if at[1] == column] for column in columns}
    sums |= {("row", row): [(row, column) for column in mine] for row, mine in people.items()}
    cells = sorted(groups, key=lambda at: -counts[at[0]][at[1]])
    hidden = hidden_sums(groups, sums | {at: [at] for at in cells}, smallest)
    shown_cells = {
        row: {name: cell(count, people[row][name], smallest, (row, name) in hidden) for name, count in mine.items()}
        for row, mine in counts.items()
    }
    return shown_cells, {row for row in counts if ("row", row) in hidden}


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


def sample(known: Mapping[str, Any], smallest: int, is_hidden: bool = False) -> dict[str, Any]:
    """A set of the certificate as a page shows it: ages in bins of five years, nothing about few people.

    Parameters
    ----------
    is_hidden : whether its number of people is not shown, because another would follow
    known : `participants`, `images`, `age` (`min`, `mean`, `max`; years) and `female_share`
    """
    people, share = known["participants"], known["female_share"]
    found: dict[str, Any] = {
        name: cell(known[name], people, smallest, is_hidden) for name in ("participants", "images")
    }
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


def share_text(share: float, count: int, smallest: int) -> str | None:
    """A share of images as a bound, if those that have, or lack, what is counted are few; else None.

    >>> share_text(0.9, 30, 5), share_text(0.1, 30, 5), share_text(0.5, 30, 5), share_text(1.0, 30, 5)
    ('> 0.833', '< 0.167', None, None)
    """
    having = round(share * count)
    if 0 < having < smallest:
        return f"< {min(1, smallest / count):.3f}"
    return f"> {max(0, 1 - smallest / count):.3f}" if 0 < count - having < smallest else None


def coarse_share(known: Sequence[bool]) -> float:
    """A share in steps of a tenth."""
    return float(np.round(np.mean(known), 1))
