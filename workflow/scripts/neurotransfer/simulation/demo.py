"""The demo: a simulated study, its manifest and the whole workflow on it, with progress and a headline.

It uses the same Snakefile, rules and code as any study; `config/demo.yaml` makes it small.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from ..study import layout

SEED = 7
VOXEL_SIZE = 4.5  # mm; as preprocessing.voxel_size in config/demo.yaml
STEPS = re.compile(r"(\d+) of (\d+) steps")


def run_demo(folder: Path, repository: Path, *, cores: int) -> int:
    """Run the demo in `folder` and return Snakemake's exit status.

    A run that was stopped or killed is continued.

    Raises
    ------
    InputError
        if another demo runs in the same folder
    """
    folder.mkdir(parents=True, exist_ok=True)
    overlay = repository / "config/demo.yaml"
    started = time.monotonic()
    with _alone(folder):
        from ..manifest.compile import compile_manifest
        from ..split.pools import check_pools
        from ..study.configuration import load_config
        from .study import simulate_study

        os.chdir(folder)
        print("demo: simulating cohorts whose truth is known ...", flush=True)
        simulate_study(Path(), seed=SEED, voxel_size=VOXEL_SIZE, processes=cores)
        print(compile_manifest(load_config(repository, [overlay]), check_pools).text(), flush=True)
        status = _run_workflow(repository, overlay, cores)
    if status:
        _print_failures()
        return status
    from ..files import read_table
    from ..statistics.aggregation import headline

    print()
    print(headline(read_table(layout.MEDIANS), read_table(layout.COMPARISONS)))
    print(f"\nreport: {folder / layout.REPORT}   ({time.monotonic() - started:.0f} s)")
    return 0


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the system releases the lock when the process ends, also after a kill."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                folder, "", "another demo is running here", "wait for it, or choose another folder"
            ) from None
        yield


def _run_workflow(repository: Path, overlay: Path, cores: int) -> int:
    """Run Snakemake, turning its many lines into one of progress; its own log keeps them all."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile")]
    command += ["--profile", str(repository / "profiles/local"), "--configfile", str(overlay), "--cores", str(cores)]
    # `_alone` stands in for Snakemake's lock, which would outlive a killed run
    command += ["--nolock", "--quiet", "host", "reason"]
    started = time.monotonic()
    shown = 0.0
    tail: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None  # a pipe, as asked for
            for line in process.stdout:
                tail = [*tail[-30:], line.rstrip()]
                if "Nothing to be done" in line:
                    print("demo: nothing to be done, every result is up to date")
                steps = STEPS.search(line)
                now = time.monotonic()
                if steps and (now - shown > (1 if sys.stdout.isatty() else 15) or steps[1] == steps[2]):
                    shown = now
                    _show_progress(int(steps[1]), int(steps[2]), now - started)
        except KeyboardInterrupt:
            process.wait()  # Snakemake got the same Ctrl-C and ends its jobs
            print("\ndemo: stopped; the same command goes on from here")
            return 130
    if process.returncode:
        print("\n".join(["", "the end of Snakemake's output:", *tail]), file=sys.stderr)
    return process.returncode


def _show_progress(done: int, total: int, seconds: float) -> None:
    line = f"demo: {done:4d} of {total} jobs done ({100 * done // total:3d} %) after {seconds:4.0f} s"
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if done == total else "", flush=True)
    else:
        print(line, flush=True)


def _print_failures() -> None:
    from ..files import read_json
    from ..jobs.job import FAILURES

    for path in sorted(FAILURES.glob("*/*.json")):
        failure = read_json(path)
        print(
            f"failed: {failure['rule']} {failure['key']}: {failure['cause']} (log: {failure['log']})", file=sys.stderr
        )
