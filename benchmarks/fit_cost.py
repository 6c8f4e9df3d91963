"""The cost of a replicate of fine-tuning: measured by n at the demo's size, computed at the paper's.

    python benchmarks/fit_cost.py

Each replicate runs in its own process, like its rule's job, on images of noise; their content does not affect the cost.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts")]
TRAIN, CALIBRATE, SCORE = 3, 1, 1  # cost of a step, of batch norm's calibration and of scoring, in forward passes
PAPER_N = (100, 200, 300, 400, 500)
RATE = 226.0  # TFLOP/s for the hours at the paper's size: of our training step on an H200 (`make bench-gpu`)


def forward_flops(channels: list[int], bottleneck: int, crop: list[int]) -> float:
    """Operations of one image's forward pass; a multiplication and an addition count as two."""
    total = 0
    for block, (inputs, outputs) in enumerate(pairwise([1, *channels])):
        total += 27 * inputs * outputs * prod(length >> block for length in crop)
    return 2.0 * (total + channels[-1] * bottleneck * prod(length >> len(channels) for length in crop))


def passes(n: int, epochs: int, settings: int, validation: int, test: int) -> int:
    """The cost of one replicate in forward passes of one image."""
    return settings * epochs * (n * (TRAIN + CALIBRATE) + validation * SCORE) + test * SCORE


def replicate(folder: Path, n: int) -> None:
    """Fit one, and print the seconds until the start, until all imports and until the end, of CPU, and peak MB."""
    began = time.time() - float(os.environ["BEGAN"])
    from neurotransfer.fit import finetuning
    from neurotransfer.fit.settings import all_settings
    from neurotransfer.study.configuration import load_config

    imported = time.time() - float(os.environ["BEGAN"])
    config = load_config(ROOT, [ROOT / "config/demo.yaml"])
    fitting = {"seed": 1, "network": config["network"], "training": config["models"]["cnn"]}
    fitting["settings"] = all_settings(config["models"]["baseline"]["settings"])
    os.chdir(folder)
    finetuning.fit("baseline", f"{n}.tsv", fitting)
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000
    print(began, imported, time.time() - float(os.environ["BEGAN"]), time.process_time(), peak)


def prepare(folder: Path, sizes: list[int], crop: list[int]) -> None:
    """A shard of noise, and a resample for each n with validation and test sets of the demo's shares."""
    import numpy as np
    import pandas as pd
    from neurotransfer.cache.write import checksum
    from neurotransfer.split.resampling import write_resample

    count = 2 * max(sizes)
    images = np.random.default_rng(0).integers(0, 256, (count, *crop), dtype=np.uint8)
    (folder / "results/cache").mkdir(parents=True)
    np.save(folder / "results/cache/x-0001.npy", images)
    checksums = [checksum(image) for image in images]
    for n in sizes:
        roles = ["train"] * n + ["validation"] * round(0.3 * n) + ["test"] * round(0.5 * n)
        rows = np.arange(len(roles))
        table = pd.DataFrame({"image_id": [f"i{row}" for row in rows], "participant_id": [f"x_{row}" for row in rows]})
        table = table.assign(role=roles, label=rows % 2, cohort="x", shard="x-0001", row=rows, index_row=rows)
        table = table.assign(checksum=checksums[: len(rows)], engine="builtin", engine_version="1")
        write_resample(table, folder / f"{n}.tsv", {"task": "task", "n": n, "replicate": "001"})


def linear_seconds(n: int) -> float:
    """Seconds of CPU of nine settings of the linear model on 100 structures."""
    import numpy as np
    from neurotransfer.fit import linear
    from neurotransfer.study.configuration import load_config

    generator = np.random.default_rng(0)
    roles = np.array(["train"] * n + ["validation"] * (n // 5) + ["test"] * (n // 5))
    labels = np.arange(len(roles)) % 2
    settings = load_config(ROOT)["models"]["linear"]["settings"]
    started = time.process_time()
    linear.fit_settings(generator.lognormal(size=(len(roles), 100)), labels, roles, settings, 5000)
    return time.process_time() - started


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[18, 36, 72, 144])
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "N"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        replicate(Path(asked.one[0]), int(asked.one[1]))
        return
    from neurotransfer.study.configuration import load_config

    demo, paper = load_config(ROOT, [ROOT / "config/demo.yaml"]), load_config(ROOT)
    network = demo["network"]
    flops = forward_flops(network["channels"], network["bottleneck"], demo["cache"]["crop"])
    epochs, settings = demo["models"]["cnn"]["epochs"], len(demo["models"]["baseline"]["settings"])
    print(f"Demo: {demo['cache']['crop']}, {settings} settings, {epochs} epochs, one thread\n")
    print(
        "| n | start-up, s | whole replicate, s | of CPU, s | peak MB | GFLOP/s after start-up |\n" + "|---" * 6 + "|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, asked.n, demo["cache"]["crop"])
        for n in asked.n:
            line = [sys.executable, __file__, "--one", name, str(n)]
            environment = os.environ | {"BEGAN": repr(time.time())}
            done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
            _, imported, whole, processor, peak = map(float, done.stdout.split())
            work = flops * passes(n, epochs, settings, round(0.3 * n), round(0.5 * n))
            row = (n, f"{imported:.1f}", f"{whole:.1f}", f"{processor:.1f}", f"{peak:.0f}")
            print("|", " | ".join(map(str, row)), f"| {work / (whole - imported) / 1e9:.0f} |", flush=True)
    network = paper["network"]
    crop = paper["cache"]["crop"]
    flops = forward_flops(network["channels"], network["bottleneck"], crop)
    epochs, settings = paper["models"]["cnn"]["epochs"], len(paper["models"]["baseline"]["settings"])
    print(f"\nThe paper's: {crop}, {settings} settings, {epochs} epochs, {flops / 2e9:.0f} GMAC per image\n")
    print(f"| n | passes | PFLOP | minutes at {RATE:.0f} TFLOP/s | images held, GB | linear, s of CPU |")
    print("|---" * 6 + "|")
    total = 0.0
    for n in PAPER_N:
        count = passes(n, epochs, settings, n // 5, n // 5)
        held = (n + 2 * (n // 5)) * prod(crop) / 1e9
        total += count * flops
        row = (n, f"{count:,}", f"{count * flops / 1e15:.0f}", f"{count * flops / RATE / 6e13:.1f}", f"{held:.1f}")
        print("|", " | ".join(map(str, row)), f"| {linear_seconds(n):.2f} |")
    hours = 2 * 2 * paper["resampling"]["replicates"] * total / RATE / 3.6e15
    replicates = paper["resampling"]["replicates"]
    print(f"\nTwo tasks, two networks, {replicates} replicates of each n: {hours:,.0f} GPU hours at that rate")


if __name__ == "__main__":
    main()
