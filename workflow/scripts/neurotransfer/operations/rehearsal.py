"""The rehearsal: a study's own rules on a few of its images, before weeks of compute; and what it found.

Goes in: the compiled manifest and the configuration.  Comes out: ``rehearsal/`` with results of its own,
``rehearsal.html`` and ``costs.json``, which `neurotransfer plan` reads.  Nothing of the study itself changes.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import pages
from ..cache.shard_file import ShardFile
from ..files import read_table, write_json, write_text
from ..jobs.snakemake_run import Ended, command_of, run_snakemake
from ..preprocess.reasons import REASONS
from ..preprocess.status import read_status
from ..quality.page import thumbnails
from ..study import layout
from ..study.configuration import merge
from ..study.demands import has_gpu, seconds_per_image
from ..study.documents import read_document
from ..study.plan import CNNS, Study, read_study
from ..study.rules import ON_REQUEST, RULES, SECOND_SEED
from ..text import MISSING, aligned, byte_size, counted, duration
from .costs import EVALUATION, REHEARSED, by_rule, gather, parts_measured, rows_of_parts
from .failures import by_kind, failures_of
from .image_states import FAILED, ledgers_of, read_rows, states_of_images
from .plan import forecast, images_of_manifest
from .rehearsal_sample import FOLDER, Sample, choose_sample, lay_out

PAGE = "rehearsal.html"
UNKNOWN = ("no reason was recorded", "read the logs in its folder")
PICTURES = 3
CUT = 0.001  # share of a mask outside the crop from which it is a finding [assumed]; rounding cuts a voxel or two
LARGEST_LOSS = 3.0  # times the first; a run that exceeds it is unstable [assumed], as in docs/pretraining.md
LIMIT_LINES = 8  # of Snakemake's output that are shown if nothing else explains a failure
# what a scheduler or Snakemake says if a job could not even be sent
NOT_SENT = re.compile(
    r"sbatch: error|SLURM job submission failed|WorkflowError|Invalid (?:partition|account|qos)", re.I
)
JOBS_FAILED = "At least one job did not complete successfully"  # the WorkflowError that follows jobs which failed
GPU_MEMORY = re.compile(r"peak GPU memory (\d+) MB")
EPOCH = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d).* epoch \d+: train_loss")
DATA_TYPE = re.compile(r"the network computes in (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """One thing that will not work in the study, or that needs a look, and what to do about it."""

    what: str
    fix: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """What the log and the history of the pretraining steps say.

    `losses` are that of the first step, and the largest of each epoch, which has a step or a few.  `dummy` is the loss
    of predicting the targets' means.
    """

    losses: tuple[float, ...]
    images_per_second: float
    data_type: str
    dummy: float | None = None
    gradient_norms: tuple[float, ...] = ()
    dead_features: int = 0

    @property
    def largest_over_first(self) -> float:
        """The largest loss as a multiple of the first."""
        return max(self.losses) / self.losses[0] if self.losses else math.nan


@dataclass
class Report:
    """What a rehearsal found, for a person."""

    study: str
    images: int
    participants: int
    cohorts: int
    n: int
    ended: Ended
    problems: list[Finding] = field(default_factory=list)
    remarks: list[Finding] = field(default_factory=list)
    refused: list[list[str]] = field(default_factory=list)
    stages: list[list[str]] = field(default_factory=list)
    parts: list[list[str]] = field(default_factory=list)
    training: list[list[str]] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)
    plan: str = ""

    @property
    def head(self) -> str:
        """One line: of what, and how it ended."""
        people = counted(self.participants, "person", "people")
        cohorts = counted(self.cohorts, "cohort")
        made = f"{counted(self.images, 'image')} of {people} in {cohorts}, n = {self.n}"
        if self.problems:
            state = (
                f"{len(self.problems)} things will not work" if len(self.problems) > 1 else "one thing will not work"
            )
        else:
            state = "every stage worked"
        return f"Rehearsal of {self.study}: {state}.  {made}, in {duration(self.ended.seconds)}."

    def text(self) -> str:
        """All of it, for a terminal."""
        parts = [self.head]
        for title, findings in (("What will not work:", self.problems), ("What needs a look:", self.remarks)):
            if findings:
                parts.append("\n".join([title, *(line for finding in findings for line in _lines_of(finding))]))
        if self.refused:
            header = ["images refused", "reason", "cohorts", "what to do"]
            table = aligned([header, *(row[:-1] for row in self.refused)], "rlll")
            parts.append("\n".join([table, *(f"for example {row[-1]}" for row in self.refused)]))
        if self.stages:
            header = ["stage", "jobs", "seconds per job", "of which start", "memory", "GPU memory", "device"]
            parts.append(aligned([header, *self.stages], "lrrrrrl"))
        if self.parts:
            parts.append(aligned([["FastSurfer on an image", "seconds", "share"], *self.parts], "lrr"))
        if self.training:
            parts.append(aligned(self.training, "ll"))
        if self.plan:
            parts.append(f"The whole study, from what was measured here:\n\n{self.plan}")
        return "\n\n".join(parts)


def _lines_of(finding: Finding) -> Iterator[str]:
    yield f"  - {finding.what}"
    if finding.fix:
        yield f"    what to do: {finding.fix}"
    yield from (f"    | {line}" for line in finding.lines)


def rehearse(
    config: Mapping[str, Any],
    repository: Path,
    overlays: Sequence[Path],
    *,
    options: Sequence[str],
    minutes: float,
    per_cohort: int,
    gpus: int,
    cores: int,
) -> Report:
    """Run the rehearsal in the study's folder and write its page and its costs.

    Parameters
    ----------
    config : the study's configuration, checked
    overlays : the study's files of overrides, absolute
    options : of Snakemake, as a profile or ``--cores``
    minutes : after which the run is ended
    per_cohort : images of each cohort
    gpus, cores : that the whole study may use at once, for its longest path

    Raises
    ------
    InputError
        if the manifest is missing or stale, or its images are too few to draw a sample
    """
    study = read_study(config)
    images = images_of_manifest()
    sample = choose_sample(images, study, config, per_cohort=per_cohort)
    overrides = lay_out(sample, config, study).absolute()
    folder = overrides.parent
    options = ["--directory", str(folder), "--keep-going", "--retries", "0", *options]
    ended = run_snakemake(command_of(repository, [*overlays, overrides], options), FOLDER, minutes)
    small: dict[str, Any] = {}
    merge(small, config)
    merge(small, read_document(overrides))
    found = inspect(folder, small, sample, ended, minutes)
    found.plan = forecast(config, study, gpus=gpus, cores=cores)
    write_text(folder / PAGE, pages.render({"report": found}, "rehearsal.html.j2"))
    return found


def inspect(folder: Path, config: Mapping[str, Any], sample: Sample, ended: Ended, minutes: float) -> Report:
    """What the run in `folder` left: findings, images, costs (written to costs.json), training, pictures.

    Parameters
    ----------
    config : the rehearsal's own, with its overrides
    """
    results, images = folder / layout.RESULTS, sample.images
    study = _study_of(folder, config)
    report = Report(
        config["study"], len(images), images["participant_id"].nunique(), images["cohort"].nunique(), sample.n, ended
    )
    report.problems += _failures(folder, ended)
    report.refused = _refused(results)
    if len(images) and sum(int(row[0]) for row in report.refused) == len(images):
        fix = "correct the engine or the data set before anything else; the reasons stand below"
        report.problems.insert(0, Finding("the engine refused every image", fix))
    report.problems += _cut_masks(results, config)
    if ended.out_of_time:
        missing = [name for name in _missing(folder, study) if name not in ("figures", "report")]
        what = f"its {minutes:g} minutes were over before these stages were done: {', '.join(missing)}"
        report.remarks.append(Finding(what, "give it more with --minutes; the same command goes on from here"))
    training = _training(folder)
    rows = _rows(folder, study, config)
    costs = _costs(rows, training, config, folder)
    write_json(folder / REHEARSED.name, costs)
    report.stages = _stages(rows, costs)
    report.parts = rows_of_parts(costs.get("preprocess", {}).get("parts", {}), config)
    if training:
        report.training = _training_rows(training)
        if training.largest_over_first > LARGEST_LOSS:
            what = f"the loss of a training step grew to {training.largest_over_first:.1f} times the first"
            report.problems.append(Finding(what, "lower pretrain.learning_rate, by a factor of 3 say"))
    report.pictures = _pictures(results)
    if ended.status and not report.problems and not ended.out_of_time:
        lines = tuple(line for line in ended.lines if line.strip())[-LIMIT_LINES:]
        report.problems.append(Finding(f"Snakemake ended with status {ended.status}", "read its last lines", lines))
    return report


def _study_of(folder: Path, config: Mapping[str, Any]) -> Study:
    return read_study(config, folder / layout.SHARDS)


def _failures(folder: Path, ended: Ended) -> Iterator[Finding]:
    """Jobs that failed, one finding per kind; and jobs that could not be sent."""
    for kind in by_kind(failures_of(folder)):
        first = kind[0]
        yield Finding(f"{first.rule} failed ({counted(len(kind), 'job')}): {first.cause}", "", first.lines)
    lines = tuple(dict.fromkeys(_not_sent(ended.lines)))
    if lines and ended.status:
        fix = "correct the profile's partition, account or resources: sinfo -o '%P %l %G' lists partitions"
        if not any("sbatch" in line or "SLURM" in line for line in lines):
            fix = "correct the configuration or the profile"
        yield Finding("Snakemake could not start or send a job", fix, lines[:LIMIT_LINES])


def _not_sent(lines: Sequence[str]) -> Iterator[str]:
    """What a scheduler or Snakemake says of jobs that could not be sent; a message stands in the next line."""
    for line, after in pairwise([*lines, ""]):
        if NOT_SENT.search(line) and JOBS_FAILED not in line + after:
            yield line.strip()
            if line.rstrip().endswith("WorkflowError:") and after.strip():
                yield after.strip()


def _refused(results: Path) -> list[list[str]]:
    """Per reason: how many images failed, of which cohorts, the remedy, and one of them with its detail."""
    found: dict[str, Counter[str]] = {}
    examples: dict[str, str] = {}
    for image_id, state in states_of_images(results):
        if state.state == FAILED:
            reason = state.reason or "unknown"
            found.setdefault(reason, Counter())[state.cohort] += 1
            if reason not in examples:
                examples[reason] = f"{image_id}: {_detail(results, state.shard, image_id)}"
    rows = []
    for reason, cohorts in sorted(found.items(), key=lambda item: -item[1].total()):
        meaning, remedy = REASONS.get(reason, UNKNOWN)
        listed = ", ".join(f"{cohort} {count}" for cohort, count in cohorts.most_common())
        rows.append([str(cohorts.total()), f"{reason}: {meaning}", listed, remedy, examples[reason]])
    return rows


def _detail(results: Path, shard: str, image_id: str) -> str:
    """What the engine said of an image that failed."""
    rows = (row for path in ledgers_of(results, shard) for row in read_rows(path, "image_id", "detail"))
    return next((row["detail"] for row in rows if row["image_id"] == image_id), "no detail was recorded")


def _cut_masks(results: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Brains that the crop cuts."""
    tables = [read_table(path) for path in sorted((results / "quality").glob("*.tsv"))]
    shares = pd.concat([table["outside_crop"] for table in tables if len(table)]) if tables else pd.Series(dtype=float)
    cut = shares[shares > CUT]
    if len(cut):
        crop = " × ".join(map(str, config["cache"]["crop"]))
        what = (
            f"the crop of {crop} voxels cuts {len(cut)} of {len(shares)} brains, by up to {cut.max():.1%} of the mask"
        )
        multiple = 2 ** len(config["network"]["channels"])
        yield Finding(what, f"make cache.crop larger; each axis is a multiple of {multiple}")


def _missing(folder: Path, study: Study) -> list[str]:
    """Rules of which no result is there."""
    patterns = {name: re.sub(r"\{\w+\}", "*", rule.result) for name, rule in RULES.items()}
    unused = (*ON_REQUEST, "adopt" if study.run == "multitask" else "pretrain")
    return [name for name, pattern in patterns.items() if name not in unused and not any(folder.glob(pattern))]


def _training(folder: Path) -> Training | None:
    """The pretraining steps; None if there were none."""
    histories = [folder / layout.PRETRAIN / "multitask/history.tsv", folder / layout.CHECKPOINTS / "history.tsv"]
    path = next((path for path in histories if path.is_file()), None)
    log = folder / layout.log("pretrain", "multitask")
    if path is None or not log.is_file():
        return None
    history = read_table(path)
    text = log.read_text(encoding="utf-8")
    times = [datetime.fromisoformat(found[1]) for line in text.splitlines() if (found := EPOCH.match(line))]
    data_type = DATA_TYPE.search(text)
    facts = _sizes(folder)
    units = facts["train"] * (1 + EVALUATION) + EVALUATION * facts["validation"]  # of an epoch, in training steps
    seconds = [max((after - before).total_seconds(), 0.0) for before, after in pairwise(times)]
    pace = units / max(float(np.mean(seconds)), 0.05) if seconds else math.nan
    first = re.search(r"the first batch's loss is ([\d.]+); predicting the training means gives ([\d.]+)", text)
    return Training(
        losses=(float(first[1]) if first else float(history["train_loss"][0]), *map(float, history["largest_loss"])),
        images_per_second=pace,
        data_type=data_type[1] if data_type else MISSING,
        dummy=float(first[2]) if first else None,
        gradient_norms=tuple(map(float, history["gradient_norm"])),
        dead_features=int(history["dead_features"].iloc[-1]),
    )


def _sizes(folder: Path) -> Counter[str]:
    """Images by role of the rehearsal's split."""
    path = folder / layout.SPLIT_IMAGES
    return Counter(read_table(path)["role"]) if path.is_file() else Counter()


def _training_rows(training: Training) -> list[list[str]]:
    losses = f"first {training.losses[0]:.3f}, largest {max(training.losses):.3f}, last {training.losses[-1]:.3f}"
    if training.dummy is not None:
        losses += f" (predicting the means: {training.dummy:.3f})"
    rows = [["training loss", losses], ["training", f"{training.images_per_second:.2f} images/s"]]
    if training.gradient_norms:
        low, high = min(training.gradient_norms), max(training.gradient_norms)
        rows.append(["gradient's norm", f"{low:.3g} to {high:.3g}"])
    rows.append(["pooled features that are zero for every image", str(training.dead_features)])
    return [*rows, ["data type", training.data_type]]


def _rows(folder: Path, study: Study, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of costs.gather, with the peak of a GPU's memory from the job's log."""
    rows = gather(study, config, folder)
    for row in rows:
        log = folder / layout.log(row["rule"], *row["key"].split("/"))
        found = GPU_MEMORY.findall(log.read_text(encoding="utf-8")) if log.is_file() else []
        row["gpu_memory_mb"] = max(map(int, found), default=None)
    return rows


def _costs(
    rows: list[dict[str, Any]], training: Training | None, config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Seconds of start per job and per unit of work, by rule: what costs.Cost holds, as JSON; and disk per image."""
    costs: dict[str, Any] = {}
    when = time.strftime("%Y-%m-%d")
    parts = parts_measured(folder) if has_gpu(config["preprocessing"]) else {}
    for rule, mine in by_rule(rows).items():
        seconds = sum(row["seconds"] for row in mine)
        units = sum(row["units"] for row in mine)
        each = seconds / units if units else 0.0
        if rule == "preprocess" and parts:
            each = seconds_per_image(config["preprocessing"] | {"measured": parts})
        elif rule == "preprocess":  # images at once overlap, so their own clocks may say more than the job's
            each = min(_seconds_per_image(folder) or each, each)
        elif (
            rule in ("pretrain", "evaluate", *CNNS, SECOND_SEED)
            and training
            and math.isfinite(training.images_per_second)
        ):
            each = min(1 / training.images_per_second, each)
            if rule == "pretrain":
                sizes = _sizes(folder)
                units = config["pretrain"]["epochs"] * (sizes["train"] + EVALUATION * sizes["validation"])
        elif rule in ("linear", "resample"):
            each = seconds / len(mine)
        work = units if rule != "evaluate" else EVALUATION * (_sizes(folder)["validation"] + _sizes(folder)["test"])
        start = max(seconds - work * each, 0.0) / len(mine)
        devices = ", ".join(sorted({row["device"] for row in mine if row["device"]}))
        basis = f"rehearsed on {when}" + (f" on {devices}" if devices else "")
        costs[rule] = {"seconds": each, "start": start, "basis": basis}
        if rule == "preprocess" and parts:
            costs[rule] |= {"parts": parts}
    count, size = 0, 0
    images = [path for path in (folder / layout.SUBJECTS).glob("*/*") if path.is_dir()]
    for path in (file for image in images for file in image.rglob("*") if file.is_file() and not file.is_symlink()):
        count, size = count + 1, size + path.stat().st_size
    if images:
        costs["disk"] = {"bytes": size / len(images), "files": math.ceil(count / len(images))}
    return costs


def _seconds_per_image(folder: Path) -> float | None:
    """What the engine took per image, by the images' own clocks."""
    statuses = [read_status(path) for path in (folder / layout.SUBJECTS).glob("*/*") if path.is_dir()]
    seconds = [status["seconds"] for status in statuses if status and "seconds" in status]
    return float(np.mean(seconds)) if seconds else None


def _stages(rows: list[dict[str, Any]], costs: Mapping[str, Any]) -> list[list[str]]:
    found = []
    for rule, mine in by_rule(rows).items():
        memory = [row["memory_mb"] for row in mine if row["memory_mb"]]
        on_gpu = [row["gpu_memory_mb"] for row in mine if row["gpu_memory_mb"]]
        found.append(
            [
                rule,
                str(len(mine)),
                f"{sum(row['seconds'] for row in mine) / len(mine):.1f}",
                f"{costs[rule]['start']:.1f}",
                byte_size(max(memory) * 1e6) if memory else MISSING,
                byte_size(max(on_gpu) * 1e6) if on_gpu else MISSING,
                next((row["device"] for row in mine if row["device"]), "") or "",
            ]
        )
    return found


def _pictures(results: Path) -> list[dict[str, str]]:
    """Three masks to look at, of as many cohorts as there are."""
    found = []
    for path in sorted((results / "quality").glob("*.tsv")):
        table = read_table(path)
        if len(table):
            found += [(place, row) for place, row in enumerate(table.head(PICTURES).to_dict("records"))]
    pictures = []
    for _, row in sorted(found, key=lambda item: item[0])[:PICTURES]:
        slices = ShardFile(results / "cache" / f"{row['shard']}.slices.npy").image(int(row["row"]))
        picture, outline = thumbnails(slices)
        pictures.append({"name": f"an image of {row['cohort']}", "picture": picture, "outline": outline})
    return pictures
