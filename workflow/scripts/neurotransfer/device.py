"""The one place that knows devices: which to use, how many threads, which data type."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os

import torch

from .errors import InputError

logger = logging.getLogger("neurotransfer")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def choose_device(wish: str, threads: int, *, deterministic: bool = True) -> torch.device:
    """The device to compute on, with torch set up for it.

    Parameters
    ----------
    wish : "auto" (a GPU where there is one), "cpu" or "cuda"
    threads : of the CPU; sums in another number of threads round differently, so it is configured, not found
    deterministic : whether a GPU gives the same bytes each time, as a CPU always does; where torch knows no such
        way to compute something, it warns

    Raises
    ------
    InputError
        where a GPU is asked for and there is none
    """
    torch.set_num_threads(threads)
    found = torch.cuda.is_available()
    if wish == "cuda" and not found:
        raise InputError("configuration", "device", "cuda is asked for, but torch finds no GPU", "set auto or cpu")
    if wish == "cpu" or not found:
        _keep_freed_memory()
        logger.info("computing on the CPU with %d threads", threads)
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before it is first used
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # all that is read here has been written
    logger.info("computing on %s", torch.cuda.get_device_name())
    return torch.device("cuda")


def _keep_freed_memory() -> None:
    """Let the C library keep what tensors free, as torch does on a GPU.

    glibc hands large blocks back and gets them anew, zeroed page by page: 30 % of the demo's training step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@functools.cache  # so that the log says it once
def choose_data_type(wish: str, device: torch.device) -> torch.dtype:
    """The data type that convolutions and matrix products compute in; sums and weights stay float32.

    bfloat16 pays only where the device multiplies matrices in it: a GPU with tensor cores for it, or a CPU
    with AMX tiles.  Other CPUs that have bfloat16 instructions do these convolutions slower in it.

    Parameters
    ----------
    wish : "auto", "float32" or "bfloat16"
    """
    if device.type == "cuda":
        able, why = torch.cuda.is_bf16_supported(including_emulation=False), "bfloat16 of the GPU"
    else:
        able, why = bool(torch.cpu.get_capabilities().get("amx_bf16")), "AMX tiles for bfloat16"
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(wish)
    if chosen is None:
        chosen = torch.bfloat16 if able else torch.float32
    how = "as configured" if wish != "auto" else f"since the {device.type} has {'' if able else 'no '}{why}"
    logger.info("the network computes in %s, %s", str(chosen).removeprefix("torch."), how)
    return chosen


def place(
    model: torch.nn.Module, device: torch.device, data_type: str = "auto", *, compiled: bool = False
) -> torch.nn.Module:
    """Move a network to the device, in the memory layout and data type that its convolutions are fastest in.

    Parameters
    ----------
    compiled : whether torch's compiler makes its code, when the network is first used
    """
    model.data_type = choose_data_type(data_type, device)
    if compiled:
        model.compile()
    # also faster on a CPU: 10 against 18 ms per image and training step of the demo's network
    return model.to(device, memory_format=torch.channels_last_3d)
