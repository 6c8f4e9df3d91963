"""The resources of preprocessing jobs, by engine and device, and the settings that change their results.

Goes in: the configuration's `preprocessing`.  Comes out: numbers for Snakemake's resources.  Standard library
only, because the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Demand(NamedTuple):
    """Of one image: `minutes` on one core (or beside others on a GPU) and `limit`, after which it is ended; `mb` of
    memory; `at_once`, the images in work at once in a job; `per_job`, the images of a job if the study sets none."""

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
    # [assumed] from others' measurements of --seg_only: 1 min (FastSurfer's documentation) to 2.5 min (version
    # 2.5.4 on an 8 GB card) for an image alone, most of it bias correction on a core; 5 GB of host memory
    "fastsurfer on a GPU": Demand(minutes=2.5, limit=30, mb=7000, at_once=3, per_job=64),
    # [assumed] 1 to 1.5 h on one core; FastSurfer recommends 8 GB
    "fastsurfer on the CPU": Demand(minutes=90, limit=240, mb=8000, at_once=1, per_job=4),
}


def has_gpu(settings: Mapping[str, Any]) -> bool:
    """Whether a preprocessing job asks for a GPU: only FastSurfer uses one."""
    return settings["engine"] == "fastsurfer" and settings["gpus"] > 0


def demand(settings: Mapping[str, Any]) -> Demand:
    """The configured engine's demand for an image; values in the configuration replace the defaults."""
    engine = settings["engine"]
    if engine == "fastsurfer":
        engine += " on a GPU" if has_gpu(settings) else " on the CPU"
    found = DEMANDS[engine]
    if found.at_once > 1 or engine.startswith("fastsurfer"):
        found = found._replace(at_once=settings.get("images_at_once") or found.at_once)
    return found._replace(limit=settings.get("time_limit") or found.limit)


def images_per_job(config: Mapping[str, Any]) -> int:
    """`manifest.images_per_job`, or the engine's default if it is null."""
    return config["manifest"]["images_per_job"] or demand(config["preprocessing"]).per_job


def runtime(settings: Mapping[str, Any], images: int, attempt: int) -> int:
    """Minutes for a job: more with each attempt, never more than the partition allows.

    One image may hang until its limit and still be recorded.
    """
    need = demand(settings)
    minutes = START_MINUTES + math.ceil(images / need.at_once) * need.minutes + need.limit
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
