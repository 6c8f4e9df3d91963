"""The tables of a BIDS data set: participants, sessions, scans, phenotype, and the units their sidecars state.

Goes in: paths.  Comes out: tables of text as found, with the line of each row, and acquisition days.  What the
values mean is not known here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from ..errors import InputError, Mistakes
from ..files import opened, read_json
from ..text import counted
from .bids import key_of

MISSING = ("", "n/a")  # what BIDS calls missing, and nothing else
NEAR_PARTICIPANTS = re.compile(r"participants?\b.*(?<!\.json)$", re.I)
DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ].*)?")
Rows = dict[tuple[str, str], tuple[int, list[str]]]


@dataclass(frozen=True)
class Table:
    """A table of text: its columns, and each row with its line in the file.

    `header` has all the file's columns and `columns` those that were kept, as have the rows.  `rows` finds a row by
    the keys of its participant and its session, either "" if the table does not distinguish them.  `family` names
    the tables that are written in one way: all sessions.tsv of a data set are one.
    """

    path: Path
    header: tuple[str, ...]
    columns: tuple[str, ...]
    lines: list[tuple[int, list[str]]]
    rows: Rows = field(default_factory=dict)
    family: str = ""

    def column(self, name: str) -> list[str]:
        """The cells of a column, one per row."""
        at = self.columns.index(name)
        return [cells[at] for _, cells in self.lines]


def read_tsv(
    path: Path, comments: bool = False, wanted: Callable[[Sequence[str]], Collection[str]] | None = None
) -> Table:
    """Read a table of text: UTF-8 with or without a byte order mark, any line ends, cells stripped.

    Rows that end early are filled with empty cells.

    Parameters
    ----------
    path : the file
    comments : leave out lines that start with ``#``
    wanted : of the header, the columns to keep; a table of thousands of columns fits into memory so

    Raises
    ------
    InputError
        if it is not UTF-8 or not a table: a row longer than the header, a column twice, no header
    """
    header: tuple[str, ...] = ()
    kept: list[int] = []
    lines: list[tuple[int, list[str]]] = []
    begun = 1  # the line with which the next row begins
    try:
        with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter="\t", strict=True)
            for cells in reader:
                begun = reader.line_num + 1
                if not any(map(str.strip, cells)) or (comments and cells[0].lstrip().startswith("#")):
                    continue
                if not header:
                    header = _header(path, reader.line_num, cells)
                    names = header if wanted is None else wanted(header)
                    kept = [at for at, name in enumerate(header) if name in names]
                    continue
                if any(map(str.strip, cells[len(header) :])):
                    what = f"it has {counted(len(cells), 'cell')} and the header has {len(header)}"
                    raise InputError(path, f"line {reader.line_num}", what, "check its tabs")
                row = [cells[at].strip() if at < len(cells) else "" for at in kept]
                lines.append((reader.line_num, row))
    except UnicodeDecodeError:
        raise InputError(path, "", "it is not UTF-8 text", "save it as UTF-8, separated by tabs") from None
    except csv.Error as error:
        raise InputError(path, f"line {begun}", f"not a table ({error})", "correct the quotes there") from None
    if not header:
        raise InputError(path, "", "it is empty", "write a header, and a row for each entry")
    return Table(path, header, tuple(header[at] for at in kept), lines)


def _header(path: Path, line: int, cells: list[str]) -> tuple[str, ...]:
    header = tuple(cell.strip() for cell in cells)
    if len(header) == 1 and (";" in header[0] or "," in header[0] or len(header[0].split()) > 2):
        what = f"its header has no tab: {header[0][:60]!r}"
        fix = "separate the columns by tabs; a spreadsheet saves such a file as text with tabs, or TSV"
        raise InputError(path, f"line {line}", what, fix)
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise InputError(path, f"line {line}", f"there are two columns {twice!r}", "rename or remove one of them")
    return header


def read_participants(
    root: Path, wanted: Callable[[Sequence[str]], Collection[str]], mistakes: Mistakes
) -> Table | None:
    """participants.tsv with its rows by label, or None if it cannot be read; duplicates are mistakes."""
    path = root / "participants.tsv"
    if not path.is_file():
        fix = "write one (BIDS): participant_id, age, sex, ..., separated by tabs"
        near = [entry.name for entry in root.iterdir() if NEAR_PARTICIPANTS.match(entry.name) and entry.is_file()]
        if near:
            fix = f"there is {sorted(near)[0]!a}: save it as participants.tsv, UTF-8 and separated by tabs"
        mistakes.add(InputError(path, "", "the cohort has no participants.tsv", fix))
        return None
    table = _keyed(path, "participant_id", "sub-", wanted, mistakes)
    if table is None:
        return None
    fix = "keep one row; what differs between sessions belongs into sub-*/sub-*_sessions.tsv"
    _find_by_participant(table, [""] * len(table.lines), fix, mistakes)
    return replace(table, family="participants")


def read_sessions(
    path: Path,
    participant: str,
    diagnosis: str,
    wanted: Callable[[Sequence[str]], Collection[str]],
    mistakes: Mistakes,
) -> Table | None:
    """A participant's sessions.tsv with its rows by session; a session twice is a mistake.

    `diagnosis` is the column whose disagreement makes the mistake one of two diagnoses in one session.
    """
    table = _keyed(path, "session_id", "ses-", wanted, mistakes)
    if table is None:
        return None
    at_diagnosis = table.columns.index(diagnosis) if diagnosis in table.columns else None
    for (at, cells), session in zip(table.lines, table.column("session_id"), strict=True):
        if session in MISSING:
            what, fix = "the row says of no session", "write its session_id, as ses-01, or remove the row"
            mistakes.add(InputError(path, f"line {at}", what, fix), str(path.parents[1]), "session_id")
            continue
        key = (participant, key_of(session, "ses-"))
        if key not in table.rows:
            table.rows[key] = (at, cells)
            continue
        first, before = table.rows[key]
        what, fix = f"the session has a row already, in line {first}", "keep one row per session"
        if at_diagnosis is not None and before[at_diagnosis] != cells[at_diagnosis]:
            what = (
                f"two diagnoses in one session: {before[at_diagnosis]!r} in line {first}, {cells[at_diagnosis]!r} here"
            )
            fix = "keep one of them; what changes over time needs another session"
        mistakes.add(InputError(path, f"line {at} (ses-{key[1]})", what, fix))
    return replace(table, family="sessions")


def read_phenotype(
    root: Path, name: str, wanted: Callable[[Sequence[str]], Collection[str]], mistakes: Mistakes
) -> Table | None:
    """A table such as phenotype/ipaq.tsv, by participant and, if it has a session_id, by session."""
    path = root / name
    table = _keyed(path, "participant_id", "sub-", wanted, mistakes)
    if table is None:
        return None
    sessions = table.column("session_id") if "session_id" in table.columns else [""] * len(table.lines)
    fix = "keep one row; several need a column session_id"
    _find_by_participant(table, sessions, fix, mistakes)
    return replace(table, family=name)


def _find_by_participant(table: Table, sessions: Sequence[str], fix: str, mistakes: Mistakes) -> None:
    """Fill the table's `rows`; a participant (and session, if there is one) twice is a mistake with this fix."""
    for (at, cells), label, session in zip(table.lines, table.column("participant_id"), sessions, strict=True):
        key = (key_of(label, "sub-"), "" if session in MISSING else key_of(session, "ses-"))
        if key in table.rows:
            subject = f"the participant{' and session' if key[1] else ''}"
            what, where = f"{subject} has a row already, in line {table.rows[key][0]}", f"line {at} (sub-{key[0]})"
            mistakes.add(InputError(table.path, where, what, fix), str(table.path), "participant_id")
        else:
            table.rows[key] = (at, cells)


def read_header(path: Path) -> tuple[str, ...]:
    """The columns of a table, without reading its rows; empty if it has none or is no text."""
    try:
        with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            return tuple(cell.strip() for cell in next(csv.reader(text, delimiter="\t"), []))
    except (UnicodeDecodeError, csv.Error, InputError):
        return ()


def read_sidecar(path: Path) -> dict[str, Any]:
    """A JSON object beside a table or a data set, such as participants.json; empty if there is no such file.

    Raises
    ------
    InputError
        if it cannot be read, or is no JSON object
    """
    fix = "correct it, or remove it"
    try:
        facts = read_json(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(path, "", f"it cannot be read ({error.strerror})", fix) from None
    if not isinstance(facts, dict):
        raise InputError(path, "", "it is no JSON object", fix)
    return facts


def read_units(path: Path, column: str) -> str | None:
    """What a table's sidecar (participants.json) calls the unit of a column; None if it does not say."""
    about = read_sidecar(path).get(column)
    units = about.get("Units") if isinstance(about, dict) else None
    return units if isinstance(units, str) and units.strip() not in MISSING else None


def read_acquisitions(path: Path) -> tuple[dict[str, date], int]:
    """The day of each file in a scans.tsv, by its name there, and how many acquisition times are no dates.

    A time without a date says nothing about an age, and is one of those.

    Raises
    ------
    InputError
        if it is no table, or lacks the column filename
    """
    table = read_tsv(path, wanted=lambda names: ("filename", "acq_time"))
    if "filename" not in table.columns:
        raise InputError(path, "line 1", "it has no column 'filename'", "name the column with the files so")
    if "acq_time" not in table.columns:
        return {}, 0
    days, unread = {}, 0
    for name, text in zip(table.column("filename"), table.column("acq_time"), strict=True):
        day = day_of(text)
        if day is not None:
            days[name] = day
        elif text not in MISSING:
            unread += 1
    return days, unread


def day_of(text: str) -> date | None:
    """The day of an ISO 8601 date or date and time, such as 1909-06-15T13:45:30; None if it is none."""
    found = DAY.fullmatch(text)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _keyed(
    path: Path,
    column: str,
    prefix: str,
    wanted: Callable[[Sequence[str]], Collection[str]],
    mistakes: Mistakes,
) -> Table | None:
    def with_keys(names: Sequence[str]) -> Collection[str]:
        return {*wanted(names), "participant_id", "session_id", "acq_time"}

    try:
        table = read_tsv(path, wanted=with_keys)
        if column not in table.columns:
            what = f"it has no column {column!r} (it has: {', '.join(table.header[:8])})"
            raise InputError(path, "line 1", what, f"name the column with the {prefix} labels so; separate by tabs")
    except InputError as error:
        mistakes.add(error)
        return None
    return table
