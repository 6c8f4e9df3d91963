"""A training step on a GPU, the loop around it, a replicate and a start; each row is printed when it is measured.

    python3 benchmarks/gpu.py            # `make bench-gpu`; with the Python of the machine, installs nothing
    python3 benchmarks/gpu.py --try      # the same code in seconds, on a CPU too, with images of 32³ voxels

A row is the median of several steps after one that warms up, and the seconds of that first one, which compiles.
Memory is the peak of what torch holds on the GPU while the row is measured.  The bare convolutions are those of
blocks 2 to 6, forward and backward, in our layout.

The loop is that of pretraining, on shards of a simulated cache that lie in a temporary folder, in its second epoch. A
replicate trains one of the nine settings for a few epochs; the row has the time of all nine with 30 epochs each. The
start is that of a process, after its imports: what the driver needs before it gives a GPU, the kernels, the check of
the convolutions and the first step; with an empty folder of compiled kernels, and with a full one. These rows need
what reading a cache needs (zstandard, xxhash, pandas); without, they are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.metadata
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.network import kernel_choice  # noqa: E402
from neurotransfer.network.convolution_check import check_convolutions  # noqa: E402
from neurotransfer.network.device import choose_device, place  # noqa: E402
from neurotransfer.network.sfcn import SFCN  # noqa: E402
from neurotransfer.pretrain.optimiser import Momentum  # noqa: E402
from torch.nn import functional  # noqa: E402

from workbench.plain_layers import PlainSFCN  # noqa: E402

CHANNELS, BOTTLENECK, OUTPUTS = [32, 64, 128, 256, 256], 64, 6  # of the paper
RATE = 1e-4
TYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}  # many CPUs are slow in bfloat16
Step = Callable[[], object]


def versions(device: torch.device) -> str:
    """GPU, driver, torch, cuDNN and triton."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    if device.type != "cuda":
        return f"CPU, torch {torch.__version__}, triton {triton}"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        driver = "unknown"
    name, cudnn = torch.cuda.get_device_name(), torch.backends.cudnn.version()
    return f"{name}, driver {driver}, torch {torch.__version__}, cuDNN {cudnn}, triton {triton}"


def our_step(images: torch.Tensor, device: torch.device) -> Step:
    """A step of our network."""
    torch.manual_seed(0)
    model = place(SFCN(CHANNELS, BOTTLENECK, OUTPUTS, "max", 0.5), device, str(TYPES[device.type])[6:])
    return step_of(model, images, autocast=False)


def plain_step(images: torch.Tensor, device: torch.device, *, compiled: bool) -> Step:
    """A step of torch's layers under autocast, with torch's compiler if asked."""
    torch.manual_seed(0)
    model = PlainSFCN(CHANNELS, BOTTLENECK, OUTPUTS, "max", 0.5).to(device)
    if compiled:
        model.compile()
    return step_of(model, images, autocast=TYPES[device.type] == torch.bfloat16)


def step_of(model: torch.nn.Module, images: torch.Tensor, *, autocast: bool) -> Step:
    """Forward, backward and optimiser on uint8 images [N, D, H, W]."""
    optimiser = Momentum(model, {"momentum": 0.9, "weight_decay": 1e-3})

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            out = model(images.unsqueeze(1) if isinstance(model, SFCN) else images.unsqueeze(1).float())
        loss = (out.float() - 1).square().mean()
        optimiser.clear()
        loss.backward()
        optimiser.step(RATE)

    return step


def bare_convolutions(images: torch.Tensor) -> Step:
    """Forward and backward of the convolutions of blocks 2 to 6."""
    layers = []
    make = {"device": images.device, "dtype": TYPES[images.device.type]}
    for block, (inputs, outputs) in enumerate(pairwise([*CHANNELS, BOTTLENECK]), 1):
        kernel = 3 if block < len(CHANNELS) else 1
        shape = [length >> block for length in images.shape[1:]]
        tensors = (
            torch.rand(len(images), inputs, *shape, **make),
            torch.rand(outputs, inputs, kernel, kernel, kernel, **make) - 0.5,
            torch.rand(len(images), outputs, *shape, **make),
        )
        x, weight, gradient = (tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in tensors)
        layers.append((x.requires_grad_(), weight.requires_grad_(), gradient))

    def run() -> None:
        for x, weight, gradient in layers:
            torch.autograd.grad(functional.conv3d(x, weight, padding=weight.shape[-1] // 2), (x, weight), gradient)

    return run


def measured(build: Callable[[], Step], device: torch.device, count: int) -> tuple[float, float, float]:
    """Milliseconds of a step (the median), seconds of the first, and peak GB."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = []
    step = build()
    for _ in range(1 + count):
        wait(device)
        start = time.perf_counter()
        step()
        wait(device)
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    return 1e3 * statistics.median(times[1:]), times[0], peak


def without_kernels(build: Callable[[], Step]) -> Step:
    """Our step by torch alone, as on a GPU that lacks what the kernels need."""
    step = build()

    def run() -> None:
        with mock.patch.object(kernel_choice, "missing_for_kernels", lambda *_: "they are left out"):
            step()

    return run


def brain_like(count: int, size: list[int]) -> Iterator[np.ndarray]:
    """Images whose voxels compress like those of a brain: an ellipsoid of noisy tissue, zeros around it."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in size), indexing="ij", sparse=True)
    inside = sum(axis**2 for axis in axes) < 0.8
    for _ in range(count):
        noise = generator.integers(80, 112, size, dtype=np.uint8)
        yield np.where(inside, noise, 0).astype(np.uint8)


def cached(folder: Path, size: list[int], count: int, compression: str | None) -> pd.DataFrame:
    """The table of `count` images in a shard of the folder."""
    from neurotransfer.cache.shard_file import checksum, shard_written

    checksums = []
    with shard_written(folder / "x-0001.npy", count, tuple(size), compression) as write:
        for image in brain_like(count, size):
            write(image)
            checksums.append(checksum(image))
    rows = np.arange(count)
    table = pd.DataFrame({"image_id": [f"i{row}" for row in rows], "participant_id": [f"x_{row}" for row in rows]})
    table = table.assign(shard="x-0001", row=rows, index_row=rows, checksum=checksums, cohort="x")
    return table.assign(engine="builtin", engine_version="1", label=rows % 2, age=20.0 + rows, sex=rows % 2)


def loop_rate(asked: argparse.Namespace, device: torch.device, compression: str | None) -> float:
    """Images/s of pretraining's second epoch, from the cache on disk to the optimiser."""
    from neurotransfer.pretrain import loop
    from neurotransfer.pretrain.batches import Images
    from neurotransfer.pretrain.checkpoints import Checkpoints
    from neurotransfer.pretrain.targets import learn_targets
    from neurotransfer.study.configuration import load_config

    config, rates, real = load_config(ROOT), [], loop.train_epoch

    def timed(state: loop.TrainingState, problem: loop.Problem, *others: object) -> list[np.ndarray]:
        wait(device)
        start = time.perf_counter()
        batches = real(state, problem, *others)
        wait(device)
        rates.append(len(problem.training) / (time.perf_counter() - start))
        return batches

    with tempfile.TemporaryDirectory() as name:
        table = cached(Path(name), asked.size, asked.images, compression)
        training = pd.concat([table] * asked.repeats, ignore_index=True)
        validation = table[: asked.batch].reset_index(drop=True)
        settings = config["pretrain"] | {"epochs": 2, "batch_size": asked.batch, "device": device.type}
        network = {"channels": CHANNELS, "bottleneck": BOTTLENECK, "pooling": "max"}
        targets = learn_targets({name: config["targets"][name] for name in ("age", "sex")}, training)
        with mock.patch.object(loop, "train_epoch", timed), mock.patch.object(loop, "CALIBRATION_BATCHES", 1):
            loop.pretrain(
                *(Images(part, name) for part in (training, validation)), (training, validation), targets=targets,
                network=network, settings=settings, seed=1, device=device,
                checkpoints=Checkpoints(Path(name) / "checkpoints", "benchmark"),
            )  # fmt: skip
    return rates[1]


def replicate_seconds(asked: argparse.Namespace, n: int, epochs: int) -> tuple[float, float]:
    """Seconds of a replicate's start, and of all nine settings with 30 epochs, from one setting and a few epochs."""
    from neurotransfer.fit import finetuning
    from neurotransfer.fit.settings import all_settings
    from neurotransfer.split.resampling import write_resample
    from neurotransfer.study.configuration import load_config

    config = load_config(ROOT)
    settings, training = all_settings(config["models"]["baseline"]["settings"]), config["models"]["cnn"]
    training |= {"batch_size": asked.batch}
    whole = training["epochs"] * len(settings) / epochs
    network = {"channels": CHANNELS, "bottleneck": BOTTLENECK, "pooling": "max"}
    fitting = {"seed": 1, "network": network, "settings": settings[:1]}
    roles = ["train"] * n + ["validation"] * (n // 5) + ["test"] * (n // 5)
    seconds = []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        cache = Path("results/cache")
        cache.mkdir(parents=True)
        table = cached(cache, asked.size, min(asked.images, len(roles)), None)
        table = table.iloc[np.arange(len(roles)) % len(table)].reset_index(drop=True).assign(role=roles)
        table["image_id"] = table["participant_id"] = [f"x_{row}" for row in range(len(table))]
        write_resample(table, "r.tsv", {"task": "task", "n": n, "replicate": "001"})
        for several in (1, 1 + epochs):
            start = time.perf_counter()
            finetuning.fit("baseline", "r.tsv", fitting | {"training": training | {"epochs": several}})
            seconds.append(time.perf_counter() - start)
    each = seconds[1] - seconds[0]
    return max(seconds[0] - each / epochs, 0.0), each * whole


def start_seconds(asked: argparse.Namespace, folder: str) -> list[float]:
    """Seconds of the parts of a start, by a new process that keeps compiled kernels in `folder`."""
    command = [sys.executable, __file__, "--start", *(["--try"] if asked.small else [])]
    environment = os.environ | {"TRITON_CACHE_DIR": folder}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return [float(part) for part in done.stdout.split()[-4:]]


def start(asked: argparse.Namespace) -> None:
    """What `start_seconds` runs, after its imports: the GPU, the kernels, the convolutions' check, a step."""
    times = [time.perf_counter()]
    device = choose_device("auto" if asked.small else "cuda", 2)
    images = torch.zeros((asked.batch, *asked.size), dtype=torch.uint8, device=device)
    wait(device)
    times.append(time.perf_counter())
    if device.type == "cuda":
        kernel_choice.missing_for_kernels(device)
    times.append(time.perf_counter())
    model = place(SFCN(CHANNELS, BOTTLENECK, OUTPUTS, "max", 0.5), device, str(TYPES[device.type])[6:])
    check_convolutions(model, asked.batch, asked.size, device)
    times.append(time.perf_counter())
    our_step(images, device)()
    wait(device)
    times.append(time.perf_counter())
    print(*(after - before for before, after in pairwise(times)))


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=[224, 192, 224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--images", type=int, default=64, help="in the simulated cache")
    parser.add_argument("--repeats", type=int, default=6, help="how often an epoch reads each of them")
    parser.add_argument("--try", dest="small", action="store_true", help="small images, few steps, on a CPU if need be")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.small:
        asked.size, asked.batch, asked.steps, asked.images, asked.repeats = [32, 32, 32], 2, 1, 4, 1
    if asked.start:
        start(asked)
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    device = choose_device("auto" if asked.small else "cuda", 2)
    step = steps(asked, device)
    try:
        print("\n| loop and replicate | measured |\n|---|---|", flush=True)
        for compression in (None, "zstd"):
            rate = loop_rate(asked, device, compression)
            share = f", {rate / step:.2f} of the step's" if step else ""
            print(f"| loop from a {compression or 'plain'} cache | {rate:.1f} images/s{share} |", flush=True)
        for n, epochs in ((10, 1),) if asked.small else ((100, 2), (500, 1)):
            began, whole = replicate_seconds(asked, n, epochs)
            print(f"| replicate, n = {n} | {began:.1f} s and {whole / 60:.1f} minutes |", flush=True)
    except ModuleNotFoundError as error:
        print(f"| the other rows | left out: {error} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("empty", "full"):
            gpu, kernels, convolutions, step = start_seconds(asked, folder)
            parts = (
                f"the GPU {gpu:.1f} s, kernels {kernels:.1f}, check of convolutions {convolutions:.1f}, step {step:.1f}"
            )
            print(f"| start, with the folder of compiled kernels {name} | {parts} |", flush=True)


def steps(asked: argparse.Namespace, device: torch.device) -> float:
    """Measure the steps, print their table, and return our images/s; 0 if our step failed."""
    images = torch.randint(0, 256, (asked.batch, *asked.size), dtype=torch.uint8, device=device)
    shape = "×".join(map(str, asked.size))
    print(
        f"{versions(device)}; images of {shape}, batch {asked.batch}, {TYPES[device.type]}, deterministic\n", flush=True
    )
    print("| step | ms | images/s | first step, s | peak GB |\n|---|---|---|---|---|", flush=True)
    ours = functools.partial(our_step, images, device)
    rows = {
        "bare convolutions of blocks 2 to 6": functools.partial(bare_convolutions, images),
        "ours": ours,
        "ours without fused kernels": functools.partial(without_kernels, ours),
        "plain": functools.partial(plain_step, images, device, compiled=False),
        "plain, compiled": functools.partial(plain_step, images, device, compiled=True),
    }
    if device.type != "cuda":
        del rows["plain, compiled"]  # the compiler needs minutes on a CPU
    found = {}
    for name, build in rows.items():
        try:
            found[name], first, peak = measured(build, device, asked.steps)
        except RuntimeError as error:  # of memory, or of a compiler: the other rows are still worth having
            print(f"| {name} | failed: {str(error).splitlines()[0]} | | | |", flush=True)
            continue
        rate = 1e3 * asked.batch / found[name]
        print(f"| {name} | {found[name]:.1f} | {rate:.0f} | {first:.1f} | {peak:.2f} |", flush=True)
    if {"ours", "bare convolutions of blocks 2 to 6"} <= found.keys():
        print(f"\nours / bare convolutions: {found['ours'] / found['bare convolutions of blocks 2 to 6']:.2f}")
    if {"ours", "plain, compiled"} <= found.keys():
        print(f"plain, compiled / ours: {found['plain, compiled'] / found['ours']:.2f}")
    return 1e3 * asked.batch / found["ours"] if "ours" in found else 0.0


if __name__ == "__main__":
    main()
