"""Commands that run for long beside each other, each in a process group of its own that ends when it must.

A command ends by itself, at its time limit, when its job stops, or when its job is killed: then a guard, a
small process that waits for the job's end of a pipe to close, ends what was still running.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from pathlib import Path

POLL = 0.05  # seconds between two looks at a command
GRACE = 5.0  # seconds between a polite signal and SIGKILL; Slurm gives a whole job 30


class Stopped(BaseException):
    """The command was ended because its job is stopping; like SystemExit, nothing that handles errors handles it."""


class TimedOut(Exception):
    """The command was ended because it took too long."""


class Commands:
    """The commands of one job, which several threads may run at the same time."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._guard: subprocess.Popen | None = None

    def run(
        self,
        command: Sequence[str],
        log: Path,
        *,
        limit: float | None = None,
        environment: Mapping[str, str] | None = None,
        undo: Sequence[str] = (),
        scratch: Path | None = None,
        growth: list[tuple[float, int]] | None = None,
        cores: Collection[int] = (),
    ) -> int:
        """Run a command to its end, its output appended to `log`; the exit status, negative for a signal.

        Parameters
        ----------
        limit : seconds after which it is ended; None: no limit
        environment : of the command; None: this process's own
        undo : a command that ends what killing the process group leaves alive, such as a container
        scratch : a folder that is of no use when this process is killed; the guard removes it
        growth : gets the seconds since the start and the bytes written to `log`, each time that they are more, and at
            the end
        cores : numbers of the cores that it and all that it starts may use; none: those of this process

        Raises
        ------
        OSError
            if the program cannot be started
        TimedOut, Stopped
            when it was ended, together with all that it had started
        """
        started = time.monotonic()
        deadline = math.inf if limit is None else started + limit
        with log.open("ab") as file:
            before = file.tell()
            process = self._start(command, file, environment, undo, scratch, cores)
        try:
            while not _has_ended(process):
                _note(growth, log, before, started)
                if self._stopping.wait(POLL):
                    raise Stopped
                if time.monotonic() > deadline:
                    raise TimedOut
            _signal(process, signal.SIGKILL)  # what it left running in the background
            _note(growth, log, before, started, last=True)
            return process.wait()
        except BaseException:
            _end(process, undo)
            raise
        finally:
            self._tell({"end": process.pid})

    def _start(self, command, file, environment, undo, scratch, cores) -> subprocess.Popen:
        with self._lock:
            if self._guard is None:
                # -I: nothing of the user's environment gets into it
                line = [sys.executable, "-I", __file__]
                self._guard = subprocess.Popen(line, stdin=subprocess.PIPE, text=True, start_new_session=True)
        if self._stopping.is_set():
            raise Stopped
        with _thread_on(cores):  # a new process has the cores of the thread that starts it
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        self._tell({"start": process.pid, "undo": list(undo), "scratch": str(scratch) if scratch else None})
        return process

    def _tell(self, message: Mapping[str, object]) -> None:
        with self._lock, contextlib.suppress(OSError):  # a guard that somebody killed
            assert self._guard is not None and self._guard.stdin is not None  # `_start` has made it
            self._guard.stdin.write(json.dumps(message) + "\n")
            self._guard.stdin.flush()

    def stop(self) -> None:
        """Have every running command ended by the thread that runs it, within GRACE, and start no more."""
        self._stopping.set()

    def close(self) -> None:
        """Let the guard go; nothing may be running any more."""
        with self._lock:
            if self._guard is not None:
                assert self._guard.stdin is not None  # a pipe, as asked for
                with contextlib.suppress(OSError):
                    self._guard.stdin.close()
                self._guard.wait()
                self._guard = None


@contextlib.contextmanager
def _thread_on(cores: Collection[int]) -> Generator[None]:
    """Have this thread, and no other one of the process, run on these cores only."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _note(growth: list[tuple[float, int]] | None, log: Path, before: int, started: float, last: bool = False) -> None:
    """Append the time and the bytes that a log has grown by, if they are more than they were or `last`."""
    if growth is None:
        return
    with contextlib.suppress(OSError):  # times are no reason to end a command
        size = log.stat().st_size - before
        if last or size > (growth[-1][1] if growth else 0):
            growth.append((time.monotonic() - started, size))


def _has_ended(process: subprocess.Popen) -> bool:
    """Whether it has; it stays a zombie, so that its number, its group's too, can be given to no other process."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end(process: subprocess.Popen, undo: Sequence[str]) -> None:
    if process.returncode is not None:
        return
    _signal(process, signal.SIGTERM)
    _undo(undo)
    end = time.monotonic() + GRACE
    while not _has_ended(process) and time.monotonic() < end:
        time.sleep(POLL)
    _signal(process, signal.SIGKILL)
    process.wait()


def _undo(command: Sequence[str]) -> None:
    if command:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)


def guard() -> None:
    """Read what starts and what ends; when no reader is left, end what is still running."""
    running = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "start" in message:
            running[message["start"]] = message
        else:
            running.pop(message["end"], None)
    for group, message in running.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        _undo(message["undo"])
        if message["scratch"]:
            shutil.rmtree(message["scratch"], ignore_errors=True)


if __name__ == "__main__":
    guard()
