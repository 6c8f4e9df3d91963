"""How often the demo's answer is right at seeds that were not chosen for it: benchmarks/README.md.

    python benchmarks/demo_power.py FOLDER --seeds 101-120

Each seed is a demo of its own in FOLDER/<seed>, from simulated scans to the table of comparisons, of the paper's three
models at the smallest n alone; `--no-control` leaves out the task without an effect, and with it a third of the time.
A seed that is finished is not run again.  Prints a row per seed, and writes FOLDER/power.tsv.

p_holm is adjusted over the comparisons that were made; p_demo, more strictly, is p times as many as the whole demo has.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import yaml
from neurotransfer.files import read_table, write_text
from neurotransfer.jobs.snakemake_run import Progress, command_of, run_snakemake
from neurotransfer.manifest.compile import compile_manifest
from neurotransfer.simulation.demo import COHORTS, CONTROL, SECONDS, TASK, simulate_demo
from neurotransfer.split.pools import check_pools
from neurotransfer.study import layout
from neurotransfer.study.configuration import load_config
from neurotransfer.text import aligned

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "config/demo.yaml"
NEEDED = (layout.COMPARISONS, layout.MEDIANS)


def run(folder: Path, seed: int, cores: int, *, control: bool) -> None:
    """Make the tables of one seed's demo; its scans and caches are removed at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if all(Path(name).exists() for name in NEEDED):
        return
    n = min(load_config(REPOSITORY, [DEMO])["resampling"]["n"])
    # second seeds are about the population, and a further arm is a family of its own: neither changes these p-values
    parts = {"seed": seed, "resampling": {"n": [n], "second_seeds": 0}, "models": {"frozen": None}}
    Path("seed.yaml").write_text(yaml.safe_dump(parts | ({} if control else {"tasks": {CONTROL: None}})))
    overlays: list[str | Path] = [DEMO, "seed.yaml"]
    started = time.monotonic()
    simulate_demo(
        Path(), seed, processes=cores, cohorts=COHORTS if control else [name for name in COHORTS if name != "coin"]
    )
    compile_manifest(load_config(REPOSITORY, overlays), check_pools)
    options = ["--profile", str(REPOSITORY / "profiles/local"), "--cores", str(cores), "--nolock", *NEEDED]
    ended = run_snakemake(command_of(REPOSITORY, overlays, options), str(seed), progress=Progress(SECONDS))
    if ended.status:
        sys.exit("\n".join([*ended.lines, f"seed {seed}: Snakemake has failed"]))
    print(f"{seed}: {time.monotonic() - started:.0f} s", flush=True)
    for heavy in ("data", "results/preprocessed", "results/cache"):
        shutil.rmtree(heavy, ignore_errors=True)


def row_of(folder: Path, seed: int, comparisons_of_demo: int) -> dict[str, object]:
    """Transfer against baseline in each task: median AUCs, the mean difference, and p, adjusted in two ways."""
    medians = read_table(folder / layout.MEDIANS).set_index(["task", "model"])["median"]
    comparisons = read_table(folder / layout.COMPARISONS).set_index(["task", "first", "second"])
    found: dict[str, object] = {"seed": seed}
    for task in (TASK, CONTROL):
        if task not in comparisons.index:
            continue
        row = comparisons.loc[(task, "transfer", "baseline")]
        found |= {f"{task} {model}": medians[task, model] for model in ("transfer", "baseline")}
        found |= {f"{task} difference": row["mean_difference"], f"{task} p_holm": row["p_holm"]}
        found[f"{task} p_demo"] = min(1.0, row["p_two_sided"] * comparisons_of_demo)
    return found


def main() -> None:
    """Run the seeds one after the other, and print the table of those that are finished after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="101-120", help="default: %(default)s")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--no-control", action="store_true", help="only the task with an effect")
    chosen = parser.parse_args()
    first, _, last = chosen.seeds.partition("-")
    folder, rows = chosen.folder.resolve(), []
    config = load_config(REPOSITORY, [DEMO])
    pairs = 3 * len(config["resampling"]["n"]) * sum(task is not None for task in config["tasks"].values())
    for seed in range(int(first), int(last or first) + 1):
        run(folder / str(seed), seed, chosen.cores, control=not chosen.no_control)
        rows.append(row_of(folder / str(seed), seed, pairs))
        table = pd.DataFrame(rows)
        write_text(folder / "power.tsv", table.to_csv(sep="\t", index=False, float_format="%.4g", lineterminator="\n"))
        cells = [[str(value) if isinstance(value, int) else f"{value:.3g}" for value in row.values()] for row in rows]
        print(aligned([list(table), *cells], "r"))
        for name in (name for name in table if " p_" in name):
            print(f"{name} at most 0.05: {(table[name] <= 0.05).sum()} of {table[name].notna().sum()}", flush=True)


if __name__ == "__main__":
    main()
