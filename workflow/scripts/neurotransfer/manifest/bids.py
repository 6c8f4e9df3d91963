"""A BIDS data set as it lies on the disk: its T1-weighted scans, and where its tables are.

Goes in: a folder.  Comes out: the participants with their scans, and what is left out, with why.  Nothing that is
found is executed, and no label is followed out of its folder.  docs/bids.md says the same for users.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# The second is what pydeface and others make of a scan's name when they remove its face.
IMAGE = re.compile(r"(?P<stem>.*)_T1w(?P<defaced>_defaced)?(?P<ending>\.nii(?:\.gz)?)", re.DOTALL)
ANNEX = "/annex/objects/"  # in the target of a datalad link, and in the file that stands in for unlocked content
POINTERS = (ANNEX.encode(), b"version https://git-lfs.github.com/")
POINTER_SIZES = range(32, 1025)  # bytes; no T1w is as small
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would end a line or a cell of a table
NOT_MAGNITUDE = ("phase", "real", "imag")
# Names that come near that of a T1-weighted scan, and what to do about them.
NEAR_MISSES = (
    (re.compile(r".*_t1w\.(?:nii|nii\.gz)", re.I | re.DOTALL), "rename it: BIDS writes _T1w.nii or _T1w.nii.gz"),
    (
        re.compile(r".*_t1w(?:_defaced)?\.(?:mgz|mgh|mnc|nrrd|img|hdr|nii\.bz2|nii\.xz)", re.I | re.DOTALL),
        "convert it to NIfTI",
    ),
    (
        re.compile(r".*_UNIT1\.nii(?:\.gz)?", re.DOTALL),
        "an MP2RAGE image has noise around the head: remove it, and name the result _T1w.nii.gz",
    ),
    (
        re.compile(r".*_(?:T1|MPRAGE)\.nii(?:\.gz)?", re.I | re.DOTALL),
        "if it is a T1-weighted scan, name it _T1w",
    ),
    (
        re.compile(r".*(?:mp2rage|t1map)\.nii(?:\.gz)?", re.I | re.DOTALL),
        "it is no T1-weighted image: make one of it, and name that _T1w.nii.gz",
    ),
    (
        re.compile(r".*t1w_?brain.*", re.I | re.DOTALL),
        "a program has made it of a scan: take the scan, or name it _desc-brain_T1w.nii.gz",
    ),
    (
        re.compile(r"(?!.*\.(?:json|tsv|txt)$).*(?:t1w|mprage).*", re.I | re.DOTALL),
        "if it is a T1-weighted scan, give it a name such as sub-01_T1w.nii.gz",
    ),
)
SCAN_ELSEWHERE = re.compile(r".*_t1w\.nii(?:\.gz)?", re.I | re.DOTALL)
NOT_DATA = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")  # folders of BIDS without raw scans
PROCESSED = ("desc", "space", "atlas", "label")  # entities of what a program has made of a scan


class Scan(NamedTuple):
    """A T1-weighted image.

    `entities` are those after subject and session, as "_acq-a_run-1", and `labels` the same by entity ("acq": "a");
    `identity` is device and inode, the same for the same file under two names.
    """

    session: str
    entities: str
    labels: dict[str, str]
    path: str
    identity: tuple[int, int]


class Exclusion(NamedTuple):
    """A file or folder that is left out; `reason` is a short code, `detail` a sentence."""

    file: str
    reason: str
    detail: str


@dataclass
class Participant:
    """A `sub-` folder: its label, its tables, and its scans in order of their names.

    `scans_tables` are the folders that hold a scans.tsv and that table, by session ("" for a folder without).
    """

    label: str
    sessions_table: Path | None = None
    scans_tables: dict[str, tuple[str, Path]] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)


def find_participants(root: Path, excluded: list[Exclusion]) -> Iterator[Participant]:
    """The participants of a data set with their T1-weighted scans, sorted by name.

    Looks into ``sub-*/anat`` and ``sub-*/ses-*/anat`` for ``*_T1w.nii``, ``*_T1w.nii.gz`` and their ``_T1w_defaced``
    variants, following links.

    Parameters
    ----------
    root : the data set's folder
    excluded : gets a row for each scan that is left out (reasons: docs/bids.md)
    """
    for folder in _entries(root, excluded):
        if not folder.name.startswith("sub-"):
            if holds_anat(folder):
                excluded.append(Exclusion(printable(folder), "near_miss", "name the folder of a person sub-<label>"))
            continue
        if not _is_folder(folder, excluded):
            continue
        if problem := _label_problem(folder.name):
            excluded.append(Exclusion(printable(folder), *problem))
            continue
        participant = Participant(folder.name.removeprefix("sub-"))
        children = _entries(folder, excluded)
        for child in children:
            if child.name == f"{folder.name}_sessions.tsv":
                participant.sessions_table = Path(child.path)
            elif child.name == f"{folder.name}_scans.tsv":
                participant.scans_tables[""] = (folder.path, Path(child.path))
            elif child.name == "anat" and _is_folder(child, excluded):
                participant.scans += _scans(child, folder.name, "", excluded)
            elif child.name.startswith("ses-") and _is_folder(child, excluded):
                _look_into_session(participant, child, folder.name, excluded)
        if not participant.scans:
            excluded += _near_places(children)
        yield participant


def _look_into_session(
    participant: Participant, folder: os.DirEntry[str], subject: str, excluded: list[Exclusion]
) -> None:
    if problem := _label_problem(folder.name):
        excluded.append(Exclusion(printable(folder), *problem))
        return
    session = folder.name.removeprefix("ses-")
    entries, before = _entries(folder, excluded), len(participant.scans)
    for entry in entries:
        if entry.name == "anat" and _is_folder(entry, excluded):
            participant.scans += _scans(entry, subject, session, excluded)
        elif entry.name == f"{subject}_{folder.name}_scans.tsv":
            participant.scans_tables[session] = (folder.path, Path(entry.path))
    if len(participant.scans) == before:
        excluded += _near_places(entries)


def holds_anat(folder: os.DirEntry[str] | Path) -> bool:
    """Whether a folder that is no sub- folder is built like one."""
    return folder.name not in NOT_DATA and not folder.name.startswith(".") and os.path.isdir(Path(folder, "anat"))


def _near_places(entries: list[os.DirEntry[str]]) -> Iterator[Exclusion]:
    """Scans outside of anat, and folders named nearly as BIDS names them, with what to do about them."""
    for entry in entries:
        name, fix = entry.name.lower(), ""
        if SCAN_ELSEWHERE.fullmatch(name):
            fix = "move it into the folder anat"
        elif entry.name != "anat" and re.fullmatch(r"anat(?:omy|omical)?", name):
            fix = "name the folder anat"
        elif not entry.name.startswith("ses-") and holds_anat(entry):
            fix = "name the folder of a session ses-<label>"
        if fix:
            yield Exclusion(printable(entry), "near_miss", fix)


def _entries(folder: os.DirEntry[str] | Path, excluded: list[Exclusion]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        excluded.append(Exclusion(printable(folder), "unreadable", "no permission to look into this folder"))
    except OSError as error:
        excluded.append(Exclusion(printable(folder), "unreadable", error.strerror or str(error)))
    return []


def _is_folder(entry: os.DirEntry[str], excluded: list[Exclusion]) -> bool:
    try:
        if entry.is_dir():
            return True
    except OSError as error:  # a link that leads to itself, a server that is away
        excluded.append(Exclusion(printable(entry), "unreadable", error.strerror or str(error)))
        return False
    if entry.is_symlink():
        excluded.append(Exclusion(printable(entry), "broken_link", "a link to a folder that is not there"))
    return False


def _scans(anat: os.DirEntry[str], subject: str, session: str, excluded: list[Exclusion]) -> Iterator[Scan]:
    prefix = f"{subject}_ses-{session}" if session else subject
    found: dict[tuple[str, str | None], Scan] = {}
    near: list[Exclusion] = []
    for entry in _entries(anat, excluded):
        name = IMAGE.fullmatch(entry.name)
        if entry.name.startswith("."):
            continue
        if name is None:
            if fix := next((fix for pattern, fix in NEAR_MISSES if pattern.fullmatch(entry.name)), None):
                near.append(Exclusion(printable(entry), "near_miss", fix))
            continue
        if problem := _problem(entry, prefix):
            excluded.append(Exclusion(printable(entry), *problem))
            continue
        scan = _scan(entry, name, prefix, session)
        if part := next((part for part in NOT_MAGNITUDE if scan.labels.get("part") == part), None):
            excluded.append(Exclusion(entry.path, "not_magnitude", f"it is the {part} part of an image"))
            continue
        if chunk := scan.labels.get("chunk"):
            excluded.append(Exclusion(entry.path, "chunk", f"it is part {chunk} of a head, imaged in several"))
            continue
        other = found.setdefault((name["stem"], name["defaced"]), scan)  # .nii comes before .nii.gz
        if other is not scan:
            detail = f"{entry.name} is the same image and is taken"
            excluded.append(Exclusion(other.path, "two_formats", detail))
            found[name["stem"], name["defaced"]] = scan
    if not found:  # beside a scan, another form of it is nothing to tell
        excluded += near
    yield from found.values()


def _scan(entry: os.DirEntry[str], name: re.Match[str], prefix: str, session: str) -> Scan:
    entities = name["stem"][len(prefix) :] + ("_desc-defaced" if name["defaced"] else "")
    labels = dict(part.split("-", 1) for part in entities.split("_") if "-" in part)
    if not session and "ses" in labels:
        session = labels["ses"]
        entities = entities.replace(f"_ses-{session}", "", 1)
    found = entry.stat()
    return Scan(session, entities, labels, entry.path, (found.st_dev, found.st_ino))


def _problem(entry: os.DirEntry[str], prefix: str) -> tuple[str, str] | None:
    """Why a scan cannot be used, as a reason and a sentence; None if it can."""
    if printable(entry) != entry.path:
        return "odd_name", "its path has a control character, or is not UTF-8 text; rename it"
    try:
        found = entry.stat()
    except FileNotFoundError:
        if ANNEX in os.readlink(entry):
            return "not_fetched", _how_to_fetch(entry)
        return "broken_link", "a link to a file that is not there"
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    if not stat.S_ISREG(found.st_mode):
        return "not_a_file", "this is no regular file"
    if found.st_size == 0:
        return "empty_file", "the file has no bytes"
    if found.st_size in POINTER_SIZES:
        try:
            start = Path(entry).read_bytes()[:64]
        except OSError as error:
            return "unreadable", error.strerror or str(error)
        if start.startswith(POINTERS):
            return "not_fetched", _how_to_fetch(entry, "git lfs pull --include" if b"lfs" in start else "datalad get")
    if not entry.name.startswith(f"{prefix}_"):
        return "name_disagrees", f"it lies in the folder of {prefix}"
    if any(_label_problem(part) for part in entry.name.split("_")):
        return "odd_name", "a label of its name could lead out of a folder; rename it"
    return None


def _how_to_fetch(entry: os.DirEntry[str], command: str = "datalad get") -> str:
    folder, name = os.path.split(entry.path)
    return (
        f"its content is elsewhere; to have it here: cd {shlex.quote(folder)} && {command} {shlex.quote(f'./{name}')}"
    )


def _label_problem(name: str) -> tuple[str, str] | None:
    """Why a folder's or file's label is not used: it is empty, or could lead out of a folder as a part of a path."""
    label = name.partition("-")[2] if "-" in name else name
    if label.strip() in ("", ".", ".."):
        return "odd_name", f"{label!r} is no label; rename it"
    return None


def printable(path: os.DirEntry[str] | Path | str) -> str:
    """A path that can be written into a line of UTF-8 text whatever its bytes are."""
    text = os.fspath(path).encode("utf-8", "backslashreplace").decode()
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def key_of(text: str, prefix: str) -> str:
    """A participant or session label as tables and folders share it: with or without its prefix, composed Unicode."""
    text = text.strip().removeprefix(prefix)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def safe(label: str) -> str:
    """A label with letters and digits only, anything else replaced by "-"."""
    return re.sub(r"[^A-Za-z0-9]", "-", label)
