"""A BIDS data set as it lies on the disk: its T1-weighted scans, and the rows of its tables.

Goes in: a folder.  Comes out: scans (with those that are left out, and why) and tables of text, as found.
What the tables' values mean is not known here.
"""

from __future__ import annotations

import csv
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .errors import InputError, Mistakes

MISSING = ("", "n/a")  # what BIDS calls missing, and nothing else
ENDINGS = ("_T1w.nii.gz", "_T1w.nii")


class Scan(NamedTuple):
    """A T1-weighted image: `entities` are those after subject and session, as "_acq-a_run-1"."""

    session: str
    run: str
    entities: str
    path: str
    identity: tuple[int, int]  # device and inode: the same for the same file under two names


class Exclusion(NamedTuple):
    """A file or folder that is left out; `reason` is a short code, `detail` a sentence."""

    file: str
    reason: str
    detail: str


@dataclass
class Participant:
    """A `sub-` folder: its label, its table of sessions where it has one, its scans in order of their names."""

    label: str
    sessions_table: Path | None = None
    scans: list[Scan] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table of text: its columns, and each row with its line in the file; `rows` finds a row by its key."""

    path: Path
    columns: tuple[str, ...]
    lines: list[tuple[int, list[str]]]
    rows: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


def find_participants(root: Path, excluded: list[Exclusion]) -> Iterator[Participant]:
    """The participants of a data set with their T1-weighted scans, sorted by name.

    Looks into ``sub-*/anat`` and ``sub-*/ses-*/anat`` for ``*_T1w.nii`` and ``*_T1w.nii.gz``, following links.

    Parameters
    ----------
    root : the data set's folder
    excluded : gets a row for each scan that is left out: ``broken_link``, ``empty_file``, ``not_a_file``,
        ``unreadable``, ``name_disagrees`` (with its folders), ``name_not_utf8``
    """
    for folder in _entries(root, excluded):
        if not folder.name.startswith("sub-") or not _is_folder(folder, excluded):
            continue
        participant = Participant(folder.name.removeprefix("sub-"))
        for child in _entries(folder, excluded):
            if child.name == f"{folder.name}_sessions.tsv":
                participant.sessions_table = Path(child.path)
            elif child.name == "anat" and _is_folder(child, excluded):
                participant.scans += _scans(child, folder.name, "", excluded)
            elif child.name.startswith("ses-") and _is_folder(child, excluded):
                for anat in _entries(child, excluded):
                    if anat.name == "anat" and _is_folder(anat, excluded):
                        session = child.name.removeprefix("ses-")
                        participant.scans += _scans(anat, folder.name, session, excluded)
        yield participant


def _entries(folder: os.DirEntry | Path, excluded: list[Exclusion]) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        excluded.append(Exclusion(_printable(folder), "unreadable", "no permission to look into this folder"))
        return []


def _is_folder(entry: os.DirEntry, excluded: list[Exclusion]) -> bool:
    if entry.is_dir():
        return True
    if entry.is_symlink():
        excluded.append(Exclusion(_printable(entry), "broken_link", "a link to a folder that is not there"))
    return False


def _scans(anat: os.DirEntry, subject: str, session: str, excluded: list[Exclusion]) -> Iterator[Scan]:
    prefix = f"{subject}_ses-{session}" if session else subject
    for entry in _entries(anat, excluded):
        name = entry.name
        if not name.endswith(ENDINGS) or name.startswith("."):
            continue
        problem = _problem(entry, prefix)
        if problem:
            excluded.append(Exclusion(_printable(entry), *problem))
            continue
        entities = name[len(prefix) :].rpartition("_T1w")[0]
        known = dict(part.split("-", 1) for part in entities.split("_") if "-" in part)
        if not session and "ses" in known:
            entities = entities.replace(f"_ses-{known['ses']}", "", 1)
        found = entry.stat()
        yield Scan(
            session or known.get("ses", ""), known.get("run", ""), entities, entry.path, (found.st_dev, found.st_ino)
        )


def _problem(entry: os.DirEntry, prefix: str) -> tuple[str, str] | None:
    try:
        found = entry.stat()
    except FileNotFoundError:
        return "broken_link", "a link to a file that is not there (fetch its content)"
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    if not stat.S_ISREG(found.st_mode):
        return "not_a_file", "this is no regular file"
    if found.st_size == 0:
        return "empty_file", "the file has no bytes"
    if not entry.name.startswith(f"{prefix}_"):
        return "name_disagrees", f"it lies in the folder of {prefix}"
    if _printable(entry) != entry.path:
        return "name_not_utf8", "its path is not UTF-8 text"
    return None


def _printable(path: os.DirEntry | Path | str) -> str:
    """A path that can be written as UTF-8 whatever its bytes are."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def key_of(text: str, prefix: str) -> str:
    """A participant or session label as tables and folders share it: with or without its prefix, composed Unicode."""
    text = text.strip().removeprefix(prefix)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def safe(label: str) -> str:
    """A label with letters and digits only, anything else replaced by "-"."""
    return re.sub(r"[^A-Za-z0-9]", "-", label)


def read_tsv(path: Path, comments: bool = False) -> Table:
    """Read a table of text: UTF-8 with or without a byte order mark, any line ends, cells stripped.

    Rows that end early are filled with empty cells.

    Raises
    ------
    InputError
        where it is not UTF-8 or not a table: a row longer than the header, a column twice, no header
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t", strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except UnicodeDecodeError:
        raise InputError(path, "", "it is not UTF-8 text", "save it as UTF-8, separated by tabs") from None
    except csv.Error as error:
        raise InputError(path, f"line {reader.line_num}", f"not a table ({error})", "mend the quotes there") from None
    lines = [(at, cells) for at, cells in lines if any(cells) and not (comments and cells[0].startswith("#"))]
    if not lines:
        raise InputError(path, "", "it is empty", "write a header, and a row for each entry")
    columns = tuple(lines[0][1])
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice:
        raise InputError(path, "line 1", f"there are two columns {twice!r}", "rename or remove one of them")
    for at, cells in lines[1:]:
        if any(cells[len(columns) :]):
            what = f"it has {len(cells)} cells and the header has {len(columns)}"
            raise InputError(path, f"line {at}", what, "check its tabs")
        cells[len(columns) :] = []
        cells += [""] * (len(columns) - len(cells))
    return Table(path, columns, lines[1:])


def read_participants(root: Path, mistakes: Mistakes) -> Table | None:
    """participants.tsv with its rows by label, or None where it cannot be read; duplicates are mistakes."""
    path = root / "participants.tsv"
    if not path.is_file():
        fix = "write one (BIDS): participant_id, age, sex, ..., separated by tabs"
        mistakes.add(InputError(path, "", "the cohort has no participants.tsv", fix))
        return None
    table = _keyed(path, "participant_id", "sub-", mistakes)
    if table is None:
        return None
    for at, cells in table.lines:
        key = key_of(cells[table.columns.index("participant_id")], "sub-")
        if key in table.rows:
            what = f"the participant has a row already, in line {table.rows[key][0]}"
            fix = "keep one row; what differs between sessions belongs into sub-*/sub-*_sessions.tsv"
            mistakes.add(InputError(path, f"line {at} (sub-{key})", what, fix), str(path), "participant_id")
        else:
            table.rows[key] = (at, cells)
    return table


def read_sessions(path: Path, diagnosis: str, mistakes: Mistakes) -> Table | None:
    """A participant's sessions.tsv with its rows by session; a session twice is a mistake.

    `diagnosis` is the column whose disagreement makes the mistake one of two diagnoses in one session.
    """
    table = _keyed(path, "session_id", "ses-", mistakes)
    if table is None:
        return None
    at_diagnosis = table.columns.index(diagnosis) if diagnosis in table.columns else None
    for at, cells in table.lines:
        key = key_of(cells[table.columns.index("session_id")], "ses-")
        if key not in table.rows:
            table.rows[key] = (at, cells)
            continue
        first, before = table.rows[key]
        what, fix = f"the session has a row already, in line {first}", "keep one row per session"
        if at_diagnosis is not None and before[at_diagnosis] != cells[at_diagnosis]:
            what = (
                f"two diagnoses in one session: {before[at_diagnosis]!r} in line {first}, {cells[at_diagnosis]!r} here"
            )
            fix = "keep one of them; who changes over time has another session for it"
        mistakes.add(InputError(path, f"line {at} (ses-{key})", what, fix))
    return table


def _keyed(path: Path, column: str, prefix: str, mistakes: Mistakes) -> Table | None:
    try:
        table = read_tsv(path)
        if column not in table.columns:
            what = f"it has no column {column!r} (it has: {', '.join(table.columns[:8])})"
            raise InputError(path, "line 1", what, f"name the column with the {prefix} labels so; separate by tabs")
    except InputError as error:
        mistakes.add(error)
        return None
    return table
