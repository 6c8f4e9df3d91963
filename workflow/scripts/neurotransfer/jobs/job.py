"""What every job of the workflow does around its own work: it logs, holds a lease and records the cause of a failure.

A rule's script unpacks Snakemake's object inside ``with job(snakemake):`` and calls the library.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..files import fingerprint, read_bytes, read_json, write_json
from ..study import layout
from ..study.rules import base_name

logger = logging.getLogger("neurotransfer")
FAILURES = Path(layout.FAILURES)
HEARTBEAT = 30.0  # seconds between two updates of a lease's time
JOB_ID = re.compile(r"[0-9_]{1,40}")  # of Slurm
SILENCE = 300.0  # seconds without an update after which a holder on another machine counts as dead


class Stopped(SystemExit):
    """The exit of a job that was stopped from outside, with status 1."""


def set_up_logging(path: str | Path | None) -> None:
    """Log to standard error and, if the rule has one, to its log file, each line with its time."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    line = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, handlers=handlers, force=True)
    logging.captureWarnings(True)


WRONG_PATHS = {
    errno.ENOENT: "there is no such file or folder",
    errno.EEXIST: "it is there already",
    errno.ENOTDIR: "a part of this path is no folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


def explain(error: BaseException) -> str:
    """One line of text: the error, and the fix if it is known."""
    if isinstance(error, OSError):
        again = "then run the same command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{error.filename or 'results'}: no space left on the disk; free some, {again}"
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"{error.filename or 'results'}: {_denied(error)}; fix its permissions, {again}"
        if error.filename and error.errno in WRONG_PATHS:
            path, wrong = os.fsdecode(error.filename), WRONG_PATHS[error.errno]
            if error.errno == errno.EEXIST and not os.path.isdir(path):
                wrong += ", and is no folder"
            return f"{path}: {wrong}; correct the path, {again}"
    if isinstance(error, InputError):
        return error.explained()
    if isinstance(error, MemoryError):
        return "out of memory; give the job more (mem_mb)"
    if isinstance(error, SystemExit) and _is_stop(error):
        return "stopped by SIGTERM: cancelled, or its time limit was reached (runtime); run the same command again"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _denied(error: OSError) -> str:
    """What was denied.  The error does not say whether its file was opened to be read or to be written."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if error.errno == errno.EROFS or path is None:
        return "it cannot be written"
    if os.path.lexists(path):
        return "it cannot be written" if os.access(path, os.R_OK) else "it cannot be read"
    return "it cannot be written" if os.access(path.parent, os.X_OK) else "its folder cannot be entered"


@contextlib.contextmanager
def job(snakemake: Any, lease: str | Path | None = None) -> Iterator[None]:
    """Run a rule's work: log to the rule's log, hold its lease, and record the cause if it fails.

    After a failure the cause is the log's last line and is in ``results/failures/<rule>/<key>.json``
    (Snakemake deletes logs when it tries again), and the process exits with status 1, by `Stopped` if it was
    stopped.  Success removes that file.

    Parameters
    ----------
    snakemake : Snakemake's object in a script
    lease : the output that two processes must not write at once; None for a short job
    """
    set_up_logging(snakemake.log[0] if snakemake.log else None)
    _collect_garbage_rarely()
    key = "-".join(str(value) for value in snakemake.wildcards) or "all"
    rule = base_name(snakemake.rule)
    failure = FAILURES / rule / f"{key}.json"
    signal.signal(signal.SIGTERM, _exit_at_sigterm)
    _log_resources(snakemake, failure)
    try:
        with held(lease, _work_of(snakemake)) if lease else contextlib.nullcontext(False) as done:
            if done and all(Path(path).exists() for path in snakemake.output):
                logger.info("%s %s: the process that held the lease has finished it", rule, key)
                failure.unlink(missing_ok=True)
                sys.exit(0)
            yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        cause = explain(error)
        if not isinstance(error, InputError | KeyboardInterrupt | SystemExit):
            logger.error("%s", traceback.format_exc().rstrip())
        logger.error("%s %s failed: %s", rule, key, cause)
        facts = {"rule": rule, "key": key, "cause": cause, "version": __version__, "time": time.time()}
        facts |= {"wildcards": [str(value) for value in snakemake.wildcards]}
        facts |= {"log": str(snakemake.log[0]) if snakemake.log else None, "slurm_job": os.environ.get("SLURM_JOB_ID")}
        with contextlib.suppress(OSError):
            write_json(failure, facts)
        raise (Stopped if _is_stop(error) else SystemExit)(1) from None
    _log_gpu_memory()
    failure.unlink(missing_ok=True)


@functools.cache
def _collect_garbage_rarely() -> None:
    """Collect garbage less often than by default, and not at the process's end.

    The imports of a job make a few hundred thousand objects that all live until the end.  Going through them again and
    again takes 0.4 of the 1.7 s of CPU that a fit has used before it begins.
    """
    gc.set_threshold(10_000, 20, 50)
    atexit.register(gc.freeze)


def _log_gpu_memory() -> None:
    """One line with the most memory that this process took of a GPU; none if it used none."""
    torch = sys.modules.get("torch")  # a job that has not imported it has used no GPU
    if torch and torch.cuda.is_initialized():
        logger.info("peak GPU memory %d MB", torch.cuda.max_memory_reserved() / 1e6)


def _log_resources(snakemake: Any, failure: Path) -> None:
    """Log the job's resources, which grow with each attempt, and the cause of an earlier attempt."""
    parts = [f"{name} {snakemake.resources.get(name)}" for name in ("mem_mb", "runtime", "gpu")]
    job = os.environ.get("SLURM_JOB_ID")
    slurm = f", Slurm job {job} on {os.environ.get('SLURMD_NODENAME', socket.gethostname())}" if job else ""
    logger.info("%s: threads %s, %s%s", snakemake.rule, snakemake.threads, ", ".join(parts), slurm)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # whatever stands there, the job goes on
        logger.info("an earlier attempt failed: %s", read_json(failure)["cause"])


def _work_of(snakemake: Any) -> str:
    """Fingerprint of a job's parameters and of its inputs' names, sizes and times."""
    inputs = [[str(path), os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in snakemake.input]
    return fingerprint(
        [base_name(snakemake.rule), json.loads(json.dumps(dict(snakemake.params.items()), default=str)), inputs]
    )


def _is_stop(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) == 128 + signal.SIGTERM


def _exit_at_sigterm(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def held(output: str | Path, work: str | None = None) -> Iterator[bool]:
    """Hold the lease ``<output>.lease``; wait while a live process holds it.

    If Snakemake is killed, its next run starts the running jobs again: the second process waits here until
    the first has ended.  A holder counts as dead if its process has ended (on the same machine), if its Slurm
    job has ended, or if its lease was not updated for 5 minutes by the clock of the file system (the clocks of
    nodes may differ).  A holder whose lease was taken by another process ends itself.

    Parameters
    ----------
    work : fingerprint of the work that is done under the lease

    Yields
    ------
    whether the process that held the lease before did the same work
    """
    path = Path(f"{output}.lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    me: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    me |= {"started": start_of(os.getpid()), "work": work}
    me |= {"slurm_job": os.environ.get("SLURM_JOB_ID"), "token": uuid.uuid4().hex}
    predecessor = None
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            holder = _holder_of(path)
            if holder is None:
                time.sleep(0.2)
            elif not _is_alive(path, holder):
                _remove(path, holder)
            else:
                if predecessor is None:
                    logger.info("%s: %s is making this file; waiting for it to end", path, _described(holder))
                predecessor = holder
                time.sleep(1.0)
            continue
        with os.fdopen(handle, "w") as file:
            json.dump(me, file)
        break
    beat = _start_heartbeat(path, me["token"])
    try:
        yield bool(predecessor and work and predecessor.get("work") == work)
    finally:
        beat.set()
        _remove(path, me)


def is_held(output: str | Path) -> bool:
    """Whether a live process holds the lease of a file."""
    path = Path(f"{output}.lease")
    holder = _holder_of(path)
    return holder is not None and _is_alive(path, holder)


def _start_heartbeat(path: Path, token: str) -> threading.Event:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            holder = _holder_of(path)
            if holder and holder.get("token") != token:
                logger.error("%s: %s has taken this job over; stopping", path, _described(holder))
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with contextlib.suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    return stop


def _described(holder: dict[str, Any]) -> str:
    job = f", Slurm job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"process {holder['pid']} on {holder['host']}{job}"


def _holder_of(path: Path) -> dict[str, Any] | None:
    """The holder in a lease; None while it is being written, and a dead holder if it was never written."""
    try:
        return holder_in(read_bytes(path, 10_000))
    except FileNotFoundError:
        return None
    except ValueError:
        with contextlib.suppress(OSError):
            if _age(path) > 5:
                return {"host": "", "pid": 0, "token": None, "unreadable": True}
        return None


def holder_in(content: bytes) -> dict[str, Any]:
    """The process that a lease names; ValueError if it names none, because others could have written the file."""
    try:
        holder = json.loads(content)
    except RecursionError:
        holder = None
    pid = holder.get("pid") if isinstance(holder, dict) else None
    if type(pid) is not int or not 0 < pid < 2**31 or not isinstance(holder.get("host"), str):
        raise ValueError("it names no process")
    texts = [holder.get(name) for name in ("token", "started", "work", "slurm_job")]
    if not all(text is None or isinstance(text, str) for text in texts) or not JOB_ID.fullmatch(texts[-1] or "0"):
        raise ValueError("it names no process")
    return holder


def _remove(path: Path, holder: dict[str, Any]) -> None:
    """Remove a holder's lease, unless another process has made a new one in the meantime."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    found = _holder_of(aside)
    if found and not found.get("unreadable") and found.get("token") != holder.get("token"):
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _is_alive(path: Path, holder: dict[str, Any]) -> bool:
    if holder.get("unreadable"):
        return False
    if holder["host"] == socket.gethostname():
        return process_runs(holder["pid"], holder.get("started"))
    job = holder.get("slurm_job")
    if job and job != os.environ.get("SLURM_JOB_ID"):
        # squeue cannot tell this job from its predecessor if Slurm requeued it: both have one id
        runs = _slurm_job_runs(job)
        if runs is not None:
            return runs
    with contextlib.suppress(FileNotFoundError):
        return _age(path) < SILENCE
    return False


def _slurm_job_runs(job: str) -> bool | None:
    """Whether a Slurm job is queued or running; None if squeue gives no answer."""
    try:
        command = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode == 0:
        return bool(answer.stdout.strip())
    return False if "Invalid job id" in answer.stderr else None


def _age(path: Path) -> float:
    """Seconds since a file's last change, by the clock of its file system (a node's clock may differ)."""
    with tempfile.NamedTemporaryFile(prefix=".clock.", dir=path.parent) as probe:
        return os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime


def process_runs(pid: int, started: str | None) -> bool:
    """Whether the process with this id and start time (see `start_of`) runs, and not a later one with its id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    found = start_of(pid)
    return found is None or started is None or found == started


def began() -> float:
    """When this process started, in seconds since 1970; now, if that is not known."""
    ticks = start_of(os.getpid())
    if not (ticks or "").isdigit():
        return time.time()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks or 0) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def start_of(pid: int) -> str | None:
    """When a process started, in the system's ticks; "dead" if it has ended, None if that is not known."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if fields[0] == "Z" else fields[19]
    return None
