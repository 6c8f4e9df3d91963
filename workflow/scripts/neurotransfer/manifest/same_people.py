"""The list of people with several participant ids, as a person keeps it: config/same_people.tsv.

Goes in: lines with the names of one person each, tabs between them.  Comes out: groups of names, checked against the
study, and the list with one more group.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, Mistakes
from ..files import read_bytes, read_dicts, write_text
from ..study import layout
from ..study.same_people import People, joined, people_of
from ..text import counted
from .withdrawal import FEW, MOST_BYTES, Withdrawn, lines_of_list

DEFAULT = Path("config/same_people.tsv")  # only this file may be missing, which means that no person has two names
HEAD = "# the participant ids of one person on each line, tabs between them; private, because it names people\n"


@dataclass(frozen=True)
class Group:
    """One line of the list."""

    line: int
    names: tuple[str, ...]


def read_same_people(path: str | Path | None, mistakes: Mistakes | None = None) -> list[Group]:
    """Read the list; it is empty if the path is null, or the usual path and the file is missing.

    Parameters
    ----------
    mistakes : collects everything that is wrong; None: raised at once

    Raises
    ------
    InputError
        without `mistakes`, what is wrong
    """
    found = Mistakes() if mistakes is None else mistakes
    path = None if path is None else Path(path)
    lines = lines_of_list(path, DEFAULT, "list of people with several participant ids", "same_people", found)
    groups = list(_groups(path, lines, found)) if path else []
    if mistakes is None:
        found.raise_if_any()
    return groups


def _groups(path: Path, lines: Sequence[tuple[int, str]], mistakes: Mistakes) -> Iterator[Group]:
    for at, line in lines:
        names = tuple(dict.fromkeys(cell.strip() for cell in line.split("\t") if cell.strip()))
        if len(names) == 1:
            fix = "write all participant ids of one person on a line, tabs between them"
            mistakes.add(InputError(path, f"line {at}", "it has only one name", fix), str(path))
        elif names:
            yield Group(at, names)


def people_in(
    groups: Sequence[Group],
    path: str | Path | None,
    known: Collection[str],
    withdrawn: Withdrawn,
    roles: Mapping[str, Collection[str]],
    mistakes: Mistakes,
) -> tuple[People, list[str]]:
    """The people whom the list names, without names that have withdrawn.

    Parameters
    ----------
    groups : from `read_same_people`
    path : of the list, for messages
    known : every participant of the study who has not withdrawn
    roles : of each cohort
    mistakes : gets a line for each name that is neither known nor withdrawn, one line for many

    Returns
    -------
    the people, and sentences for a person, without names
    """
    gone = {row.participant for row in withdrawn.rows if row.participant and not row.image}
    unknown = [(group.line, name) for group in groups for name in group.names if name not in known and name not in gone]
    if len(unknown) > FEW:
        line, name = unknown[0]
        what = f"{len(unknown):,} of its names are not in the study, the first is {name}"
        mistakes.add(InputError(path or "", f"line {line}", what, f"see {layout.IMAGES} for the names of participants"))
    else:
        for line, name in unknown:
            near = difflib.get_close_matches(name, list(known), 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see {layout.IMAGES} for their names"
            mistakes.add(InputError(path or "", f"line {line}", f"the study has no participant {name}", hint))
    persons = joined(group.names for group in groups)
    notes = []
    halves = [group.line for group in groups if gone & {*group.names} and {*group.names} - gone]
    for line in halves:
        notes.append(
            f"{path}, line {line}: a name of this person has withdrawn and another has not; "
            f"if the person has left the study, list every name in the list of withdrawn people"
        )
    people = people_of([[name for name in group if name in known] for group in persons], roles)
    if people:
        names = sum(map(len, people.groups))
        notes.append(
            f"one person under several names: {counted(len(people), 'person', 'people')} with {names:,} participant ids"
        )
    return people, notes


def found_pairs(chosen: Iterable[str], pairs: str | Path) -> list[tuple[str, str]]:
    """The pairs of participants, of those in the table of images that look alike, whose both names are chosen.

    Parameters
    ----------
    chosen : names of participants or of images
    pairs : the table that the comparison of all heads has written

    Raises
    ------
    InputError
        if there is no table, or if one of the names is in no such pair
    """
    names = list(dict.fromkeys(chosen))
    if not Path(pairs).is_file():
        fix = "run snakemake, which compares all heads, or write the list yourself"
        raise InputError(pairs, "", "the heads have not been compared yet", fix)
    found: dict[tuple[str, str], None] = {}
    matched: set[str] = set()
    for row in read_dicts(pairs, "image_1", "image_2", "participant_1", "participant_2"):
        sides = [{row[f"participant_{side}"], row[f"image_{side}"]} & {*names} for side in (1, 2)]
        if all(sides):
            found[row["participant_1"], row["participant_2"]] = None
            matched.update(*sides)
    for name in names:
        if name not in matched:
            fix = "name two participants, or two images, of one of its rows"
            raise InputError(pairs, name[:100], "it is in no pair with another of these names", fix)
    return list(found)


def add_groups(path: str | Path, groups: Iterable[Sequence[str]]) -> None:
    """Write groups of names below those in the list, which is begun if there is none."""
    path = Path(path)
    before = read_bytes(path, MOST_BYTES).decode("utf-8-sig") if path.exists() else HEAD
    before += "" if before.endswith("\n") or not before else "\n"
    write_text(path, before + "".join("\t".join(group) + "\n" for group in groups))
