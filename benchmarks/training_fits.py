"""Which of the fits' settings are stable: each of config.yaml's settings at full width, for 20 steps at its full rate.

    python benchmarks/training_fits.py            # every run that has no result yet, then the table
    python benchmarks/training_fits.py --table    # the table of the results so far
    python benchmarks/training_fits.py --try      # after training.py --try: one fit of each model on its small images

It uses the images of `benchmarks/training.py` (96³ voxels of 2 mm), and for transfer the weights of its run of 160
steps with the default; the label is the sex.  The setting with the largest rate and no dropout is run with ten seeds,
each other one with two.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
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

from benchmarks.training import RUNS, TOLERANCE, prepare  # noqa: E402

STEPS, BATCH, VALIDATION = 20, 2, 8
WEIGHTS = next(run.name for run in RUNS if run.group == "learn")  # the first is the default's


def runs() -> list[tuple[str, int, int]]:
    """Model, setting and seed of each run, in the order in which they are done."""
    settings = load_config(ROOT)["models"]["baseline"]["settings"]
    largest = max(range(len(settings)), key=lambda at: (settings[at]["learning_rate"], -settings[at]["dropout"]))
    others = [at for at in reversed(range(len(settings))) if at != largest]
    chosen = [(largest, seed) for seed in range(10)] + [(at, seed) for seed in range(2) for at in others]
    return [(model, at, seed) for model in ("baseline", "transfer") for at, seed in chosen]


def train(model: str, setting: int, seed: int, folder: Path, weights: str = WEIGHTS, tried: bool = False) -> None:
    """Do a run if it has no result yet; write its losses, whether it diverged, and its dead features."""
    path = folder / f"fits/{model}-setting{setting}-seed{seed}.json"
    if path.exists():
        return
    config = load_config(ROOT)
    values = config["models"][model]["settings"][setting]
    settings = config["models"]["cnn"] | values | {"schedule": {"kind": "constant"}, "warmup": 0, "epochs": 1}
    settings |= {"batch_size": BATCH, "data_type": "float32"}
    if tried:
        table, count = read_table(folder / "images/images.tsv"), 2 * BATCH
    else:
        table, count = prepare(folder / "images", 1)[0], STEPS * BATCH
        table = table.sample(count + VALIDATION, random_state=seed).reset_index(drop=True)
    rows = {"train": np.arange(count), "validation": np.arange(count, len(table))}
    device = choose_device("cpu", 1)
    images = ResidentImages(table, folder / "images", device)
    seeds = seeds_of_fit(seed, "sex", len(table), "r000", model, setting)
    trunk = trunk_of(load_file(folder / f"results/{weights}.safetensors")) if model == "transfer" else None
    network = finetuning.first_network(config["network"], values["dropout"], seeds, trunk)
    losses: list[float] = []
    real = finetuning.backward_passes

    def watched(*positional: Any, **named: Any) -> torch.Tensor:
        total = real(*positional, **named)
        losses.append(float(total))
        return total

    finetuning.backward_passes = watched
    started = time.process_time()
    labels = torch.tensor(table["sex"].to_numpy(), dtype=torch.float32)
    record, _ = finetuning.fit_setting(images, labels, rows, network, settings, seeds, device)
    some = [np.arange(at, at + BATCH) for at in range(0, min(32, count), BATCH)]
    calibrate(network, map(as_input, images.batches(some, device)))
    dead = int((~live_features(network, map(as_input, images.batches(some, device)))).sum())
    found = {"model": model, "values": values, "seed": seed, "losses": losses, "dead": dead, "record": record}
    write_json(path, found | {"cpu_seconds": time.process_time() - started, "torch": torch.__version__})


def table(folder: Path) -> str:
    """All results so far, for a terminal."""
    found: dict[tuple[str, float, float], list[dict[str, Any]]] = {}
    for path in sorted((folder / "fits").glob("*.json")):
        one = read_json(path)
        found.setdefault((one["model"], one["values"]["learning_rate"], one["values"]["dropout"]), []).append(one)
    width = load_config(ROOT)["network"]["bottleneck"]
    lines = [["model", "rate", "dropout", "seeds", "", "largest / first loss", "dead features", "not finite"]]
    for (model, rate, dropout), results in sorted(found.items()):
        largest = max(max(one["losses"]) / one["losses"][0] for one in results)
        dead = max(one["dead"] for one in results)
        ended = sum(one["record"]["status"] != "ok" or not math.isfinite(sum(one["losses"])) for one in results)
        stable = not ended and largest <= TOLERANCE and dead <= width / 2
        cells = [model, f"{rate:g}", f"{dropout:g}", str(len(results)), "stable" if stable else "unstable"]
        lines.append([*cells, f"{largest:.1f}", f"{dead} of {width}", str(ended)])
    return aligned(lines, "lrrrlrrr")


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
            train(model, 0, 0, asked.folder, weights, tried=True)
    elif not asked.table:
        with ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
            for done in [pool.submit(train, *run, asked.folder) for run in runs()]:
                done.result()
    print(table(asked.folder))


if __name__ == "__main__":
    main()
