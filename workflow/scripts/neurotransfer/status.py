"""Where a study stands: every image of the manifest in exactly one state, and how many replicates are done.

Goes in: the manifest, the ledgers, ``status.json`` of the images whose job has no ledger yet, the tables of
quality control, and the names of finished results.  Comes out: counts and a text.  It only reads and holds no
lock, so it may be asked at any time, also while jobs run.  Standard library only: 114,257 images in seconds.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .errors import InputError
from .study import MODELS, Study

STATES = ("ok", "failed", "excluded", "waiting")
IMAGES = "manifest/images.tsv"
FAILED, EXCLUDED, OK, WAITING = "failed", "excluded", "ok", "waiting"
UNKNOWN = "no reason was recorded"


class State(NamedTuple):
    """One image: its cohort and shard, one of STATES, and why (failed: the reason; excluded: the rule)."""

    cohort: str
    shard: str
    state: str
    reason: str | None


@dataclass(frozen=True)
class Step:
    """A step of the workflow: how many of how many results are there, and a remark."""

    name: str
    done: int
    of: int
    remark: str = ""


@dataclass(frozen=True)
class Replicates:
    """A task's resamples of one n, and the fits of each model: how many are done (by name) of how many."""

    task: str
    n: int
    done: Mapping[str, int]
    of: int


@dataclass(frozen=True)
class Status:
    """Where a study stands.

    `cohorts` are all of the study's, in order; `counts` maps (cohort, state, reason) to images; `withdrawn` maps
    a cohort to its withdrawn images, which are no part of the manifest; `before` and `after` are the steps before
    and after the replicates; `failures` maps a rule to its jobs that failed when they were last tried.
    """

    cohorts: tuple[str, ...]
    counts: Mapping[tuple[str, str, str | None], int]
    withdrawn: Mapping[str, int]
    before: tuple[Step, ...]
    replicates: tuple[Replicates, ...]
    after: tuple[Step, ...]
    failures: Mapping[str, int]

    @property
    def images(self) -> int:
        """How many images the manifest has."""
        return sum(self.counts.values())

    def count(self, cohort: str | None = None, state: str | None = None) -> int:
        """Images of a cohort in a state; None stands for all."""
        return sum(
            number for (name, has, _), number in self.counts.items() if cohort in (None, name) and state in (None, has)
        )

    def text(self, reasons: Mapping[str, str]) -> str:
        """For a person: states by cohort, reasons by cohort, and what is done of each later step.

        Parameters
        ----------
        reasons : what the codes of failed images mean
        """
        parts = [_table(self._cohort_rows(), "l")]
        rows = self._reason_rows(reasons)
        if rows:
            parts.append(_table([["not usable", "reason", "images", "cohorts", "meaning"], *rows], "llrll"))
        parts.append(_table(_step_rows(self.before), "lrrl"))
        models = ("resamples", *MODELS)
        done = [
            [row.task, str(row.n), *(f"{row.done[name]:,} of {row.of:,}" for name in models)] for row in self.replicates
        ]
        parts.append(_table([["task", "n", *models], *done], "l"))
        parts.append(_table(_step_rows(self.after), "lrrl"))
        if self.failures:
            listed = ", ".join(f"{rule} {count:,}" for rule, count in sorted(self.failures.items()))
            parts.append(f"jobs that failed when last tried: {listed}; their causes are in results/failures/")
        return "\n\n".join(parts)

    def _cohort_rows(self) -> list[list[str]]:
        rows: list[list[str]] = [["cohort", "images", *STATES] + (["(withdrawn)"] if self.withdrawn else [])]
        totals: list[str | None] = [None] if len(self.cohorts) > 1 else []
        for name in [*self.cohorts, *totals]:
            numbers = [self.count(name), *(self.count(name, state) for state in STATES)]
            if self.withdrawn:
                numbers.append(self.withdrawn.get(name, 0) if name else sum(self.withdrawn.values()))
            rows.append([name or "total", *(f"{number:,}" for number in numbers)])
        return rows

    def _reason_rows(self, reasons: Mapping[str, str]) -> list[list[str]]:
        by_reason: dict[tuple[str, str | None], Counter] = {}
        for (cohort, state, reason), number in self.counts.items():
            if state in (FAILED, EXCLUDED):
                by_reason.setdefault((state, reason), Counter())[cohort] += number
        by_size = sorted(by_reason.items(), key=lambda item: (item[0][0] != FAILED, -item[1].total()))
        rows = []
        for (state, reason), cohorts in by_size:
            listed = ", ".join(f"{cohort} {number:,}" for cohort, number in cohorts.most_common(4))
            more = f" and {len(cohorts) - 4} more" if len(cohorts) > 4 else ""
            meaning = reasons.get(reason or "", "") if state == FAILED else "a rule of quality control"
            rows.append([state, reason or UNKNOWN, f"{cohorts.total():,}", listed + more, meaning])
        return rows


def _step_rows(steps: Sequence[Step]) -> list[list[str]]:
    return [[step.name, f"{step.done:,}", f"of {step.of:,}", step.remark] for step in steps]


def _table(rows: Sequence[Sequence[str]], sides: str) -> str:
    """Rows as aligned text; `sides` has an l or r per column, and columns beyond it are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = sides.ljust(len(widths), "r")
    lines = []
    for row in rows:
        cells = zip(row, widths, sides, strict=True)
        lines.append("  ".join(f"{cell:{'<' if side == 'l' else '>'}{width}}" for cell, width, side in cells).rstrip())
    return "\n".join(lines)


def status_of(study: Study, results: str | Path = "results") -> Status:
    """Look at a study's results.

    Parameters
    ----------
    study : its plan
    results : the folder of its results

    Raises
    ------
    InputError
        where the manifest has not been compiled
    """
    results = Path(results)
    counts: Counter = Counter()
    for _, found in states_of_images(results):
        counts[(found.cohort, found.state, found.reason)] += 1
    withdrawn: Counter = Counter()
    for shard in study.shards.values():
        withdrawn[shard.cohort] += shard.withdrawn
    return Status(
        cohorts=tuple(study.cohorts),
        counts=counts,
        withdrawn=+withdrawn,
        before=tuple(_before(study, results)),
        replicates=tuple(_replicates(study, results)),
        after=(
            _one("statistics", results / "statistics/comparisons.tsv"),
            _one("report", results / "report/report.html"),
        ),
        failures={
            folder.name: count for folder in _folders(results / "failures") if (count := len(_names(folder, ".json")))
        },
    )


def states_of_images(results: str | Path = "results") -> Iterator[tuple[str, State]]:
    """Each image of the manifest, in its order, with its state.

    An image's row in a ledger counts first, then its ``status.json``; one that has neither waits.  Of those that
    are ok, the ones that quality control leaves out are excluded.

    Raises
    ------
    InputError
        where the manifest has not been compiled
    """
    results = Path(results)
    path = results / IMAGES
    if not path.is_file():
        raise InputError(path, "", "the manifest has not been compiled", "run neurotransfer manifest")
    excluded: dict[str, dict[str, str]] = {}
    shard, rows, folders = None, {}, None
    # images of a shard stand together in the manifest, so that one shard's ledgers are held at a time
    for image in read_rows(path, "image_id", "cohort", "shard"):
        image_id, cohort = image["image_id"], image["cohort"]
        if image["shard"] != shard:
            shard, folders = image["shard"], None
            rows = ledger_rows(results, shard)
        if cohort not in excluded:
            excluded[cohort] = _excluded(results / "quality" / f"{cohort}.tsv")
        found = rows.get(image_id)
        if found is None:
            place = results / "preprocessed/subjects" / shard
            folders = set(_names(place)) if folders is None else folders
            found = _status_json(place / image_id) if image_id in folders else None
        state, reason = found or (WAITING, None)
        if state == OK and image_id in excluded[cohort]:
            state, reason = EXCLUDED, excluded[cohort][image_id]
        yield image_id, State(cohort, shard, state, reason)


def read_rows(path: str | Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a table, only the columns asked for; a last row that is cut off is left out.

    Raises
    ------
    InputError
        where a column is missing
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t")
        header = next(reader, [])
        if header and header[0].startswith("#"):  # facts about the table
            header = next(reader, [])
        places = _places(path, header, columns)
        last = max(places)
        for cells in reader:
            if len(cells) > last:
                yield {name: cells[at] for name, at in zip(columns, places, strict=True)}


def _places(path: str | Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
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
            with open(path, "rb") as file:  # noqa: PTH123 (114,257 of them where a job has one image)
                lines = file.read().decode().split("\n")
        except FileNotFoundError:  # its job has just begun again
            continue
        # these three are codes, which are never quoted; what is quoted comes after them
        image_at, status_at, reason_at = _places(path, lines[0].split("\t"), columns)
        for line in lines[1:-1]:
            cells = line.split("\t")
            if len(cells) > reason_at and cells[status_at] in (OK, FAILED):  # a withdrawn one is not in the manifest
                found[cells[image_at]] = (cells[status_at], cells[reason_at] or None)
    return found


def ledgers_of(results: str | Path, shard: str) -> list[str]:
    """Paths of a shard's ledgers that are there, in order."""
    folder = os.path.join(results, "preprocessed", shard)
    return [f"{folder}/{name}" for name in sorted(_names(folder, ".tsv"))]


def _status_json(folder: Path) -> tuple[str, str | None] | None:
    try:
        status = json.loads((folder / "status.json").read_bytes())
        state = status["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (state, status.get("reason") or None) if state in (OK, FAILED) else None


def _excluded(table: Path) -> dict[str, str]:
    """The images that quality control leaves out, with the rule."""
    if not table.is_file():
        return {}
    rows = read_rows(table, "image_id", "status", "reason")
    return {row["image_id"]: row["reason"] or UNKNOWN for row in rows if row["status"] == EXCLUDED}


def _before(study: Study, results: Path) -> Iterator[Step]:
    done = sum(
        len({f"{job}.tsv" for job in shard.jobs} & set(_names(results / "preprocessed" / shard.name)))
        for shard in study.shards.values()
    )
    yield Step("preprocessing jobs", done, sum(len(shard.jobs) for shard in study.shards.values()))
    for name, place, wanted in (
        ("cached shards", "cache", list(study.shards)),
        ("cohorts with an index", "index", study.cohorts),
        ("cohorts with a split", "split/cohorts", study.cohorts),
    ):
        there = set(_names(results / place, ".tsv"))
        yield Step(name, sum(f"{item}.tsv" in there for item in wanted), len(wanted))
    yield _one("certificate", results / "split/certificate.json")
    pretrained, name = results / "pretrain" / study.run, "given weights" if study.run == "given" else "pretraining"
    yield _one(name, pretrained / "weights.safetensors", _progress(study, results))
    yield _one("evaluation", pretrained / "metrics.tsv")


def _replicates(study: Study, results: Path) -> Iterator[Replicates]:
    for task in study.tasks:
        for n in study.n:
            drawn = set(_names(results / f"resamples/{task}/n{n}", ".tsv"))
            folder = results / f"fits/{task}/n{n}"
            fitted = [set(_names(folder / replicate, ".json")) for replicate in study.replicates]
            done = {"resamples": sum(f"{replicate}.tsv" in drawn for replicate in study.replicates)}
            done |= {model: sum(f"{model}.json" in names for names in fitted) for model in MODELS}
            yield Replicates(task, n, done, len(study.replicates))


def _one(name: str, path: Path, remark: str = "") -> Step:
    done = path.is_file()
    return Step(name, int(done), 1, "" if done else remark)


def _progress(study: Study, results: Path) -> str:
    """How far a pretraining that has begun says it is."""
    if study.run == "given" or not _names(results / "checkpoints/pretrain/multitask", ".pt"):
        return ""
    try:
        lines = Path(results.parent, "logs/pretrain/multitask.log").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "begun"
    told = next((line for line in reversed(lines) if " epoch " in line), "")
    return f"begun: {told[told.index(' epoch ') + 1 :]}" if told else "begun"


def _names(folder: str | Path, ending: str = "") -> list[str]:
    """Names in a folder, without hidden ones; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if e.name.endswith(ending) and not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if path.is_dir()]
