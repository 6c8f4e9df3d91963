"""Does it matter over how many images batch norm's statistics are settled?  docs/pretraining.md says what was found.

    python benchmarks/calibration.py

Fits from random weights on resamples of simulated patients and controls (those of `fewer_scans.py`), the same but for
`models.cnn.calibration_images`.  Each result is a JSON file in `--folder`: it can be stopped and continues.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from neurotransfer.files import read_json, write_json  # noqa: E402
from neurotransfer.fit import finetuning  # noqa: E402
from neurotransfer.fit.settings import seeds_of_fit  # noqa: E402
from neurotransfer.pretrain.batches import ResidentImages  # noqa: E402
from neurotransfer.statistics.tests import bootstrap_interval  # noqa: E402
from neurotransfer.text import aligned  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from benchmarks.fewer_scans import CLINIC, CLINICAL, CROP, VOXEL_SIZE, drawn_resample, small_network  # noqa: E402
from workbench.heads import drawn_heads  # noqa: E402

COUNTS = (None, 64, 16)  # images that settle the statistics
NAME = "all"  # of None


def fit(folder: Path, n: int, replicate: int, images: int | None) -> None:
    """One fit of all settings, if it has no result yet; write its test AUC and the seconds that it took."""
    path = folder / f"calibration/n{n}-{replicate:03d}-{images or NAME}.json"
    if path.exists():
        return
    config = small_network()
    clinic = drawn_heads(folder / "clinic", CLINICAL, CLINIC, crop=CROP, voxel_size=VOXEL_SIZE, processes=1)
    resample = drawn_resample(clinic, n, np.random.default_rng([n, replicate]))
    settings = config["models"]["baseline"]["settings"]
    device, started = torch.device("cpu"), time.process_time()
    _, chosen, scores, *_ = finetuning.fit_settings(
        ResidentImages(resample, folder / "clinic", device),
        resample,
        network=config["network"],
        training=config["models"]["cnn"] | {"calibration_images": images},
        settings=settings,
        seeds=[seeds_of_fit(7, "ad_hc", n, f"{replicate:03d}", "baseline", at) for at in range(len(settings))],
        trunk=None,
        device=device,
    )
    labels = resample["label"].to_numpy()[resample["role"].to_numpy() == "test"]
    auc, seconds = float(roc_auc_score(labels, scores)), time.process_time() - started
    write_json(path, {"auc": auc, "setting": chosen, "cpu_seconds": seconds})


def table(folder: Path, n: int) -> str:
    """Each number of images against all, over the replicates that both have."""
    found = {
        images: {
            path.name.split("-")[1]: read_json(path) for path in (folder / "calibration").glob(f"n{n}-*-{name}.json")
        }
        for images in COUNTS
        for name in [images or NAME]
    }
    lines = [["images", "replicates", "mean AUC", "difference to all (95 % interval)", "largest", "CPU time of all's"]]
    for images, results in found.items():
        both = sorted(results.keys() & found[None].keys())
        if not both:
            continue
        aucs, all_aucs = (np.array([one[key]["auc"] for key in both]) for one in (results, found[None]))
        low, high = bootstrap_interval(aucs - all_aucs, statistic="mean", resamples=2000, seed=1)
        share = sum(results[key]["cpu_seconds"] for key in both) / sum(found[None][key]["cpu_seconds"] for key in both)
        gain = f"{np.mean(aucs - all_aucs):+.3f} ({low:+.3f} to {high:+.3f})" if images else ""
        largest = f"{np.abs(aucs - all_aucs).max():.3f}" if images else ""
        lines.append([str(images or NAME), str(len(both)), f"{aucs.mean():.3f}", gain, largest, f"{share:.2f}"])
    return aligned(lines, "rrrrrr")


def main() -> None:
    """Fit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/fewer-scans", help="of images and results")
    parser.add_argument("--n", type=int, default=240, help="training images")
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for replicate in range(0 if asked.table else asked.replicates):
        for images in COUNTS:
            fit(asked.folder, asked.n, replicate, images)
    print(table(asked.folder, asked.n))


if __name__ == "__main__":
    main()
