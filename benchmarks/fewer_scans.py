"""From how many healthy scans on does pretraining pay?  docs/pretraining.md, "Pretraining with fewer scans".

    make fewer-scans

Simulated heads at 6 mm train networks of the demo's size on 32 to 2,048 images, with config.yaml's recipe (the rate
is the demo's, because the network is small).  Fits on resamples of the demo's patients and controls, none of whom a
network has seen, start from each network, and from random weights on the same resamples.  Each
result is a JSON file in `--folder`: the benchmark can be stopped at any time and continues with what is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.files import read_json, write_json  # noqa: E402
from neurotransfer.fit import finetuning  # noqa: E402
from neurotransfer.fit.settings import seeds_of_fit  # noqa: E402
from neurotransfer.network.sfcn import trunk_of  # noqa: E402
from neurotransfer.pretrain import loop  # noqa: E402
from neurotransfer.pretrain.batches import Images, ResidentImages  # noqa: E402
from neurotransfer.pretrain.checkpoints import Checkpoints  # noqa: E402
from neurotransfer.pretrain.targets import learn_targets  # noqa: E402
from neurotransfer.statistics.tests import bootstrap_interval  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from neurotransfer.text import MISSING, aligned  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from workbench.heads import drawn_heads  # noqa: E402

HEALTHY, CLINICAL = ("alpha", "beta", "gamma", "delta"), ("memory",)
SIZES = (32, 64, 128, 256, 512, 1024, 2048)  # images that train
VALIDATION, CLINIC = 256, 480  # images
EPOCHS = {32: 160, 64: 96, 128: 64, 256: 48, 512: 32, 1024: 20, 2048: 12}  # more steps for more images, fewer epochs
N, TEST, REPLICATES = (24, 72), 96, 10
CROP, VOXEL_SIZE = (32, 32, 32), 6.0  # four blocks leave 2³ voxels for the global maximum
SEEDS = (1,)


def small_network() -> dict[str, Any]:
    """The demo's configuration with four blocks, and the two larger of its rates."""
    config = load_config(ROOT, [ROOT / "config/demo.yaml"])
    config["network"] |= {"channels": [8, 16, 32, 32], "bottleneck": 16}
    for model in ("baseline", "transfer"):
        config["models"][model]["settings"] = config["models"][model]["settings"][-2:]
    return config


def images_of(folder: Path, processes: int = 1) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of the largest training set, of the validation set, and of patients with their controls."""
    drawn = {"crop": CROP, "voxel_size": VOXEL_SIZE, "processes": processes}
    healthy = drawn_heads(folder / "healthy", HEALTHY, max(SIZES) + VALIDATION, **drawn)
    clinic = drawn_heads(folder / "clinic", CLINICAL, CLINIC, **drawn)
    largest = max(SIZES)
    return healthy[:largest], healthy[largest:].reset_index(drop=True), clinic


def pretrain(size: int, seed: int, folder: Path) -> None:
    """Train on the first `size` images; write the trunk and what was learnt."""
    path = folder / f"networks/{size}-seed{seed}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    config = small_network()
    training, validation, _ = images_of(folder)
    tables = training[:size].reset_index(drop=True), validation
    started, checkpoints = time.process_time(), Checkpoints(path.with_suffix(""), "benchmark")
    result = loop.pretrain(
        *(Images(table, folder / "healthy") for table in tables),
        tables,
        targets=learn_targets(config["targets"], tables[0]),
        network=config["network"],
        settings=config["pretrain"] | {"epochs": EPOCHS[size]},
        seed=seed,
        device=torch.device("cpu"),
        checkpoints=checkpoints,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in result.state.items()}, path.with_suffix(".safetensors"))
    best = result.history.iloc[result.epoch]
    dummy = float((validation["age"] - tables[0]["age"].mean()).abs().mean())
    found = {"age_mae": float(best["validation_age_mae"]), "dummy_age_mae": dummy, "epoch": result.epoch}
    found |= {"sex_auc": float(best["validation_sex_auc"]), "cpu_seconds": time.process_time() - started}
    write_json(path, found)
    checkpoints.delete()


def drawn_resample(clinic: pd.DataFrame, n: int, generator: np.random.Generator) -> pd.DataFrame:
    """So many people train, a quarter as many validate, and TEST test; drawn again until each set has both classes."""
    roles = np.repeat(["train", "validation", "test"], [n, n // 4, TEST])
    while True:
        drawn = clinic.iloc[generator.permutation(len(clinic))[: len(roles)]].reset_index(drop=True)
        drawn = drawn.assign(label=(drawn["diagnosis"] == "AD").astype(int), role=roles)
        if (drawn.groupby("role")["label"].nunique() == 2).all():
            return drawn


def fit(start: str, n: int, replicate: int, folder: Path) -> None:
    """Fit from a network's trunk, or from random weights, on one resample; write the chosen setting's test AUC."""
    path = folder / f"fits/{start}-n{n}-{replicate:03d}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    config = small_network()
    clinic = images_of(folder)[2]
    resample = drawn_resample(clinic, n, np.random.default_rng([n, replicate]))
    model = "baseline" if start == "random" else "transfer"
    settings = config["models"][model]["settings"]
    trunk = None if start == "random" else trunk_of(load_file(folder / f"networks/{start}.safetensors"))
    _, chosen, scores, *_ = finetuning.fit_settings(
        ResidentImages(resample, folder / "clinic", torch.device("cpu")),
        resample,
        network=config["network"],
        training=config["models"]["cnn"],
        settings=settings,
        seeds=[seeds_of_fit(7, "ad_hc", n, f"{replicate:03d}", model, at) for at in range(len(settings))],
        trunk=trunk,
        device=torch.device("cpu"),
    )
    labels = resample["label"].to_numpy()[resample["role"].to_numpy() == "test"]
    write_json(path, {"auc": float(roc_auc_score(labels, scores)), "setting": chosen})


def aucs(folder: Path, start: str, n: int) -> np.ndarray:
    """Test AUC per replicate."""
    return np.array([read_json(path)["auc"] for path in sorted((folder / "fits").glob(f"{start}-n{n}-*.json"))])


def table(folder: Path) -> str:
    """All results so far, for a terminal."""
    header = ["images", "age MAE (dummy's)", "sex AUC"]
    lines = [[*header, *(f"gain at n = {n} (95 % interval)" for n in N)]]
    for size in SIZES:
        networks = [folder / f"networks/{size}-seed{seed}.json" for seed in SEEDS]
        made = [path for path in networks if path.exists()]
        if not made:
            continue
        facts = pd.DataFrame([read_json(path) for path in made]).mean()
        cells = [str(size), f"{facts['age_mae']:.1f} ({facts['dummy_age_mae']:.1f})", f"{facts['sex_auc']:.2f}"]
        for n in N:
            scratch = aucs(folder, "random", n)
            started = [aucs(folder, path.stem, n) for path in made]
            count = min(map(len, [scratch, *started]))  # fewer while the benchmark runs
            if not count:
                cells.append(MISSING)
                continue
            gains = np.mean([found[:count] for found in started], axis=0) - scratch[:count]
            low, high = bootstrap_interval(gains, statistic="mean", resamples=2000, seed=1)
            cells.append(f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(cells)
    scratch = ", ".join(
        f"{aucs(folder, 'random', n).mean():.3f} at n = {n}" for n in N if len(aucs(folder, "random", n))
    )
    return f"{aligned(lines, 'rrrrr')}\n\nAUC from random weights: {scratch}"


def main() -> None:
    """Draw, pretrain, fit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/fewer-scans", help="of images and results")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    asked = parser.parse_args()
    if not asked.table:
        images_of(asked.folder, asked.processes)
        with ProcessPoolExecutor(asked.processes) as pool:
            networks = [(size, seed) for seed in SEEDS for size in SIZES]
            for done in [pool.submit(pretrain, *network, asked.folder) for network in networks]:
                done.result()
            starts = ["random", *(f"{size}-seed{seed}" for size, seed in networks)]
            fits = [(start, n, at) for n in N for at in range(REPLICATES) for start in starts]
            for done in [pool.submit(fit, *one, asked.folder) for one in fits]:
                done.result()
    print(table(asked.folder))


if __name__ == "__main__":
    main()
