"""Snakemake started by one of our commands: its many lines become one of progress, and its time can be bounded."""

from __future__ import annotations

import contextlib
import fcntl
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..study.rules import PAGES, STATISTICS, base_name

STEPS = re.compile(r"(\d+) of (\d+) steps")
COUNTED = re.compile(r"(\w+) +(\d+)")  # a line of the table of jobs
BEGUN = re.compile(r"(?:local)?rule (\w+):")
JOB = re.compile(r" +jobid: (\d+)")
FINISHED = re.compile(r"Finished jobid: (\d+) \(Rule: (\w+)\)")
CORES = re.compile(r"Provided cores: (\d+)")
IMAGE = re.compile(r" INFO (\d+ of \d+): \S+ (?:ok|failed)")
EPOCH = re.compile(r" INFO (epoch \d+): .*\bage_mae ([\d.]+)")
TO_GO = re.compile(r" INFO epoch .*; [\d.]+ images/s, ([\d.]+) (s|min|h) to go")
UNITS = {"s": 1, "min": 60, "h": 3600}
OTHER_COST = 1.0  # seconds of a job of a rule whose costs are not given
ORDINARY = 20.0  # seconds of work for which a machine counts as ordinary before it has done any
LEAST_DONE = 0.05  # of the work, before which no time left is said
ALMOST = 0.9  # of a running job that is done at most, as long as it says nothing of itself
LAST_LINES = 30  # of its output that are kept
GRACE = 60.0  # seconds that a run has to end its jobs before it is killed
INTERRUPTED = 130  # exit status after Ctrl-C


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit status, the last lines of its output, seconds, and whether its time was over."""

    status: int
    lines: tuple[str, ...]
    seconds: float
    out_of_time: bool = False


@contextlib.contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Lock the folder for this process; the system releases the lock when the process ends, also after a kill.

    Raises
    ------
    InputError
        if another process of the command `name` has locked it
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "wait for it, or choose another folder"
            raise InputError(folder, "", f"another {name} is running here", fix) from None
        yield


def command_of(repository: Path, configfiles: Sequence[str | Path], options: Sequence[str]) -> list[str]:
    """The command that runs this repository's workflow, with the Python that runs now."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile")]
    return [*command, "--configfile", *map(str, configfiles), *options]


class Progress:
    """What Snakemake and its jobs have said so far, in one line for a person.

    Parameters
    ----------
    costs : seconds of a job by its rule, on a core of an ordinary machine; without them no time left is said
    images : of a job of `preprocess` on average, if its cost is given
    words : a rule's work in words, if its name says too little
    """

    def __init__(
        self,
        costs: Mapping[str, float] | None = None,
        images: float | None = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        self.costs, self.images, self.words = costs or {}, images, words or {}
        self.done = self.total = 0
        self.cores = 1
        self.jobs: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.news: dict[str, str] = {}  # by rule
        self._finished: Counter[str] = Counter()
        self._used: dict[str, float] = {}  # seconds of finished jobs
        self._open: dict[str, tuple[str, float]] = {}  # rule and begin of a running job, by its number
        self._to_go: dict[str, tuple[float, float]] = {}  # by rule: what its job said, and when
        self._seen = 0  # images
        self._in_table, self._begun = False, ""

    def hear(self, line: str, seconds: float = 0.0) -> None:
        """Take in one line of the output, after so many seconds."""
        if line.startswith("Job stats"):
            self._in_table, self.jobs = True, Counter()
        elif self._in_table and (found := COUNTED.fullmatch(line.strip())):
            self._in_table = found[1] != "total"
            if self._in_table:
                self.jobs[base_name(found[1])] += int(found[2])
        elif found := BEGUN.match(line):
            self._begun = base_name(found[1])
            self.running[self._begun] += 1
        elif (found := JOB.match(line)) and self._begun:
            self._open[found[1]] = (self._begun, seconds)
            self._begun = ""
        elif found := FINISHED.match(line):
            self._finish(found[1], base_name(found[2]), seconds)
        elif found := STEPS.match(line):
            self.done, self.total = int(found[1]), int(found[2])
        elif found := CORES.match(line):
            self.cores = int(found[1])
        else:
            self._hear_job(line, seconds)

    def _finish(self, number: str, name: str, seconds: float) -> None:
        _, begun = self._open.pop(number, (name, seconds))
        self._finished[name] += 1
        self._used[name] = self._used.get(name, 0.0) + seconds - begun
        self.running[name] -= 1
        self.news.pop(name, None)
        self._to_go.pop(name, None)

    def _hear_job(self, line: str, seconds: float) -> None:
        """Take in a line of a job's log."""
        if found := IMAGE.search(line):
            self._seen += 1
            self.news["preprocess"] = f"image {found[1]} of a job"
        elif found := EPOCH.search(line):
            self.news["pretrain"] = f"{found[1]}, error of age {float(found[2]):.1f} years"
        if found := TO_GO.search(line):
            self._to_go["pretrain"] = (float(found[1]) * UNITS[found[2]], seconds)

    def line(self, seconds: float, width: int = 1000) -> str:
        """The jobs done, the time left, and what is worked on; `seconds` have passed; shorter if it is too wide."""
        share = 100 * self.done // max(self.total, 1)
        long = f"{self.done:4d} of {self.total} jobs done ({share:3d} %) after {seconds:4.0f} s"
        lines = [
            self._with_work(text, seconds) for text in (long, f"{self.done} of {self.total} jobs, {seconds:.0f} s")
        ]
        return next((line for line in lines if len(line) <= width), lines[-1])

    def _with_work(self, text: str, seconds: float) -> str:
        if left := self._left(seconds):
            text += f", about {round(left, -1 if left > 30 else 0):.0f} s to go"
        names = [name for name, count in self.running.items() if count > 0]
        doing = [
            f"{self.words.get(name, name)} ({self.news[name]})" if name in self.news else self.words.get(name, name)
            for name in names
        ]
        return f"{text}: {', '.join(doing)}" if doing else text

    def _left(self, seconds: float) -> float | None:
        """The time left: until the cores have done the rest, times how much slower than ordinary the machine is.

        Running jobs count with the part that they say they have done, or else with their time.  None before a
        twentieth of the work is done.
        """
        if not self.costs:
            return None
        whole = sum(self._cost(name) * count for name, count in self.jobs.items())
        by_image = bool(self.images) and "preprocess" in self.jobs
        done = self._done_by_images() if by_image else 0.0
        for name, count in self._finished.items():
            done += 0.0 if by_image and name == "preprocess" else self._cost(name) * count
        spent, loads = sum(self._used.values()), [0.0] * self.cores
        silent: list[tuple[float, float]] = []
        for name, begun in self._open.values():
            age, cost = seconds - begun, self._cost(name)
            if by_image and name == "preprocess":
                spent += age
                continue
            if name in self._to_go:
                to_go, when = self._to_go[name]
                part = age / (age + max(to_go - (seconds - when), 0.1 * to_go) + 1e-9)
                spent += age
                done += part * cost
                loads.append((1 - part) * cost)
            else:
                silent.append((age, cost))
        slowness = (spent + ORDINARY) / (done + ORDINARY)
        for age, cost in silent:
            if age > slowness * cost:  # it is slower than the others were
                spent += age
                done += ALMOST * cost
        if not LEAST_DONE * whole < done < whole:
            return None
        slowness = (spent + ORDINARY) / (done + ORDINARY)
        loads += [cost - min(age / slowness, ALMOST * cost) for age, cost in silent]
        return slowness * self._until_end(sorted(loads)[-self.cores :])

    def _until_end(self, loads: list[float]) -> float:
        """Ordinary seconds until all is done, from what the jobs on each core still take."""
        waiting: list[float] = []
        last = chain = 0.0
        for name, count in self.jobs.items():
            cost, begun = self._cost(name), self._finished[name] + self.running[name]
            if name in (*STATISTICS, *PAGES):  # after all else, one after the other
                last += cost * (self._finished[name] == 0)
            elif name == "preprocess" and self.images:
                waiting += [(cost * count - self._done_by_images()) / count] * count
            else:
                waiting += [cost] * (count - begun)
                chain += cost * (begun == 0)  # of one job of each rule, most of which follow each other
        for cost in sorted(waiting, reverse=True):
            loads[loads.index(min(loads))] += cost
        return max(max(loads), chain) + last

    def _cost(self, name: str) -> float:
        return self.costs.get(name, OTHER_COST)

    def _done_by_images(self) -> float:
        """The costs of the images that are preprocessed; jobs differ much in their number of images."""
        count, cost = self.jobs["preprocess"], self._cost("preprocess")
        if self._finished["preprocess"] >= count:
            return cost * count
        return min(cost * self._seen / (self.images or 1), cost * count)


def run_snakemake(
    command: Sequence[str], name: str, minutes: float | None = None, progress: Progress | None = None
) -> Ended:
    """Run Snakemake and show its progress, a line every 15 seconds, or every second in a terminal.

    Parameters
    ----------
    name : the first word of each line
    minutes : after which the run is interrupted as by Ctrl-C, which makes Snakemake cancel its jobs
    progress : takes in the output and makes the lines; by default one without a time left
    """
    started, shown = time.monotonic(), 0.0
    lines: deque[str] = deque(maxlen=LAST_LINES)
    progress = progress or Progress()
    out_of_time = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        ended = threading.Event()
        if minutes is not None:
            threading.Thread(target=_end_in, args=(process, 60 * minutes, ended, out_of_time), daemon=True).start()
        try:
            for line in _lines_and_ticks(process.stdout or ()):
                now, last = time.monotonic(), False
                if line is not None:
                    lines.append(line.rstrip())
                    progress.hear(line.rstrip(), now - started)
                    if "Nothing to be done" in line:
                        print(f"{name}: nothing to be done, every result is up to date")
                    last = bool(STEPS.match(line)) and progress.done == progress.total
                if progress.total and (now - shown > (1 if sys.stdout.isatty() else 15) or last):
                    shown = now
                    width = shutil.get_terminal_size().columns - 3 - len(name) if sys.stdout.isatty() else 1000
                    _show(f"{name}: {progress.line(now - started, width)}", last)
        except KeyboardInterrupt:
            process.wait()  # Snakemake got the same Ctrl-C and ends its jobs
            print(f"\n{name}: stopped; the same command goes on from here")
            return Ended(INTERRUPTED, tuple(lines), time.monotonic() - started)
        finally:
            ended.set()
    return Ended(process.returncode, tuple(lines), time.monotonic() - started, out_of_time.is_set())


def _lines_and_ticks(output: Iterable[str]) -> Iterator[str | None]:
    """The lines, and None after each second without one: jobs may say nothing for minutes."""
    heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):  # the pipe was closed because this process ends
            for line in output:
                heard.put(line)
        heard.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = heard.get(timeout=1)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def _end_in(process: subprocess.Popen, seconds: float, ended: threading.Event, out_of_time: threading.Event) -> None:
    """Interrupt a process after some seconds if it has not ended, and kill it if it does not end then."""
    if ended.wait(seconds):
        return
    out_of_time.set()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        if ended.wait(GRACE):
            return


def _show(line: str, last: bool) -> None:
    """A line of progress, which takes the place of the one before in a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="\n" if last else "", flush=True)
    else:
        print(line, flush=True)
