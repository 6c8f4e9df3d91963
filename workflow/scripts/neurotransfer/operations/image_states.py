"""Every image of the manifest and its state.

Goes in: the manifest, the ledgers, ``status.json`` of the images whose job has no ledger yet, the tables of quality
control.  Comes out: a state per image.  Read only; standard library, because there may be 114,257 images and ledgers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import RESTORE, read_bytes, read_cells
from ..preprocess.status import read_status
from ..study import layout

STATES = OK, FAILED, EXCLUDED, WAITING = ("ok", "failed", "excluded", "waiting")
UNKNOWN = "no reason was recorded"


class State(NamedTuple):
    """One image: its cohort and shard, one of STATES, and why (failed: the reason; excluded: the rule)."""

    cohort: str
    shard: str
    state: str
    reason: str | None


def states_of_images(results: str | Path = layout.RESULTS) -> Iterator[tuple[str, State]]:
    """Each image of the manifest, in its order, with its state.

    An image's state is that of its row in a ledger, else that of its ``status.json``; without either it is waiting.
    An image that is ok but left out by quality control is excluded.

    Raises
    ------
    InputError
        if the manifest has not been compiled
    """
    results = Path(results)
    path = layout.within(results, layout.IMAGES)
    if not path.is_file():
        raise InputError(path, "", "the manifest has not been compiled", "run neurotransfer manifest")
    excluded: dict[str, dict[str, str]] = {}
    shard, rows, folders = None, {}, None
    # a shard's images are adjacent in the manifest, so one shard's ledgers are in memory at a time
    for image in read_rows(path, "image_id", "cohort", "shard"):
        image_id, cohort = image["image_id"], image["cohort"]
        if image["shard"] != shard:
            shard, folders = image["shard"], None
            rows = ledger_rows(results, shard)
        if cohort not in excluded:
            excluded[cohort] = _excluded(layout.within(results, layout.JUDGED.format(cohort=cohort)))
        found = rows.get(image_id)
        if found is None:
            subjects = layout.within(results, layout.SUBJECTS) / shard
            folders = set(names_in(subjects)) if folders is None else folders
            found = _status_json(subjects / image_id) if image_id in folders else None
        state, reason = found or (WAITING, None)
        if state == OK and image_id in excluded[cohort]:
            state, reason = EXCLUDED, excluded[cohort][image_id]
        yield image_id, State(cohort, shard, state, reason)


def read_rows(path: str | Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a table, only the columns asked for; a last row that is cut off is left out.

    Raises
    ------
    InputError
        if it is no table, or a column is missing
    """
    rows = read_cells(path)
    indices = _indices(path, next(rows, []), columns)
    last = max(indices)
    for cells in rows:
        if len(cells) > last:
            yield {name: cells[at] for name, at in zip(columns, indices, strict=True)}


def _indices(path: str | Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    for name in columns:
        if name not in header:
            fix = "delete it, then run the command that makes it again"
            raise InputError(path, "", f"it has no column {name}", fix)
    return [header.index(name) for name in columns]


def ledger_rows(results: str | Path, shard: str) -> dict[str, tuple[str, str | None]]:
    """The state (ok or failed) and reason of each image that a shard's ledgers name."""
    found: dict[str, tuple[str, str | None]] = {}
    columns = ("image_id", "status", "reason")
    for path in ledgers_of(results, shard):
        try:
            lines = read_bytes(path).decode().split("\n")
        except FileNotFoundError:  # its job has just begun again
            continue
        except UnicodeDecodeError as error:
            raise InputError(path, "", f"it is no table ({error})", RESTORE) from None
        # these three are codes, which are never quoted; only later columns are
        image_at, status_at, reason_at = _indices(path, lines[0].split("\t"), columns)
        for line in lines[1:-1]:
            cells = line.split("\t")
            if len(cells) > reason_at and cells[status_at] in (OK, FAILED):  # a withdrawn one is not in the manifest
                found[cells[image_at]] = (cells[status_at], cells[reason_at] or None)
    return found


def ledgers_of(results: str | Path, shard: str) -> list[str]:
    """Paths of a shard's ledgers that are there, in order."""
    folder = os.path.join(layout.within(results, layout.PREPROCESSED), shard)
    return [f"{folder}/{name}" for name in sorted(names_in(folder, ".tsv"))]


def _status_json(folder: Path) -> tuple[str, str | None] | None:
    status = read_status(folder)
    return (status["state"], status.get("reason") or None) if status else None


def _excluded(table: Path) -> dict[str, str]:
    """The images that quality control leaves out, with the rule."""
    if not table.is_file():
        return {}
    rows = read_rows(table, "image_id", "status", "reason")
    return {row["image_id"]: row["reason"] or UNKNOWN for row in rows if row["status"] == EXCLUDED}


def names_in(folder: str | Path, ending: str = "") -> list[str]:
    """Names in a folder, without hidden ones; empty if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if e.name.endswith(ending) and not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
