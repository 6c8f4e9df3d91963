"""Ages as tables write them, and as days tell them.

Goes in: the text of a cell, its unit, and days of birth and of scans.  Comes out: years.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InputError, Mistakes
from .bids_tables import day_of, read_units
from .cohorts import Cohort
from .people import Cell, Person

if TYPE_CHECKING:
    from .labels import Labels

AGES = (0.0, 120.0)  # years that a living person can have [assumed]
DAYS_PER_YEAR = 365.2425  # of the Gregorian calendar
PER_YEAR = {"years": 1.0, "months": 12.0, "weeks": DAYS_PER_YEAR / 7, "days": DAYS_PER_YEAR}
# What sidecars call them, in lower case and without a trailing "s".
UNITS = {
    **dict.fromkeys(("y", "yr", "year", "a", "annum"), "years"),
    **dict.fromkeys(("mo", "mon", "month"), "months"),
    **dict.fromkeys(("w", "wk", "week"), "weeks"),
    **dict.fromkeys(("d", "day"), "days"),
}
RANGE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*(?:-|–|to)\s*(\d{1,3}(?:\.\d+)?)")
WORDED = re.compile(r"(\d+(?:[.,]\d+)?)\s*([A-Za-z]+(?:\(s\))?\.?)")
CAPPED = re.compile(r"(?:(?:>=?|≥)\s*)?(?P<number>[^\s>≥+]+?)\s*(?:\+)?")


def unit_named(text: str) -> str | None:
    """The unit that a sidecar means by words such as "years", "Year", "yrs" or "month(s)"; None for anything else."""
    word = text.strip().lower().replace("(s)", "").rstrip(".")
    return UNITS.get(word) or UNITS.get(word.removesuffix("s"))


def uncapped(text: str) -> str:
    """The number of an age with an upper bound, as BIDS writes those of 89 and more ("89+"), or ``> 89``."""
    found = CAPPED.fullmatch(text)
    return found["number"] if found else text


class WrittenAge(NamedTuple):
    """An age in years, and how its cell writes it: "range" or "worded"."""

    value: float
    how: str


def written_years(text: str) -> WrittenAge | None:
    """The age of a cell that holds a range of years, or a number with its unit; None for anything else.

    Examples
    --------
    >>> written_years("35-40"), written_years("031Y").value, written_years("18 months").value, written_years("89+")
    (WrittenAge(value=37.5, how='range'), 31.0, 1.5, None)
    """
    if found := RANGE.fullmatch(text):
        low, high = (float(part) for part in found.groups())
        return WrittenAge((low + high) / 2, "range") if AGES[0] <= low < high <= AGES[1] else None
    if (found := WORDED.fullmatch(text)) and (unit := unit_named(found[2])):
        years = float(found[1].replace(",", ".")) / PER_YEAR[unit]
        return WrittenAge(years, "worded") if AGES[0] <= years <= AGES[1] else None
    return None


def birth_day(text: str) -> date | None:
    """A day of birth: a date, or the middle of a month (1950-06) or of a year (1950); None if it is neither."""
    if re.fullmatch(r"\d{4}", text):
        return day_of(f"{text}-07-02")
    return day_of(f"{text}-15") if re.fullmatch(r"\d{4}-\d\d", text) else day_of(text)


def years_between(earlier: date, later: date) -> float:
    """Years from one day to another."""
    return (later - earlier).days / DAYS_PER_YEAR


class AgeUnits:
    """Units of a cohort's ages: by cohorts.tsv, or by the sidecar of each table.

    `notes` and `mistakes` get a sentence for each unit that is not years, and for each that is not known.
    """

    def __init__(self, cohort: Cohort, notes: list[str], mistakes: Mistakes) -> None:
        self.cohort, self.notes, self.mistakes = cohort, notes, mistakes
        self._units: dict[tuple[str, str], float] = {}

    def per_year(self, cell: Cell) -> float:
        """How many of the age's units make a year: by cohorts.tsv, or by the sidecar of its table."""
        if self.cohort.age_unit:
            return PER_YEAR[self.cohort.age_unit]
        key = (cell.table.family, cell.column)
        if key not in self._units:
            self._units[key] = PER_YEAR[self._unit_of_sidecar(cell)]
        return self._units[key]

    def _unit_of_sidecar(self, cell: Cell) -> str:
        name = {"participants": "participants.json", "sessions": "sessions.json"}.get(cell.table.family)
        files = [name or str(Path(cell.table.family).with_suffix(".json"))]
        if cell.table.family == "sessions":  # one cohort writes its ages in one way
            files.append("participants.json")
        for path in (self.cohort.path / file for file in files):
            try:
                text = read_units(path, cell.column)
            except InputError as error:
                self.mistakes.add(error)
                continue
            if text is None:
                continue
            unit = unit_named(text)
            if unit is None:
                what = f"{text!r} is no unit of an age that is known ({', '.join(sorted(UNITS))})"
                fix = f"correct it, or give age_unit of {self.cohort.name} in the cohort table"
                self.mistakes.add(InputError(path, f"{cell.column}, Units", what, fix))
                return "years"
            if unit != "years":
                self.notes.append(f"{self.cohort.name}: ages of {cell.table.family} are in {unit}, by {path.name}")
            return unit
        return "years"


def ages_of(person: Person, labels: Labels) -> list[float | None]:
    """The age at each scan; docs/bids.md says what comes before what.

    If a person with several sessions has ages in sessions.tsv, a session without one there and without a day has no
    age: the age in participants.tsv could be that of another session.
    """
    own = [
        labels.value("age", visit.cells["age"]) if "age" in visit.cells and visit.cells["age"].own else None
        for visit in person.visits
    ]
    dated = [(visit.day, age) for visit, age in zip(person.visits, own, strict=True) if visit.day and age is not None]
    ages: list[float | None] = []
    for visit, age in zip(person.visits, own, strict=True):
        cell = visit.cells.get("age")
        if age is None and "birth_date" in visit.cells and visit.day:
            age = _age_by_birth(visit.cells["birth_date"], visit.day, labels)
        elif age is None and visit.day and dated:
            day, known = min(dated)
            age = known + years_between(day, visit.day)
            labels.count("by_days")
        elif age is None and cell is not None and not cell.own and not (person.several and person.aged):
            age = labels.value("age", cell)
            if age is not None and person.several:
                if visit.day and person.first:
                    age += years_between(person.first, visit.day)
                    labels.count("by_days")
                else:
                    labels.count("shared")
        low, high = AGES
        if age is not None and not low <= age <= high:
            what = f"by the days of its scans sub-{cell.key if cell else '?'} would be {age:.0f} years old"
            fix = "correct the days, or put the age of each session into sub-*/sub-*_sessions.tsv"
            labels.mistakes.add(InputError(labels.cohort.path, "scans.tsv", what, fix), str(labels.cohort.path), "days")
            age = None
        ages.append(age)
    return ages


def _age_by_birth(cell: Cell, day: date, labels: Labels) -> float | None:
    born = birth_day(cell.text)
    if born is None:
        return labels.complain(cell, f"{cell.text!r} is no date", "write it as 1950-06-15, or n/a")
    age = years_between(born, day)
    low, high = AGES
    if not low <= age <= high:
        what = f"{cell.text} and a scan on {day} make an age of {age:.0f} years"
        fix = "shift both by the same days, or leave birth_date out of the cohort table"
        return labels.complain(cell, what, fix)
    labels.count("by_birth")
    return age
