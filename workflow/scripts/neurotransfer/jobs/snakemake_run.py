"""Snakemake started by one of our commands: its many lines become one of progress, and its time can be bounded."""

from __future__ import annotations

import contextlib
import fcntl
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

STEPS = re.compile(r"(\d+) of (\d+) steps")
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


def run_snakemake(command: Sequence[str], name: str, minutes: float | None = None) -> Ended:
    """Run Snakemake and show its progress, a line every 15 seconds, or every second in a terminal.

    Parameters
    ----------
    name : the first word of each line
    minutes : after which the run is interrupted as by Ctrl-C, which makes Snakemake cancel its jobs
    """
    started, shown = time.monotonic(), 0.0
    lines: deque[str] = deque(maxlen=LAST_LINES)
    out_of_time = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        ended = threading.Event()
        if minutes is not None:
            threading.Thread(target=_end_in, args=(process, 60 * minutes, ended, out_of_time), daemon=True).start()
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if "Nothing to be done" in line:
                    print(f"{name}: nothing to be done, every result is up to date")
                steps, now = STEPS.search(line), time.monotonic()
                if steps and (now - shown > (1 if sys.stdout.isatty() else 15) or steps[1] == steps[2]):
                    shown = now
                    _show_progress(name, int(steps[1]), int(steps[2]), now - started)
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


def _show_progress(name: str, done: int, total: int, seconds: float) -> None:
    line = f"{name}: {done:4d} of {total} jobs done ({100 * done // total:3d} %) after {seconds:4.0f} s"
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if done == total else "", flush=True)
    else:
        print(line, flush=True)
