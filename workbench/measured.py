"""Commands of the workflow on a study's tables, with their time and memory: for benchmarks and tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
# A child process inherits the peak memory of its parent; this small process stands between the two.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump({"cpu": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}, file)
sys.exit(code)
"""


class Step(NamedTuple):
    """A finished command: seconds by the clock, seconds of CPU, peak memory in MiB, and its output."""

    seconds: float
    cpu: float
    mib: float
    text: str


def manifest(folder: Path, overlay: Path) -> Step:
    """Run `neurotransfer manifest` on a study."""
    return timed(["-m", "neurotransfer.cli", "manifest", "--directory", folder, "--configfile", overlay], folder)


def snakemake(folder: Path, overlay: Path, *arguments: str, snakefile: Path = REPOSITORY / "Snakefile") -> Step:
    """Run Snakemake with the paper's configuration on a study."""
    line = ["-m", "snakemake", "--snakefile", snakefile, "--directory", folder]
    return timed([*line, "--configfile", overlay, *arguments], folder)


def empty_snakemake(folder: Path) -> Step:
    """Run Snakemake on an empty Snakefile."""
    path = folder / "Snakefile.empty"
    path.write_text("")
    return timed(["-m", "snakemake", "--snakefile", path, "--directory", folder, "--list-rules"], folder)


def fastest(repeats: int, run: Callable[[], Step]) -> Step:
    """The run with the least CPU time of several; other work on the machine only adds to it."""
    return min((run() for _ in range(repeats)), key=lambda step: step.cpu)


def timed(arguments: list, folder: Path) -> Step:
    """Run Python to its end.

    Raises
    ------
    SystemExit
        if the command fails, with the end of its output
    """
    scripts = str(REPOSITORY / "workflow/scripts")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [scripts, os.environ.get("PYTHONPATH")]))}
    output, usage = folder / "output.txt", folder / "usage.json"
    line = [sys.executable, "-c", MEASURED, usage, sys.executable, *arguments]
    start = time.monotonic()
    with output.open("w") as file:
        code = subprocess.run([str(part) for part in line], stdout=file, stderr=file, env=env).returncode
    seconds, text = time.monotonic() - start, output.read_text()
    if code:
        sys.exit(f"{' '.join(map(str, arguments))} failed:\n{text[-3000:]}")
    return Step(seconds=seconds, text=text, **json.loads(usage.read_text()))


def jobs_by_rule(text: str) -> dict[str, int]:
    """The table of jobs in a dry run's output, with its total."""
    table = text.partition("Job stats:")[2].partition("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
