"""Withdrawn consent: who has left the study, and the empty place that each of their images keeps.

Goes in: withdrawn.tsv, a participant or an image per row.  Comes out: images without them, and the shard files'
rows of those that had a place, emptied, with a number in place of the name (``withdrawn`` is 1 there), because no other
image moves.  Preprocessing deletes their files, the cache writes zeros in their rows, and nothing later hears of them.
"""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError, Mistakes
from ..files import read_bytes, read_cells, read_dicts, read_facts, remove_within, write_text
from ..study import layout
from ..study.consequences import jobs_after, listed_by_rule
from ..study.plan import digest_of_list, read_study
from ..text import counted
from .bids import safe
from .carrying_out import strays

DEFAULT = Path("config/withdrawn.tsv")  # only this file may be missing, which means that no one has withdrawn
COLUMNS = ("participant_id", "image_id", "date", "note")
KEPT = ("cohort", "shard")  # of a withdrawn image's row
MOST_BYTES = 100_000_000  # of a list of people
FEW = 10  # unknown names, each with a line of its own; comparing one with all names takes a tenth of a second


@dataclass(frozen=True)
class Row:
    """One line of the list: an image, or else all images of a participant."""

    line: int
    participant: str | None
    image: str | None

    def has(self, image_id: str) -> bool:
        """Whether the row means this image."""
        return image_id == self.image if self.image else participant_of(image_id) == self.participant

    @property
    def digest(self) -> str:
        """A name for the row that is not the name in it."""
        return hashlib.sha256(f"{self.participant}\t{self.image}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Withdrawn:
    """The list."""

    path: Path | None
    rows: tuple[Row, ...]

    def has(self, image_id: str) -> bool:
        """Whether an image is withdrawn."""
        return image_id in self._images or participant_of(image_id) in self._participants

    def own(self, excluded: pd.DataFrame) -> pd.Series:
        """Which of the files that the manifest leaves out (`cohort`, `file`) are of withdrawn participants."""
        return pd.Series(
            [
                any(f"{row.cohort}_{safe(part[4:])}" in self._participants for part in Path(row.file).parts)
                for row in excluded.itertuples()
            ],
            index=excluded.index,
            dtype=bool,
        )

    @property
    def people(self) -> set[str]:
        """The participants, also those of whom only an image is withdrawn."""
        return self._participants | {participant_of(image) for image in self._images}

    @functools.cached_property
    def _images(self) -> set[str]:
        return {row.image for row in self.rows if row.image}

    @functools.cached_property
    def _participants(self) -> set[str]:
        return {row.participant for row in self.rows if row.participant and not row.image}


@dataclass(frozen=True)
class Apart:
    """What a manifest does with the withdrawn.

    `positions`: shard and place of each withdrawn image that has one, by its `number_of_place`; `shards`: those in
    which that has changed since the last time; `facts`: for the first line of shards.tsv; `notes`: sentences for a
    person.
    """

    positions: Mapping[str, tuple[str, int]]
    shards: tuple[str, ...]
    facts: Mapping[str, object]
    notes: tuple[str, ...]


def number_of_place(shard: str, place: int) -> str:
    """What stands in place of a withdrawn image's name.

    >>> number_of_place("ADNI-0012", 7)
    'ADNI_withdrawn-0012-7'
    """
    cohort, _, number = shard.rpartition("-")
    return f"{cohort}_withdrawn-{number}-{place}"


def participant_of(image_id: str) -> str:
    """The participant of an image: its first two parts, as ``A_01`` of ``A_01_ses-2_run-1``."""
    return "_".join(image_id.split("_")[:2])


def read_withdrawn(path: str | Path | None, mistakes: Mistakes | None = None) -> Withdrawn:
    """Read the list; it is empty if the path is null, or the usual path and the file is missing.

    Parameters
    ----------
    mistakes : collects everything that is wrong; None: raised at once

    Raises
    ------
    InputError
        without `mistakes`, the first thing that is wrong
    """
    found = Mistakes() if mistakes is None else mistakes
    path = None if path is None else Path(path)
    lines = lines_of_list(path, DEFAULT, "list of withdrawn people", "withdrawn", found)
    rows = tuple(_rows(path, lines, found)) if path and lines else ()
    if mistakes is None:
        found.raise_if_any()
    return Withdrawn(path, rows)


def lines_of_list(path: Path | None, usual: Path, what: str, key: str, mistakes: Mistakes) -> list[tuple[int, str]]:
    """The numbered lines of a list of people, without empty ones and comments.

    There are none if the path is null, or if nothing at all is at the usual path.  A list that is there and can't be
    read is never taken for an empty one: the people in it would stay in the study.

    Parameters
    ----------
    usual : the path at which the list may be missing
    what : the list, for a person
    key : of the configuration
    mistakes : gets a line if the list is missing elsewhere, is no regular file, too large or no UTF-8
    """
    if path is None:
        return []
    if not os.path.lexists(path):
        if path != usual:
            mistakes.add(InputError(path, "", f"there is no such {what}", f"correct the key {key!r}"))
        return []
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        mistakes.add(InputError(path, "", "it is not UTF-8 text", "save it as UTF-8"))
    except FileNotFoundError:
        mistakes.add(InputError(path, "", f"this {what} is a link to nowhere", "put the list in its place"))
    except InputError as error:
        mistakes.add(error)
    else:
        return [(at, line) for at, line in enumerate(text.splitlines(), start=1) if line.strip() and line[0] != "#"]
    return []


def _rows(path: Path, lines: Sequence[tuple[int, str]], mistakes: Mistakes) -> Iterator[Row]:
    header = [cell.strip() for cell in lines[0][1].split("\t")]
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(COLUMNS)}, tabs between them"
            mistakes.add(InputError(path, f"line {lines[0][0]}", f"there is no column {name!r}", hint))
    if not {"participant_id", "image_id"} & set(header):
        fix = "write a first line with participant_id or image_id, tabs between columns"
        mistakes.add(InputError(path, f"line {lines[0][0]}", "neither participant_id nor image_id is a column", fix))
        return
    for at, line in lines[1:]:
        cells = dict(zip(header, (cell.strip() for cell in line.split("\t")), strict=False))
        row = Row(at, cells.get("participant_id") or None, cells.get("image_id") or None)
        if not (row.participant or row.image):
            mistakes.add(
                InputError(
                    path,
                    f"line {at}",
                    "it names neither a participant nor an image",
                    "fill in participant_id or image_id",
                )
            )
        elif row.participant and row.image and participant_of(row.image) != row.participant:
            what = f"the image {row.image} is not of the participant {row.participant}"
            mistakes.add(InputError(path, f"line {at}", what, "correct one of them"))
        else:
            yield row


def set_apart(
    withdrawn: Withdrawn,
    images: pd.DataFrame,
    previous: Mapping[str, tuple[str, int]],
    folder: Path,
    mistakes: Mistakes,
) -> tuple[pd.DataFrame, Apart]:
    """Take the withdrawn out of the images, and say which positions they keep.

    Parameters
    ----------
    images : of all cohorts, before they have shards
    previous : shard and place of all images of the last time, withdrawn ones included
    folder : of the manifest
    mistakes : gets a line for each name that is not known and was not withdrawn before, one line for many, and one if
        the list has vanished though images were withdrawn

    Returns
    -------
    the other images, and what is kept of the withdrawn
    """
    before = marked_positions(folder)
    if before and (withdrawn.path is None or not withdrawn.path.is_file()):
        what = f"{counted(len(before), 'image is', 'images are')} withdrawn, and the list that says so is gone"
        mistakes.add(InputError(withdrawn.path or "withdrawn", "", what, "put it back (the key is 'withdrawn')"))
    facts = read_facts(folder / "shards.tsv") if (folder / "shards.tsv").is_file() else {}
    known = set(facts.get("withdrawn_known", ()))
    there = dict.fromkeys([*images["image_id"], *previous])
    people = dict.fromkeys(map(participant_of, there))
    unknown = []
    for row in withdrawn.rows:
        name, names = (row.image, there) if row.image else (row.participant, people)
        if name not in names and row.digest not in known:
            unknown.append((row, name, names))
    if len(unknown) > FEW:
        row, name, _ = unknown[0]
        what = f"{len(unknown):,} of its names are not in the study, the first is {name}"
        hint = f"see {layout.IMAGES} for the names of participants and images"
        mistakes.add(InputError(withdrawn.path, f"line {row.line}", what, hint))
    else:
        for row, name, names in unknown:
            near = difflib.get_close_matches(name, list(names), 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see {layout.IMAGES} for their names"
            what = f"the study has no {'image' if row.image else 'participant'} {name}"
            mistakes.add(InputError(withdrawn.path, f"line {row.line}", what, hint))
    new = {image: place for image, place in previous.items() if withdrawn.has(image) and image not in before}
    positions = {number_of_place(*place): place for place in (*before.values(), *new.values())}
    changed = {place[0] for image, place in (before | new).items() if image not in positions}
    gone = images["image_id"].map(withdrawn.has).astype(bool)
    named = {*new, *images.loc[gone, "image_id"]}
    counts = Counter(image.partition("_")[0] for image in named)
    notes = []
    if named:
        gone_people = {participant_of(image) for image in named}
        listed = ", ".join(f"{cohort} {count:,}" for cohort, count in sorted(counts.items()))
        added = f"; {len(new):,} of them had a place until now" if new else ""
        of_people = counted(len(gone_people), "person", "people")
        notes.append(f"withdrawn: {counted(counts.total(), 'image')} of {of_people} ({listed}){added}")
    facts = {
        "withdrawn_sha256": digest_of_list(withdrawn.path),
        "withdrawn_known": sorted(row.digest for row in withdrawn.rows),
    }
    return images[~gone].reset_index(drop=True), Apart(positions, tuple(sorted(changed)), facts, tuple(notes))


def consequences(shards: Collection[str], config: Mapping[str, Any]) -> str:
    """For a person: what is made again because other images of some shards are withdrawn now."""
    study = read_study(config)
    jobs = jobs_after(study, {shard: study.shards[shard].jobs for shard in shards if shard in study.shards})
    lines = [f"because of the withdrawals, the next run of snakemake does: {listed_by_rule(jobs) or 'nothing'}"]
    if "pretrain" in jobs:
        lines.append(
            "pretraining is among them; to keep the weights that there are, copy their file first and give the copy as "
            "pretrain.weights: the report then says that they were trained on people who have withdrawn"
        )
    left = sorted(set(shards) - set(study.shards))
    if left:
        lines.append(
            "these shards are of cohorts that are not in the table of cohorts any more, so no job empties them; delete "
            f"their files in {layout.PREPROCESSED}, {layout.CACHE} and {layout.INDEX}: {', '.join(left)}"
        )
    return "\n".join(lines)


def behind_weights(people: Collection[str], trained: Iterable[str] | None, seen: Collection[str] | None) -> int | None:
    """How many people who have withdrawn are behind weights; None if that is not known.

    Parameters
    ----------
    people : the participants who have withdrawn
    trained : the participants behind the weights, if this study has made them
    seen : those of `people` whom the digests in a file of given weights show; None if the file cannot show it
    """
    if not people:
        return 0
    if trained is not None:
        return len(set(trained) & set(people))
    return None if seen is None else len(seen)


def marked_positions(folder: Path) -> dict[str, tuple[str, int]]:
    """Shard and place of the images that the shard files mark as withdrawn."""
    found = {}
    for path in sorted((folder / "shards").glob("*-*.tsv")):
        for place, row in enumerate(read_dicts(path, "image_id")):
            if row.get("withdrawn"):
                found[row["image_id"]] = (path.stem, place)
    return found


def fill_positions(images: pd.DataFrame, apart: Apart, previous: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """The images with the withdrawn among them, each in its old place, and a column `withdrawn`.

    Parameters
    ----------
    images : with their shards, in the order of cohort, shard and place
    previous : shard and place of all images that had one
    """
    cohorts = {cohort: at for at, cohort in enumerate(images["cohort"].unique())}
    rows = [
        {"image_id": image, "cohort": shard.rpartition("-")[0], "shard": shard, "withdrawn": 1}
        for image, (shard, _) in apart.positions.items()
    ]
    if not rows:
        return images.assign(withdrawn=pd.array([pd.NA] * len(images), dtype="Int64"))
    empty = pd.DataFrame(rows, columns=[*images.columns, "withdrawn"])
    empty = empty.astype({**images.dtypes.to_dict(), "withdrawn": "Int64"})
    filled = pd.concat([images.assign(withdrawn=pd.array([pd.NA] * len(images), dtype="Int64")), empty])
    order = filled.assign(
        _cohort=filled["cohort"].map(lambda cohort: cohorts.get(cohort, len(cohorts))),
        _number=[int(shard.rpartition("-")[2]) for shard in filled["shard"]],
        # only old shards have withdrawn images, and all images of an old shard have a place
        _place=[
            (apart.positions[image] if image in apart.positions else previous.get(image, ("", at)))[1]
            for at, image in enumerate(filled["image_id"])
        ],
    ).reset_index(drop=True)
    order = order.sort_values(["_cohort", "cohort", "_number", "_place"], kind="stable").index
    return filled.reset_index(drop=True).loc[order].reset_index(drop=True)


def emptied(path: Path, withdrawn: Mapping[str, tuple[str, int]]) -> str:
    """The text of a shard's file with the rows of withdrawn images emptied, all else as it is.

    Parameters
    ----------
    withdrawn : shard and place by `number_of_place`
    """
    numbers = {place: number for number, (shard, place) in withdrawn.items() if shard == path.stem}
    header, *cells = read_cells(path)
    rows = [dict(zip(header, row, strict=True)) for row in cells]
    text = io.StringIO()
    names = list(dict.fromkeys([*header, "withdrawn"]))
    writer = csv.DictWriter(text, names, delimiter="\t", lineterminator="\n", restval="")
    writer.writeheader()
    for place, row in enumerate(rows):
        if place in numbers:
            row = {name: row[name] for name in KEPT} | {"image_id": numbers[place], "withdrawn": "1"}
        writer.writerow(row)
    return text.getvalue()


def erase(folder: Path, outcomes: Path) -> None:
    """Delete what preprocessing has left of an image: its folder, and its lines in the file of outcomes.

    Of linked derivatives only the links go; what they lead to is not this study's to delete.

    Parameters
    ----------
    folder : ``.../<shard>/<image_id>``
    outcomes : tab-separated lines whose third cell is an image
    """
    subjects, shard, name = folder.parent.parent, folder.parent.name, folder.name
    for own in (name, f".{name}.part", f".{name}.started"):
        remove_within(subjects, shard, own)
    _keep_outcomes(outcomes, lambda shard, image: image != folder.name)


def erase_strays(folder: Path, images: Collection[str], outcomes: Path) -> None:
    """Delete what a shard's folder holds of images that are not in the shard any more, and their lines of outcomes.

    Parameters
    ----------
    folder : ``.../<shard>``
    images : of the shard; a withdrawn one has a number in place of its name
    outcomes : tab-separated lines whose second cell is a shard and whose third is an image
    """
    for path in strays(folder, images):
        remove_within(folder.parent, folder.name, path.name)
    _keep_outcomes(outcomes, lambda shard, image: shard != folder.name or image in images)


def _keep_outcomes(outcomes: Path, is_kept: Callable[[str, str], bool]) -> None:
    if outcomes.is_file():
        lines = outcomes.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if len(cells := line.split("\t")) < 4 or is_kept(cells[1], cells[2])]
        if kept != lines:
            write_text(outcomes, "".join(kept))
