"""The search of a study for people who have withdrawn, and the statement on it.

Goes in: the list of withdrawn people and every file of the study.  Comes out: the files that still name one of them or
hold rows of theirs, and a text that can be filed.  Old logs, which no job writes again, are cleaned first.
"""

from __future__ import annotations

import os
import re
import string
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import __version__
from ..cache.shard_file import ShardFile
from ..cache.small_volumes import small_voxel
from ..cache.small_volumes import volumes_of as small_volumes_of
from ..errors import InputError
from ..files import digest_of_file, read_table, write_text
from ..manifest.carrying_out import pending_shards
from ..manifest.withdrawal import Withdrawn
from ..preprocess.volumes import read_volumes, volumes_of
from ..split.duplicates import heads_of
from ..study import layout
from ..study.access import FOLDERS
from ..study.plan import Study
from ..text import counted

if TYPE_CHECKING:  # it imports torch
    from .features_again import FeaturesAgain

LOGS = (layout.LOGS, layout.FAILURES, layout.OUTCOMES, ".snakemake")  # what is cleaned instead of being made again
# arrays of voxels and figures, which hold no text except in their names
ARRAYS = (".npy", ".mgz", ".nii", ".nii.gz")
UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part")  # a file of files.written_whole that was never renamed
WORD = re.compile(rb"[A-Za-z0-9_-]+")
LETTERS = f"{string.ascii_letters}{string.digits}_-".encode()  # of words
BLOCK = 2**22  # bytes that are searched at once
CLOSE = 0.01  # of numbers of a head computed twice, perhaps by two machines; two people differ by more in some of them
STATEMENT = "withdrawal-statement.txt"
GONE = b"withdrawn-person"


@dataclass
class Search:
    """The result: `names` are files that name a withdrawn person, `voxels` rows of the cache that are not empty.

    `left` says of other arrays why they may hold a row of one; `compared` of them were compared with their index.
    `again` of the `features`, in rows, were computed again.
    """

    people: int
    files: int = 0
    bytes: int = 0
    arrays: int = 0
    rows: int = 0
    compared: int = 0
    features: int = 0
    again: int = 0
    names: list[str] = field(default_factory=list)
    voxels: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.names or self.voxels or self.left or self.pending)

    def text(self) -> str:
        """What was searched and found, a line per fact."""
        lines = [
            f"entries in the list of withdrawn people and images: {self.people:,}",
            f"files searched for their names: {self.files:,} ({self.bytes:,} bytes) in {', '.join(FOLDERS)}",
            f"arrays whose names were searched, and which hold no other text: {self.arrays:,}",
            f"rows of the cache that keep the place of a withdrawn image, checked to be zero: {self.rows:,}",
            f"volumes, heads and features of their cohorts, compared with the images that are left: {self.compared:,}",
            f"rows of features computed again from the cached images: {self.again:,} of {self.features:,}",
        ]
        lines += [f"{path} names a person who has withdrawn" for path in self.names]
        lines += [f"{place} is not empty" for place in self.voxels]
        lines += [f"{what}; delete it" for what in self.left]
        lines += [f"files of the shard {shard} still hold a person who has withdrawn" for shard in self.pending]
        if self.is_clean:
            return "\n".join([*lines, "found: nothing. No searched file names them or holds their voxels."])
        fix = "run snakemake, then neurotransfer withdraw --verify again"
        places = sum(map(len, (self.names, self.voxels, self.left, self.pending)))
        return "\n".join([*lines, f"found: {places:,} places; {fix}"])


class Names:
    """Names of withdrawn people in any text: participants, images, and ``sub-<label>`` if nobody else has the label."""

    def __init__(self, withdrawn: Withdrawn, others: set[str]) -> None:
        """`others` are the participants of the study."""
        self._whole = {name.encode() for row in withdrawn.rows for name in [row.image or row.participant] if name}
        labels = {participant.partition("_")[2] for participant in others}
        people = {row.participant for row in withdrawn.rows if row.participant and not row.image}
        self._whole |= {f"sub-{label}".encode() for one in people if (label := one.partition("_")[2]) not in labels}
        self._longest = max((len(re.findall(rb"[_-]", name)) + 1 for name in self._whole), default=1)

    def in_word(self, word: bytes) -> bool:
        """Whether a word, or what lies between the hyphens and underscores in it, is such a name."""
        if b"_" not in word and b"-" not in word:
            return False  # every name has one of them
        parts = re.split(rb"([_-])", word)
        return any(
            b"".join(parts[start:end]) in self._whole
            for start in range(0, len(parts), 2)
            for end in range(start + 1, min(len(parts), start + 2 * self._longest - 1) + 1, 2)
        )

    def in_bytes(self, content: bytes) -> bool:
        """Whether a text holds one."""
        return any(self.in_word(word) for word in set(WORD.findall(content)))

    def removed(self, content: bytes) -> bytes:
        """A text whose words that hold a name are replaced."""
        return WORD.sub(lambda found: GONE if self.in_word(found[0]) else found[0], content)


def names_of(withdrawn: Withdrawn, images: str | Path = layout.IMAGES) -> Names:
    """The names to search for; `images` is the manifest's table."""
    return Names(withdrawn, set(read_table(images, "participant_id")["participant_id"].dropna()))


def clean_logs(names: Names, folder: str | Path = ".") -> int:
    """Replace the names in logs and in Snakemake's own files; the number of files that were changed.

    Each keeps its time, which Snakemake may go by.
    """
    changed = 0
    for path in _paths(Path(folder), LOGS):
        if path.is_symlink() or not path.is_file() or _is_array(path) or not _names_somebody(path, names):
            continue
        about = path.stat()
        try:
            text = names.removed(path.read_bytes()).decode("utf-8")
        except UnicodeDecodeError:
            continue  # no text; the search reports it
        write_text(path, text)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        changed += 1
    return changed


def search(
    study: Study,
    withdrawn: Withdrawn,
    names: Names,
    voxel_size: float,
    folder: str | Path = ".",
    cores: int = 1,
    network: FeaturesAgain | None = None,
) -> Search:
    """Search every file of the study in a folder for the names, and its arrays for rows of withdrawn images.

    Parameters
    ----------
    voxel_size : of the cached images, mm
    cores : processes that compute heads again, about 0.05 s each
    network : computes features again; None: their rows are counted and not computed
    """
    folder = Path(folder)
    found = Search(len(withdrawn.rows))
    for path in _paths(folder, FOLDERS):
        shown = str(path.relative_to(folder))
        named = names.in_bytes(os.fsencode(shown))
        if path.is_symlink():
            named |= names.in_bytes(os.fsencode(os.readlink(path)))
        elif path.is_file() and _is_array(path):
            found.arrays += 1
        elif path.is_file():
            found.files += 1
            found.bytes += path.stat().st_size
            named = named or _names_somebody(path, names)
        if named:
            found.names.append(shown)
        elif (part := UNFINISHED.fullmatch(path.name)) and part[1].endswith(ARRAYS):
            found.left.append(f"{shown} was left by a job that was killed, and may hold their images")
    concerned = [shard for shard in study.shards.values() if shard.withdrawn]
    for shard in concerned:
        _search_rows(shard.name, folder, found)
    for cohort in dict.fromkeys(shard.cohort for shard in concerned):
        _search_by_index(cohort, study.shards_of(cohort), voxel_size, folder, cores, network, found)
    found.pending = pending_shards(study, folder / layout.RESULTS)
    return found


def _search_rows(shard: str, folder: Path, found: Search) -> None:
    """Note the rows of withdrawn images that are not zero, in the shard's arrays."""
    table = read_table(folder / layout.SHARD_TABLES / f"{shard}.tsv")
    rows = np.flatnonzero(table["withdrawn"].fillna(0).to_numpy() == 1)
    for ending in (".npy", ".slices.npy", ".small.npy"):
        path = folder / layout.CACHE / f"{shard}{ending}"
        if not path.is_file():
            continue
        file = ShardFile(path)
        values = np.empty(file.shape[1:], np.uint8)
        for row in rows.tolist():
            found.rows += 1
            try:
                file.read(row, values)
            except InputError as error:
                found.voxels.append(f"{path}, row {row} ({error.what})")
                continue
            if values.any():
                found.voxels.append(f"{path}, row {row}")


def _search_by_index(
    cohort: str,
    shards: Sequence[str],
    voxel_size: float,
    folder: Path,
    cores: int,
    network: FeaturesAgain | None,
    found: Search,
) -> None:
    """Note the arrays with a row for each image of a cohort's index that were made with more or other images.

    Volumes are compared with the shards' tables, heads and features with those of the cached images, computed again.
    Features must have values only for images of the role test.
    """
    listed = folder / layout.index(cohort)
    volumes = listed.with_suffix(".volumes.npy")
    index = read_table(listed) if listed.is_file() else pd.DataFrame({"image_id": []})
    heads, features = (folder / place.format(cohort=cohort) for place in (layout.HEADS, layout.FEATURES))
    for path in (volumes, heads, features):
        if not path.is_file():
            continue
        found.compared += 1
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            rows = len(array)
        except (OSError, ValueError, TypeError, EOFError):
            found.left.append(f"{path} can't be read")
            continue
        if rows != len(index):
            found.left.append(f"{path} has {counted(rows, 'row')}, and {listed} {counted(len(index), 'image')}")
        elif array.dtype.kind != "f" or array.ndim != 2:
            found.left.append(f"{path} is no table of numbers")
        elif path == volumes:
            tables = [folder / layout.CACHE / f"{shard}.volumes.tsv" for shard in shards]
            if not all(table.is_file() for table in tables):
                found.left.append(f"{path} can't be compared, because a table beside the cohort's shards is missing")
            elif not np.array_equal(array, volumes_of(index, read_volumes(tables)[0]), equal_nan=True):
                found.left.append(f"{path} has rows of other images than {listed}")
        elif path.stat().st_mtime_ns < listed.stat().st_mtime_ns:
            found.left.append(f"{path} is older than {listed}")
        elif path == heads:
            _compare_heads(
                path,
                array,
                index,
                [folder / layout.CACHE / f"{name}.small.npy" for name in shards],
                small_voxel(voxel_size),
                cores,
                found,
            )
        elif _has_untested(array, index, folder / layout.cohort_split(cohort)):
            found.left.append(f"{path} has values for images that no task may draw")
        else:
            _compare_features(path, array, index, folder / layout.CACHE, network, found)


def _compare_heads(
    path: Path, heads: np.ndarray, index: pd.DataFrame, files: list[Path], voxel: float, cores: int, found: Search
) -> None:
    """Note a table of heads [images, numbers] if it is not that of the index's images in the small volumes `files`."""
    if not all(file.is_file() for file in files):
        found.left.append(f"{path} can't be compared, because small volumes beside the cohort's shards are missing")
        return
    try:
        again = heads_of(small_volumes_of(index, files), voxel, cores)
    except InputError as error:
        found.left.append(f"{path} can't be compared ({error.file}: {error.what})")
        return
    if again.shape != heads.shape or not np.allclose(again, heads, rtol=CLOSE, atol=CLOSE, equal_nan=True):
        found.left.append(f"{path} has heads of other images than the cohort's index")


def _compare_features(
    path: Path, features: np.ndarray, index: pd.DataFrame, cache: Path, network: FeaturesAgain | None, found: Search
) -> None:
    """Note a table of features [images, features] with rows that the network does not give for the index's images."""
    found.features += int(np.isfinite(features).any(1).sum())
    if network is None:
        return
    rows = network.rows_to_check(features)
    found.again += len(rows)
    if not len(rows):
        return
    try:
        differing = network.differing(features, index, cache, rows)
    except InputError as error:
        found.left.append(f"{path} can't be compared ({error.file}: {error.what})")
        return
    if len(differing):
        found.left.append(f"{path} has features of other images than the cohort's index, or of other weights")


def _has_untested(features: np.ndarray, index: pd.DataFrame, split: Path) -> bool:
    """Whether features [images, numbers] are given for images that are not of the role test, or if no role is known."""
    roles = read_table(split).set_index("image_id")["role"] if split.is_file() else {}
    tested = (index["image_id"].map(roles) == "test").to_numpy(bool)
    return bool(np.isfinite(features[~tested]).any())


def statement(found: Search, withdrawn: Withdrawn, study: str) -> str:
    """The text that can be filed: what was searched, when and by which version, and what was found."""
    listed = f"{withdrawn.path} (SHA-256 {digest_of_file(withdrawn.path)})" if withdrawn.path else "none"
    head = [
        f"Statement on withdrawal from the study {study}",
        f"made by neurotransfer {__version__} on {time.strftime('%Y-%m-%d %H:%M %Z')}",
        f"list of withdrawn people: {listed}",
    ]
    beyond = "not searched: the cohorts' own data, and copies outside this folder"
    return "\n".join([*head, found.text(), beyond]) + "\n"


def _paths(folder: Path, places: tuple[str, ...]) -> Iterator[Path]:
    """Everything in these places: files, folders and links, which are not followed."""
    for place in places:
        top = folder / place
        if top.is_file():
            yield top
        for parent, folders, files in os.walk(top):
            yield from (Path(parent, name) for name in sorted([*folders, *files]))


def _is_array(path: Path) -> bool:
    return path.name.endswith(ARRAYS)


def _names_somebody(path: Path, names: Names) -> bool:
    """Whether a file's bytes hold a name, read block by block."""
    begun = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            text = begun + block
            whole = text.rstrip(LETTERS)
            begun = text[len(whole) :]  # of a word that the next block may continue
            if names.in_bytes(whole):
                return True
    return names.in_bytes(begun)
