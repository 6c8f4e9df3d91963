"""A training step on a GPU: ours, plain layers, and bare convolutions; each row is printed as soon as it is measured.

    python3 benchmarks/gpu.py            # `make bench-gpu`; with the Python of the machine, installs nothing
    python3 benchmarks/gpu.py --try      # the same code in seconds, on a CPU too, with images of 32³ voxels

A row is the median of several steps after one that warms up, and the seconds of that first one, which compiles.
Memory is the peak of what torch holds on the GPU while the row is measured.  The bare convolutions are those of
blocks 2 to 6, forward and backward, in our layout.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.metadata
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import torch  # noqa: E402
from neurotransfer.network import kernel_choice  # noqa: E402
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
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = []
    step = build()
    for _ in range(1 + count):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    return 1e3 * statistics.median(times[1:]), times[0], peak


def without_kernels(build: Callable[[], Step]) -> Step:
    """Our step by torch alone, as on a GPU that lacks what the kernels need."""
    step = build()

    def run() -> None:
        with mock.patch.object(kernel_choice, "missing_for_kernels", lambda device: "they are left out"):
            step()

    return run


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=[224, 192, 224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--try", dest="small", action="store_true", help="small images, few steps, on a CPU if need be")
    asked = parser.parse_args()
    if asked.small:
        asked.size, asked.batch, asked.steps = [32, 32, 32], 2, 1
    device = choose_device("auto" if asked.small else "cuda", 2)
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


if __name__ == "__main__":
    main()
