"""The demo: a simulated study, its manifest and the whole workflow on it, with progress and a headline.

It uses the same Snakefile, rules and code as any study; `config/demo.yaml` makes it small.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ..jobs.snakemake_run import INTERRUPTED, alone, command_of, run_snakemake
from ..study import layout

SEED = 7
VOXEL_SIZE = 4.5  # mm; as preprocessing.voxel_size in config/demo.yaml


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
    with alone(folder, "demo"):
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


def _run_workflow(repository: Path, overlay: Path, cores: int) -> int:
    """Run the whole workflow; its exit status."""
    # `alone` stands in for Snakemake's lock, which would outlive a killed run
    options = ["--profile", str(repository / "profiles/local"), "--cores", str(cores), "--nolock"]
    ended = run_snakemake(command_of(repository, [overlay], [*options, "--quiet", "host", "reason"]), "demo")
    if ended.status not in (0, INTERRUPTED):
        print("\n".join(["", "the end of Snakemake's output:", *ended.lines]), file=sys.stderr)
    return ended.status


def _print_failures() -> None:
    from ..files import read_json
    from ..jobs.job import FAILURES

    for path in sorted(FAILURES.glob("*/*.json")):
        failure = read_json(path)
        print(
            f"failed: {failure['rule']} {failure['key']}: {failure['cause']} (log: {failure['log']})", file=sys.stderr
        )
