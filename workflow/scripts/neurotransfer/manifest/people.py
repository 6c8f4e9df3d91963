"""The scans of a participant, and the cells of tables that say something about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from .bids_tables import Table


class Cell(NamedTuple):
    """A value with the place where it stands; `own` is true if that row is the session's and not the person's."""

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
