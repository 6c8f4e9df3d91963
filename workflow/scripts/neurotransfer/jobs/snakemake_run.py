"""Snakemake started by one of our commands: its many lines become one of progress, and its time can be bounded."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..study.rules import base_name

STEPS = re.compile(r"(\d+) of (\d+) steps")
COUNTED = re.compile(r"(\w+) +(\d+)")  # a line of the table of jobs
BEGUN = re.compile(r"(?:local)?rule (\w+):")
FINISHED = re.compile(r"Finished jobid: \d+ \(Rule: (\w+)\)")
IMAGE = re.compile(r" INFO (\d+ of \d+): \S+ (?:ok|failed)")
EPOCH = re.compile(r" INFO (epoch \d+): .*\bage_mae ([\d.]+)")
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
    costs : seconds of a job by its rule, as far as they are known, from which the time left is estimated
    """

    def __init__(self, costs: Mapping[str, float] | None = None) -> None:
        self.costs = costs or {}
        self.done = self.total = 0
        self.jobs: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.news: dict[str, str] = {}  # by rule
        self._in_table = False

    def hear(self, line: str) -> None:
        """Take in one line of the output."""
        if line.startswith("Job stats"):
            self._in_table, self.jobs = True, Counter()
        elif self._in_table and (found := COUNTED.fullmatch(line.strip())):
            self._in_table = found[1] != "total"
            if self._in_table:
                self.jobs[found[1]] = int(found[2])
        elif found := BEGUN.match(line):
            self.running[base_name(found[1])] += 1
        elif found := FINISHED.match(line):
            name = base_name(found[1])
            self.finished[name] += 1
            self.running[name] -= 1
            self.news.pop(name, None)
        elif found := STEPS.match(line):
            self.done, self.total = int(found[1]), int(found[2])
        elif found := IMAGE.search(line):
            self.news["preprocess"] = f"image {found[1]} of a job"
        elif found := EPOCH.search(line):
            self.news["pretrain"] = f"{found[1]}, error of age {float(found[2]):.1f} years"

    def line(self, seconds: float) -> str:
        """The jobs done, the time left, and what is worked on; `seconds` have passed."""
        share = 100 * self.done // max(self.total, 1)
        text = f"{self.done:4d} of {self.total} jobs done ({share:3d} %) after {seconds:4.0f} s"
        if left := self._left(seconds):
            text += f", about {left:.0f} s to go"
        names = [name for name, count in self.running.items() if count > 0]
        doing = [f"{name} ({self.news[name]})" if name in self.news else name for name in names]
        return f"{text}: {', '.join(doing)}" if doing else text

    def _left(self, seconds: float) -> float | None:
        """The time left in proportion to the costs of the jobs done; None before a tenth of them is done."""
        whole = sum(self.costs.get(base_name(name), 0.0) * count for name, count in self.jobs.items())
        done = sum(self.costs.get(name, 0.0) * count for name, count in self.finished.items())
        return seconds * (whole - done) / done if 0 < 0.1 * whole < done < whole else None


def run_snakemake(
    command: Sequence[str], name: str, minutes: float | None = None, costs: Mapping[str, float] | None = None
) -> Ended:
    """Run Snakemake and show its progress, a line every 15 seconds, or every second in a terminal.

    Parameters
    ----------
    name : the first word of each line
    minutes : after which the run is interrupted as by Ctrl-C, which makes Snakemake cancel its jobs
    costs : see `Progress`
    """
    started, shown = time.monotonic(), 0.0
    lines: deque[str] = deque(maxlen=LAST_LINES)
    progress = Progress(costs)
    out_of_time = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        ended = threading.Event()
        if minutes is not None:
            threading.Thread(target=_end_in, args=(process, 60 * minutes, ended, out_of_time), daemon=True).start()
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                progress.hear(line.rstrip())
                if "Nothing to be done" in line:
                    print(f"{name}: nothing to be done, every result is up to date")
                now, last = time.monotonic(), bool(STEPS.match(line)) and progress.done == progress.total
                if progress.total and (now - shown > (1 if sys.stdout.isatty() else 15) or last):
                    shown = now
                    _show(f"{name}: {progress.line(now - started)}", last)
        except KeyboardInterrupt:
            process.wait()  # Snakemake got the same Ctrl-C and ends its jobs
            print(f"\n{name}: stopped; the same command goes on from here")
            return Ended(INTERRUPTED, tuple(lines), time.monotonic() - started)
        finally:
            ended.set()
    return Ended(process.returncode, tuple(lines), time.monotonic() - started, out_of_time.is_set())


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
