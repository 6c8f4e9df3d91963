"""What is known about a person at a scan: a cohort's own tables -> the six targets and the diagnosis.

Goes in: rows of participants.tsv and sessions.tsv, and the cohort's mapping.  Comes out: numbers in the
study's units (years; 0 female, 1 male; 0 right, 1 left; kg/m²), and None where something is missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import NamedTuple

from .bids import MISSING, Table, key_of
from .cohorts import FIELDS, Cohort
from .errors import InputError, Mistakes

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# What a living person can have; a value beyond is a slip or another unit.  [assumed]
LIMITS = {
    "age": (0.0, 120.0, "years"),
    "bmi": (5.0, 150.0, "kg/m²"),
    "height": (0.3, 2.6, "m"),
    "weight": (1.0, 500.0, "kg"),
}
CODED = ("sex", "handedness")
NO_DIAGNOSIS = {"na", "n/a", "nan", "none", "null", "nil", "-", "--", "?", "."}  # missing, misspelt


class Cell(NamedTuple):
    """A value with the place where it stands."""

    text: str
    table: Table
    line: int
    key: str
    column: str


class Labels:
    """Reads the labels of one cohort's images; what cannot be right is collected in `mistakes`.

    Parameters
    ----------
    cohort : the mapping
    participants : participants.tsv
    words : diagnoses that need no code, because a task or split.healthy names them
    mistakes : gets a line for each value that makes no sense
    """

    def __init__(self, cohort: Cohort, participants: Table, words: Collection[str], mistakes: Mistakes) -> None:
        self.cohort, self.participants, self.words, self.mistakes = cohort, participants, words, mistakes
        self._positions: dict[tuple[str, ...], dict[str, int]] = {}
        self._found: set[str] = set()
        self._columns_of(participants)

    def at(
        self, label: str, sessions: Table | None, session: str, several: bool
    ) -> tuple[dict[str, float | int | str | None], bool]:
        """The labels of one scan, by field, and whether its age is one that several sessions share.

        A value of the session comes before the participant's.  A person with several sessions, whose
        sessions.tsv knows ages, has no age in a session that it leaves open: the participant's would be another's.
        """
        here = self.cells(label, sessions, session)
        aged = sessions is not None and "age" in self._columns_of(sessions)
        if several and aged and "age" in here and here["age"].table is self.participants:
            del here["age"]
        values = {field: self._value(field, here.get(field)) for field in FIELDS}
        if values["bmi"] is None and "bmi" not in self._found and {"height", "weight"} <= here.keys():
            height, weight = self._value("height", here["height"]), self._value("weight", here["weight"])
            values["bmi"] = weight / height**2 if height and weight else None
        shared = several and "age" in here and here["age"].table is self.participants
        return values, shared

    def cells(self, label: str, sessions: Table | None, session: str) -> dict[str, Cell]:
        """The cells that hold something about this person at this session, by field."""
        found = {}
        key = key_of(label, "sub-")
        rows = [(self.participants, key, self.participants.rows.get(key))]
        if sessions is not None:
            at = key_of(session, "ses-")
            rows.append((sessions, f"{key}, session {at}", sessions.rows.get(at)))
        for table, name, row in rows:
            if row is None:
                continue
            line, cells = row
            for field, position in self._columns_of(table).items():
                if cells[position] not in MISSING:
                    found[field] = Cell(cells[position], table, line, name, table.columns[position])
        return found

    def check_columns(self, table_of_cohorts: object) -> None:
        """Complain about columns that cohorts.tsv names and no table of the cohort has; to be called at the end."""
        for field in sorted(self.cohort.given - self._found):
            name = self.cohort.columns[field]
            near = difflib.get_close_matches(name, self.participants.columns, 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.participants.columns[:12])}"
            what = f"neither {self.participants.path} nor a sessions.tsv has a column {name!r}"
            self.mistakes.add(InputError(table_of_cohorts, f"{self.cohort.where}, {field}", what, hint))

    def _columns_of(self, table: Table) -> dict[str, int]:
        """Position of each field's column; a default name also finds a column in another case, such as Age."""
        known = self._positions.get(table.columns)
        if known is None:
            known = {}
            folded = {name.lower(): position for position, name in reversed(list(enumerate(table.columns)))}
            for field, name in self.cohort.columns.items():
                if name in table.columns:
                    known[field] = table.columns.index(name)
                elif field not in self.cohort.given and name.lower() in folded:
                    known[field] = folded[name.lower()]
            self._positions[table.columns] = known
            self._found |= known.keys()
        return known

    def _value(self, field: str, cell: Cell | None) -> float | int | str | None:
        if cell is None:
            return None
        if field == "diagnosis":
            return self._diagnosis(cell)
        return self._coded(field, cell) if field in CODED else self._number(field, cell)

    def _number(self, field: str, cell: Cell) -> float | None:
        if not NUMBER.fullmatch(cell.text):
            comma = cell.text.replace(",", ".", 1)
            fix = f"write {comma}" if NUMBER.fullmatch(comma) else "write a number, or n/a where it is missing"
            return self._complain(field, cell, f"{cell.text!r} is no number", fix)
        number = float(cell.text)
        if field == "height":
            number *= self.cohort.height_in_m
        low, high, unit = LIMITS.get(field, (float("-inf"), float("inf"), ""))
        if not low <= number <= high:
            what = f"{cell.text} is no {field} ({low:g} to {high:g} {unit} are possible)"
            return self._complain(field, cell, what, "correct it, or write n/a")
        return number

    def _coded(self, field: str, cell: Cell) -> int | None:
        codes, text = self.cohort.codes[field], cell.text
        for spelling in (text, text.lower(), text.removesuffix(".0")):
            if spelling in codes:
                return None if codes[spelling] is None else int(codes[spelling])
        what = f"{text!r} is no {field} that the cohort's mapping knows ({', '.join(codes)})"
        fix = f"add it to {field}_codes of {self.cohort.name} in the cohort table, or correct it here"
        return self._complain(field, cell, what, fix)

    def _diagnosis(self, cell: Cell) -> str | None:
        codes, text = self.cohort.codes.get("diagnosis", {}), cell.text
        for spelling in (text, text.removesuffix(".0")):
            if spelling in codes:
                return codes[spelling]
        if text in self.words or text in codes.values():
            return text
        if text.lower() in NO_DIAGNOSIS:
            return self._complain("diagnosis", cell, f"{text!r} is no diagnosis", "write n/a where it is missing")
        if codes or NUMBER.fullmatch(text):
            what = f"{text!r} is a diagnosis that the cohort's mapping does not cover"
            fix = f"add it to diagnosis_codes of {self.cohort.name} in the cohort table, or correct it here"
            return self._complain("diagnosis", cell, what, fix)
        return text

    def _complain(self, field: str, cell: Cell, what: str, fix: str) -> None:
        where = f"line {cell.line} (sub-{cell.key}), column {cell.column}"
        self.mistakes.add(InputError(cell.table.path, where, what, fix), str(self.cohort.path), f"column {cell.column}")
