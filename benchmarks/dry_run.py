"""The paper's whole study up to the first job: its tables, its manifest, and a dry run of its configuration.

    python benchmarks/dry_run.py [--images-per-job 1] [--share 0.02] [FOLDER]

Prints the jobs by rule, and the seconds and the peak memory of each step: `neurotransfer manifest`; `snakemake -n`;
`snakemake -n` of as many empty jobs (`bare.smk`), which is Snakemake's own part on this machine; and the time to
parse the Snakefile beside the start of Snakemake with an empty one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from workbench.measured import Step, empty_snakemake, fastest, jobs_by_rule, manifest, snakemake  # noqa: E402
from workbench.paper_study import write_study  # noqa: E402

BARE = REPOSITORY / "benchmarks/bare.smk"
WITHOUT_RUNNING = ("--dry-run", "--quiet", "rules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY / "dry-run", metavar="FOLDER")
    parser.add_argument("--images-per-job", type=int, default=64, metavar="N")
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="of the study's size; default: all of it")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="starts of Snakemake; the fastest counts")
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
    print_step("the Snakefile", parsing := fastest(chosen.repeats, lambda: snakemake(folder, overlay, "--list-rules")))
    print_step("an empty Snakefile", empty := fastest(chosen.repeats, lambda: empty_snakemake(folder)))
    more = f"{parsing.seconds - empty.seconds:7.2f} s   {parsing.cpu - empty.cpu:7.2f} s of CPU"
    print(f"parsing            {more}   more than Snakemake's own start\n")
    for rule, jobs in jobs_by_rule(dry.text).items():
        print(f"{rule:<14} {jobs:>9,}")


def print_step(name: str, step: Step) -> None:
    """A line about a step."""
    print(f"{name:<18} {step.seconds:7.1f} s   {step.cpu:7.1f} s of CPU   {step.mib:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
