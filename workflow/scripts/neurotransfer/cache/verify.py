"""Verification of the cache: its bytes against their checksums, its rows against the manifest and the ledgers.

Goes in: the study's folder.  Comes out: one line per mistake, with the shard, the row and the fix.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..files import digest_of_file, digest_of_rows, read_bytes, read_table
from ..study import layout
from ..study.plan import Study
from ..text import byte_size, counted
from .shard_file import ShardFile, checksum
from .write import FROM_LEDGER

CACHE, SHARDS, INDEX = (Path(name) for name in (layout.CACHE, layout.SHARD_TABLES, layout.INDEX))
WRITING = 60.0  # seconds without growth after which a temporary file counts as abandoned
ENDINGS = (".slices.npy", ".small.npy", ".volumes.tsv", ".npy", ".tsv")


@dataclass
class Verification:
    """The extent of a verification and its mistakes, in the order of shards; `waiting` are shards without any file."""

    mistakes: list[InputError] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    waiting: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One line: how much was verified, and how much of it was wrong."""
        found = f"{len(self.mistakes)} wrong" if self.mistakes else "all as written"
        if not self.shards and not self.mistakes:
            return f"there is no cache of the study's {counted(len(self.waiting), 'shard')} yet"
        extent = f"{counted(self.shards, 'shard')}, {counted(self.rows, 'image')}, {byte_size(self.bytes)}"
        waiting = f"; {counted(len(self.waiting), 'shard is', 'shards are')} not cached yet" if self.waiting else ""
        return f"{extent} verified: {found}{waiting}"


@dataclass
class VerifiedShard:
    """The mistakes of one shard, its rows, and the bytes that were read of it and of the files beside it."""

    mistakes: list[InputError] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0


def verify_cache(
    study: Study, threads: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Verify the whole cache of the study in the current folder.

    It finds changed bytes, missing rows, files that are too short or too long, files that are older than their
    sources or were made from other sources, rows of withdrawn images that still contain a brain, leftovers of killed
    jobs, and files of shards that are not in the manifest.

    Parameters
    ----------
    threads : number of shards to read at once; None means the number of cores
    progress : called after each shard with the number of finished shards and of all shards
    """
    result = Verification()
    names = list(study.shards)
    cached_cohorts = {path.name.removesuffix(".tsv") for path in INDEX.glob("*.tsv")}
    found: dict[str, VerifiedShard] = {}
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        pending: dict[Future, str] = {}
        queue = iter(names)
        while True:
            # only a few futures in advance, not 100,000 at once
            while len(pending) < 2 * threads and (name := next(queue, None)) is not None:
                pending[pool.submit(verify_shard, name, study)] = name
            if not pending:
                break
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                found[pending.pop(done)] = done.result()
                if progress:
                    progress(len(found), len(names))
    for name in names:
        shard = found[name]
        if not shard.bytes and not shard.mistakes:
            if study.shards[name].cohort in cached_cohorts:
                what = "the shard is missing, though its cohort's index was made from it"
                shard = VerifiedShard([InputError(CACHE / f"{name}.npy", "", what, "run snakemake again")])
            else:
                result.waiting.append(name)
                continue
        result.mistakes += shard.mistakes
        result.shards += 1
        result.rows += shard.rows
        result.bytes += shard.bytes
    result.mistakes += list(_leftovers(set(names)))
    result.mistakes += list(_stale_indices(study))
    return result


def verify_shard(name: str, study: Study) -> VerifiedShard:
    """Verify one shard and the files beside it; without any file there is neither a mistake nor a byte."""
    images, table_path = CACHE / f"{name}.npy", CACHE / f"{name}.tsv"
    if not any(path.exists() for path in (images, table_path)):
        return VerifiedShard()
    mistakes: list[InputError] = []
    for path, other in ((images, table_path), (table_path, images)):
        if not path.exists():
            error = InputError(path, "", f"it is missing beside {other.name}", _again(name))
            return VerifiedShard([error], bytes=other.stat().st_size)
    try:
        table, facts = _read_cache_table(table_path)
    except ValueError:
        error = InputError(table_path, "", "it is not the table that was written", _again(name))
        return VerifiedShard([error], bytes=images.stat().st_size)
    size = table_path.stat().st_size
    mistakes += _against_manifest(name, table, table_path)
    mistakes += _against_ledgers(name, study, table, table_path)
    damaged = list(_bytes(images, table, facts["crop"], name))
    mistakes += damaged
    size += images.stat().st_size
    for file, digest in facts["files"].items():
        path = CACHE / file
        if not path.is_file():
            mistakes.append(InputError(path, "", "it is missing", _again(name)))
            continue
        size += path.stat().st_size if path != images else 0
        if digest_of_file(path) != digest and not (path == images and damaged):
            mistakes.append(InputError(path, "", "its bytes are not the ones that were written", _again(name)))
    return VerifiedShard(mistakes, len(table), size)


def _read_cache_table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A shard's table and its facts; ValueError if a byte of them has changed."""
    # bytes, because reading as text hides changed line ends
    first, _, _ = read_bytes(path).partition(b"\n")
    facts = json.loads(first.removeprefix(b"# "))
    names = set(facts) - {"crop_rule"}  # which only shards of another rule than the default have
    if names != {"crop", "rows", "files"} or first.decode() != f"# {json.dumps(facts, sort_keys=True)}":
        raise ValueError("the facts are not as they were written")
    if digest_of_rows(path) != facts["rows"]:
        raise ValueError("the rows are not as they were written")
    return read_table(path), facts


def _again(name: str) -> str:
    return f"delete {layout.CACHE}/{name}.*, then run snakemake again"


def _against_manifest(name: str, table: pd.DataFrame, path: Path) -> Iterator[InputError]:
    """Rows that are missing, too many or in another order than in the manifest; rows of withdrawn people."""
    manifest = SHARDS / f"{name}.tsv"
    if not manifest.is_file():
        yield InputError(manifest, "", "the shard's manifest is missing", "run neurotransfer manifest")
        return
    images = read_table(manifest)
    wanted, has = images["image_id"].tolist(), table["image_id"].tolist()
    if has != wanted or table["row"].tolist() != list(range(len(table))):
        pairs = enumerate(zip(wanted, has, strict=False))
        row = next((row for row, (one, other) in pairs if one != other), min(len(wanted), len(has)))
        if "withdrawn" in images and len(has) == len(wanted) and images["withdrawn"].fillna(0).iloc[row] == 1:
            what = f"{has[row]} has been withdrawn and is still cached"
            yield InputError(path, f"row {row}", what, "run snakemake again, which carries it out")
            return
        what = f"it has {len(has)} rows and {manifest} {len(wanted)}; they differ from this row on"
        yield InputError(path, f"row {row}", what, _again(name))
        return
    if "withdrawn" in images:
        withdrawn = images["withdrawn"].fillna(0).astype(int) == 1
        for row in np.flatnonzero(withdrawn & table["checksum"].notna()).tolist():
            what = f"{wanted[row]} has been withdrawn and is still cached"
            yield InputError(path, f"row {row}", what, "run snakemake again, or delete the shard's ledgers")


def _against_ledgers(name: str, study: Study, table: pd.DataFrame, path: Path) -> Iterator[InputError]:
    """Rows that differ from the ledgers' present content, and files that are older than the ledgers."""
    shard = CACHE / f"{name}.npy"
    ledgers = [Path(ledger) for ledger in study.ledgers_of([name])]
    for ledger in ledgers:
        if not ledger.is_file():
            yield InputError(
                ledger, "", f"the ledger that {shard.name} was made from is missing", "run snakemake again"
            )
            return
    newest = max([*ledgers, SHARDS / f"{name}.tsv"], key=_written)
    for file in (shard, path):
        if _written(file) < _written(newest):
            yield InputError(file, "", f"it is older than {newest}, so it is stale", "run snakemake again")
            return
    columns = list(FROM_LEDGER)
    ledger = pd.concat([read_table(file) for file in ledgers])[columns].set_index("image_id")
    ledger = ledger.reindex(table["image_id"]).reset_index()[columns].astype(object)
    mine = table[columns].astype(object)
    differs = ((mine != ledger) & ~(mine.isna() & ledger.isna())).any(axis=1)
    for row in np.flatnonzero(differs):
        values = ledger.loc[row, [name for name in columns if name != "image_id"]].dropna()
        entry = ", ".join(map(str, values)) or "nothing"
        what = f"the ledger has for {mine.loc[row, 'image_id']}: {entry}; the shard was made from another entry"
        yield InputError(path, f"row {row}", what, _again(name))


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _bytes(path: Path, table: pd.DataFrame, crop: list[int], name: str) -> Iterator[InputError]:
    """Mistakes in a shard's header, its length and its rows: a checksum if the image is ok, zeros if not."""
    try:
        shard = ShardFile(path)
    except InputError as error:
        yield InputError(path, "", error.what, _again(name))
        return
    if shard.shape != (len(table), *crop):
        what = f"it does not hold {len(table)} images of {' x '.join(map(str, crop))} voxels"
        yield InputError(path, "", what, _again(name))
        return
    image = np.empty(crop, np.uint8)
    for row, (expected, status) in enumerate(zip(table["checksum"], table["status"], strict=True)):
        try:
            shard.read(row, image)
        except InputError as error:
            yield InputError(path, error.where, error.what, _again(name))
            continue
        if pd.isna(expected):
            if image.any():
                what = f"the image is {status}, but its row is not empty"
                yield InputError(path, f"row {row}", what, _again(name))
        elif checksum(image) != expected:
            yield InputError(path, f"row {row}", "the image's bytes do not match its checksum", _again(name))


def _leftovers(shards: set[str]) -> Iterator[InputError]:
    """Files in the cache that belong to no shard, or that a killed job left behind."""
    if not CACHE.is_dir():
        return
    for path in sorted(CACHE.iterdir()):
        if path.name.startswith(".") and path.name.endswith(".part"):
            if time.time() - path.stat().st_mtime > WRITING:
                yield InputError(path, "", "a killed job left it behind", "delete it")
            continue
        ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), "")
        if not ending or path.name.removesuffix(ending) not in shards:
            yield InputError(path, "", "it belongs to no shard of the manifest", "delete it")


def _stale_indices(study: Study) -> Iterator[InputError]:
    """Rows of a cohort's index that differ from the tables of its shards."""
    for cohort in study.cohorts:
        path = INDEX / f"{cohort}.tsv"
        if not path.is_file():
            continue
        tables = [CACHE / f"{shard}.tsv" for shard in study.shards_of(cohort)]
        cached: dict[str, tuple[int, str]] = {}
        for table in tables:
            try:
                rows = read_table(table)
                cached |= dict(zip(rows["image_id"], zip(rows["row"], rows["checksum"], strict=True), strict=True))
            except (OSError, ValueError, KeyError):  # reported with its shard
                continue
        index = read_table(path)
        rows = zip(index["image_id"], index["row"], index["checksum"], strict=True)
        for line, (image, row, image_checksum) in enumerate(rows, start=2):
            if cached.get(image) != (row, image_checksum):
                what = f"{image} is not what its shard now holds; the index is stale"
                yield InputError(path, f"line {line}", what, "delete it, then run snakemake again")
                break
