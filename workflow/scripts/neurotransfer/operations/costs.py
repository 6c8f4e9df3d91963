"""The cost of a study's jobs, from its benchmark files or from measurements elsewhere.

Goes in: ``results/benchmarks/``, the plan of the study and its configuration.  Comes out: a row per finished
job (seconds, memory, device), and seconds per unit of work (an image, or an image in one training step).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import is_number, read_bytes, read_json, rows_if_any
from ..fit.settings import all_settings
from ..preprocess.engines.parts import seconds_in_log
from ..preprocess.status import read_status
from ..study import layout
from ..study.demands import (
    MEASURED,
    PARTS,
    as_measured,
    demand,
    has_gpu,
    may_leave_volumes_out,
    parts_of,
    seconds_per_image,
)
from ..study.plan import CNNS, Study
from ..study.rules import PRETRAINING, RULES, SECOND_SEED, STAGES, cores_of, uses_gpu
from ..text import counted

COLUMNS = ["rule", "key", "seconds", "memory_mb", "units", "device"]
DEVICE = re.compile(r"computing on (?:the )?(.+?)(?: with \d+ threads)?$", re.MULTILINE)
EVALUATION = 1 / 3  # of the cost of a training step: forward only
# seconds per unit of work if this study has no finished job of the rule; all [assumed] for other machines
ASSUMED = {
    ("preprocess", "cpu"): (4500.0, "assumed: FastSurfer on a CPU core takes 1 to 1.5 hours per image"),
    ("preprocess", "builtin"): (15.0, "measured elsewhere: 15 s per image at 1 mm on one core"),
    ("cache", "cpu"): (0.5, "assumed: half a second per image"),
    ("network", "gpu"): (
        1 / 390,
        "measured elsewhere: 390 images/s of the paper's network on an H200",
    ),
    ("network", "cpu"): (6.5, "measured elsewhere: 13 s per step of two images at 160 x 192 x 160 on 2 cores"),
    ("resample", "cpu"): (3.0, "measured elsewhere: 3 s per file, most of it Python's start"),
    ("linear", "cpu"): (5.0, "measured elsewhere: 5 s per fit, most of it Python's start"),
}
SOME = 500  # images whose parts are read
UNDISTURBED = 0.1  # [assumed] the quantile of the network's seconds that stands for an image alone on a GPU
REST = "the rest"  # of an image's time, if only its logs say what it consists of
PAPER_CROP = (224, 192, 224)  # of an image for which the network's costs are assumed
PAPER_CHANNELS = (32, 64, 128, 256, 256)
REHEARSED = Path(MEASURED)  # what a rehearsal on this study's own images and machines measured


@dataclass(frozen=True)
class Cost:
    """Seconds per unit of work of a rule, the source of that number, and whether it is GPU time.

    `start` are the seconds that a job takes besides its work; 0 if `seconds` contains them.  `of_this_study` says
    whether its finished jobs gave the number.
    """

    seconds: float
    basis: str
    gpu: bool
    start: float = 0.0
    of_this_study: bool = False

    def of_job(self, units: float) -> float:
        """Seconds of one job."""
        return units * self.seconds + self.start


def gather(study: Study, config: Mapping[str, Any], base: str | Path = "") -> list[dict[str, Any]]:
    """A row (see COLUMNS) per finished job that left a benchmark file in the study's folder `base`.

    `units` is the work that the job did: images, or for the network images in training steps.
    """
    rows, share = [], share_without_volumes(config)
    folder = Path(base, layout.BENCHMARKS)
    for path in sorted(folder.glob("*/**/*.tsv")):
        rule, *parts = path.relative_to(folder).with_suffix("").parts
        units = units_of(rule, parts, study, config, share)
        if units is None:
            continue
        for found in rows_if_any(path):
            seconds = _number(found.get("s"))
            if seconds is not None:
                row = {"rule": rule, "key": "/".join(parts), "seconds": seconds, "units": units}
                rows.append(row | {"memory_mb": _number(found.get("max_rss")), "device": _device(rule, parts, base)})
    return rows


def share_without_volumes(config: Mapping[str, Any]) -> float:
    """What preprocessing an image without volumes costs, as a share of an image with them."""
    settings = as_measured(config["preprocessing"])
    if not has_gpu(settings):
        return 1.0
    return seconds_per_image(settings | {"volumes": False}) / seconds_per_image(settings)


def units_of(rule: str, parts: list[str], study: Study, config: Mapping[str, Any], share: float = 1.0) -> float | None:
    """The work of a job, by the parts of its benchmark file's path; None for a job that is not part of this study.

    Parameters
    ----------
    share : of an image without volumes, see `share_without_volumes`
    """
    try:
        if rule == "preprocess":
            shard = study.shards[parts[0]]
            return shard.images_of_job(parts[1]) * (share if shard.cohort in study.without_volumes else 1)
        if rule == "cache":
            return study.shards[parts[0]].images
        if rule in CNNS:
            return steps_of_fit(rule, int(parts[1].removeprefix("n")), config)
        if rule == SECOND_SEED:
            return steps_of_fit(parts[3], int(parts[1].removeprefix("n")), config, settings=1)
    except (KeyError, ValueError, IndexError):
        return None
    return 1.0 if rule in ("linear", "resample", "pretrain", "evaluate", "features") else None


def steps_of_fit(model: str, n: int, config: Mapping[str, Any], settings: int | None = None) -> float:
    """Images in training steps that a CNN fit's settings need together, prediction counted as what it costs.

    Parameters
    ----------
    settings : how many are trained; None for all
    """
    settings = len(all_settings(config["models"][model]["settings"])) if settings is None else settings
    epochs = config["models"]["cnn"]["epochs"]
    validation = n * config["resampling"]["validation_share"]
    # an epoch ends with a pass that settles batch norm, and a prediction of the validation set
    return settings * epochs * (n + EVALUATION * (n + validation))


def cost_of(
    rule: str, rows: list[dict[str, Any]], config: Mapping[str, Any], rehearsed: Mapping[str, Any] | None = None
) -> Cost:
    """Seconds per unit of a rule: from this study's finished jobs, else from its rehearsal, else from a table.

    If no fit of one CNN has run, the other CNN's fits count, because both take the same steps; so do both for fits
    with a second seed.
    """
    kin = CNNS if rule in (*CNNS, SECOND_SEED) else (rule,)
    for names in ((rule,), kin):
        mine = [row for row in rows if row["rule"] in names]
        if mine:
            seconds = sum(row["seconds"] for row in mine) / sum(row["units"] for row in mine)
            devices = ", ".join(sorted({row["device"] for row in mine if row["device"]}))
            basis = f"{counted(len(mine), 'finished job')} of this study" + (f" on {devices}" if devices else "")
            return Cost(seconds, basis, uses_gpu(rule, config), of_this_study=True)
    gpu = uses_gpu(rule, config)
    for name in dict.fromkeys((rule, *kin)):
        if rehearsed and name in rehearsed:
            facts = rehearsed[name]
            return Cost(facts["seconds"], facts["basis"], gpu, facts.get("start", 0.0))
    if rule == "preprocess":
        engine = config["preprocessing"]["engine"]
        if gpu:
            settings = config["preprocessing"]
            at_once, each = demand(settings).at_once, seconds_per_image(settings)
            alone = sum(parts_of(settings).values())
            basis = f"assumed: FastSurfer takes {alone:.0f} s for an image alone, and {at_once} at once share a GPU"
            # A job's first and last images overlap with fewer others.  Most jobs make no volumes, if they may
            most = settings | {"volumes": not may_leave_volumes_out(config)}
            return Cost(each, basis, gpu, sum(parts_of(most).values()) - seconds_per_image(most))
        if engine == "derivatives":
            return Cost(0.5, "assumed: half a second to link and check an image's files", False)
        return Cost(*ASSUMED["preprocess", "builtin" if engine == "builtin" else "cpu"], gpu)
    if rule in (*PRETRAINING, *CNNS, SECOND_SEED, "features"):
        seconds, basis = ASSUMED["network", "gpu" if gpu else "cpu"]
        crop, channels = config["cache"]["crop"], config["network"]["channels"]
        share = math.prod(crop) / math.prod(PAPER_CROP)
        if gpu:
            share *= relative_width(channels)
        if gpu and share != 1:
            basis += ", scaled by crop and channels"
        return Cost(seconds * share, basis, gpu)
    return Cost(*ASSUMED[rule, "cpu"], False)


def relative_width(channels: Sequence[int]) -> float:
    """What a voxel costs on a GPU, as a share of what it costs in the paper's network.

    Convolutions cost inputs times outputs, an eighth in each further block; passes over the first block's output cost
    its channels, which limits narrow networks.
    """

    def products(widths: Sequence[int]) -> float:
        return sum(one * other / 8**block for block, (one, other) in enumerate(pairwise(widths), 1))

    return max(products(channels) / products(PAPER_CHANNELS), channels[0] / PAPER_CHANNELS[0])


def read_rehearsed(path: str | Path = REHEARSED) -> dict[str, Any]:
    """What a rehearsal in this study's folder has measured, by rule; empty if there was none.

    Raises
    ------
    InputError
        if the file holds anything else
    """
    if not Path(path).is_file():
        return {}
    found = read_json(path)
    rules = {name: facts for name, facts in found.items() if name != "disk"} if isinstance(found, dict) else {"": None}
    usable = all(
        isinstance(facts, dict)
        and isinstance(facts.get("basis"), str)
        and is_number(facts.get("seconds"))
        and is_number(facts.get("start", 0.0))
        for facts in rules.values()
    )
    disk = found.get("disk", {"bytes": 0, "files": 0}) if usable else None
    if not isinstance(disk, dict) or not all(is_number(disk.get(name)) for name in ("bytes", "files")):
        raise InputError(
            path, "", "it is not what a rehearsal writes", "delete it, or run neurotransfer rehearse again"
        )
    return found


def parts_measured(base: str | Path = "") -> dict[str, float]:
    """Seconds of each part of FastSurfer's work on an image, from finished images of the study in the folder `base`.

    The median over up to SOME images.  Of the network it is a low quantile, because images that share a GPU slow down
    each other's; of images without times it is what their logs say.  Empty if no image says how long its network took.
    """
    found: dict[str, list[float]] = {}
    folders = (path for path in Path(base, layout.SUBJECTS).glob("*/*") if path.name[0] != ".")
    for folder in islice(folders, SOME):
        status = read_status(folder) or {}
        if status.get("state") != "ok":
            continue
        parts = status.get("parts") or _parts_in_log(folder / "scripts/deep-seg.log", status.get("seconds"))
        for part, seconds in parts.items():
            found.setdefault(part, []).append(seconds)
    if not any(found.get("network", ())):
        return {}
    names = [*(name for name in PARTS if name in found), *(name for name in found if name not in PARTS)]
    return {name: float(np.quantile(found[name], UNDISTURBED if name == "network" else 0.5)) for name in names}


def _parts_in_log(path: Path, seconds: float | None) -> dict[str, float]:
    try:
        parts = seconds_in_log(read_bytes(path).decode("utf-8", errors="replace"))
    except (OSError, InputError):
        return {}
    if "network" not in parts or seconds is None:
        return {}
    return parts | {REST: max(seconds - sum(parts.values()), 0.0)}


def rows_of_parts(parts: Mapping[str, float], config: Mapping[str, Any]) -> list[list[str]]:
    """A table of `parts_measured` with what follows for sharing a GPU; empty without parts."""
    if not parts:
        return []
    total = sum(parts.values())
    rows = [[name, f"{seconds:.1f}", f"{seconds / total:.0%}"] for name, seconds in parts.items()]
    settings = config["preprocessing"] | {"measured": parts}
    at_once, each = demand(settings).at_once, seconds_per_image(settings)
    together = ["together", f"{total:.1f}", "100%"]
    return [*rows, together, [f"per image, {at_once} at once", f"{each:.1f}", f"{each / total:.0%}"]]


def by_rule(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each rule, in the order in which data passes the rules."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in RULES:
        if mine := [row for row in rows if row["rule"] == name]:
            found[name] = mine
    return found


def summary(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Per rule and device: jobs, hours, median seconds and the highest memory."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["rule"], row["device"] or ""), []).append(row)
    for (rule, device), found in groups.items():
        seconds = sorted(row["seconds"] for row in found)
        memory = max((row["memory_mb"] for row in found if row["memory_mb"] is not None), default=None)
        facts = {"rule": rule, "device": device, "jobs": len(found), "hours": sum(seconds) / 3600}
        yield facts | {"median_seconds": seconds[len(seconds) // 2], "memory_mb": memory}


def by_stage(rows: list[dict[str, Any]], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per stage, in the order of a run: jobs, GPU hours, core hours, and jobs that an earlier attempt had failed in.

    A job counts its clock time for every core that it asked for, and for every GPU if it computed on one.
    """
    stages: dict[str, dict[str, Any]] = {
        name: {"stage": name, "jobs": 0, "gpu_hours": 0.0, "core_hours": 0.0, "retried": 0} for name in STAGES
    }
    names = {rule: name for name, rules in STAGES.items() for rule in rules}
    for row in rows:
        stage, hours = stages[names[row["rule"]]], row["seconds"] / 3600
        on_gpu = (
            row["device"] != "CPU" if row["device"] else row["rule"] == "preprocess" and uses_gpu("preprocess", config)
        )
        stage["jobs"] += 1
        stage["gpu_hours"] += hours * on_gpu * (config["pretrain"]["gpus"] if row["rule"] in PRETRAINING else 1)
        stage["core_hours"] += hours * cores_of(row["rule"], config)
        stage["retried"] += "an earlier attempt failed: " in _log(row["rule"], row["key"].split("/"))
    return [stage for stage in stages.values() if stage["jobs"]]


def _log(rule: str, parts: list[str], base: str | Path = "") -> str:
    try:
        return read_bytes(Path(base, layout.log(rule, *parts))).decode("utf-8", errors="replace")
    except (OSError, InputError):
        return ""


def _device(rule: str, parts: list[str], base: str | Path = "") -> str | None:
    """The device in a job's log; None for work that has no choice of device."""
    found = DEVICE.search(_log(rule, parts, base))
    return found[1] if found else None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
