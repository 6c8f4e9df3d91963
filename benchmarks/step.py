"""A training step of the network: against the plain torch layers, and against what its convolutions need.

    python benchmarks/step.py                       # the table below `make bench`
    python benchmarks/step.py --size 224 192 224    # the paper's crop

Three things alternate, each of them forward and backward: our network with its optimiser step; the plain
layers (workbench/plain_layers.py: contiguous, float32, full-resolution activations) with theirs; and the bare
convolutions of blocks 2 to 6, in our layout and data type, which are the unavoidable arithmetic.
Figures are medians over the rounds, of times and of the ratios within a round.  Memory is the peak of a
process that does one step, by batch size.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import torch  # noqa: E402
from neurotransfer.network.device import choose_data_type, choose_device, place  # noqa: E402
from neurotransfer.network.sfcn import SFCN  # noqa: E402
from neurotransfer.pretrain.optimiser import Momentum  # noqa: E402
from torch.nn import functional  # noqa: E402

from workbench.plain_layers import PlainSFCN  # noqa: E402

CHANNELS, BOTTLENECK, OUTPUTS = [32, 64, 128, 256, 256], 64, 6
RATE = 1e-3


def network(kind: str, data_type: str) -> torch.nn.Module:
    """Our network, or the plain one, on the CPU, with the same first weights."""
    torch.manual_seed(0)
    build = {"ours": SFCN, "plain": PlainSFCN}[kind]
    model = build(CHANNELS, BOTTLENECK, OUTPUTS, "average", 0.5)
    return place(model, torch.device("cpu"), data_type) if kind == "ours" else model


def training_step(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """A step on these images: forward, backward, optimiser."""
    optimiser = Momentum(model, {"momentum": 0.9, "weight_decay": 1e-3})

    def step() -> None:
        loss = model(images).square().mean()
        optimiser.clear()
        loss.backward()
        optimiser.step(RATE)

    return step


def bare_convolutions(size: list[int], batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of the convolutions of blocks 2 to 6, nothing between them."""
    widths = [*CHANNELS, BOTTLENECK]
    layers = []
    for block, (inputs, outputs) in enumerate(pairwise(widths), 1):
        kernel = 3 if block < len(CHANNELS) else 1
        shape = [length >> block for length in size]
        make = {"dtype": dtype, "memory_format": torch.channels_last_3d}
        x = torch.rand(batch, inputs, *shape).to(**make).requires_grad_()
        weight = (torch.rand(outputs, inputs, kernel, kernel, kernel) - 0.5).to(**make).requires_grad_()
        bias = torch.zeros(outputs, dtype=dtype, requires_grad=True)
        layers.append((x, weight, bias, torch.rand(batch, outputs, *shape).to(**make)))

    def run() -> None:
        for x, weight, bias, gradient in layers:
            out = functional.conv3d(x, weight, bias, padding=weight.shape[-1] // 2)
            torch.autograd.grad(out, (x, weight, bias), gradient)

    return run


def seconds_of(run: Callable[[], None], clock: Callable[[], float]) -> float:
    """The seconds of one run."""
    gc.collect()
    start = clock()
    run()
    return clock() - start


def rounds_of(runs: dict[str, Callable[[], None]], count: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each in every round, after one round that warms up."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for at in range(count):
        names = list(runs) if at % 2 == 0 else list(runs)[::-1]
        for name in names:
            times[name].append(seconds_of(runs[name], clock))
    return times


def convolution_rates(batch: int, size: list[int]) -> dict[str, float]:
    """GFLOP/s of a convolution of block 3, forward, in each data type; the choice of the type depends on it."""
    rates = {}
    inputs, outputs, shape = CHANNELS[1], CHANNELS[2], [length >> 2 for length in size]
    for dtype in (torch.float32, torch.bfloat16):
        make = {"dtype": dtype, "memory_format": torch.channels_last_3d}
        x, weight = torch.rand(batch, inputs, *shape).to(**make), torch.rand(outputs, inputs, 3, 3, 3).to(**make)
        run = functools.partial(functional.conv3d, x, weight, padding=1)
        run()
        seconds = statistics.median(seconds_of(run, time.perf_counter) for _ in range(3))
        rates[str(dtype).removeprefix("torch.")] = 2e-9 * 27 * x.numel() * outputs / seconds
    return rates


def least_work(size: list[int]) -> tuple[float, float]:
    """The least work of a step for one image: operations, and bytes to and from memory in float32.

    Each convolution is done forward and backward (by weights, and by its input but for the image itself).  Of
    each block's convolution the output is written, read for its mean, its squares and its maxima, read and written
    for its gradient, and that read twice by the convolution; what goes in is read twice, and its gradient written.
    Block 1 reads the image three times and never writes its output; pooled tensors count as what goes in next.
    """
    operations = numbers = 0.0
    for block, (inputs, outputs) in enumerate(pairwise([1, *CHANNELS, BOTTLENECK])):
        voxels = math.prod(length >> block for length in size)
        kernel = 27 if block < len(CHANNELS) else 1
        operations += 2 * kernel * voxels * inputs * outputs * (3 if block else 2)
        numbers += voxels * (8 * outputs + 3 * inputs) if block else 3 * voxels
    return operations, 4 * numbers


def machine_rates() -> tuple[float, float]:
    """GFLOP/s of a large float32 matrix product, and GB/s read and written by a copy, on all threads."""
    a, b = torch.rand(4096, 4096), torch.rand(1 << 28)
    target = torch.empty_like(b)
    product = statistics.median(seconds_of(lambda: a @ a, time.perf_counter) for _ in range(5))
    copy = statistics.median(seconds_of(lambda: target.copy_(b), time.perf_counter) for _ in range(5))
    return 2e-9 * 4096**3 / product, 8e-9 * b.numel() / copy


def peak_memory(kind: str, data_type: str, size: list[int], batch: int) -> float:
    """Peak resident GB of a process that does two steps, measured in a process of its own."""
    command = [sys.executable, __file__, "--peak", kind, data_type, str(batch), "--size", *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def machine() -> str:
    """A description of this machine."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    found = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    name = facts.get("model name", platform.machine())
    return (
        f"{name}, {threads} threads of {os.cpu_count()} cores ({', '.join(found)}), torch {torch.__version__}, "
        f"Python {platform.python_version()}, load {load:.1f} before the first round"
    )


def ratio(times: dict[str, list[float]], over: str, under: str) -> str:
    """Median and range of the ratios within rounds."""
    found = sorted(a / b for a, b in zip(times[over], times[under], strict=True))
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=[160, 192, 160])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-type", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--without", nargs="*", default=[], choices=["plain", "memory"], help="leave these out")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU, for a machine that is shared")
    parser.add_argument("--peak", nargs=3, metavar=("NETWORK", "TYPE", "BATCH"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    choose_device("cpu", asked.threads)
    if asked.peak:
        kind, data_type, batch = asked.peak
        step = training_step(network(kind, data_type), torch.rand(int(batch), 1, *asked.size) * 255)
        step()
        step()
        peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
        print(int(peak) * 1024 / 1e9)  # getrusage's would include the parent's
        return
    dtype = choose_data_type(asked.data_type, torch.device("cpu"))
    data_type = str(dtype).removeprefix("torch.")
    images = torch.randint(0, 256, (asked.batch, 1, *asked.size)).float()
    print(f"{machine()}\n")
    runs = {"ours": training_step(network("ours", data_type), images)}
    if "plain" not in asked.without:
        runs["plain"] = training_step(network("plain", data_type), images)
    runs["bare"] = bare_convolutions(asked.size, asked.batch, dtype)
    clock = time.process_time if asked.cpu_time else time.perf_counter
    unit = "CPU seconds" if asked.cpu_time else "s"
    times = rounds_of(runs, asked.rounds, clock)
    shape = "×".join(map(str, asked.size))
    rows = [("image, batch, data type", f"{shape}, {asked.batch}, {data_type}")]
    rows += [(f"{name}, {unit}", f"{statistics.median(values):.2f}") for name, values in times.items()]
    rows.append(("our step / bare convolutions of blocks 2 to 6", ratio(times, "ours", "bare")))
    if "plain" in times:
        rows.append(("plain step / bare convolutions", ratio(times, "plain", "bare")))
        rows.append(("plain step / our step", ratio(times, "plain", "ours")))
    rates = convolution_rates(asked.batch, asked.size)
    rows += [(f"a convolution of block 3 in {name}, GFLOP/s", f"{rate:.0f}") for name, rate in rates.items()]
    operations, moved = (asked.batch * work for work in least_work(asked.size))
    if not asked.cpu_time:
        seconds = statistics.median(times["ours"])
        work = f"{operations / 1e9:.0f}, {operations / seconds / 1e9:.0f}"
        rows.append(("least operations of a step, GFLOP, and our rate, GFLOP/s", work))
        traffic = f"{moved / 1e9:.1f}, {moved / seconds / 1e9:.1f}"
        rows.append(("least traffic of a step in float32, GB, and our rate, GB/s", traffic))
        flops, bandwidth = machine_rates()
        rows.append(("this machine: a matrix product, GFLOP/s, and a copy, GB/s", f"{flops:.0f}, {bandwidth:.1f}"))
        limits = operations / flops / 1e9, moved / bandwidth / 1e9
        rows.append(("operations and traffic at these rates, s", f"{limits[0]:.2f}, {limits[1]:.2f}"))
    if "memory" not in asked.without:
        runs.clear()
        kinds = ["ours"] if "plain" in asked.without else ["ours", "plain"]
        peaks = {kind: [peak_memory(kind, data_type, asked.size, batch) for batch in (1, 4)] for kind in kinds}
        for kind, (one, four) in peaks.items():
            further = (four - one) / 3
            rows.append((f"{kind}: peak GB of a batch of 1, and per further image", f"{one:.2f}, {further:.2f}"))
            fits = [int((room - one) // further) + 1 for room in (24 * 1.0737, 80)]
            rows.append((f"{kind}: images of a batch in 24 GiB and in 80 GB", f"{fits[0]}, {fits[1]}"))
        if "plain" in peaks:
            ours, plain = (peaks[kind][1] - peaks[kind][0] for kind in ("ours", "plain"))
            rows.append(("memory per further image, ours / plain", f"{ours / plain:.3f}"))
    print("| what | measured |\n|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
