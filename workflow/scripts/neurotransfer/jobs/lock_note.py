"""A note on the Snakemake process that runs a study; it decides whether to wait for a lock or to clear it.

Snakemake's own lock only shows that a process runs, or was killed.  The note beside it names the process and its user.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..text import printable
from .job import holder_in, process_runs, start_of

NOTE = Path(".snakemake/neurotransfer.json")
LOCKS = Path(".snakemake/locks")
FREE = {"--nolock", "--unlock", "--dry-run", "--dryrun", "-n", "-np", "--touch", "--summary", "--rulegraph", "--report"}
IDLE = FREE - {"--nolock"}  # options with which no job is started


def note_run() -> None:
    """Leave a note of this process."""
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_of(os.getpid())}
    write_json(NOTE, me | {"user": getpass.getuser(), "since": time.strftime("%Y-%m-%d %H:%M")})


def end_run() -> None:
    """Remove this process's note."""
    note = _noted()
    if note and note["pid"] == os.getpid():
        NOTE.unlink(missing_ok=True)


def runs_now(folder: str | Path = ".") -> str:
    """The Snakemake process that holds the lock of a study's folder, in words; empty if the folder is not locked."""
    if not any(Path(folder, LOCKS).glob("*.lock")):
        return ""
    note = _noted(folder)
    return _process(note) if note else "a Snakemake that has locked this folder, or was killed"


def explain_lock(arguments: Sequence[str]) -> str | None:
    """The meaning of a lock on this folder and the fix; None if there is no lock, or the command needs none.

    Parameters
    ----------
    arguments : Snakemake's, for the command that clears the lock
    """
    if FREE & set(arguments) or not any(LOCKS.glob("*.lock")):
        return None
    clear = shlex.join(["snakemake", *arguments, "--unlock"])
    again = f"clear its lock with `{clear}`, then run the same command again"
    note = _noted()
    if note is None:
        return f"{Path.cwd()}: a Snakemake runs here, or was killed; if none does, {again}"
    process = _process(note)
    if note["host"] != socket.gethostname():
        fix = f"wait for it or end it there; if it is dead, {again}"
        return f"{Path.cwd()}: {process} runs this study, as far as can be known from here; {fix}"
    if process_runs(note["pid"], note["started"]):
        return f"{Path.cwd()}: {process} runs this study; wait for it, or end it with `kill -INT {note['pid']}`"
    kept = "its jobs that still run are not started twice"
    return f"{Path.cwd()}: {process} was killed; {again} ({kept})"


def _noted(folder: str | Path = ".") -> dict[str, Any] | None:
    """The note in a study's folder; None if there is none, or none that `note_run` has written."""
    try:
        note = read_json(Path(folder, NOTE))
        process = holder_in(json.dumps(note).encode())
    except (OSError, ValueError):
        return None
    return process if all(isinstance(process.get(name), str) for name in ("user", "since")) else None


def _process(note: dict[str, Any]) -> str:
    return printable(f"Snakemake of {note['user']} (process {note['pid']} on {note['host']}, since {note['since']})")
