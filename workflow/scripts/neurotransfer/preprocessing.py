"""One job's images through an engine, each by itself, into a ledger that accounts for every one.

An image's folder appears whole or not at all; its ``status.json`` survives a killed job, so the job goes on
where it stopped.  A bad image gets a reason and stops nobody; a full disk stops the job at once.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .engines import builtin
from .errors import ImageError
from .files import fingerprint, read_json, write_json

logger = logging.getLogger("neurotransfer")
ENGINES = {"builtin": builtin}
LEDGER = ["image_id", "status", "reason", "detail", "engine", "engine_version"]
REASONS = {
    "missing": "the file is not there, or is a link to nothing",
    "unreadable": "the file may not be read by who runs this",
    "empty": "the file has no bytes",
    "not_an_image": "nibabel does not know the file's format",
    "truncated": "the file ends too early, or its compression is damaged",
    "not_3d": "the image has other than three axes",
    "flat": "an axis has fewer than 16 voxels",
    "not_finite": "NaN or infinite voxels",
    "all_zero": "every voxel has the same value",
    "bad_affine": "the header does not say where the voxels are",
    "mask_failed": "no plausible brain was found",
    "volume_check": "FastSurfer's own check found too little brain",
    "implausible_volume": "the brain in the outputs is smaller or larger than any",
    "output_missing": "the engine ended without all of its files",
    "output_damaged": "one of the engine's files can't be read to its end",
    "wrong_grid": "the engine's files are not on one grid, or not on the configured one",
    "derivatives_missing": "the cohort's pattern leads to no folder",
    "timeout": "the image took longer than preprocessing.time_limit and was ended",
    "gpu_memory": "the GPU's memory was not enough, even for this image alone",
    "killed": "the engine was killed, as a rule for want of memory, even with this image alone",
    "engine_failed": "the engine stopped with an error of its own",
}


def slice_of_job(images: pd.DataFrame, job: str, images_per_job: int) -> pd.DataFrame:
    """The rows of a shard's table that a job handles."""
    return images.iloc[int(job) * images_per_job : (int(job) + 1) * images_per_job]


def preprocess_images(
    images: pd.DataFrame, settings: Mapping[str, Any], subjects: str | Path, study: str | Path = "."
) -> pd.DataFrame:
    """Process the images that are not done yet and return the ledger of all of them.

    Parameters
    ----------
    images : `image_id`, `shard` and `t1w` (relative to `study`)
    settings : the configuration's `preprocessing`
    subjects : the folder of ``<shard>/<image_id>/``

    Raises
    ------
    OSError
        where nothing can be written: the disk, not the image, is at fault
    """
    engine = ENGINES[settings["engine"]]
    rows = []
    for number, image in enumerate(images.itertuples(), start=1):
        folder = Path(subjects, image.shard, image.image_id)
        source = Path(study, image.t1w)
        wanted = _fingerprint(source, settings, engine.version())
        status = _read_status(folder)
        if status is None or status["state"] != "ok" or status["fingerprint"] != wanted:
            status = _process(engine, source, folder, settings, wanted)
            detail = f" ({status['detail']})" if status["detail"] else ""
            logger.info("%d of %d: %s %s%s", number, len(images), image.image_id, status["state"], detail)
        row = {"image_id": image.image_id, "status": status["state"]}
        rows.append(row | {name: status[name] for name in ("reason", "detail", "engine", "engine_version")})
    return pd.DataFrame(rows, columns=LEDGER)


def _fingerprint(source: Path, settings: Mapping[str, Any], version: str) -> str:
    """Of the engine, what it is told, and the source file as far as a glance tells."""
    facts = {name: settings[name] for name in ("engine", "voxel_size", "grid")} | {"version": version}
    if source.is_file():
        facts |= {"bytes": source.stat().st_size, "mtime_ns": source.stat().st_mtime_ns}
    return fingerprint(facts)


def _read_status(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / "status.json")
    except (OSError, ValueError):
        return None


def _process(engine, source: Path, folder: Path, settings: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """One image: into a folder beside its own, which takes its place at the end."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    started = time.monotonic()
    reason = detail = None
    try:
        _check_file(source)
        engine.run(source, part, settings)
    except ImageError as error:
        reason, detail = error.reason, error.detail
    except OSError:
        raise  # the image was read into memory before: what fails now is the disk that is written to
    except Exception as error:  # a bug met by one image must not stop a cohort; it is in the ledger and the log
        logger.exception("%s: the engine failed", source)
        reason, detail = "engine_failed", " ".join(f"{type(error).__name__}: {error}".split())
    status = {"state": "failed" if reason else "ok", "reason": reason, "detail": detail, "fingerprint": wanted}
    status |= {"engine": settings["engine"], "engine_version": engine.version()}
    write_json(part / "status.json", status | {"seconds": round(time.monotonic() - started, 3)})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return status


def _check_file(source: Path) -> None:
    if not source.is_file():
        raise ImageError("missing", f"{source} is not there")
    if not source.stat().st_size:
        raise ImageError("empty", f"{source} has no bytes")
