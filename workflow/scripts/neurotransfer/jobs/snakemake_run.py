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
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ..errors import InputError
from ..study.rules import base_name
from .work_left import Work

STEPS = re.compile(r"(\d+) of (\d+) steps")
COUNTED = re.compile(r"(\w+) +(\d+)")  # a line of the table of jobs
BEGUN = re.compile(r"(?:local)?rule (\w+):")
FAILED = re.compile(r"Error in rule (\w+):")
JOB = re.compile(r" +jobid: (\d+)")  # below the line of a job that begins or has failed
FINISHED = re.compile(r"Finished jobid: (\d+) \(Rule: (\w+)\)")
CORES = re.compile(r"Provided cores: (\d+)")
IMAGE = re.compile(r" INFO (\d+ of \d+): \S+ (?:ok|failed)")
EPOCH = re.compile(r" INFO (epoch \d+): .*\bage_mae ([\d.]+)")
TO_GO = re.compile(r" INFO epoch .*; [\d.]+ images/s, ([\d.]+) (s|min|h|days) to go")
UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86_400}
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
        self.work = Work(costs or {}, images)
        self.words = words or {}
        self.done = self.total = 0
        self.news: dict[str, str] = {}  # by rule
        self._in_table, self._begun, self._failed = False, "", ""

    def hear(self, line: str, seconds: float = 0.0) -> None:
        """Take in one line of the output, after so many seconds."""
        if line.startswith("Job stats"):
            self._in_table = True
            self.work.jobs.clear()
        elif self._in_table and (found := COUNTED.fullmatch(line.strip())):
            self._in_table = found[1] != "total"
            if self._in_table:
                self.work.jobs[base_name(found[1])] += int(found[2])
        elif found := BEGUN.match(line):
            self._begun, self._failed = base_name(found[1]), ""
        elif found := FAILED.match(line):
            self._begun, self._failed = "", base_name(found[1])
        elif (found := JOB.match(line)) and (self._begun or self._failed):
            if self._begun:
                self.work.begin(found[1], self._begun, seconds)
            else:
                self.work.fail(found[1], self._failed)
                self.news.pop(self._failed, None)
            self._begun = self._failed = ""
        elif found := FINISHED.match(line):
            name = base_name(found[2])
            self.work.finish(found[1], name, seconds)
            self.news.pop(name, None)
        elif found := STEPS.match(line):
            self.done, self.total = int(found[1]), int(found[2])
        elif found := CORES.match(line):
            self.work.cores = int(found[1])
        else:
            self._hear_job(line, seconds)

    def _hear_job(self, line: str, seconds: float) -> None:
        """Take in a line of a job's log."""
        if found := IMAGE.search(line):
            self.work.images_done += 1
            self.news["preprocess"] = f"image {found[1]} of a job"
        elif found := EPOCH.search(line):
            self.news["pretrain"] = f"{found[1]}, error of age {float(found[2]):.1f} years"
        if found := TO_GO.search(line):
            self.work.said["pretrain"] = (float(found[1]) * UNITS[found[2]], seconds)

    def line(self, seconds: float, width: int = 1000) -> str:
        """The jobs done, the time left, and what is worked on; `seconds` have passed; shorter if it is too wide."""
        share = 100 * self.done // max(self.total, 1)
        long = f"{self.done:4d} of {self.total} jobs done ({share:3d} %) after {seconds:4.0f} s"
        lines = [
            self._with_work(text, seconds) for text in (long, f"{self.done} of {self.total} jobs, {seconds:.0f} s")
        ]
        return next((line for line in lines if len(line) <= width), lines[-1])

    def _with_work(self, text: str, seconds: float) -> str:
        if left := self.work.seconds_left(seconds):
            text += f", about {round(left, -1 if left > 30 else 0):.0f} s to go"
        doing = [
            f"{self.words.get(name, name)} ({self.news[name]})" if name in self.news else self.words.get(name, name)
            for name in self.work.running
        ]
        return f"{text}: {', '.join(doing)}" if doing else text


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
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        ended = threading.Event()
        if minutes is not None:
            threading.Thread(target=_end_in, args=(process, 60 * minutes, ended, out_of_time), daemon=True).start()
        try:
            for line in _lines_and_ticks(cast(IO[str], process.stdout)):
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
            _wait_for_end(process)  # Snakemake got the same Ctrl-C and ends its jobs
            process.stdout = None  # the reader closes it: a job that goes on may hold its other end
            print(f"\n{name}: stopped; the same command goes on from here")
            return Ended(INTERRUPTED, tuple(lines), time.monotonic() - started)
        finally:
            ended.set()
    return Ended(process.returncode, tuple(lines), time.monotonic() - started, out_of_time.is_set())


def _lines_and_ticks(output: IO[str]) -> Iterator[str | None]:
    """The lines, and None after each second without one: jobs may say nothing for minutes."""
    heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            with output:
                for line in output:
                    heard.put(line)
        except ValueError:
            if not output.closed:  # it is closed if this process ends
                raise
        finally:
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


def _wait_for_end(process: subprocess.Popen) -> None:
    """Wait for a process to end that got Ctrl-C as this one did, and kill it at the next Ctrl-C."""
    before = signal.signal(signal.SIGINT, lambda *_: process.kill())
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


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
