"""Whether withdrawals have been carried out in what jobs have written, and who is still writing.

A job that runs while people withdraw has read the manifest from before.  What it writes afterwards is newer than the
new manifest, so Snakemake would keep it.  Goes in: the plan and the files of a study.  Comes out: the shards whose
files still hold withdrawn people; without their ledgers, Snakemake makes them again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ..files import rows_if_any
from ..jobs.job import is_held
from ..jobs.lock_note import runs_now
from ..study import layout
from ..study.plan import Study
from ..text import counted

UNFINISHED = re.compile(r"\.(.+)\.(?:part|started)")  # beside an image's folder while it is made


def pending_shards(study: Study, results: str | Path = layout.RESULTS) -> list[str]:
    """The shards of which a file still holds a withdrawn person, in the plan's order.

    It compares the names in ledgers, tables of the cache, folders of preprocessed images, indices, quality tables and
    splits with the shards' manifests, which hold a number in place of a withdrawn image's name.  Only shards with
    withdrawn images are read.
    """
    results = Path(results)
    pending = []
    for cohort in study.cohorts:
        concerned = [name for name in study.shards_of(cohort) if study.shards[name].withdrawn]
        if not concerned:
            continue
        found = [name for name in concerned if _is_overtaken(name, study, results)]
        if not found:
            known: set[str] = set()
            for name in study.shards_of(cohort):
                known |= {row["image_id"] for row in _shard_rows(name, results) if not row.get("withdrawn")}
            paths = (layout.index(cohort), layout.cohort_split(cohort), layout.JUDGED.format(cohort=cohort))
            if any(_names(layout.within(results, path)) - known for path in paths):
                found = concerned[:1]  # one is enough for Snakemake to make the cohort's tables again
        pending += found
    return pending


def _is_overtaken(shard: str, study: Study, results: Path) -> bool:
    """Whether a ledger, the cache's table or a folder of a shard holds a withdrawn image."""
    rows = _shard_rows(shard, results)
    withdrawn = {row["image_id"] for row in rows if row.get("withdrawn")}
    known = {row["image_id"] for row in rows}
    tables = [*study.ledgers_of([shard]), f"{layout.CACHE}/{shard}.tsv"]
    for path in (layout.within(results, table) for table in tables):
        for row in rows_if_any(path):
            if row.get("image_id") not in known or (row["image_id"] in withdrawn and row.get("status") != "withdrawn"):
                return True
    return any(strays(layout.within(results, layout.SUBJECTS) / shard, known - withdrawn))


def strays(folder: Path, images: Collection[str]) -> Iterator[Path]:
    """What lies in a shard's folder of preprocessed images and belongs to none of these images."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            unfinished = UNFINISHED.fullmatch(path.name)
            if (unfinished[1] if unfinished else path.name) not in images:
                yield path


def renew(shards: Iterable[str], study: Study, results: str | Path = layout.RESULTS) -> None:
    """Delete the ledgers of shards, which Snakemake then makes again, and what depends on them.

    A new time of the shard's manifest would not do: Snakemake goes by the checksum of a small file that is newer.
    """
    for ledger in study.ledgers_of(shards):
        layout.within(results, ledger).unlink(missing_ok=True)


def running(shards: Iterable[str], study: Study, results: str | Path = layout.RESULTS) -> str:
    """Which process may still write results of these shards, in words; empty if none is known.

    It looks for Snakemake's lock and note in the study's folder, and for the leases of the jobs of the shards and of
    their cohorts, which name their Slurm jobs.
    """
    if run := runs_now(Path(results).parent):
        return run
    shards = list(shards)
    paths = [path for shard in shards for path in (*study.ledgers_of([shard]), f"{layout.CACHE}/{shard}.npy")]
    for cohort in dict.fromkeys(study.shards[shard].cohort for shard in shards):
        paths += [place.format(cohort=cohort) for place in (layout.HEADS, layout.FEATURES)]
    held = [path for path in paths if is_held(layout.within(results, path))]
    return f"{counted(len(held), 'job holds a lease', 'jobs hold leases')}, such as {held[0]}.lease" if held else ""


def _shard_rows(shard: str, results: Path) -> list[dict[str, str]]:
    return list(rows_if_any(layout.within(results, layout.SHARD_TABLES) / f"{shard}.tsv"))


def _names(path: Path) -> set[str]:
    return {row["image_id"] for row in rows_if_any(path)}
