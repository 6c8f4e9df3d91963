"""Which recipe trains the paper's network: simulated heads at 2 mm, over optimisers, rates, poolings and seeds.

    python benchmarks/training.py                   # every run that has no result yet, then the table
    python benchmarks/training.py --only decide     # the runs that decide the default
    python benchmarks/training.py --table           # the table of the results so far
    python benchmarks/training.py --try             # a few steps on small images: does everything work?

The network has its full width.  A crop of 96³ voxels of 2 mm holds a whole brain and leaves 3³ voxels for the global
maximum; fewer hide what makes training unstable.  Each run's result is a JSON file in `--folder`: the benchmark can be
stopped at any time and continues with the runs that have none.  `benchmarks/training_gpu.py` does the same on a GPU, at
the paper's crop.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.errors import InputError  # noqa: E402
from neurotransfer.files import read_json, write_json  # noqa: E402
from neurotransfer.network.device import choose_device  # noqa: E402
from neurotransfer.pretrain import loop  # noqa: E402
from neurotransfer.pretrain.batches import Images  # noqa: E402
from neurotransfer.pretrain.checkpoints import Checkpoints  # noqa: E402
from neurotransfer.pretrain.evaluation import point_metrics  # noqa: E402
from neurotransfer.pretrain.targets import encode, first_biases, learn_targets, masked_loss  # noqa: E402
from neurotransfer.simulation.study import best_predictions  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from neurotransfer.text import MISSING, aligned  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from workbench.heads import drawn_heads  # noqa: E402

TRAINING, VALIDATION = 240, 48  # images
SHORT = 30  # steps of the runs that show stability
CALIBRATION = 8  # batches that batch norm's statistics are taken over: so few steps teach nothing that more could show
COHORTS = ("alpha", "beta", "gamma", "delta")


def prepare(folder: Path, processes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of the training and of the validation images, which are drawn if there are none yet."""
    table = drawn_heads(folder, COHORTS, TRAINING + VALIDATION, processes=processes)
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
    sex_weight: float = 1.0
    divided: bool = True  # the pooled features, by the root of their number

    @property
    def name(self) -> str:
        """Of the result's file."""
        parts = [self.group, self.optimiser, f"{self.learning_rate:g}", self.pooling, f"{self.steps}x{self.batch_size}"]
        parts += [f"dropout{self.dropout:g}"] if self.dropout else []
        parts += [self.data_type] if self.data_type != "float32" else []
        parts += [f"sex{self.sex_weight:g}"] if self.sex_weight != 1 else []
        parts += ["undivided"] if not self.divided else []
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


NOT_OF_PRETRAIN = ("sex_weight", "divided")  # fields of a run that no setting of pretrain has


def check_default() -> None:
    """Stop if a run without changes is no longer what config.yaml says."""
    settings, run = load_config(ROOT), asdict(RUNS[0])
    said = settings["pretrain"] | {"pooling": settings["network"]["pooling"]}
    of_test = ("group", "seed", "steps", "batch_size", "data_type", *NOT_OF_PRETRAIN)
    stale = [name for name, value in run.items() if name not in of_test and said[name] != value]
    if stale:
        sys.exit(f"benchmarks/training.py: the defaults of Run differ from config.yaml: {', '.join(stale)}")


def train_alone(run: Run, folder: Path, images: Path) -> None:
    """Do a run on the CPU, with one thread, on as many images of `prepare` as it needs."""
    # one epoch that holds all steps, or several, after each of which a validation shows what was learnt
    counts = (run.steps * run.batch_size, 16) if run.steps == SHORT else (160, VALIDATION)
    tables = tuple(table[:count] for table, count in zip(prepare(images, 1), counts, strict=True))
    checkpoints = Checkpoints(folder / run.name, "benchmark", 5.0)
    train(run, folder, [Images(table, images) for table in tables], tables, choose_device("cpu", 1), checkpoints)


def train(
    run: Run,
    folder: Path,
    images: Sequence[Images],
    tables: Sequence[pd.DataFrame],
    device: torch.device,
    checkpoints: Checkpoints,
) -> None:
    """Do a run if it has no result yet; write what it found, a value per step and a row per epoch.

    Parameters
    ----------
    images, tables : that train, and that validate; the steps are a number of whole epochs
    """
    path = folder / f"{run.name}.json"
    if path.exists():
        return
    config = load_config(ROOT)
    config["targets"]["sex"]["weight"] *= run.sex_weight
    targets = learn_targets(config["targets"], tables[0])
    other = ("group", "seed", "steps", "pooling", *NOT_OF_PRETRAIN)
    asked = {name: value for name, value in asdict(run).items() if name not in other}
    settings = config["pretrain"] | asked | {"schedule": {"kind": "constant"}, "warmup": 0}
    settings |= {"epochs": run.steps * run.batch_size // len(tables[0]), "patience": None, "on_divergence": "stop"}
    losses: list[float] = []
    real, scale = loop.Progress.tell, loop.training_scale
    if not run.divided:
        loop.training_scale = lambda bottleneck: 1.0
    loop.CALIBRATION_BATCHES = CALIBRATION
    loop.Progress.tell = functools.wraps(real)(
        lambda self, epoch, step, images, loss: (losses.append(loss), real(self, epoch, step, images, loss))[1]
    )
    found: dict[str, Any] = {"run": asdict(run), "diverged": "", "history": []}
    cpu, clock = time.process_time(), time.perf_counter()
    try:
        result = loop.pretrain(
            *images,
            tables,
            targets=targets,
            network=config["network"] | {"pooling": run.pooling},
            settings=settings,
            seed=run.seed,
            device=device,
            checkpoints=checkpoints,
        )
        found["history"] = [without_nan(row) for row in result.history.to_dict("records")]
        if run.group in ("decide", "learn"):
            save_file(
                {name: value.contiguous() for name, value in result.state.items()}, folder / f"{run.name}.safetensors"
            )
    except InputError as error:
        found["diverged"] = error.what
    finally:
        loop.Progress.tell, loop.training_scale = real, scale
    biases = first_biases(targets)
    truth = encode(tables[0], targets)
    found |= {"losses": losses, "dummy_loss": float(masked_loss(biases.expand_as(truth), truth, targets))}
    found |= {"dummy_age_mae": float((tables[1]["age"] - tables[0]["age"].mean()).abs().mean())}
    found |= {"allowed": allowed(tables[1]), "images": [len(table) for table in tables]}
    found |= {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - clock}
    write_json(path, found | {"device": device.type, "torch": torch.__version__})
    checkpoints.delete()


def without_nan(row: dict[str, float]) -> dict[str, float | None]:
    """The same row with None for what is not finite, which JSON cannot hold."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def allowed(table: pd.DataFrame) -> dict[str, float | None]:
    """Age MAE and sex AUC of predictions from each person's simulated anatomy without error."""
    best = best_predictions(table)
    mae = point_metrics(table["age"].to_numpy(float), best["age"].to_numpy(), "continuous")["mae"]
    auc = point_metrics(table["sex"].to_numpy(float), best["sex"].to_numpy(), "binary")["auc"]
    return without_nan({"age_mae": mae, "sex_auc": auc})


GROUPS = {
    "decide": "the default",
    "twice": "twice its rate",
    "rates": "three and seven times its rate",
    "contrast": "what config.yaml had before, with and without its dropout",
    "learn": "longer runs",
    "pooling": "average pooling",
    "sex": "what teaches sex sooner",
}
TOLERANCE = 3.0  # times the first loss, which no loss of a stable run exceeds


def row_of(results: list[dict[str, Any]]) -> list[str]:
    """A line of the table: runs that differ by their seed only."""
    run, losses = results[0]["run"], [found["losses"] for found in results]
    largest = [max(found) / found[0] for found in losses if found]
    epochs = [row for found in results for row in found["history"]]
    kept = [kept_epoch(found["history"]) for found in results if found["history"]]
    dead = [row["dead_features"] for row in epochs]
    norms = [row["gradient_norm"] for row in epochs]
    width = load_config(ROOT)["network"]["bottleneck"]
    ended = sum(bool(found["diverged"]) for found in results)
    stable = not ended and max(largest) <= TOLERANCE and max(dead) <= width / 2 and None not in norms
    first = mean([found[0] for found in losses if found], 2)
    dummy_loss = mean([found["dummy_loss"] for found in results], 2)
    dummy_mae = mean([found["dummy_age_mae"] for found in results])
    recipe = [f"{run['optimiser']} {run['learning_rate']:g}", run["pooling"], f"dropout {run['dropout']:g}"]
    recipe += [run["data_type"]] if run["data_type"] != "float32" else []
    recipe += [f"sex with weight {run['sex_weight']:g}"] if run["sex_weight"] != 1 else []
    recipe += ["features not divided"] if not run["divided"] else []
    return [
        ", ".join(recipe),
        f"{run['steps']} × {run['batch_size']}",
        str(len(results)),
        "stable" if stable else f"{ended} not finite" if ended else "unstable",
        f"{first} ({dummy_loss})",
        f"{max(largest):.1f}" if largest else MISSING,
        f"{max(dead)} of {width}" if dead else MISSING,
        f"{max(norms):.1f}" if norms and None not in norms else MISSING,
        f"{mean([row['validation_age_mae'] for row in kept])} ({dummy_mae}, {mean_allowed(results, 'age_mae')})",
        f"{mean([row['validation_sex_auc'] for row in kept], 2)} ({mean_allowed(results, 'sex_auc', 2)})",
    ]


def kept_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch that pretraining keeps."""
    return min(history, key=lambda row: math.inf if row["validation_loss"] is None else row["validation_loss"])


def mean(values: Iterable[float | None], digits: int = 1) -> str:
    """The mean of the values that there are, as text."""
    present = [value for value in values if value is not None]
    return f"{np.mean(present):.{digits}f}" if present else MISSING


def mean_allowed(results: list[dict[str, Any]], name: str, digits: int = 1) -> str:
    """The mean of a figure that the truth allows, as text."""
    return mean([found["allowed"][name] for found in results], digits)


def rows_of(folder: Path) -> list[list[str]]:
    """The table of all results so far: its header, and a row per recipe."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    order = {group: at for at, group in enumerate(GROUPS)}
    results = [read_json(path) for path in sorted(folder.glob("*.json"))]
    for one in sorted(results, key=lambda one: (one["run"]["steps"], order[one["run"]["group"]])):
        found.setdefault(tuple(value for name, value in one["run"].items() if name != "seed"), []).append(one)
    header = ["optimiser, rate, pooling", "steps × images", "seeds", "", "first loss (dummy's)", "largest / first"]
    header += ["dead features", "largest gradient norm", "age MAE (dummy's, allowed)", "sex AUC (allowed)"]
    return [header, *map(row_of, found.values())]


def table(folder: Path) -> str:
    """All results so far, for a terminal."""
    return aligned(rows_of(folder), "lrrlrrrrrr")


def main() -> None:
    """Train, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/training", help="of images and results")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--only", nargs="*", choices=GROUPS, help="groups of runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    parser.add_argument("--try", dest="tried", action="store_true", help="one run of three steps on small images")
    asked = parser.parse_args()
    images, results = asked.folder / "images", asked.folder / "results"
    check_default()
    if asked.table:
        print(table(results))
        return
    if asked.tried:
        small = drawn_heads(images, COHORTS, 16, crop=(32, 32, 32), voxel_size=6.0)
        tables, run = (small[:12], small[12:].reset_index(drop=True)), replace(RUNS[0], steps=3)
        read = [Images(table, images) for table in tables]
        train(run, results, read, tables, choose_device("cpu", 1), Checkpoints(results / run.name, "benchmark"))
        print(table(results))
        return
    prepare(images, asked.processes)
    runs = [run for run in RUNS if not asked.only or run.group in asked.only]
    with ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
        for done in [pool.submit(train_alone, run, results, images) for run in runs]:
            done.result()
    print(table(results))


if __name__ == "__main__":
    main()
