"""The one place that knows devices: which to use, how many threads, which data type."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import math
import os
import time
from typing import Any

import torch

from ..errors import InputError

logger = logging.getLogger("neurotransfer")
PROBES = 6  # runs of a convolution that decide on a data type, which take milliseconds each
HOPELESS_SECONDS = 0.2  # of one of them, if the CPU has no instructions for it
WORTHWHILE_GAIN = 1.5  # far from all that was met: 0.5 without tiles on Intel, 3.5 on AMD, more with tiles
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def choose_device(asked: str, threads: int, *, deterministic: bool = True) -> torch.device:
    """The device to compute on, with torch set up for it.

    Parameters
    ----------
    asked : "auto" (a GPU if there is one), "cpu" or "cuda"
    threads : of the CPU; sums in another number of threads round differently, so it is configured, not found
    deterministic : whether a GPU gives the same bytes each time, as a CPU always does; if torch knows no such
        way to compute something, it warns

    Raises
    ------
    InputError
        if a GPU is asked for and there is none
    """
    torch.set_num_threads(threads)
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise InputError("configuration", "device", "cuda is asked for, but torch finds no GPU", "set auto or cpu")
    if asked == "cpu" or not found:
        _keep_freed_memory()
        logger.info("computing on the CPU with %d threads", threads)
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before it is first used
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    # float32 is float32, and not TF32, which torch's convolutions take otherwise
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    # all that is read here has been written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    how = "deterministic algorithms, without trials" if deterministic else "the fastest algorithms in trials"
    logger.info("computing on %s", torch.cuda.get_device_name())
    logger.info("cuDNN %s computes by %s", torch.backends.cudnn.version(), how)
    return torch.device("cuda")


def _keep_freed_memory() -> None:
    """Let the C library keep what tensors free, as torch does on a GPU.

    glibc hands large blocks back and gets them anew, zeroed page by page: 30 % of the demo's training step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@functools.cache  # measured, and logged, once
def choose_data_type(asked: str, device: torch.device) -> torch.dtype:
    """The data type that convolutions and matrix products compute in; sums and weights stay float32.

    bfloat16 pays if the device multiplies matrices in it: on a GPU with tensor cores for it, and on a CPU that
    proves it.  That a CPU has such instructions is not enough: with AMX tiles, or on a recent AMD, convolutions are
    several times as fast in bfloat16 as in float32; on Intel's without tiles they take twice as long.

    Parameters
    ----------
    asked : "auto", "float32" or "bfloat16"
    """
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(asked)
    how = "as configured"
    if chosen is None and device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        chosen = torch.bfloat16 if able else torch.float32
        how = f"because the GPU has {'' if able else 'no '}bfloat16"
    elif chosen is None:
        gain = bfloat16_gain()
        chosen = torch.bfloat16 if gain > WORTHWHILE_GAIN else torch.float32
        how = f"because a convolution in bfloat16 is {gain:.1f} times as fast as in float32 on this CPU"
    logger.info("the network computes in %s, %s", str(chosen).removeprefix("torch."), how)
    return chosen


def bfloat16_gain() -> float:
    """How many times as fast as in float32 a convolution is in bfloat16 on the CPU; found in a tenth of a second.

    The least CPU time of several runs of one thread counts, which nothing else on the machine changes much: all fits
    on one kind of processor shall decide alike.
    """
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    shape: dict[str, Any] = {"device": "cpu", "memory_format": torch.channels_last_3d}
    images, weight = torch.ones(1, 64, 12, 12, 12), torch.ones(128, 64, 3, 3, 3)  # of the third block, but smaller
    given = {dtype: (images.to(dtype=dtype, **shape), weight.to(dtype=dtype, **shape)) for dtype in seconds}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(1 + PROBES):
            for dtype in seconds:
                start = time.thread_time()
                torch.nn.functional.conv3d(*given[dtype], padding=1)
                seconds[dtype] = min(seconds[dtype], time.thread_time() - start)
            if seconds[torch.bfloat16] > HOPELESS_SECONDS:
                break
    torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def place(
    model: torch.nn.Module, device: torch.device, data_type: str = "auto", *, compiled: bool = False
) -> torch.nn.Module:
    """Move a network to the device, in the memory layout and data type that its convolutions are fastest in.

    Parameters
    ----------
    compiled : whether torch's compiler makes its code, when the network is first used
    """
    model.data_type = choose_data_type(data_type, device)  # type: ignore[assignment]
    if compiled:
        if torch.are_deterministic_algorithms_enabled():  # this tells the compiler, too, whose import takes seconds
            torch.use_deterministic_algorithms(True, warn_only=True)
        model.compile()
    # also faster on a CPU: 10 against 18 ms per image and training step of the demo's network
    return model.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
