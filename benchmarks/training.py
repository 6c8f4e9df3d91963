"""Which recipe trains the paper's network: simulated heads at 2 mm, over optimisers, rates, poolings and seeds.

    python benchmarks/training.py                   # every run that has no result yet, then the table
    python benchmarks/training.py --only decide     # the runs that decide the default
    python benchmarks/training.py --table           # the table of the results so far

The network has its full width.  A crop of 96³ voxels of 2 mm holds a whole brain and leaves 3³ voxels for the global
maximum; fewer hide what makes training unstable.  Each run's result is a JSON file in `--folder`: the benchmark can be
stopped at any time and continues with the runs that have none.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.cache.shard_file import checksum, shard_written  # noqa: E402
from neurotransfer.errors import InputError  # noqa: E402
from neurotransfer.files import read_json, read_table, write_json, write_table  # noqa: E402
from neurotransfer.network.device import choose_device  # noqa: E402
from neurotransfer.pretrain import loop  # noqa: E402
from neurotransfer.pretrain.batches import Images  # noqa: E402
from neurotransfer.pretrain.checkpoints import Checkpoints  # noqa: E402
from neurotransfer.pretrain.targets import encode, first_biases, learn_targets, masked_loss  # noqa: E402
from neurotransfer.simulation import study  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from neurotransfer.text import MISSING, aligned  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from workbench.heads import CROP, masked_head  # noqa: E402

TRAINING, VALIDATION = 240, 48  # images
PER_SHARD = 16
SHORT = 30  # steps of the runs that show stability
COHORTS = ("alpha", "beta", "gamma", "delta")


def draw_shard(folder: Path, name: str, people: list[dict], seed: int) -> list[str]:
    """Write a shard of people's images; the checksum of each."""
    sums = []
    with shard_written(folder / f"{name}.npy", len(people), (CROP,) * 3, None) as write:
        for person in people:
            image = masked_head(person, seed)
            write(image)
            sums.append(checksum(image))
    return sums


def prepare(folder: Path, processes: int, seed: int = 7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of the training and of the validation images, which are drawn if there are none yet."""
    path = folder / "images.tsv"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        share = (TRAINING + VALIDATION) / 100
        designs = list(study._designs(COHORTS, share))
        people = [
            person for design in designs for person in study._people(design, seed) if person["session"] in ("", "01")
        ]
        order = np.random.default_rng(seed).permutation(len(people))[: TRAINING + VALIDATION]
        people = [people[at] for at in order]
        names = [f"x-{at:04d}" for at in range(len(people) // PER_SHARD)]
        parts = [people[at * PER_SHARD : (at + 1) * PER_SHARD] for at in range(len(names))]
        with ProcessPoolExecutor(processes) as pool:
            made = list(pool.map(draw_shard, [folder] * len(names), names, parts, [seed] * len(names)))
        table = pd.DataFrame(people).drop(columns="own")
        labels = {
            design.name: {*design.labels, "bmi"} if "height" in design.labels else set(design.labels)
            for design in designs
        }
        for target in ("handedness", "bmi", "fluid_intelligence", "neuroticism"):
            table.loc[[target not in labels[name] for name in table["cohort"]], target] = np.nan
        table["image_id"] = table["participant_id"] = table["cohort"] + "_" + table["label"]
        table["shard"] = np.repeat(names, PER_SHARD)
        table["row"] = np.tile(np.arange(PER_SHARD), len(names))
        table["checksum"] = [one for part in made for one in part]
        write_table(table, path)
    table = read_table(path)
    return table[:TRAINING].reset_index(drop=True), table[TRAINING:].reset_index(drop=True)


@dataclass(frozen=True)
class Run:
    """One training: what differs from config.yaml, for how many steps, and why it is run.

    The schedule is constant and the warm-up is 0, so every step is at the full rate.
    """

    group: str
    seed: int
    steps: int = SHORT
    batch_size: int = 8
    optimiser: str = "adamw"
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    dropout: float = 0.0
    clip_norm: float | None = 50.0
    pooling: str = "max"
    data_type: str = "float32"

    @property
    def name(self) -> str:
        """Of the result's file."""
        parts = [self.group, self.optimiser, f"{self.learning_rate:g}", self.pooling, f"{self.steps}x{self.batch_size}"]
        return "-".join([*parts, f"seed{self.seed}"])


SGD = {"optimiser": "sgd", "learning_rate": 0.01, "weight_decay": 0.001}
PUBLISHED = SGD | {"dropout": 0.5, "clip_norm": None}  # what config.yaml had before, except for the head and the loss
# in the order in which they are done: what decides the default comes first, after the weights for training_fits.py
RUNS = [
    Run("learn", 0, steps=160, batch_size=4),
    *(Run("decide", seed) for seed in range(10)),
    *(Run("twice", seed, learning_rate=6e-4) for seed in range(2)),
    Run("contrast", 0, **PUBLISHED),
    Run("pooling", 0, pooling="average"),
    *(Run("rates", seed, learning_rate=1e-3) for seed in range(2)),
    Run("contrast", 0, **SGD),
    Run("learn", 0, steps=160, batch_size=4, learning_rate=1e-3),
    *(Run("rates", seed, learning_rate=2e-3) for seed in range(2)),
    Run("learn", 0, steps=160, batch_size=4, **PUBLISHED),
    Run("pooling", 0, pooling="average", **PUBLISHED),
]


def train(run: Run, folder: Path, images: Path) -> None:
    """Do a run if it has no result yet; write what it found, a value per step and the last epoch's figures."""
    path = folder / f"{run.name}.json"
    if path.exists():
        return
    config = load_config(ROOT)
    tables = prepare(images, 1)
    # one epoch that holds all steps, or several of 160 images, after which a validation shows what was learnt
    count = run.steps * run.batch_size if run.steps == SHORT else 160
    tables = tables[0][:count], tables[1][: 16 if run.steps == SHORT else VALIDATION]
    targets = learn_targets(config["targets"], tables[0])
    asked = {name: value for name, value in asdict(run).items() if name not in ("group", "seed", "steps", "pooling")}
    settings = config["pretrain"] | asked | {"schedule": {"kind": "constant"}, "warmup": 0}
    settings |= {"epochs": run.steps * run.batch_size // count, "patience": None, "on_divergence": "stop"}
    losses: list[float] = []
    real = loop.Progress.tell
    loop.Progress.tell = functools.wraps(real)(
        lambda self, epoch, step, images, loss: (losses.append(loss), real(self, epoch, step, images, loss))[1]
    )
    found: dict[str, Any] = {"run": asdict(run), "diverged": "", "history": []}
    started, checkpoints = time.process_time(), Checkpoints(folder / run.name, "benchmark", 5.0)
    try:
        result = loop.pretrain(
            *(Images(table, images) for table in tables),
            tables,
            targets=targets,
            network=config["network"] | {"pooling": run.pooling},
            settings=settings,
            seed=run.seed,
            device=choose_device("cpu", 1),
            checkpoints=checkpoints,
        )
        found["history"] = result.history.to_dict("records")
        if run.group in ("decide", "learn"):
            save_file(result.state, folder / f"{run.name}.safetensors")
    except InputError as error:
        found["diverged"] = error.what
    finally:
        loop.Progress.tell = real
    biases = first_biases(targets)
    truth = encode(tables[0], targets)
    found |= {"losses": losses, "dummy_loss": float(masked_loss(biases.expand_as(truth), truth, targets))}
    found |= {"dummy_age_mae": float((tables[1]["age"] - tables[0]["age"].mean()).abs().mean())}
    write_json(path, found | {"cpu_seconds": time.process_time() - started, "torch": torch.__version__})
    checkpoints.delete()


GROUPS = {
    "decide": "the default",
    "twice": "twice its rate",
    "rates": "three and seven times its rate",
    "contrast": "what config.yaml had before, with and without its dropout",
    "learn": "160 steps",
    "pooling": "average pooling",
}
TOLERANCE = 3.0  # times the first loss, which no loss of a stable run exceeds


def row_of(results: list[dict[str, Any]]) -> list[str]:
    """A line of the table: runs that differ by their seed only."""
    run, losses = results[0]["run"], [found["losses"] for found in results]
    largest = [max(found) / found[0] for found in losses if found]
    last = [found["history"][-1] for found in results if found["history"]]
    dead = [row["dead_features"] for row in last]
    width = load_config(ROOT)["network"]["bottleneck"]
    ended = sum(bool(found["diverged"]) for found in results)
    stable = not ended and max(largest) <= TOLERANCE and max(dead) <= width / 2
    dummy = float(np.mean([found["dummy_age_mae"] for found in results]))
    errors = [row["validation_age_mae"] for row in last]
    return [
        f"{run['optimiser']} {run['learning_rate']:g}, {run['pooling']}, dropout {run['dropout']:g}",
        f"{run['steps']} × {run['batch_size']}",
        str(len(results)),
        "stable" if stable else f"{ended} not finite" if ended else "unstable",
        f"{np.mean([found[0] for found in losses]):.2f} ({np.mean([found['dummy_loss'] for found in results]):.2f})",
        f"{max(largest):.1f}",
        f"{max(dead)} of {width}" if dead else MISSING,
        f"{max(row['gradient_norm'] for row in last):.1f}" if last else MISSING,
        f"{np.mean(errors):.1f} ({dummy:.1f})" if errors else MISSING,
    ]


def table(folder: Path) -> str:
    """All results so far, for a terminal."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for run in RUNS:
        path = folder / f"{run.name}.json"
        if path.exists():
            key = tuple(value for name, value in asdict(run).items() if name != "seed")
            found.setdefault(key, []).append(read_json(path))
    header = ["optimiser, rate, pooling", "steps × images", "seeds", "", "first loss (dummy's)", "largest / first"]
    header += ["dead features", "largest gradient norm", "age MAE (dummy's)"]
    lines = [header, *map(row_of, found.values())]
    return aligned(lines, "lrrlrrrrr")


def main() -> None:
    """Train, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/training", help="of images and results")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--only", nargs="*", choices=GROUPS, help="groups of runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    asked = parser.parse_args()
    images, results = asked.folder / "images", asked.folder / "results"
    if asked.table:
        print(table(results))
        return
    prepare(images, asked.processes)
    runs = [run for run in RUNS if not asked.only or run.group in asked.only]
    with ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
        for done in [pool.submit(train, run, results, images) for run in runs]:
            done.result()
    print(table(results))


if __name__ == "__main__":
    main()
