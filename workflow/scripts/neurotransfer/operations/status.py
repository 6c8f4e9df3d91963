"""The progress of a study: its images by state, and the finished results of each step and replicate.

Goes in: the states of images, names and times of finished results, leases and failures.  Comes out: counts and a
text.  It only reads and holds no lock, so it can be used while jobs run.  Standard library only.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..errors import InputError
from ..files import read_bytes
from ..jobs.job import SILENCE, holder_in, process_runs
from ..study import layout
from ..study.plan import CNNS, Study
from ..study.rules import PAGES, RULES, SECOND_SEED, STATISTICS
from ..text import aligned, counted, duration
from .failures import Failure, by_kind, failures_of
from .image_states import EXCLUDED, FAILED, STATES, UNKNOWN, WAITING, names_in, states_of_images

RECENT = 50  # the newest results of a step, whose times give its rate
EPOCH = re.compile(r" (epoch \d+(?:, step \d+)?): (.*); ([\d.]+ images/s, .* to go)$")
LOOKS = 20  # of a watched study, from which the pace of preprocessing is taken
FINISHED = 10  # images that are to end within these looks; if they do not, the pace is taken from more looks
CLEAR = "\x1b[H\x1b[2J"  # a terminal's: the cursor to the corner, everything erased
WHICH = "which ones: neurotransfer retry --reason REASON --dry-run"
KINDS = 5  # of failures that are listed with their cause


@dataclass(frozen=True)
class Step:
    """A step of the workflow: how many of its results are there, running, or failed when last tried.

    `seconds` is the time for the others at the rate of the newest results; None if that is not known.
    """

    name: str
    done: int
    of: int
    remark: str = ""
    running: int = 0
    failed: int = 0
    seconds: float | None = None

    @property
    def waiting(self) -> int:
        """Results that are not there, not running and not failed."""
        return self.of - self.done - self.running - self.failed


@dataclass(frozen=True)
class ReplicateCounts:
    """A task's resamples of one n, and its fits of each model: by name, how many are done, running and failed."""

    task: str
    n: int
    done: Mapping[str, int]
    of: int
    running: Mapping[str, int]
    failed: Mapping[str, int]

    def cell(self, name: str) -> str:
        """As text: "62 of 100, 4 running, 1 failed"; the others are waiting."""
        parts = [f"{self.done[name]:,} of {self.of:,}"]
        parts += [
            f"{counts[name]:,} {word}"
            for word, counts in (("running", self.running), ("failed", self.failed))
            if counts[name]
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    `cohorts` are all of the study's, in order; `counts` maps (cohort, state, reason) to images; `withdrawn` maps
    a cohort to its withdrawn images, which are not in the manifest; `before` and `after` are the steps before
    and after the replicates, `fits` the steps that all replicates form; `failures` are jobs that failed when they
    were last tried.
    """

    cohorts: tuple[str, ...]
    counts: Mapping[tuple[str, str, str | None], int]
    withdrawn: Mapping[str, int]
    before: tuple[Step, ...]
    replicates: tuple[ReplicateCounts, ...]
    fits: tuple[Step, ...]
    after: tuple[Step, ...]
    failures: Sequence[Failure]

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
        """As text: states by cohort, reasons by cohort, and the progress of each later step.

        Parameters
        ----------
        reasons : the meaning of each code of failed images
        """
        parts = [aligned(self._cohort_rows(), "l"), self._reasons(reasons), self._steps()]
        models = list(self.replicates[0].done) if self.replicates else []
        done = [[row.task, str(row.n), *map(row.cell, models)] for row in self.replicates]
        parts += [aligned([["task", "n", *models], *done], "l"), self._failed_jobs()]
        return "\n\n".join(filter(None, parts))

    def summary(self, reasons: Mapping[str, str], pace: float | None = None) -> str:
        """As text for one screen: the images of all cohorts together, the steps, and the causes of failures.

        Parameters
        ----------
        reasons : the meaning of each code of failed images
        pace : images per second that are preprocessed; None if it is not known
        """
        images = ", ".join(f"{number:,} {state}" for state in STATES if (number := self.count(state=state)))
        if pace and (waiting := self.count(state=WAITING)):
            images += f"; {pace:.3g} images/s, {duration(waiting / pace)} left to preprocess"
        # a screen may have 24 lines: failures come before the steps, the last of which wait in the meantime
        parts = [
            f"{counted(self.images, 'image')}: {images}",
            self._reasons(reasons),
            self._failed_jobs(),
            self._steps(),
        ]
        return "\n\n".join(filter(None, parts))

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return all(step.done == step.of for step in (*self.before, *self.fits, *self.after))

    def _reasons(self, reasons: Mapping[str, str]) -> str:
        rows = self._reason_rows(reasons)
        if not rows:
            return ""
        table = aligned([["not usable", "reason", "images", "cohorts", "meaning"], *rows], "llrll")
        return f"{table}\n{WHICH}" if self.count(state=FAILED) else table

    def _steps(self) -> str:
        steps = [*self.before, *self.fits, *self.after]
        return aligned([["", "done", "of", "running", "failed", "waiting", ""], *map(_step_row, steps)], "lrrrrrl")

    def _failed_jobs(self) -> str:
        if not self.failures:
            return ""
        kinds = by_kind(self.failures)
        lines = [
            f"{counted(len(self.failures), 'job')} failed when last tried (neurotransfer failures shows their logs):"
        ]
        lines += [f"  {len(kind):,} x {kind[0].rule}: {kind[0].cause}" for kind in kinds[:KINDS]]
        lines += [f"  and {counted(len(kinds) - KINDS, 'more kind')}"] if len(kinds) > KINDS else []
        return "\n".join(lines)

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


def _step_row(step: Step) -> list[str]:
    numbers = (step.done, step.of, step.running, step.failed, step.waiting)
    left = "" if step.seconds is None else f"{duration(step.seconds)} left at the rate of the newest results"
    return [step.name, *(f"{number:,}" for number in numbers), step.remark or left]


def watch(look: Callable[[], Status], reasons: Mapping[str, str], seconds: float, screen: TextIO) -> None:
    """Print a study's progress again and again, until every step is done.

    A terminal is cleared before each time; a file or pipe gets one text below the other.

    Parameters
    ----------
    look : gives the present progress
    reasons : the meaning of each code of failed images
    seconds : between two looks
    screen : where the text goes
    """
    seen: deque[tuple[float, int]] = deque()  # when, and images that wait no more
    while True:
        status = look()
        pace = _pace(seen, time.monotonic(), status.images - status.count(state=WAITING))
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n\n{status.summary(reasons, pace)}"
        if screen.isatty():
            size = shutil.get_terminal_size()
            shown = text.splitlines()[: size.lines - 1]
            print(CLEAR + "\n".join(line[: size.columns] for line in shown), file=screen, flush=True)
        else:
            print(text, end="\n\n", file=screen, flush=True)
        if status.finished:
            return
        time.sleep(seconds)


def _pace(seen: deque[tuple[float, int]], now: float, done: int) -> float | None:
    """Images per second of a watched study; None as long as no image has ended in the looks that count.

    These are the newest LOOKS, and earlier ones until FINISHED images ended in them.  If images wait again, because
    they are retried, only later looks count.

    Parameters
    ----------
    seen : the looks that count, each with its time in seconds and the images that wait no more; this look is appended
    """
    if seen and done < seen[-1][1]:
        seen.clear()
    seen.append((now, done))
    while len(seen) > LOOKS and done - seen[1][1] >= FINISHED:
        seen.popleft()
    then, before = seen[0]
    return (done - before) / (now - then) if done > before and now > then else None


def status_of(study: Study, results: str | Path = layout.RESULTS) -> Status:
    """Look at a study's results.

    Parameters
    ----------
    study : its plan
    results : the folder of its results

    Raises
    ------
    InputError
        if the manifest has not been compiled
    """
    results = Path(results)
    failures = failures_of(results.parent, results)
    failed: dict[str, set[str]] = {}
    for failure in failures:
        failed.setdefault(failure.rule, set()).add(failure.key)
    replicates, fits = _replicates(study, results, failed)
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
        before=tuple(_before(study, results, failed)),
        replicates=replicates,
        fits=fits,
        after=(
            _one("statistics", layout.within(results, layout.COMPARISONS), failed.keys() & set(STATISTICS)),
            _one("report", layout.within(results, layout.REPORT), failed.keys() & set(PAGES)),
        ),
        failures=failures,
    )


def _before(study: Study, results: Path, failed: Mapping[str, set[str]]) -> Iterator[Step]:
    wanted, done, live, times = set(), set(), set(), []
    for shard in study.shards.values():
        folder = layout.within(results, layout.PREPROCESSED) / shard.name
        names = set(names_in(folder))
        wanted |= {f"{shard.name}-{job}" for job in shard.jobs}
        mine = [f"{shard.name}-{job}" for job in shard.jobs if f"{job}.tsv" in names]
        done.update(mine)
        leases = [name for name in names if name.endswith(".tsv.lease")]
        live |= {f"{shard.name}-{name.partition('.')[0]}" for name in leases if _is_live(folder / name)}
        if mine:  # reading each ledger would take long if a job has one image
            times += [folder.stat().st_mtime] * len(mine)
    yield _step("preprocessing jobs", wanted, done, live, failed.get("preprocess", set()), times)
    for name, rule, keys in (
        ("cached shards", "cache", study.shards),
        ("cohorts with an index", "index", study.cohorts),
        ("cohorts with a split", "split", study.cohorts),
    ):
        folder = layout.within(results, RULES[rule].result).parent
        there = _times(folder)
        made = {key: there[f"{key}.tsv"] for key in keys if f"{key}.tsv" in there}
        leases = [name for name in there if name.endswith(".lease")]
        live = {name.partition(".")[0] for name in leases if _is_live(folder / name)}
        yield _step(name, set(keys), set(made), live, failed.get(rule, set()), list(made.values()))
    yield _one("certificate", layout.within(results, layout.CERTIFICATE), failed.keys() & {"certificate"})
    name = "given weights" if study.run == "given" else "pretraining"
    ended = failed.keys() & {"pretrain", "adopt"}
    yield _one(name, layout.within(results, layout.weights(study.run)), ended, _progress(study, results))
    yield _one("evaluation", layout.within(results, layout.METRICS.format(run=study.run)), failed.keys() & {"evaluate"})


def _replicates(
    study: Study, results: Path, failed: Mapping[str, set[str]]
) -> tuple[tuple[ReplicateCounts, ...], tuple[Step, ...]]:
    """Resamples and fits by task and n; and all resamples, and all fits of each model, as steps."""
    names = ("resamples", *study.arms)
    rows: list[ReplicateCounts] = []
    times: dict[str, list[float]] = {name: [] for name in names}
    for task in study.tasks:
        for n in study.n:
            folder = layout.within(results, layout.FITS) / task / f"n{n}"
            drawn = _times(layout.within(results, layout.RESAMPLES) / task / f"n{n}")
            fitted = {replicate: _times(folder / replicate) for replicate in study.replicates}
            steps = []
            for name in names:
                if name == "resamples":
                    made = {key: drawn[f"{key}.tsv"] for key in study.replicates if f"{key}.tsv" in drawn}
                    live: set[str] = set()
                    rule = "resample"
                else:
                    made = {key: there[f"{name}.json"] for key, there in fitted.items() if f"{name}.json" in there}
                    lease, rule = f"{name}.json.lease", name if name in CNNS else "linear"  # one job fits all others
                    live = {key for key, there in fitted.items() if lease in there and _is_live(folder / key / lease)}
                tried = {key for key in study.replicates if f"{task}-{n}-{key}" in failed.get(rule, ())}
                steps.append(_step(name, set(study.replicates), set(made), live, tried, []))
                times[name] += made.values()
            counts = ({step.name: getattr(step, word) for step in steps} for word in ("done", "running", "failed"))
            done, running, ended = counts
            rows.append(ReplicateCounts(task, n, done, len(study.replicates), running, ended))
    fits = []
    for name in names:
        done, running, ended = (sum(getattr(row, word)[name] for row in rows) for word in ("done", "running", "failed"))
        of = sum(row.of for row in rows)
        title = name if name == "resamples" else f"{name} fits"
        fits.append(Step(title, done, of, "", running, ended, _seconds_left(times[name], of - done)))
    if study.second_seeds:
        fits.append(_second_seeds(study, results, failed.get(SECOND_SEED, set())))
    return tuple(rows), tuple(fits)


def _second_seeds(study: Study, results: Path, failed: set[str]) -> Step:
    """All fits with a second seed as one step."""
    wanted, done, live, times = set(), set(), set(), []
    for place in itertools.product(study.tasks, map(str, study.n), study.second_seeds, CNNS):
        key = "-".join(place)
        path = layout.within(results, RULES[SECOND_SEED].target(place))
        wanted.add(key)
        if path.exists():
            done.add(key)
            times.append(path.stat().st_mtime)
        elif _is_live(path.with_name(f"{path.name}.lease")):
            live.add(key)
    return _step("second seeds", wanted, done, live, failed, times)


def _step(
    name: str, wanted: set[str], done: set[str], live: set[str], failed: set[str], times: Sequence[float]
) -> Step:
    """A step from the names of its results; a result that is there counts as done, even beside a lease or a failure."""
    running, ended = (live - done) & wanted, (failed - done - live) & wanted
    return Step(name, len(done), len(wanted), "", len(running), len(ended), _seconds_left(times, len(wanted - done)))


def _seconds_left(times: Sequence[float], left: int) -> float | None:
    """Seconds for `left` more results at the rate of the newest ones; None if there are too few."""
    moments = sorted(set(times))[-RECENT:]
    if len(moments) < 3 or not left:
        return None
    return left * (moments[-1] - moments[0]) / sum(when > moments[0] for when in times)


def _one(name: str, path: Path, failed: object = None, remark: str = "") -> Step:
    done, lease = path.is_file(), path.with_name(f"{path.name}.lease")
    running = not done and _is_live(lease)
    return Step(
        name, int(done), 1, "" if done else remark, int(running), int(bool(failed) and not done and not running)
    )


def _is_live(lease: Path) -> bool:
    """Whether a lease's holder is alive, judged without a call to Slurm and without writing a file."""
    try:
        holder = holder_in(read_bytes(lease, 10_000))
        fresh = time.time() - lease.stat().st_mtime < SILENCE
    except (OSError, ValueError):
        return False
    if fresh and holder.get("host") == socket.gethostname():
        return process_runs(holder["pid"], holder.get("started"))
    return fresh


def _progress(study: Study, results: Path) -> str:
    """The newest line on epochs in the log of a pretraining that has begun."""
    if study.run == "given" or not names_in(layout.within(results, layout.CHECKPOINTS), ".pt"):
        return ""
    try:
        log = read_bytes(Path(results.parent, layout.log("pretrain", "multitask")))
    except (OSError, InputError):
        return "begun"
    lines = log.decode("utf-8", errors="replace").splitlines()
    newest = next((line for line in reversed(lines) if " epoch " in line), "")
    if found := EPOCH.search(newest):
        return f"begun: {found[1]}; {found[3]}; {found[2]}"  # what a narrow terminal cuts off matters least
    return f"begun: {newest[newest.index(' epoch ') + 1 :]}" if newest else "begun"


def _times(folder: str | Path) -> dict[str, float]:
    """Names in a folder, without hidden ones, with the times of their last change; empty if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {e.name: e.stat().st_mtime for e in entries if not e.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return {}
