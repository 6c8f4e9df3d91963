"""What is known about a person at a scan: a cohort's own tables -> the six targets and the diagnosis.

Goes in: rows of participants.tsv, sessions.tsv and phenotype files, days of scans, and the cohort's mapping.  Comes
out: numbers in the study's units (years; 0 female, 1 male; 0 right, 1 left; kg/m²), and None if something is
missing.  Cells are gathered first and read together, because the decimal mark is decided for the whole column.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from ..errors import InputError, Mistakes
from ..text import counted
from .ages import AGES, AgeUnits, ages_of, uncapped, written_years
from .bids import key_of
from .bids_tables import Table
from .cohorts import FIELDS, Cohort
from .decimal_commas import NUMBER, comma_problem
from .people import Cell, Person
from .phenotype import find_phenotype
from .session_labels import unmatched_sessions

# What a living person can have; a value beyond is a slip or another unit.  [assumed]
LIMITS = {
    "age": (*AGES, "years"),
    "bmi": (5.0, 150.0, "kg/m²"),
    "height": (0.3, 2.6, "m"),
    "weight": (1.0, 500.0, "kg"),
}
CODED = ("sex", "handedness")
NO_DIAGNOSIS = {"na", "n/a", "nan", "none", "null", "nil", "-", "--", "?", "."}  # missing, misspelt


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
        self._years = AgeUnits(cohort, self.notes, mistakes)
        self._several: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._imaged: Counter[str] = Counter()  # people by session
        self._rowless: dict[str, list[str]] = {}  # imaged sessions without a row, by the table's family
        self._complaints: dict[tuple[str, str, str], tuple[int, InputError]] = {}  # by table, column and value
        self._sessions_listed: dict[str, dict[str, set[str]]] = {}
        self._columns_of(participants)
        self.phenotype = find_phenotype(cohort, self._found, self._several, self.notes, mistakes)

    def person(self, sessions: Table | None, several: bool, first: date | None) -> Person:
        """A participant without visits yet: see `Person`."""
        if sessions is not None:
            for name in (sessions.columns[at] for at in self._columns_of(sessions).values()):
                self._texts.setdefault((sessions.family, name), set()).update(sessions.column(name))
        aged = sessions is not None and "age" in self._columns_of(sessions)
        return Person(several=several, aged=aged, first=first)

    def check_sessions(self, label: str, sessions: Table | None, imaged: Collection[str]) -> None:
        """Look for imaged sessions that a table with rows for this person's sessions has no row for.

        A row whose label differs only in padding or case is a mistake; without such a row, a note counts the session.
        """
        person, labels = key_of(label, "sub-"), [key_of(session, "ses-") for session in imaged]
        self._imaged.update(labels)
        tables = [table for table, _ in self.phenotype]
        for table in [sessions, *tables] if sessions is not None else tables:
            by_person = self._listed(table)
            listed = by_person.get(person, set())
            if not listed - {""}:
                continue
            for session, near in unmatched_sessions(labels, listed).items():
                if near:
                    where = f"sub-{person}, session {near}"
                    what = (
                        f"the images of this session are in ses-{session}: the labels differ in zeros, case or prefix"
                    )
                    error = InputError(table.path, where, what, f"write ses-{session} in the table")
                    self.mistakes.add(error, str(self.cohort.path), "session_id")
                elif "" not in listed:
                    others = sorted(listed.difference(labels) or listed)
                    nearest = (difflib.get_close_matches(session, others, 1, cutoff=0) or others)[0]
                    imaged_one = f"sub-{person}{f', ses-{session}' * bool(session)}"
                    self._rowless.setdefault(table.family, []).append(f"{imaged_one}; nearest: ses-{nearest}")

    def _listed(self, table: Table) -> dict[str, set[str]]:
        """The sessions that a table has rows for, by person; kept for tables of a whole cohort."""
        known = self._sessions_listed.get(table.family)
        if known is None:
            known = {}
            for person, session in table.rows:
                known.setdefault(person, set()).add(session)
            if table.family != "sessions":
                self._sessions_listed[table.family] = known
        return known

    def cells(self, label: str, sessions: Table | None, session: str) -> dict[str, Cell]:
        """The cells that hold something about this person at this session, by field.

        The session's own row comes before a phenotype file's, and that before participants.tsv.
        """
        found: dict[str, Cell] = {}
        person, visit = key_of(label, "sub-"), key_of(session, "ses-")
        self._collect(found, self.participants, (person, ""), self._columns_of(self.participants))
        self._collect_age(found, person, visit)
        for table, positions in self.phenotype:
            for key in ((person, ""), (person, visit)):
                self._collect(found, table, key, positions)
        if sessions is not None:
            self._collect(found, sessions, (person, visit), self._columns_of(sessions))
        return found

    def _collect_age(self, found: dict[str, Cell], person: str, visit: str) -> None:
        """The age of a session that participants.tsv has a column of its own for."""
        column, row = self.cohort.ages.get(visit), self.participants.rows.get((person, ""))
        if column in self.participants.columns and row is not None:
            line, cells = row
            text = cells[self.participants.columns.index(column)]
            if not self.cohort.is_missing("age", text):
                found["age"] = Cell(text, self.participants, line, person, column, True)

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
            if not self.cohort.is_missing(field_name, cells[position]):
                found[field_name] = Cell(cells[position], table, line, name, table.columns[position], own)

    def values(self, people: Sequence[Person]) -> list[dict[str, float | int | str | None]]:
        """The labels of every scan, by field, in order of people and their visits."""
        rows = []
        for person in people:
            ages = ages_of(person, self)
            for visit, age in zip(person.visits, ages, strict=True):
                row = {name: self.value(name, visit.cells.get(name)) for name in FIELDS if name != "age"}
                if row["bmi"] is None and "bmi" not in self._found and {"height", "weight"} <= visit.cells.keys():
                    height = self.value("height", visit.cells["height"])
                    weight = self.value("weight", visit.cells["weight"])
                    row["bmi"] = weight / height**2 if height and weight else None
                rows.append({"age": age} | row)
        self._note_counts()
        return rows

    def has(self, field_name: str) -> bool:
        """Whether a table of the cohort has a column of this field."""
        return field_name in self._found

    def count(self, what: str, number: int = 1) -> None:
        """Count something that a note mentions at the end."""
        self._counts[what] += number

    def _note_counts(self) -> None:
        if shared := self._counts["shared"]:
            have = counted(
                shared, "image of a person with several sessions has", "images of people with several sessions have"
            )
            self.notes.append(
                f"{self.cohort.name}: {have} the one age of participants.tsv; ages per session belong "
                "into sub-*/sub-*_sessions.tsv, or days into scans.tsv"
            )
        texts = {
            "by_days": "ages are those of another session, or of participants.tsv, plus the time between the scans",
            "by_birth": "ages are the time between birth_date and the day of the scan",
            "capped": "values of age have an upper bound, as 89+, and are taken as that number",
            "range": "ages are ranges, and are taken as their middle",
            "worded": "ages have their unit in the cell, as 30 years or 031Y",
            "undated": "acquisition times of scans.tsv are no dates, and say nothing",
            "commas": "numbers have a decimal comma",
        }
        for how, text in texts.items():
            if self._counts[how]:
                self.notes.append(f"{self.cohort.name}: {self._counts[how]:,} {text}")
        if self.cohort.ages and (without := self._imaged.keys() - self.cohort.ages.keys()):
            listed = ", ".join(f"ses-{session} ({self._imaged[session]:,})" for session in sorted(without)[:6])
            self.notes.append(f"{self.cohort.name}: the column age names no age of sessions that are imaged: {listed}")
        for family, found in self._rowless.items():
            rowless = counted(len(found), "imaged session has", "imaged sessions have")
            name = "sessions.tsv" if family == "sessions" else family
            self.notes.append(
                f"{self.cohort.name}: {rowless} no row in {name}, which has rows for other "
                f"sessions of the same person (first: {found[0]})"
            )

    def report(self, table_of_cohorts: object) -> None:
        """Hand over the complaints about cells and about columns that no table has; to be called at the end."""
        for (_, column, text), (number, error) in self._complaints.items():
            times = f"{number:,} such cells" if text == "a number" else f"{number:,} times"
            what = f"{error.what}, {times}" if number > 1 else error.what
            again = InputError(error.file, error.where, what, error.fix)
            self.mistakes.add(again, str(self.cohort.path), f"column {column}")
        for field_name, what, fix in (*self._ages_without_column(), *self._fields_without_column()):
            self.mistakes.add(InputError(table_of_cohorts, f"{self.cohort.where}, {field_name}", what, fix))

    def _ages_without_column(self) -> Iterator[tuple[str, str, str]]:
        """Columns for ages of sessions that participants.tsv lacks, and of sessions with another label: field,
        mistake and fix."""
        for session, near in unmatched_sessions(list(self.cohort.ages), list(self._imaged)).items():
            if near:
                what = f"it names session {session}, and the images are in ses-{near}"
                yield "age", what, f"write {near}={self.cohort.ages[session]}"
        for session, name in self.cohort.ages.items():
            if name not in self.participants.header:
                what = f"{self.participants.path} has no column {name!r}, the age of session {session}"
                yield "age", what, self._nearest_column(name)

    def _fields_without_column(self) -> Iterator[tuple[str, str, str]]:
        """Columns that cohorts.tsv names and no table of the cohort has: field, mistake and fix."""
        for field_name in sorted(self.cohort.given - self._found):
            name = self.cohort.columns[field_name]
            if field_name in self._several:
                files = self._several[field_name]
                what = f"a column {name!r} stands in several phenotype files ({', '.join(files)})"
                yield field_name, what, f"name the one that is meant, as {files[0]}:{name}"
            elif field_name in self.cohort.files:
                file = self.cohort.path / self.cohort.files[field_name]
                yield field_name, f"{file} has no column {name!r}", "correct it"
            else:
                what = f"neither {self.participants.path} nor a sessions.tsv or phenotype file has a column {name!r}"
                yield field_name, what, self._nearest_column(name)

    def _nearest_column(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.participants.header, 1, cutoff=0.5)
        return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.participants.header[:12])}"

    def _columns_of(self, table: Table) -> dict[str, int]:
        """Position of each field's column; a default name also finds a column in another case, such as Age."""
        known = self._positions.get((table.family, table.columns))
        if known is None:
            names = columns_by_field(self.cohort, table.columns)
            known = {field_name: table.columns.index(name) for field_name, name in names.items()}
            self._positions[table.family, table.columns] = known
            self._found |= known.keys()
        return known

    def value(self, field_name: str, cell: Cell | None) -> Any:
        """A cell in the study's unit, or as a code; None if there is none or it makes no sense, which is a mistake."""
        if cell is None:
            return None
        if field_name == "diagnosis":
            return self._diagnosis(cell)
        return self._coded(field_name, cell) if field_name in CODED else self._number(field_name, cell)

    def _number(self, field_name: str, cell: Cell) -> float | None:
        text = cell.text
        if field_name == "age" and not NUMBER.fullmatch(text):
            if (years := written_years(text)) is not None:
                self._counts[years.how] += 1
                return years.value
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
                return self.complain(cell, f"{cell.text!r} can't be read: {problem}", fix)
        if not NUMBER.fullmatch(text):
            fix = "write a number, or n/a if it is missing, or list this word in the column missing of the cohort table"
            return self.complain(cell, f"{cell.text!r} is no number", fix)
        number = float(text)
        if field_name == "height":
            number *= self.cohort.height_in_m
        if field_name == "age":
            number /= self._years.per_year(cell)
        low, high, unit = LIMITS.get(field_name, (float("-inf"), float("inf"), ""))
        if not low <= number <= high:
            what = f"{cell.text} is no {field_name} ({low:g} to {high:g} {unit} are possible)"
            hint = "; if the column has months, say so as age_unit in the cohort table" if field_name == "age" else ""
            return self.complain(cell, what, f"correct it, or write n/a{hint}")
        return number

    def _comma_problem(self, cell: Cell) -> str | None:
        key = (cell.table.family, cell.column)
        if key not in self._commas:
            texts = self._texts.get(key) or set(cell.table.column(cell.column))
            self._commas[key] = comma_problem(uncapped(text) for text in texts)
        return self._commas[key]

    def _coded(self, field_name: str, cell: Cell) -> int | None:
        codes, text = self.cohort.codes[field_name], cell.text
        for spelling in (text, text.lower(), text.removesuffix(".0")):
            if spelling in codes:
                code = codes[spelling]
                return None if code is None else int(code)
        point = text.replace(",", ".", 1)
        if NUMBER.fullmatch(point) and (point == text or self._comma_problem(cell) is None):
            self._counts["commas"] += point != text
            if (code := _code_of_score(float(point), codes)) is not None:
                return None if code == "" else int(code)
        what = f"{text!r} is no {field_name} that the cohort's mapping knows ({', '.join(codes)})"
        fix = f"add it to {field_name}_codes of {self.cohort.name} in the cohort table, or correct it here"
        if field_name == "handedness" and NUMBER.fullmatch(point):
            what = f"the number {text} is no handedness that the cohort's mapping knows ({', '.join(codes)})"
            fix = "of a score give limits as handedness_codes in the cohort table (<0=1,>0=0,0=n/a), or - as handedness"
            return self.complain(cell, what, fix, kind="a number")
        return self.complain(cell, what, fix)

    def _diagnosis(self, cell: Cell) -> str | None:
        codes, text = self.cohort.codes.get("diagnosis", {}), cell.text
        for spelling in (text, text.removesuffix(".0")):
            if spelling in codes:
                return codes[spelling]
        if text in self.words or text in codes.values():
            return text
        if text.lower() in NO_DIAGNOSIS:
            return self.complain(cell, f"{text!r} is no diagnosis", "write n/a if it is missing")
        if codes or NUMBER.fullmatch(text):
            known = ", ".join(dict.fromkeys([*codes, *sorted(self.words)]))
            what = f"{text!r} is a diagnosis that the cohort's mapping does not cover (it knows: {known})"
            fix = f"add it to diagnosis_codes of {self.cohort.name} in the cohort table, or correct it here"
            return self.complain(cell, what, fix)
        return text

    def complain(self, cell: Cell, what: str, fix: str, kind: str | None = None) -> None:
        """Collect a mistake with the line, the person and the column of its cell; one for all cells with one value.

        Cells of one `kind` make one mistake, whatever their values are.
        """
        key = (cell.table.family, cell.column, kind or cell.text)
        number, error = self._complaints.get(key, (0, None))
        where = f"line {cell.line} (sub-{cell.key}), column {cell.column}"
        self._complaints[key] = (number + 1, error or InputError(cell.table.path, where, what, fix))


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
    return lambda names: {*columns_by_field(cohort, names).values(), *cohort.ages.values()}


def _code_of_score(score: float, codes: Mapping[str, str | None]) -> str | None:
    """The code of a score by limits such as "<0" and ">0"; "" if it means missing, None if no limit covers it."""
    for spelling, code in codes.items():
        sign, limit = spelling[:1], spelling[1:].strip()
        if sign not in ("<", ">") or not NUMBER.fullmatch(limit):
            continue
        if score < float(limit) if sign == "<" else score > float(limit):
            return code or ""
    return None
