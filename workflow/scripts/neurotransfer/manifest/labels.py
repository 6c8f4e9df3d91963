"""What is known about a person at a scan: a cohort's own tables -> the six targets and the diagnosis.

Goes in: rows of participants.tsv, sessions.tsv and phenotype files, days of scans, and the cohort's mapping.  Comes
out: numbers in the study's units (years; 0 female, 1 male; 0 right, 1 left; kg/m²), and None where something is
missing.  Cells are gathered first and read together, since a decimal comma is a matter of the whole column.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError, Mistakes
from .ages import PER_YEAR, UNITS, birth_day, uncapped, unit_named, years_between
from .bids import key_of
from .bids_tables import MISSING, Table, read_header, read_phenotype, read_units
from .cohorts import FIELDS, Cohort
from .decimal_commas import NUMBER, comma_problem

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
    """A value with the place where it stands; `own` is true where that row is the session's and not the person's."""

    text: str
    table: Table
    line: int
    key: str
    column: str
    own: bool


@dataclass
class Visit:
    """One scan: what tables say about it by field, and the day on which it was made."""

    cells: dict[str, Cell]
    day: date | None = None


@dataclass
class Person:
    """The scans of one participant.

    `several` says that the person was scanned in more than one session, `aged` that their sessions.tsv has ages, and
    `first` is the day of the first scan of any kind.
    """

    visits: list[Visit] = field(default_factory=list)
    several: bool = False
    aged: bool = False
    first: date | None = None


class Labels:
    """Reads the labels of one cohort's images; what cannot be right is collected in `mistakes`.

    Parameters
    ----------
    cohort : the mapping
    participants : participants.tsv
    words : diagnoses that need no code, because a task or split.healthy names them
    mistakes : gets a line for each value that makes no sense

    `notes` are sentences about what a person should know of how the labels were read.
    """

    def __init__(self, cohort: Cohort, participants: Table, words: Collection[str], mistakes: Mistakes) -> None:
        self.cohort, self.participants, self.words, self.mistakes = cohort, participants, words, mistakes
        self.notes: list[str] = []
        self._positions: dict[tuple[str, tuple[str, ...]], dict[str, int]] = {}
        self._found: set[str] = set()
        self._texts: dict[tuple[str, str], set[str]] = {}  # of sessions.tsv, by family and column
        self._commas: dict[tuple[str, str], str | None] = {}
        self._units: dict[tuple[str, str], float] = {}
        self._several: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._columns_of(participants)
        self.phenotype = self._find_phenotype()

    def person(self, sessions: Table | None, several: bool, first: date | None) -> Person:
        """A participant without visits yet: see `Person`."""
        if sessions is not None:
            for name in (sessions.columns[at] for at in self._columns_of(sessions).values()):
                self._texts.setdefault((sessions.family, name), set()).update(sessions.column(name))
        aged = sessions is not None and "age" in self._columns_of(sessions)
        return Person(several=several, aged=aged, first=first)

    def cells(self, label: str, sessions: Table | None, session: str) -> dict[str, Cell]:
        """The cells that hold something about this person at this session, by field.

        The session's own row comes before a phenotype file's, and that before participants.tsv.
        """
        found: dict[str, Cell] = {}
        person, visit = key_of(label, "sub-"), key_of(session, "ses-")
        self._collect(found, self.participants, (person, ""), self._columns_of(self.participants))
        for table, positions in self.phenotype:
            for key in ((person, ""), (person, visit)):
                self._collect(found, table, key, positions)
        if sessions is not None:
            self._collect(found, sessions, (person, visit), self._columns_of(sessions))
        return found

    def _collect(
        self, found: dict[str, Cell], table: Table, key: tuple[str, str], positions: Mapping[str, int]
    ) -> None:
        row = table.rows.get(key)
        if row is None:
            return
        line, cells = row
        own = table.family == "sessions" or key[1] != ""
        name = f"{key[0]}, session {key[1]}" if own else key[0]
        for field_name, position in positions.items():
            if cells[position] not in MISSING:
                found[field_name] = Cell(cells[position], table, line, name, table.columns[position], own)

    def values(self, people: Sequence[Person]) -> list[dict[str, float | int | str | None]]:
        """The labels of every scan, by field, in order of people and their visits."""
        rows = []
        for person in people:
            ages = self._ages(person)
            for visit, age in zip(person.visits, ages, strict=True):
                row = {name: self._value(name, visit.cells.get(name)) for name in FIELDS if name != "age"}
                if row["bmi"] is None and "bmi" not in self._found and {"height", "weight"} <= visit.cells.keys():
                    height = self._value("height", visit.cells["height"])
                    weight = self._value("weight", visit.cells["weight"])
                    row["bmi"] = weight / height**2 if height and weight else None
                rows.append({"age": age} | row)
        self._note_counts()
        return rows

    def _ages(self, person: Person) -> list[float | None]:
        """The age at each scan; docs/bids.md says what comes before what.

        A person with several sessions whose sessions.tsv knows ages has no age in a session that it leaves open and
        that no day tells: the participant's age would be another session's.
        """
        own = [
            self._value("age", visit.cells["age"]) if "age" in visit.cells and visit.cells["age"].own else None
            for visit in person.visits
        ]
        dated = [
            (visit.day, age) for visit, age in zip(person.visits, own, strict=True) if visit.day and age is not None
        ]
        ages: list[float | None] = []
        for visit, age in zip(person.visits, own, strict=True):
            cell = visit.cells.get("age")
            if age is None and "birth_date" in visit.cells and visit.day:
                age = self._age_by_birth(visit)
            elif age is None and visit.day and dated:
                day, known = min(dated)
                age = self._counted("by_days", known + years_between(day, visit.day))
            elif age is None and cell is not None and not cell.own and not (person.several and person.aged):
                age = self._value("age", cell)
                if age is not None and person.several:
                    if visit.day and person.first:
                        age = self._counted("by_days", age + years_between(person.first, visit.day))
                    else:
                        self._counted("shared", age)
            low, high, _ = LIMITS["age"]
            if age is not None and not low <= age <= high:
                what = f"by the days of its scans sub-{cell.key if cell else '?'} would be {age:.0f} years old"
                fix = "correct the days, or put the age of each session into sub-*/sub-*_sessions.tsv"
                self.mistakes.add(InputError(self.cohort.path, "scans.tsv", what, fix), str(self.cohort.path), "days")
                age = None
            ages.append(age)
        return ages

    def count(self, what: str, number: int) -> None:
        """Count something that a note tells of in the end."""
        self._counts[what] += number

    def _counted(self, how: str, age: float) -> float:
        self._counts[how] += 1
        return age

    def _age_by_birth(self, visit: Visit) -> float | None:
        cell = visit.cells["birth_date"]
        born = birth_day(cell.text)
        if born is None:
            return self._complain("birth_date", cell, f"{cell.text!r} is no date", "write it as 1950-06-15, or n/a")
        age = years_between(born, visit.day)
        low, high, _ = LIMITS["age"]
        if not low <= age <= high:
            what = f"{cell.text} and a scan on {visit.day} make an age of {age:.0f} years"
            fix = "shift both by the same days, or leave birth_date out of the cohort table"
            return self._complain("birth_date", cell, what, fix)
        return self._counted("by_birth", age)

    def _note_counts(self) -> None:
        shared = (
            "images of people with several sessions have the one age of participants.tsv; ages per session belong "
            "into sub-*/sub-*_sessions.tsv, or days into scans.tsv"
        )
        texts = {
            "shared": shared,
            "by_days": "ages are those of another session, or of participants.tsv, plus the time between the scans",
            "by_birth": "ages are the time between birth_date and the day of the scan",
            "capped": "values of age have an upper bound, as 89+, and are taken as that number",
            "undated": "acquisition times of scans.tsv are no dates, and say nothing",
            "commas": "numbers have a decimal comma",
        }
        for how, text in texts.items():
            if self._counts[how]:
                self.notes.append(f"{self.cohort.name}: {self._counts[how]:,} {text}")

    def check_columns(self, table_of_cohorts: object) -> None:
        """Complain about columns that cohorts.tsv names and no table of the cohort has; to be called at the end."""
        for field_name in sorted(self.cohort.given - self._found):
            name = self.cohort.columns[field_name]
            where = f"{self.cohort.where}, {field_name}"
            if field_name in self._several:
                files = self._several[field_name]
                what = f"a column {name!r} stands in several phenotype files ({', '.join(files)})"
                fix = f"name the one that is meant, as {files[0]}:{name}"
            elif field_name in self.cohort.files:
                what, fix = f"{self.cohort.path / self.cohort.files[field_name]} has no column {name!r}", "correct it"
            else:
                near = difflib.get_close_matches(name, self.participants.header, 1, cutoff=0.5)
                fix = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.participants.header[:12])}"
                what = f"neither {self.participants.path} nor a sessions.tsv or phenotype file has a column {name!r}"
            self.mistakes.add(InputError(table_of_cohorts, where, what, fix))

    def _columns_of(self, table: Table) -> dict[str, int]:
        """Position of each field's column; a default name also finds a column in another case, such as Age."""
        known = self._positions.get((table.family, table.columns))
        if known is None:
            names = columns_by_field(self.cohort, table.columns)
            known = {field_name: table.columns.index(name) for field_name, name in names.items()}
            self._positions[table.family, table.columns] = known
            self._found |= known.keys()
        return known

    def _find_phenotype(self) -> list[tuple[Table, dict[str, int]]]:
        """The phenotype files with the fields that each gives: those that cohorts.tsv names, and those of which
        participants.tsv has no column and one file has.  An age there is that of the questionnaire, and not taken."""
        wanted: dict[str, dict[str, str]] = {}
        for field_name, name in self.cohort.files.items():
            wanted.setdefault(name, {})[field_name] = self.cohort.columns[field_name]
        names = sorted((self.cohort.path / "phenotype").glob("*.tsv"))
        headers = {f"phenotype/{path.name}": read_header(path) for path in names}
        unasked = {"age"} - self.cohort.given
        for field_name in sorted(self.cohort.columns.keys() - self._found - self.cohort.files.keys() - unasked):
            name = self.cohort.columns[field_name]
            files = [file for file, header in headers.items() if name in header and "participant_id" in header]
            if len(files) == 1:
                wanted.setdefault(files[0], {})[field_name] = name
                self.notes.append(f"{self.cohort.name}: {field_name} is the column {name!r} of {files[0]}")
            elif files:
                self._several[field_name] = files
                if field_name not in self.cohort.given:
                    what = f"{self.cohort.name}: a column {name!r} stands in {', '.join(files)}; the column"
                    self.notes.append(f"{what} {field_name} of the cohort table can name one, as {files[0]}:{name}")
        found = []
        for file, columns in sorted(wanted.items()):
            if not (self.cohort.path / file).is_file():
                what = "there is no such phenotype file"
                fields = ", ".join(sorted(columns))
                fix = f"correct {fields} of {self.cohort.name} in the cohort table"
                self.mistakes.add(InputError(self.cohort.path / file, "", what, fix))
                self._found |= columns.keys()
                continue
            table = read_phenotype(self.cohort.path, file, lambda names, has=columns: has.values(), self.mistakes)
            if table is not None:
                positions = {key: table.columns.index(name) for key, name in columns.items() if name in table.columns}
                self._found |= positions.keys()
                found.append((table, positions))
        return found

    def _value(self, field_name: str, cell: Cell | None) -> float | int | str | None:
        if cell is None:
            return None
        if field_name == "diagnosis":
            return self._diagnosis(cell)
        return self._coded(field_name, cell) if field_name in CODED else self._number(field_name, cell)

    def _number(self, field_name: str, cell: Cell) -> float | None:
        text = cell.text
        if field_name == "age" and not NUMBER.fullmatch(text):
            text = uncapped(text)
            self._counts["capped"] += text != cell.text
        if "," in text:
            problem = self._comma_problem(cell)
            point = text.replace(",", ".", 1)
            if problem is None and NUMBER.fullmatch(point):
                text = point
                self._counts["commas"] += 1
            elif problem and NUMBER.fullmatch(point):
                fix = f"write {point}, or {text.replace(',', '')}, and the others likewise"
                return self._complain(field_name, cell, f"{cell.text!r} can't be read: {problem}", fix)
        if not NUMBER.fullmatch(text):
            fix = "write a number, or n/a where it is missing"
            return self._complain(field_name, cell, f"{cell.text!r} is no number", fix)
        number = float(text)
        if field_name == "height":
            number *= self.cohort.height_in_m
        if field_name == "age":
            number /= self._per_year(cell)
        low, high, unit = LIMITS.get(field_name, (float("-inf"), float("inf"), ""))
        if not low <= number <= high:
            what = f"{cell.text} is no {field_name} ({low:g} to {high:g} {unit} are possible)"
            hint = "; if the column has months, say so as age_unit in the cohort table" if field_name == "age" else ""
            return self._complain(field_name, cell, what, f"correct it, or write n/a{hint}")
        return number

    def _comma_problem(self, cell: Cell) -> str | None:
        key = (cell.table.family, cell.column)
        if key not in self._commas:
            texts = self._texts.get(key) or set(cell.table.column(cell.column))
            self._commas[key] = comma_problem(uncapped(text) for text in texts)
        return self._commas[key]

    def _per_year(self, cell: Cell) -> float:
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

    def _coded(self, field_name: str, cell: Cell) -> int | None:
        codes, text = self.cohort.codes[field_name], cell.text
        for spelling in (text, text.lower(), text.removesuffix(".0")):
            if spelling in codes:
                return None if codes[spelling] is None else int(codes[spelling])
        what = f"{text!r} is no {field_name} that the cohort's mapping knows ({', '.join(codes)})"
        fix = f"add it to {field_name}_codes of {self.cohort.name} in the cohort table, or correct it here"
        return self._complain(field_name, cell, what, fix)

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

    def _complain(self, field_name: str, cell: Cell, what: str, fix: str) -> None:
        where = f"line {cell.line} (sub-{cell.key}), column {cell.column}"
        self.mistakes.add(InputError(cell.table.path, where, what, fix), str(self.cohort.path), f"column {cell.column}")


def columns_by_field(cohort: Cohort, names: Sequence[str]) -> dict[str, str]:
    """The column of each field among a table's; a default name also finds a column in another case, such as Age."""
    folded = {name.lower(): name for name in reversed(names)}
    found = {}
    for field_name, name in cohort.columns.items():
        if field_name in cohort.files:
            continue
        if name in names:
            found[field_name] = name
        elif field_name not in cohort.given and name.lower() in folded:
            found[field_name] = folded[name.lower()]
    return found


def mapped_columns(cohort: Cohort) -> Callable[[Sequence[str]], Collection[str]]:
    """Which of a table's columns a cohort's labels need."""
    return lambda names: columns_by_field(cohort, names).values()
