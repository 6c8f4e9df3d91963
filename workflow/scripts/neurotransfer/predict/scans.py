"""The scans that predictions are asked for: of a BIDS folder, of a list of files, or one file.

Goes in: a path, and a pattern of existing outputs if there are any.  Comes out: a row of a manifest for each scan, and
what is left out, with why.  No label of any person is needed.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError
from ..manifest.bids import Exclusion, Participant, Scan, find_participants, printable, safe
from ..manifest.image_choice import choose_scans
from ..manifest.path_patterns import fill_in, pattern_mistake

IMAGES = re.compile(r"(?P<stem>.+?)\.(?:nii|nii\.gz|mgz|mgh)", re.DOTALL)
LIST_COLUMNS = ("t1w", "image_id", "derivatives")
LONGEST = 200  # characters of a scan's name that is taken from its file
NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,{LONGEST - 1}}}")
ORIG = "mri/orig.mgz"  # stands for the scan if a list names only its outputs


def find_scans(source: Path, pattern: str | None = None) -> tuple[pd.DataFrame, list[Exclusion]]:
    """The scans at `source`.

    Parameters
    ----------
    source : a BIDS folder; an image; or a list, which is a text file with a path per line, or a TSV with the column
        `t1w` or `derivatives` (or both) and, if it is given, `image_id`; paths are relative to the list
    pattern : of the folders with existing outputs, as in a cohort table: ``derivatives/sub-{participant}``; relative to
        the BIDS folder or the list

    Returns
    -------
    scans : `image_id`, `participant_id`, `session`, `run`, `t1w` and `derivatives`, absolute paths; missing is None
    left_out : files that are no usable scan, with reasons (docs/bids.md)

    Raises
    ------
    InputError
        if there is no scan, or the list or the pattern is not what it should be
    """
    if pattern is not None and (mistake := pattern_mistake(pattern)):
        raise InputError("--derivatives", "", mistake, "write one such as derivatives/fastsurfer/sub-{participant}")
    source = source.absolute()
    left_out: list[Exclusion] = []
    if source.is_dir():
        rows = _of_bids(source, pattern, left_out)
    elif not source.is_file():
        raise InputError(source, "", "there is no such folder or file", "correct --images")
    elif IMAGES.fullmatch(source.name):
        rows = _of_list([{"t1w": str(source)}], source, pattern, left_out)
    else:
        rows = _of_list(_read_list(source), source, pattern, left_out)
    if not rows:
        what = "it holds no T1-weighted image (sub-*/[ses-*/]anat/*_T1w.nii.gz)"
        if left_out:
            what = f"none of its {len(left_out)} images can be used (the first: {left_out[0].detail})"
        raise InputError(source, "", what, "give a BIDS folder, or a list of files with a path per line")
    names: dict[str, str] = {}
    for row in rows:
        if names.setdefault(row["image_id"], row["t1w"]) != row["t1w"]:
            what = f"it and {names[row['image_id']]} are both {row['image_id']} once other characters are replaced"
            raise InputError(row["t1w"], "", what, "rename one of them, or give a list with the column image_id")
    columns = ["image_id", "participant_id", "session", "run", "t1w", "derivatives"]
    return pd.DataFrame(rows, columns=columns, dtype=object), left_out


def _of_bids(root: Path, pattern: str | None, left_out: list[Exclusion]) -> list[dict[str, Any]]:
    rows = []
    for person in find_participants(root, left_out):
        taken, others = choose_scans(person.scans, ["all"])
        left_out += others
        rows += [_of_scan(root, person, scan, pattern) for scan in taken]
    return rows


def _of_scan(root: Path, person: Participant, scan: Scan, pattern: str | None) -> dict[str, Any]:
    session = f"_ses-{safe(scan.session)}" if scan.session else ""
    entities = "_".join(safe(entity) for entity in scan.entities.split("_"))
    name, run = f"sub-{safe(person.label)}", scan.labels.get("run")
    labels = {"participant": person.label, "session": scan.session, "run": run or "", "image_id": name}
    return {
        "image_id": f"{name}{session}{entities}",
        "participant_id": name,
        "session": scan.session or None,
        "run": run,
        "t1w": scan.path,
        "derivatives": _filled(root, pattern, labels | {"image_id": f"{name}{session}{entities}"}, scan.path),
    }


def _filled(root: Path, pattern: str | None, labels: Mapping[str, str], scan: str) -> str | None:
    if pattern is None:
        return None
    try:
        return str(root / fill_in(pattern, labels))
    except ValueError as error:
        fix = "put the part that is not always there into square brackets, as sub-{participant}[_ses-{session}]"
        raise InputError(scan, "--derivatives", f"{pattern} can't be filled in: {error}", fix) from None


def _read_list(path: Path) -> list[dict[str, str]]:
    """The rows of a list: cells by column; a list without a header has the column t1w."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(path, "", "it is not UTF-8 text", "give a BIDS folder, or a text file of paths") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    lines = [line for _, line in numbered]
    names = lines[0].strip("\r").split("\t") if lines else []
    if not set(names) & {"t1w", "derivatives"}:
        if any("\t" in line for line in lines):
            fix = f"name its columns in the first line: {', '.join(LIST_COLUMNS)}"
            raise InputError(path, "line 1", "it is a table without a column t1w or derivatives", fix)
        if lines and not IMAGES.fullmatch(lines[0].strip()):
            fix = "give a BIDS folder, an image, or a text file with a path (.nii.gz, .nii, .mgz) per line"
            raise InputError(path, "", f"line {numbered[0][0]} is no path of an image", fix)
        return [{"t1w": line.strip()} for line in lines]
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 1):
        name = (row.get("image_id") or "").strip()
        if name and not NAME.fullmatch(name):
            fix = f"write letters, digits, _ and - only, not - first, and at most {LONGEST}"
            raise InputError(path, f"row {number}, image_id", f"{name!r} can't name files", fix)
    return [{name: (row.get(name) or "").strip() for name in LIST_COLUMNS} for row in rows]


def _of_list(
    rows: Sequence[Mapping[str, str]], path: Path, pattern: str | None, left_out: list[Exclusion]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        given = row.get("t1w") or (f"{row['derivatives']}/{ORIG}" if row.get("derivatives") else "")
        if not given:
            left_out.append(Exclusion(f"{path.name}, row {number}", "missing", "the row names no file"))
            continue
        scan = f"{path.parent}/{given}"
        if printable(scan) == scan:
            scan = str(path.parent / os.path.expanduser(given))
        else:
            left_out.append(Exclusion(printable(scan), "odd_name", "its path has a control character; rename it"))
            continue
        if scan in seen:
            left_out.append(Exclusion(scan, "twice", "the list names it twice"))
            continue
        seen.add(scan)
        name = row.get("image_id") or _name_of(Path(scan), names)
        if name in names:
            what = f"{name} names two scans, {names[name]} and {scan}"
            raise InputError(path, f"row {number}, image_id", what, "give each its own name")
        names[name] = scan
        outputs = str(path.parent / row["derivatives"]) if row.get("derivatives") else None
        labels = {"participant": name, "session": "", "run": "", "image_id": name}
        outputs = outputs or _filled(path.parent, pattern, labels, scan)
        found.append({"image_id": name, "participant_id": name, "t1w": scan, "derivatives": outputs})
    return found


def _name_of(scan: Path, taken: Mapping[str, str]) -> str:
    """A name for a file: its own, with those of its folders if another file has it, too, and a number at last."""
    parts = [*scan.parts[1:-1], IMAGES.fullmatch(scan.name)["stem"] if IMAGES.fullmatch(scan.name) else scan.name]  # type: ignore[index]
    if str(scan).endswith(f"/{ORIG}"):
        parts = list(scan.parts[1:-2])
    whole = [re.sub(r"[^A-Za-z0-9_-]", "-", "_".join(parts[-count:])) for count in range(1, len(parts) + 1)]
    candidates = [name.lstrip("-")[:LONGEST] or "scan" for name in whole]
    numbered = (f"{candidates[0]}_{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (*candidates[:3], *numbered) if name not in taken)
