"""The paper's whole study up to the first job: its tables, its manifest, and a dry run of its configuration.

    python benchmarks/dry_run.py [--images-per-job 1] [--share 0.02] [FOLDER]

Prints the jobs by rule, and the seconds and the peak memory of each step: of `neurotransfer manifest`, of
`snakemake -n`, also with jobs that have nothing to them (`bare.smk`), which is what so many cost Snakemake itself on
this machine, and of parsing the Snakefile beside Snakemake's own start with an empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from paper_study import write_study

REPOSITORY = Path(__file__).resolve().parents[1]
BARE = REPOSITORY / "benchmarks/bare.smk"
WITHOUT_RUNNING = ("--dry-run", "--quiet", "rules")
# A process inherits the peak memory of the one that it is forked from, so a small one stands between.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024], file)
sys.exit(code)
"""


class Step(NamedTuple):
    """A command that has ended: its seconds by the clock and of CPU, peak memory in MiB, and what it printed."""

    seconds: float
    cpu: float
    mib: float
    text: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY / "dry-run", metavar="FOLDER")
    parser.add_argument("--images-per-job", type=int, default=64, metavar="N")
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="of the study's size; default: all of it")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="starts of Snakemake to take the best of")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    cohorts = write_study(folder, chosen.share)
    seconds = time.monotonic() - start
    print(f"{sum(cohort.images for cohort in cohorts):,} images of", end=" ")
    print(f"{sum(cohort.participants for cohort in cohorts):,} participants in {len(cohorts)} cohorts, in {folder}")
    print(f"tables written     {seconds:7.1f} s")
    shutil.rmtree(folder / "results", ignore_errors=True)
    overlay = folder / "jobs.yaml"
    overlay.write_text(f"manifest: {{images_per_job: {chosen.images_per_job}}}\n")
    print_step("manifest", manifest(folder, overlay))
    dry = snakemake(folder, overlay, *WITHOUT_RUNNING)
    print_step("dry run", dry)
    print_step("bare jobs", bare := snakemake(folder, overlay, *WITHOUT_RUNNING, snakefile=BARE))
    print(f"dry run / bare     {dry.cpu / bare.cpu:7.2f}")
    print_step("the Snakefile", parsing := best(chosen.repeats, lambda: snakemake(folder, overlay, "--list-rules")))
    print_step("an empty Snakefile", empty := best(chosen.repeats, lambda: snakemake_alone(folder)))
    more = f"{parsing.seconds - empty.seconds:7.2f} s   {parsing.cpu - empty.cpu:7.2f} s of CPU"
    print(f"parsing            {more}   more than Snakemake's own start\n")
    for rule, jobs in jobs_by_rule(dry.text).items():
        print(f"{rule:<14} {jobs:>9,}")


def manifest(folder: Path, overlay: Path) -> Step:
    """Run `neurotransfer manifest` on a study."""
    return timed(["-m", "neurotransfer.cli", "manifest", "--directory", folder, "--configfile", overlay], folder)


def snakemake(folder: Path, overlay: Path, *arguments: str, snakefile: Path = REPOSITORY / "Snakefile") -> Step:
    """Run Snakemake with the paper's configuration on a study."""
    line = ["-m", "snakemake", "--snakefile", snakefile, "--directory", folder]
    return timed([*line, "--configfile", overlay, *arguments], folder)


def snakemake_alone(folder: Path) -> Step:
    """Start Snakemake on a Snakefile without a line."""
    path = folder / "Snakefile.empty"
    path.write_text("")
    return timed(["-m", "snakemake", "--snakefile", path, "--directory", folder, "--list-rules"], folder)


def best(repeats: int, run) -> Step:
    """The fastest of several runs: what else the machine does only adds."""
    return min((run() for _ in range(repeats)), key=lambda step: step.cpu)


def timed(arguments: list, folder: Path) -> Step:
    """Run Python and wait for it.

    Raises
    ------
    SystemExit
        where the command fails, with the end of what it printed
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
    return Step(seconds, *json.loads(usage.read_text()), text)


def jobs_by_rule(text: str) -> dict[str, int]:
    """The table of jobs that a dry run prints, its total included."""
    table = text.partition("Job stats:")[2].partition("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


def print_step(name: str, step: Step) -> None:
    """A line about a step."""
    print(f"{name:<18} {step.seconds:7.1f} s   {step.cpu:7.1f} s of CPU   {step.mib:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
