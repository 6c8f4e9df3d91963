"""Which of the fits' settings are stable: each of config.yaml's settings at full width, for 20 steps at its full rate.

    python benchmarks/training_fits.py            # every run that has no result yet, then the table
    python benchmarks/training_fits.py --table    # the table of the results so far
    python benchmarks/training_fits.py --try      # after training.py --try: one fit of each model on its small images

It uses the images of `benchmarks/training.py` (96³ voxels of 2 mm), and for transfer the weights of its run of 160
steps with the default; the label is the sex.  The setting with the largest rate and no dropout is run with ten seeds,
each other one with two.  `benchmarks/training_gpu.py` does the same on a GPU, at the paper's crop.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.files import read_json, read_table, write_json  # noqa: E402
from neurotransfer.fit import finetuning  # noqa: E402
from neurotransfer.fit.settings import seeds_of_fit  # noqa: E402
from neurotransfer.network.device import choose_device  # noqa: E402
from neurotransfer.network.sfcn import calibrate, live_features, trunk_of  # noqa: E402
from neurotransfer.pretrain.batches import ResidentImages, as_input  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from neurotransfer.text import aligned  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from benchmarks.training import RUNS, TOLERANCE, mean, prepare  # noqa: E402

STEPS, BATCH, VALIDATION = 20, 2, 8
WEIGHTS = next(run.name for run in RUNS if run.group == "learn")  # the first is the default's


def runs() -> list[tuple[str, int, int]]:
    """Model, setting and seed of each run, in the order in which they are done."""
    settings = load_config(ROOT)["models"]["baseline"]["settings"]
    largest = max(range(len(settings)), key=lambda at: (settings[at]["learning_rate"], -settings[at]["dropout"]))
    others = [at for at in reversed(range(len(settings))) if at != largest]
    chosen = [(largest, seed) for seed in range(10)], [(at, seed) for seed in range(2) for at in others]
    return [(model, at, seed) for part in chosen for model in ("baseline", "transfer") for at, seed in part]


def train_alone(model: str, setting: int, seed: int, folder: Path, weights: str = WEIGHTS, tried: bool = False) -> None:
    """Do a run on the CPU, with one thread, on images of `training.prepare`, or on all of a few small ones."""
    device = choose_device("cpu", 1)
    if tried:
        table, count = read_table(folder / "images/images.tsv"), 2 * BATCH
    else:
        table, count = prepare(folder / "images", 1)[0], STEPS * BATCH
        table = table.sample(count + VALIDATION, random_state=seed).reset_index(drop=True)
    images = ResidentImages(table, folder / "images", device)
    trunk = folder / f"results/{weights}.safetensors"
    train(model, setting, seed, folder / "fits", images, table, count, trunk, device, {"batch_size": BATCH})


def train(
    model: str,
    setting: int,
    seed: int,
    folder: Path,
    images: ResidentImages,
    table: pd.DataFrame,
    count: int,
    weights: Path,
    device: torch.device,
    changed: Mapping[str, Any],
) -> None:
    """Do a run if it has no result yet; write its losses, whether it diverged, and its dead features.

    Parameters
    ----------
    images, table : of which the first `count` train, in an epoch, and the others validate
    weights : whose trunk transfer starts from
    changed : what else differs from `models.cnn`
    """
    path = folder / f"{model}-setting{setting}-seed{seed}.json"
    if path.exists():
        return
    config = load_config(ROOT)
    values = config["models"][model]["settings"][setting]
    settings = config["models"]["cnn"] | values | {"schedule": {"kind": "constant"}, "warmup": 0, "epochs": 1}
    settings |= {"data_type": "float32"} | changed
    rows = {"train": np.arange(count), "validation": np.arange(count, len(table))}
    seeds = seeds_of_fit(seed, "sex", len(table), "r000", model, setting)
    trunk = trunk_of(load_file(weights)) if model == "transfer" else None
    network = finetuning.first_network(config["network"], values["dropout"], seeds, trunk)
    losses: list[torch.Tensor] = []
    real = finetuning.backward_passes

    def watched(*positional: Any, **named: Any) -> torch.Tensor:
        losses.append(real(*positional, **named))
        return losses[-1]

    finetuning.backward_passes = watched
    cpu, clock = time.process_time(), time.perf_counter()
    labels = torch.tensor(table["sex"].to_numpy(), dtype=torch.float32)
    try:
        record, _ = finetuning.fit_setting(images, labels, rows, network, settings, seeds, device)
    finally:
        finetuning.backward_passes = real
    size = settings["batch_size"]
    some = [np.arange(at, at + size) for at in range(0, min(32, count), size)]
    calibrate(network, map(as_input, images.batches(some, device)))
    dead = int((~live_features(network, map(as_input, images.batches(some, device)))).sum())
    values_of_losses = [float(loss.sum()) if loss.isfinite().all() else None for loss in losses]
    found = {"model": model, "values": values, "seed": seed, "steps": len(losses), "batch_size": size, "dead": dead}
    found |= {"losses": values_of_losses, "record": record, "data_type": str(network.data_type).removeprefix("torch.")}
    found |= {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - clock}
    write_json(path, found | {"device": device.type, "torch": torch.__version__})


def rows_of(folder: Path) -> list[list[str]]:
    """The table of all results so far: its header, and a row per model and setting."""
    found: dict[tuple[str, float, float], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        one = read_json(path)
        found.setdefault((one["model"], one["values"]["learning_rate"], one["values"]["dropout"]), []).append(one)
    width = load_config(ROOT)["network"]["bottleneck"]
    header = ["model", "rate", "dropout", "seeds", "", "largest / first loss", "dead features", "not finite"]
    lines = [[*header, "validation AUC"]]
    for (model, rate, dropout), results in sorted(found.items()):
        whole = [one for one in results if None not in one["losses"]]
        largest = max((max(one["losses"]) / one["losses"][0] for one in whole), default=math.inf)
        dead = max(one["dead"] for one in results)
        ended = sum(one["record"]["status"] != "ok" or None in one["losses"] for one in results)
        stable = not ended and largest <= TOLERANCE and dead <= width / 2
        cells = [model, f"{rate:g}", f"{dropout:g}", str(len(results)), "stable" if stable else "unstable"]
        auc = mean([one["record"]["validation_auc"] for one in results], 2)
        lines.append([*cells, f"{largest:.1f}", f"{dead} of {width}", str(ended), auc])
    return lines


def main() -> None:
    """Fit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/training", help="of images and results")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    parser.add_argument("--try", dest="tried", action="store_true", help="a fit of two steps of each model")
    asked = parser.parse_args()
    if asked.tried:
        weights = next((asked.folder / "results").glob("*.safetensors")).stem
        for model in ("baseline", "transfer"):
            train_alone(model, 0, 0, asked.folder, weights, tried=True)
    elif not asked.table:
        with ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
            for done in [pool.submit(train_alone, *run, asked.folder) for run in runs()]:
                done.result()
    print(aligned(rows_of(asked.folder / "fits"), "lrrrlrrr"))


if __name__ == "__main__":
    main()
