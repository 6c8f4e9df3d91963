"""What every job of the workflow does around its work: a log, a lease, a cause when it fails.

A rule's script unpacks Snakemake's object inside ``with job(snakemake):`` and calls the library.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import __version__
from .errors import InputError
from .files import write_json

logger = logging.getLogger("neurotransfer")
FAILURES = Path("results/failures")
HEARTBEAT = 30.0  # seconds between two signs of life in a lease
SILENCE = 300.0  # seconds without one after which a holder on another machine counts as dead


def set_up_logging(path: str | Path | None) -> None:
    """Log to standard error and, where there is one, to the rule's log file, each line with its time."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    layout = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=layout, handlers=handlers, force=True)
    logging.captureWarnings(True)


def explain(error: BaseException) -> str:
    """One line for a person: what went wrong, and what to do where that is known."""
    if isinstance(error, OSError):
        again = "then run the same command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{error.filename or 'results'}: no space left on the disk; free some, {again}"
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"{error.filename or 'results'}: it cannot be written; mend its permissions, {again}"
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; give the job more (mem_mb)"
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def job(snakemake: Any, lease: str | Path | None = None) -> Iterator[None]:
    """Run a rule's work: log to the rule's log, hold its lease, and leave the cause if it fails.

    On failure the log's last line is the cause, ``results/failures/<rule>/<key>.json`` holds it too
    (Snakemake deletes logs when it tries again) and the process exits with status 1.  Success removes
    that file.

    Parameters
    ----------
    snakemake : Snakemake's object in a script
    lease : the file whose making must not run twice at once, where the job writes for long
    """
    set_up_logging(snakemake.log[0] if snakemake.log else None)
    key = "-".join(str(value) for value in snakemake.wildcards) or "all"
    failure = FAILURES / snakemake.rule / f"{key}.json"
    signal.signal(signal.SIGTERM, _exit_at_sigterm)
    try:
        with held(lease) if lease else contextlib.nullcontext():
            yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        cause = explain(error)
        if not isinstance(error, InputError | KeyboardInterrupt | SystemExit):
            logger.error("%s", traceback.format_exc().rstrip())
        logger.error("%s %s failed: %s", snakemake.rule, key, cause)
        facts = {"rule": snakemake.rule, "key": key, "cause": cause, "version": __version__, "time": time.time()}
        facts |= {"log": str(snakemake.log[0]) if snakemake.log else None, "slurm_job": os.environ.get("SLURM_JOB_ID")}
        with contextlib.suppress(OSError):
            write_json(failure, facts)
        sys.exit(1)
    failure.unlink(missing_ok=True)


def _exit_at_sigterm(number: int, frame: object) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def held(output: str | Path) -> Iterator[None]:
    """Hold the lease ``<output>.lease``; wait while a live process holds it.

    Snakemake forgets its running jobs when it is killed, and its successor starts them anew: the second
    process waits here until the first has ended.  A holder is dead when its process is gone (same
    machine), its Slurm job is gone, or its lease shows no sign of life for 5 minutes.
    """
    path = Path(f"{output}.lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
    told = False
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if _is_alive(path):
                if not told:
                    logger.info("%s: another process is making this file; waiting for it to end", path)
                    told = True
                time.sleep(1.0)
            else:
                path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as file:
            json.dump(me, file)
        break
    beat = _start_heartbeat(path)
    try:
        yield
    finally:
        beat.set()
        path.unlink(missing_ok=True)


def is_held(output: str | Path) -> bool:
    """Whether a live process holds the lease of a file."""
    path = Path(f"{output}.lease")
    return path.exists() and _is_alive(path)


def _start_heartbeat(path: Path):
    import threading

    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    return stop


def _is_alive(path: Path) -> bool:
    try:
        holder = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    except ValueError:  # being written, or half written by a process that died
        return path.exists() and time.time() - path.stat().st_mtime < 5
    if holder["host"] == socket.gethostname():
        return _process_runs(holder["pid"])
    if holder.get("slurm_job"):
        try:
            command = ["squeue", "--noheader", "--jobs", holder["slurm_job"], "--format", "%T"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if answer.returncode == 0:
                return bool(answer.stdout.strip())
        except (OSError, subprocess.TimeoutExpired):
            pass
    return age < SILENCE


def _process_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
