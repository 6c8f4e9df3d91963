"""People with several participant ids, in one cohort or in several: who they are, and what depends on them.

Goes in: the table that `neurotransfer manifest` writes from config/same_people.tsv.  Comes out: one name for each
person, what a person may be in the split, and digests by which Snakemake repeats a split or a task's resamples.
Standard library only, because the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import read_dicts
from . import layout

if TYPE_CHECKING:
    import pandas as pd

DRAWN = "drawn"  # all names are of one cohort: drawn as any participant
TRAINS = "trains"  # of cohorts that only pretrain: trains in each, validates in none
TESTS = "tests"  # of several cohorts, one of which has another role: pretrains in none
PARTS = (DRAWN, TRAINS, TESTS)
COLUMNS = ("participant_id", "same_as", "in_split")
AGAIN = "run neurotransfer manifest"


@dataclass(frozen=True)
class People:
    """People with several names: `groups` are the sorted names of each, `parts` what each may be in the split."""

    groups: tuple[tuple[str, ...], ...] = ()
    parts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def _group_of(self) -> dict[str, int]:
        return {name: number for number, group in enumerate(self.groups) for name in group}

    def first(self, name: str) -> str:
        """The one name of a participant's person: the first of all in the alphabet.

        >>> People((("A_01", "B_07"),), (TESTS,)).first("B_07")
        'A_01'
        """
        return self.groups[self._group_of[name]][0] if name in self._group_of else name

    def names(self, participants: Iterable[str]) -> set[str]:
        """All names of some participants' people."""
        found = set(participants)
        return found.union(*(self.groups[self._group_of[name]] for name in found & self._group_of.keys()))

    def part(self, part: str) -> set[str]:
        """The first names of the people with this part in the split."""
        return {group[0] for group, has in zip(self.groups, self.parts, strict=True) if has == part}

    def named(self, table: pd.DataFrame, *columns: str) -> pd.DataFrame:
        """A table with the first name of each person in `participant_id`, or in the named columns."""
        if not self.groups:
            return table
        return table.assign(**{name: table[name].map(self.first) for name in columns or ("participant_id",)})

    def among(self, cohorts: Iterable[str], least: int = 2) -> People:
        """The people with at least so many names in some cohorts, and only these names."""
        chosen = set(cohorts)
        kept = []
        for group, part in zip(self.groups, self.parts, strict=True):
            names = tuple(name for name in group if cohort_of(name) in chosen)
            if len(names) >= least:
                kept.append((names, part))
        return People(tuple(names for names, _ in kept), tuple(part for _, part in kept))

    def for_split(self, cohort: str) -> People:
        """What the split of one cohort depends on: also people with one name in it whose part another one decides."""
        return self.among([cohort], least=1)

    @property
    def digest(self) -> str | None:
        """A name for these people, their names and parts, without a name in it; None if there are none.

        It is among parameters of jobs, which Snakemake keeps.
        """
        if not self.groups:
            return None
        rows = sorted("\t".join((part, *group)) for group, part in zip(self.groups, self.parts, strict=True))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:32]


NOBODY = People()


def cohort_of(participant: str) -> str:
    """The cohort of a participant, whose name begins with it."""
    return participant.partition("_")[0]


def joined(groups: Iterable[Collection[str]]) -> list[tuple[str, ...]]:
    """Groups of names, with those joined that share one.

    >>> joined([["A_01", "B_07"], ["C_02", "C_03"], ["B_07", "C_09"]])
    [('A_01', 'B_07', 'C_09'), ('C_02', 'C_03')]
    """
    found: list[set[str]] = []
    for group in groups:
        one = set(group)
        for other in [known for known in found if known & one]:
            one |= other
            found.remove(other)
        found.append(one)
    return sorted(tuple(sorted(one)) for one in found)


def people_of(groups: Iterable[Collection[str]], roles: Mapping[str, Collection[str]]) -> People:
    """The people of some groups of names; a group of fewer than two names is nobody.

    Parameters
    ----------
    groups : from `joined`
    roles : of each cohort
    """
    chosen = [tuple(sorted(group)) for group in groups if len(group) > 1]
    return People(tuple(chosen), tuple(_part_of({cohort_of(name) for name in group}, roles) for group in chosen))


def _part_of(cohorts: Collection[str], roles: Mapping[str, Collection[str]]) -> str:
    if len(cohorts) == 1:
        return DRAWN
    return TRAINS if all(set(roles.get(cohort, ())) == {"pretraining"} for cohort in cohorts) else TESTS


def rows_of(people: People) -> Iterator[tuple[str, str, str]]:
    """The rows of the manifest's table, with COLUMNS."""
    for group, part in zip(people.groups, people.parts, strict=True):
        for name in group:
            yield name, group[0], part


def read_people(path: str | Path = layout.SAME_PEOPLE) -> People:
    """The people of the manifest's table; none if there is no such file.

    Raises
    ------
    InputError
        if it is not the manifest's table
    """
    if not Path(path).is_file():
        return People()
    groups: dict[str, list[str]] = {}
    parts: dict[str, str] = {}
    for row in read_dicts(path, *COLUMNS):
        name, person, part = (row[column] for column in COLUMNS)
        if part not in PARTS or parts.setdefault(person, part) != part:
            raise InputError(path, "in_split", "it is no manifest's table of people with several names", AGAIN)
        groups.setdefault(person, []).append(name)
    return People(tuple(tuple(names) for names in groups.values()), tuple(parts.values()))
