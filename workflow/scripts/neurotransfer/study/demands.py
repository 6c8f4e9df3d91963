"""The resources of preprocessing jobs, by engine and device, and the settings that change their results.

Goes in: the configuration's `preprocessing`.  Comes out: numbers for Snakemake's resources.  Standard library
only, because the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..files import read_json


class Demand(NamedTuple):
    """Of one image: `minutes` on one core and `limit`, after which it is ended; `mb` of memory; `at_once`, the images
    in work at once in a job; `per_job`, those of a job by default.  0 `minutes`, 0 `at_once`: computed from its parts.
    """

    minutes: float
    limit: int
    mb: int
    at_once: int
    per_job: int


START_MINUTES, START_MB = 10, 2000  # of a job besides its images: Python, a container that unpacks, a busy disk
DEMANDS = {
    # measured here: 15 s for a 1 mm image on one core, 0.9 GB
    "builtin": Demand(minutes=2, limit=0, mb=1000, at_once=1, per_job=64),
    # files are read and checked, nothing is computed: under 2 s
    "derivatives": Demand(minutes=0.2, limit=0, mb=1000, at_once=1, per_job=64),
    # [assumed] 5 GB of host memory (FastSurfer's documentation)
    "fastsurfer on a GPU": Demand(minutes=0, limit=30, mb=7000, at_once=0, per_job=64),
    # [assumed] 1 to 1.5 h on one core; FastSurfer recommends 8 GB
    "fastsurfer on the CPU": Demand(minutes=90, limit=240, mb=8000, at_once=1, per_job=4),
}
SLACK = 2.2  # [assumed] the time that a job asks for, over the time that its images' parts take
# Seconds of the parts of FastSurfer's work on an image that is alone, the network on a GPU and the others on one core.
# [measured] conform, masks, bias field and statistics: CPU seconds of 2.4.0-dev's own code on a core of a busy AMD EPYC
# (benchmarks/README.md).  [assumed] the others; the network's are from FastSurfer's documentation, whose "about a
# minute" for an image does not say what it contains.  A rehearsal measures all of them
PARTS = {
    "start": 4.0,  # of the container and the script
    "import": 6.0,  # of Python's modules
    "networks": 4.0,  # loading all three
    "conform": 4.0,
    "network": 16.0,  # the only part that keeps the GPU busy
    "masks": 18.0,  # 12 of them give labels to hemispheres
    "bias field": 220.0,
    "statistics": 36.0,
}
OF_VOLUMES = ("bias field", "statistics")
IMAGE_GPU_MB = 5000  # GPU memory of one image, if views are aggregated there (FastSurfer's documentation)
MEASURED = "rehearsal/costs.json"  # the parts that a rehearsal measured on this study's images and machines


def has_gpu(settings: Mapping[str, Any]) -> bool:
    """Whether a preprocessing job asks for a GPU: only FastSurfer uses one."""
    return settings["engine"] == "fastsurfer" and settings["gpus"] > 0


def demand(settings: Mapping[str, Any]) -> Demand:
    """The configured engine's demand for an image; values in the configuration replace the defaults."""
    engine = settings["engine"]
    if engine == "fastsurfer":
        engine += " on a GPU" if has_gpu(settings) else " on the CPU"
    found = DEMANDS[engine]
    if engine.startswith("fastsurfer"):
        found = found._replace(at_once=settings.get("images_at_once") or found.at_once or _images_at_once(settings))
    return found._replace(limit=settings.get("time_limit") or found.limit)


def _images_at_once(settings: Mapping[str, Any]) -> int:
    """The fewest images that keep the GPU or the job's cores busy, as far as a node's memory allows."""
    parts = parts_of(settings)
    wanted = math.ceil(sum(parts.values()) / _busiest(parts, settings["threads"]) - 1e-9)
    by_memory = (settings["max_mem_mb"] - START_MB) // DEMANDS["fastsurfer on a GPU"].mb
    return max(1, min(wanted, by_memory))


def parts_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by part of the work on an image: measured by a rehearsal, or assumed; less without volumes."""
    parts = settings.get("measured") or PARTS
    return {name: parts[name] for name in parts if settings.get("volumes", True) or name not in OF_VOLUMES}


def _busiest(parts: Mapping[str, float], threads: int) -> float:
    """Seconds per image below which no number of images at once gets: the GPU's, or the cores' share of the rest."""
    network = parts["network"]
    return max(network, (sum(parts.values()) - network) / threads)


def seconds_per_image(settings: Mapping[str, Any]) -> float:
    """Seconds of a job's time on a GPU per image, if images share it: one's part on the GPU overlaps others' rest."""
    parts = parts_of(settings)
    return max(_busiest(parts, settings["threads"]), sum(parts.values()) / demand(settings).at_once)


def as_measured(settings: Mapping[str, Any], path: str | Path = MEASURED) -> dict[str, Any]:
    """The settings with the parts that a rehearsal in this study's folder has measured, if there was one."""
    try:
        parts = read_json(path)["preprocess"]["parts"]
        measured = {name: float(seconds) for name, seconds in parts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return dict(settings)
    usable = all(map(math.isfinite, measured.values())) and measured.get("network", 0) > 0
    return dict(settings) | ({"measured": measured} if usable else {})


def images_per_job(config: Mapping[str, Any]) -> int:
    """`manifest.images_per_job`, or the engine's default if it is null."""
    return config["manifest"]["images_per_job"] or demand(config["preprocessing"]).per_job


def runtime(settings: Mapping[str, Any], images: int, attempt: int) -> int:
    """Minutes for a job: more with each attempt, never more than the partition allows.

    One image may hang until its limit and still be recorded.
    """
    need = demand(settings)
    each = need.minutes or SLACK * seconds_per_image(settings) * need.at_once / 60
    minutes = START_MINUTES + math.ceil(images / need.at_once) * each + need.limit
    return min(math.ceil(minutes) * attempt, settings["max_runtime"])


def mem_mb(settings: Mapping[str, Any], attempt: int) -> int:
    """Memory for a job: more with each attempt, never more than a node has."""
    need = demand(settings)
    return min((START_MB + need.mb * need.at_once) * attempt, settings["max_mem_mb"])


def may_leave_volumes_out(config: Mapping[str, Any]) -> bool:
    """Whether images of cohorts outside the tasks need no regional volumes.

    A limit on the contrast, or on a score that contains it, needs the statistics of every image.
    """
    settings, exclude = config["preprocessing"], config["quality"]["exclude"]
    if settings["engine"] != "fastsurfer" or settings["fastsurfer"].get("volumes_of", "all") != "tasks":
        return False
    return not any(limit is not None for name in ("contrast", "z") for limit in exclude.get(name, {}).values())


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change preprocessing's results; all others only change how they are computed.

    Rules have only these as a parameter, so a longer time limit or another container file repeats no job.
    """
    engine = settings["engine"]
    version = settings["fastsurfer"]["version"] if engine == "fastsurfer" else None
    return {"engine": engine, "engine_version": version} | {key: settings[key] for key in ("voxel_size", "grid")}
