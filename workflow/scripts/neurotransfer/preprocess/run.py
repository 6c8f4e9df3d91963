"""One job's images through their engines, each by itself, into a ledger that accounts for every one.

An image's folder appears whole or not at all; its ``status.json`` survives a killed job, so the job goes on
where it stopped.  A bad image gets a reason, does not stop the others and is not tried again before
``neurotransfer retry`` takes its status away.  An image during which the job was killed is such a bad image, because
it would kill each later attempt, too; if there were several, each is tried once more, alone.  What is wrong with the
installation stops the job at once: no engine, no space, no permission, or a run of images that all fail alike.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from ..errors import ImageError, InstallationError, TryAlone
from ..files import fingerprint, path_within, restrict, write_json
from ..manifest.withdrawal import erase, erase_strays
from ..study import layout
from .engines import Engine, EngineInput, Made, open_engine
from .engines.inputs import check_file
from .reasons import REASONS
from .status import read_status, read_whole_json

logger = logging.getLogger("neurotransfer")
LEDGER = ["image_id", "status", "reason", "detail", "engine", "engine_version"]
OUTCOMES = layout.OUTCOMES
TAIL = 256 * 1024  # bytes at the end of the outcomes that are looked at: some 4,000 images


@dataclass(frozen=True)
class Outcome:
    """What became of one image in this try: `reason` is None for a success, whose `detail` is the engine's note.

    `parts` are the seconds by part of the engine's work, if it measures them.
    """

    reason: str | None
    detail: str | None
    seconds: float
    parts: Mapping[str, float] | None = None


KILLED = Outcome("killed", "an earlier job was killed while it worked on this image", 0.0)


class Outcomes:
    """The outcomes of all jobs in the order in which they came, in one file to which every job appends.

    A run of failures with one reason is found across jobs too, however few images each has.  What `retry` has
    marked counts no more: a failure counts as long as its image's ``status.json`` says so.

    Parameters
    ----------
    path : the file
    subjects : the folder of ``<shard>/<image_id>/``
    stop_after : how many images in a row, of the study or of one cohort, may fail with one reason; 0: any number
    """

    def __init__(self, path: str | Path, subjects: str | Path, stop_after: int) -> None:
        self._path, self._subjects, self._stop_after = Path(path), Path(subjects), stop_after

    def add(self, scan_id: str, shard: str, reason: str | None) -> None:
        """Append one image's outcome."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # one write of one line, which a system that appends keeps whole
        handle = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o666)
        with os.fdopen(handle, "ab", buffering=0) as file:
            file.write(f"{time.time():.0f}\t{shard}\t{scan_id}\t{reason or 'ok'}\n".encode())

    def refuse_run(self, shard: str, reason: str, detail: str | None) -> None:
        """Raise if the last images have all failed with this reason.

        Raises
        ------
        InstallationError
            one line: the reason, what it means, what to correct and what to run then
        """
        if not self._stop_after:
            return
        cohort = shard.rpartition("-")[0]
        lines = self._last()
        for where, run in (("", lines), (f"cohort {cohort}", [line for line in lines if _cohort(line) == cohort])):
            last = run[: self._stop_after]
            if len(last) == self._stop_after and all(line[2] == reason and self._is_failed(line) for line in last):
                meaning, remedy = REASONS[reason]
                what = (
                    f"the last {self._stop_after} images all failed with the reason {reason}: {meaning} "
                    f"(of the last one: {detail})"
                )
                fix = (
                    f"{remedy}; then run neurotransfer retry --reason {reason} and the same command again; "
                    "if so many images really are bad, raise preprocessing.stop_after_same_failure"
                )
                raise InstallationError("preprocessing", where, what, fix)

    def _last(self) -> list[tuple[str, str, str]]:
        """Shard, image and reason of the latest outcomes, the newest first, each image once."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        latest: dict[str, tuple[str, str, str]] = {}
        for cells in (line.split("\t") for line in reversed(lines)):
            if len(cells) == 4:  # the first line may be cut
                latest.setdefault(cells[2], (cells[1], cells[2], cells[3]))
        return list(latest.values())

    def _is_failed(self, line: Sequence[str]) -> bool:
        status = read_status(self._subjects / line[0] / line[1])
        return status is not None and status["state"] == "failed" and status.get("reason") == line[2]


def _cohort(line: Sequence[str]) -> str:
    return line[0].rpartition("-")[0]


def slice_of_job(images: pd.DataFrame, job: str, images_per_job: int) -> pd.DataFrame:
    """The rows of a shard's table that a job handles."""
    return images.iloc[int(job) * images_per_job : (int(job) + 1) * images_per_job]


def preprocess_images(
    images: pd.DataFrame,
    settings: Mapping[str, Any],
    subjects: str | Path,
    study: str | Path = ".",
    outcomes: Outcomes | None = None,
    shard_images: Collection[str] | None = None,
) -> pd.DataFrame:
    """Process the images that have no outcome yet and return the ledger of all of them.

    Parameters
    ----------
    images : `image_id`, `shard`, `t1w` and, if there is one, `derivatives` (relative to `study`)
    settings : the configuration's `preprocessing`; `volumes`, if it is there, says whether these images need regional
        volumes; an image that has them keeps them
    subjects : the folder of ``<shard>/<image_id>/``
    outcomes : in which a run of failures is looked for, or None
    shard_images : every image of the shard, if some are withdrawn: files of any other image in its folder are deleted

    Raises
    ------
    InstallationError
        if the engine cannot work, or fails for all images alike
    OSError
        if nothing can be written: the disk, not the image, is at fault
    """
    statuses: dict[str, dict[str, Any]] = {}
    if shard_images is not None and len(images):
        erase_strays(path_within(subjects, images["shard"].iloc[0]), shard_images, _outcomes_beside(subjects))
    with contextlib.ExitStack() as stack:
        engines: dict[str, Engine] = {}
        todo: dict[str, list[_Task]] = {}
        for image in images.itertuples():
            folder = path_within(subjects, image.shard, image.image_id)
            if getattr(image, "withdrawn", None) == 1:
                erase(folder, _outcomes_beside(subjects))
                statuses[image.image_id] = {"state": "withdrawn"}
                continue
            scan = _scan(image, Path(study), settings.get("volumes", True))
            name = "derivatives" if scan.derivatives else settings["engine"]
            if name not in engines:
                engines[name] = stack.enter_context(contextlib.closing(open_engine(settings, name)))
            task = _Task(scan, image.shard, folder, name, engines[name])
            status = read_status(folder)
            if status is not None and task.is_done(status):
                statuses[scan.image_id] = status
            else:
                todo.setdefault(name, []).append(task.from_kept(status))
        for name, tasks in todo.items():
            killed, suspects, others = _by_death(tasks)
            for task in killed:
                statuses[task.scan.image_id] = _record(task, KILLED, outcomes)
                logger.info("%s failed: killed (%s)", task.scan.image_id, KILLED.detail)
            left = len(suspects) + len(others)
            if not left:
                continue
            stack.callback(_clear, tasks)
            engines[name].check()
            logger.info("%d of %d images are left for the engine %s", left, len(images), name)
            found = stack.enter_context(contextlib.closing(_outcomes(engines[name], others, suspects)))
            for done, (task, outcome) in enumerate(found, start=1):
                statuses[task.scan.image_id] = _record(task, outcome, outcomes)
                words = f"failed: {outcome.reason} ({outcome.detail})" if outcome.reason else "ok"
                if not outcome.reason and outcome.detail:
                    words = f"ok ({outcome.detail})"
                logger.info("%d of %d: %s %s, %.0f s", done, left, task.scan.image_id, words, outcome.seconds)
    rows = []
    for image_id in images["image_id"]:
        status = statuses[image_id]
        row = {"image_id": image_id, "status": status["state"]}
        rows.append(row | {name: status.get(name) for name in LEDGER[2:]})
    return pd.DataFrame(rows, columns=LEDGER)


def _outcomes_beside(subjects: str | Path) -> Path:
    return Path(subjects).with_name(Path(OUTCOMES).name)


def _clear(tasks: Iterable[_Task]) -> None:
    """Remove what images that were being worked on have left when the job stopped."""
    for task in tasks:
        shutil.rmtree(task.part, ignore_errors=True)


@dataclass(frozen=True)
class _Task:
    """One image to be processed, and where its folder will be."""

    scan: EngineInput
    shard: str
    folder: Path
    name: str
    engine: Engine

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the engine, its settings, and the T1w by size and time."""
        return self._fingerprint_of(self.scan)

    def _fingerprint_of(self, scan: EngineInput) -> str:
        facts = {"engine": self.name} | self.engine.facts(scan)
        if scan.derivatives is None and scan.t1w.is_file():
            about = scan.t1w.stat()
            facts |= {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns}
        return fingerprint(facts)

    def is_done(self, status: Mapping[str, Any]) -> bool:
        """Whether a status is of this image and engine, and has the volumes if they are needed.

        A failure holds with and without volumes, until `neurotransfer retry` removes it.
        """
        if status.get("fingerprint") == self.fingerprint:
            return True
        return self._differs_in_volumes(status) and not (self.scan.volumes and status["state"] == "ok")

    def from_kept(self, status: Mapping[str, Any] | None) -> _Task:
        """This task, which goes on from the image's present folder if only the volumes are missing in it."""
        if status is None or status["state"] != "ok" or not self._differs_in_volumes(status):
            return self
        return replace(self, scan=replace(self.scan, kept=self.folder))

    def _differs_in_volumes(self, status: Mapping[str, Any]) -> bool:
        other = replace(self.scan, volumes=not self.scan.volumes)
        return status.get("fingerprint") == self._fingerprint_of(other)

    @property
    def part(self) -> Path:
        """Where the image's files are made, beside the folder that they become."""
        return self.folder.with_name(f".{self.folder.name}.part")

    @property
    def mark(self) -> Path:
        """A file that is there while the image is being worked on, and after that only if the process was killed."""
        return self.folder.with_name(f".{self.folder.name}.started")

    def death(self) -> dict[str, Any] | None:
        """The mark that a killed process left of this image, with this fingerprint."""
        mark = read_whole_json(self.mark)
        return mark if mark is not None and mark.get("fingerprint") == self.fingerprint else None


def _scan(image: Any, study: Path, volumes: bool = True) -> EngineInput:
    """A row of the manifest, as it is given to an engine."""
    derivatives = getattr(image, "derivatives", None)
    words = {name: getattr(image, name, None) for name in ("participant_id", "session", "run")}
    texts: dict[str, Any] = {name: word if isinstance(word, str) else None for name, word in words.items()}
    return EngineInput(
        image_id=image.image_id,
        t1w=(study / image.t1w).absolute(),
        derivatives=(study / derivatives).absolute() if isinstance(derivatives, str) and derivatives else None,
        volumes=volumes,
        **texts,
    )


def _by_death(tasks: Sequence[_Task]) -> tuple[list[_Task], list[_Task], list[_Task]]:
    """The images that have killed an earlier process, those of which one has, and all others."""
    marks = {task.scan.image_id: task.death() for task in tasks}
    dead = [task for task in tasks if marks[task.scan.image_id]]
    others = [task for task in tasks if not marks[task.scan.image_id]]
    if len(dead) == 1:
        return dead, [], others
    killed = [task for task in dead if (marks[task.scan.image_id] or {}).get("alone")]
    return killed, [task for task in dead if task not in killed], others


def _outcomes(
    engine: Engine, tasks: Sequence[_Task], suspects: Sequence[_Task] = ()
) -> Generator[tuple[_Task, Outcome]]:
    """Every task and what became of it, as they end; those that ask for it are tried again, alone, at the end.

    So are `suspects`, of which one has killed an earlier process.
    """
    again = [(task, TryAlone("killed", "an earlier job was killed during it and others")) for task in suspects]
    with contextlib.closing(_first_tries(engine, tasks)) as tries:
        for task, outcome in tries:
            if isinstance(outcome, TryAlone):
                again.append((task, outcome))
            else:
                yield task, outcome
    for task, failure in again:
        logger.info("%s: %s; once more, alone", task.scan.image_id, failure)
        yield task, cast(Outcome, _try(task, alone=True))  # no second TryAlone


def _first_tries(engine: Engine, tasks: Sequence[_Task]) -> Generator[tuple[_Task, Outcome | TryAlone]]:
    if engine.at_once == 1:
        for task in tasks:
            yield task, _try(task)
        return
    with ThreadPoolExecutor(engine.at_once) as pool:
        futures = {pool.submit(_try, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # a signal to this thread, a broken installation, a full disk
            pool.shutdown(wait=False, cancel_futures=True)
            engine.stop()
            raise


def _try(task: _Task, alone: bool = False) -> Outcome | TryAlone:
    """Have one image processed into its part folder."""
    if not alone:
        shutil.rmtree(task.part, ignore_errors=True)
    task.part.mkdir(parents=True, exist_ok=True)
    write_json(task.mark, {"fingerprint": task.fingerprint, "alone": alone})
    started = time.monotonic()
    reason = detail = parts = None
    try:
        if task.scan.derivatives is None:
            check_file(task.scan.t1w)
        made = task.engine.run(task.scan, task.part, alone=alone) or Made()
        detail, parts = made.note, made.parts
    except ImageError as failure:
        if isinstance(failure, TryAlone) and not alone:
            return failure
        reason, detail = failure.reason, failure.detail
    except MemoryError as error:
        reason, detail = "killed", f"more memory was needed than there is ({error})"
    except (OSError, InstallationError):
        raise  # not the image: the disk that is written to, or the installation
    except Exception as error:  # a bug met by one image must not stop a cohort; it is in the ledger and the log
        logger.exception("%s: the engine failed", task.scan.t1w)
        reason, detail = "engine_failed", " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        task.mark.unlink(missing_ok=True)
    return Outcome(reason, detail, time.monotonic() - started, parts)


def _record(task: _Task, outcome: Outcome, outcomes: Outcomes | None) -> dict[str, Any]:
    """Let the image's folder appear with its status; of a failed image, only that and its logs.

    Raises
    ------
    InstallationError
        if this failure belongs to a run of them: one that others had found already is not recorded
    """
    if outcome.reason and outcomes:
        outcomes.refuse_run(task.shard, outcome.reason, outcome.detail)
    if outcome.reason:
        task.part.mkdir(parents=True, exist_ok=True)
        for path in task.part.iterdir():
            if path.name != "scripts":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    engine, version = task.engine.made_by(task.scan)
    status = {"state": "failed" if outcome.reason else "ok", "reason": outcome.reason, "detail": outcome.detail}
    status |= {"fingerprint": task.fingerprint, "engine": engine, "engine_version": version}
    measured: dict[str, Any] = {"seconds": round(outcome.seconds, 3)}
    measured |= {"parts": outcome.parts} if outcome.parts else {}
    measured |= {} if task.scan.volumes else {"volumes": False}
    write_json(task.part / "status.json", status | measured)
    restrict(task.part)
    shutil.rmtree(task.folder, ignore_errors=True)
    task.mark.unlink(missing_ok=True)
    task.part.rename(task.folder)
    if outcomes:
        outcomes.add(task.scan.image_id, task.shard, outcome.reason)
        if outcome.reason:
            outcomes.refuse_run(task.shard, outcome.reason, outcome.detail)
    return status
