"""Whether the kernels written in Triton compute a block, or torch does: decided here, and nowhere else.

They need an NVIDIA GPU of compute capability 8.0 or later, triton, and a C compiler (triton compiles a small launcher
when a kernel is first used).  Without them torch computes the same, and the log says once which part is missing.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger("neurotransfer")
LEAST_CHANNELS = 16  # and a multiple of it: fewer fill no line of a GPU's memory
NARROW = 32  # input channels of convolutions whose gradients have kernels; those of wider ones are better left to cuDNN
TOGETHER = 64  # output channels, or a multiple of them, of these convolutions
MEASURED = 9  # of compute capability: the generation (Hopper) on which they were found to be faster
CHECKED = 64  # channels of the inputs that are compared: kernels of as many serve most networks
COST = "on an H200 a training step then takes six times as long"


def dtype_of_products(x: Tensor) -> torch.dtype:
    """The type that a convolution of `x` computes in: autocast's if it is on, and else x's own, float32 for uint8."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return torch.float32 if x.dtype == torch.uint8 else x.dtype


def kernels_for(x: Tensor, channels: int) -> Any:
    """The module `triton_kernels` if it computes a block of `x` on x's device, and None if torch has to.

    Parameters
    ----------
    x : [N, inputs, D, H, W], what goes into the block
    channels : of the block's convolution
    """
    if x.device.type != "cuda" or torch.compiler.is_compiling() or not suits(x, channels):
        return None
    if missing_for_kernels(x.device) is not None:
        return None
    from . import triton_kernels

    return triton_kernels


def convolution_kernels_for(x: Tensor, channels: int) -> Any:
    """The module `triton_convolution` if it computes the gradients of a 3³ convolution of `x`, None if cuDNN does.

    Parameters
    ----------
    x : [N, inputs, D, H, W], what goes into the convolution
    channels : that come out
    """
    fits = x.shape[1] == NARROW and channels % TOGETHER == 0 and dtype_of_products(x) == torch.bfloat16
    if not fits or kernels_for(x, channels) is None or torch.cuda.get_device_capability(x.device)[0] != MEASURED:
        return None
    from . import triton_convolution

    return triton_convolution


def suits(x: Tensor, channels: int) -> bool:
    """Whether there are kernels for a block of so many `channels` of `x`."""
    able = dtype_of_products(x) in (torch.bfloat16, torch.float32) and channels % LEAST_CHANNELS == 0
    return able and min(x.shape[2:]) >= 2 and x.numel() > 0


@functools.cache  # tried, and logged, once
def missing_for_kernels(device: torch.device) -> str | None:
    """The reason why `device` cannot run the kernels, or None if it gave the right results with them."""
    reason = _reason(device)
    if reason is not None:
        logger.warning("torch computes the network's blocks without fused kernels, because %s; %s", reason, COST)
    return reason


def _reason(device: torch.device) -> str | None:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "this GPU is older than compute capability 8.0"
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    use_node_cache(triton.__version__)
    try:
        wrong = wrong_result(device)
    except Exception as error:  # of a compiler: it has no type of its own
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return f"they do not compile on this node (triton needs a C compiler): {type(error).__name__}: {first_line}"
    if wrong is not None:
        return f"their {wrong} is wrong with triton {triton.__version__} and torch {torch.__version__}"
    return None


def use_node_cache(version: str) -> None:
    """Let triton keep compiled kernels on the node's own disk, in a folder of this user and triton's version.

    The default is the home directory, which thousands of jobs share over the network.  `TRITON_CACHE_DIR` goes first.
    """
    if "TRITON_CACHE_DIR" in os.environ:
        return
    folder = Path(tempfile.gettempdir()) / f"neurotransfer-triton-{version}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        mine = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        mine = False
    os.environ["TRITON_CACHE_DIR"] = str(folder) if mine else tempfile.mkdtemp(prefix="neurotransfer-triton-")


def wrong_result(device: torch.device) -> str | None:
    """Which result of the kernels on `device` differs from torch's, of small odd-sized inputs; None if none does."""
    from . import triton_kernels as kernels

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, CHECKED, 4, 5, 7, generator=generator).requires_grad_()
    images = torch.randint(0, 256, (2, 1, 4, 5, 7), generator=generator, dtype=torch.uint8)
    filters = torch.randn(CHECKED, 27, generator=generator).requires_grad_()
    weights = torch.randn(2, CHECKED, 2, 2, 3, generator=generator)
    for name in ("first block", "block after the first"):
        learnt = filters if name == "first block" else x
        plain, norm = nn.BatchNorm3d(CHECKED), nn.BatchNorm3d(CHECKED)
        plain.weight.data = norm.weight.data = torch.linspace(-1.5, 1.5, CHECKED)
        plain.double()
        given = x.double()
        if name == "first block":
            given = functional.conv3d(images.double(), filters.double().view(-1, 1, 3, 3, 3), padding=1)
        expected = functional.relu(functional.max_pool3d(plain(given), 2))
        right = torch.autograd.grad((expected * weights).sum(), [learnt, plain.weight, plain.bias])
        norm.to(device)
        there = learnt.detach().to(device).requires_grad_()
        norms = (norm.weight, norm.bias, torch.zeros(CHECKED, device=device), norm)
        if name == "first block":
            out = kernels.ConvolvePoolReLU.apply(images.to(device), there, *norms, torch.float32)
        else:
            out = kernels.NormalisePoolReLU.apply(there, *norms)
        found = torch.autograd.grad((out * weights.to(device)).sum(), [there, norm.weight, norm.bias])
        if _differs(out, expected):
            return f"output of the {name}"
        if any(_differs(one, other) for one, other in zip(found, right, strict=True)):
            return f"gradient of the {name}"
    return None


def _differs(found: Tensor, right: Tensor) -> bool:
    return not (found.detach().cpu().double() - right.detach()).norm() <= 1e-2 * right.detach().norm()
