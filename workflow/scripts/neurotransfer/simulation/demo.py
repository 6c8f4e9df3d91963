"""The demo: a simulated study, its manifest and the whole workflow on it, with progress and a headline.

It uses the same Snakefile, rules and code as any study; `config/demo.yaml` makes it small.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..jobs.snakemake_run import INTERRUPTED, Progress, alone, command_of, run_snakemake
from ..study import layout

if TYPE_CHECKING:
    import pandas as pd

    from ..study.plan import Study

SEED = 7
VOXEL_SIZE = 4.5  # mm; as preprocessing.voxel_size in config/demo.yaml
COHORTS = ("alpha", "beta", "gamma", "delta", "epsilon", "memory", "coin")
PARTICIPANTS = {"memory": 2.2, "coin": 2.0}  # larger pools, because larger test sets decide more than replicates
# of a job by its rule, on a core of an ordinary machine; for the time left
SECONDS = {"preprocess": 13.1, "cache": 0.8, "quality": 0.6, "index": 0.7, "split": 0.6, "heads": 3.3, "duplicates": 1}
SECONDS |= {"resample": 0.5, "pretrain": 67, "evaluate": 2.4, "features": 1.6, "linear": 1.9, "second_seed": 6.4}
SECONDS |= {"baseline": 29.1, "transfer": 29.8, "aggregate": 3, "confounding": 3, "classifiers": 4, "compare": 2}
SECONDS |= {"figures": 4, "report": 4, "all": 0}
WORDS = {
    "preprocess": "preprocessing",
    "cache": "caching images",
    "heads": "comparing heads",
    "quality_page": "page of quality",
    "pretrain": "pretraining",
    "features": "features of the pretrained network",
    "linear": "linear models",
    "baseline": "networks from scratch",
    "transfer": "pretrained networks",
    "second_seed": "networks with a second seed",
    "evaluate": "evaluating the pretrained network",
}
TASK, CONTROL = "ad_hc", "control"  # with an effect, and without


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
        from ..study.plan import read_study

        os.chdir(folder)
        print("demo: simulating scans of cohorts whose truth is known ...", flush=True)
        simulate_demo(Path(), SEED, processes=cores)
        print(compile_manifest(load_config(repository, [overlay]), check_pools).text(), flush=True)
        progress = demo_progress(read_study(load_config(repository, [overlay])))
        status = _run_workflow(repository, overlay, cores, progress)
    if status:
        if status != INTERRUPTED:  # jobs that a person has stopped have not failed
            _print_failures()
        return status
    from ..files import read_table
    from ..statistics.aggregation import headline

    medians, comparisons = read_table(layout.MEDIANS), read_table(layout.COMPARISONS)
    print(f"\n{headline(medians, comparisons)}\n")
    print(f"found:     {finding(medians, comparisons, load_config(repository, [overlay])['statistics']['alpha'])}")
    print(f"report:    {folder / layout.REPORT}   ({time.monotonic() - started:.0f} s)")
    print(f"your data: {_next_command()}, with a BIDS folder of yours, begins a study of it (docs/tutorial.md)")
    _offer_to_open(Path(layout.REPORT).resolve())
    return 0


def simulate_demo(folder: Path, seed: int, *, processes: int, cohorts: Sequence[str] = COHORTS) -> None:
    """Write the demo's scans and tables; see `simulation.study.simulate_study`."""
    from .study import simulate_study

    simulate_study(
        folder,
        seed=seed,
        voxel_size=VOXEL_SIZE,
        cohorts=cohorts,
        participants=PARTICIPANTS,
        processes=processes,
    )


def finding(medians: pd.DataFrame, comparisons: pd.DataFrame, alpha: float) -> str:
    """One sentence: transfer against baseline at the smallest n, where there is an effect and where there is none.

    Parameters
    ----------
    medians, comparisons : as in results/statistics/
    alpha : p-values after Holm's adjustment are significant from here on
    """
    auc = medians.set_index(["task", "n", "model"])["median"]
    pairs = comparisons.set_index(["task", "n", "first", "second"])
    parts = []
    for task, groups in ((TASK, "where two groups differ"), (CONTROL, "where they do not")):
        n = int(medians.loc[medians["task"] == task, "n"].min())
        row = pairs.loc[(task, n, "transfer", "baseline")]
        verdict = "a difference" if row["p_holm"] <= alpha else "no difference"
        aucs = [f"{auc[task, n, model]:.2f}" for model in ("transfer", "baseline")]
        parts.append(
            f"{groups}, transfer has AUC {aucs[0]} and baseline {aucs[1]}: {verdict} (p = {row['p_holm']:.2g})"
        )
    return f"with {n} training images, {'; '.join(parts)}"


def _next_command() -> str:
    """What a person types next; in a shell that has not activated this Python's environment, with that."""
    begin = "neurotransfer init FOLDER"
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV"):
        return begin
    return f". {shlex.quote(str(Path(sys.prefix, 'bin/activate')))} && {begin}"


def _offer_to_open(report: Path) -> None:
    """Ask whether to open the report, where a person sits at a desktop."""
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not (desktop and sys.stdin.isatty() and sys.stdout.isatty()):
        return
    import webbrowser

    try:
        if input("open the report in a browser? [Y/n] ").strip().lower() in ("", "y", "yes"):
            webbrowser.open(report.as_uri())
    except (EOFError, KeyboardInterrupt):
        print()


def demo_progress(study: Study) -> Progress:
    """Progress of the demo's study, with the time left and each rule's work in words."""
    jobs = sum(len(shard.jobs) for shard in study.shards.values())
    return Progress(SECONDS, sum(shard.images for shard in study.shards.values()) / jobs, WORDS)


def _run_workflow(repository: Path, overlay: Path, cores: int, progress: Progress) -> int:
    """Run the whole workflow; its exit status."""
    # `alone` stands in for Snakemake's lock, which would outlive a killed run
    options = ["--profile", str(repository / "profiles/local"), "--cores", str(cores), "--nolock"]
    command = command_of(repository, [overlay], [*options, "--quiet", "host", "reason"])
    ended = run_snakemake(command, "demo", progress=progress)
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
