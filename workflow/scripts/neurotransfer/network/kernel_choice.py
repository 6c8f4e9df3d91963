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
TOLERANCE = 0.03  # of a difference's norm; bfloat16, in which these results are kept, gives 0.007
COST = "on an H200 a training step then takes seven times as long"


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
    if missing_for_kernels(x.device, dtype_of_products(x)) is not None:
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


@functools.cache  # tried once
def missing_for_kernels(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """The reason why `device` cannot run the kernels in `dtype`, or None if it gave the right results with them."""
    reason = _reason(device, dtype)
    if reason is not None:
        _tell(reason)
    return reason


@functools.cache  # said once
def _tell(reason: str) -> None:
    logger.warning("torch computes the network's blocks without fused kernels, because %s; %s", reason, COST)


def _reason(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "this GPU is older than compute capability 8.0"
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    use_node_cache(triton.__version__)
    try:
        wrong = wrong_result(device, dtype)
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


def wrong_result(device: torch.device, dtype: torch.dtype) -> str | None:
    """Which result of the kernels on `device` differs from torch's, of small odd-sized inputs; None if none does.

    In `dtype`, so that these are the kernels that the network then needs.
    """
    from . import triton_kernels as kernels

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).double()

    images = torch.randint(0, 256, (2, 1, 4, 5, 7), generator=generator, dtype=torch.uint8)
    x, filters, weights = drawn(2, CHECKED, 4, 5, 7), drawn(CHECKED, 27), drawn(2, CHECKED, 2, 2, 3)
    for name, learnt in (("first block", filters), ("block after the first", x)):
        plain, norm = nn.BatchNorm3d(CHECKED), nn.BatchNorm3d(CHECKED)
        plain.weight.data = norm.weight.data = torch.linspace(-1.5, 1.5, CHECKED)
        plain.double()
        learnt.requires_grad_()
        given = functional.conv3d(images.double(), filters.view(-1, 1, 3, 3, 3), padding=1) if learnt is filters else x
        expected = functional.relu(functional.max_pool3d(plain(given), 2))
        right = torch.autograd.grad((expected * weights).sum(), [learnt, plain.weight, plain.bias])
        norm.to(device)
        norms = (norm.weight, norm.bias, torch.zeros(CHECKED, device=device), norm)
        there = learnt.detach().to(device, torch.float32 if learnt is filters else dtype).requires_grad_()
        if learnt is filters:
            out = kernels.ConvolvePoolReLU.apply(images.to(device), there, *norms, dtype)
        else:
            out = kernels.NormalisePoolReLU.apply(there, *norms)
        found = torch.autograd.grad((out * weights.to(out)).sum(), [there, norm.weight, norm.bias])
        if _differs(out, expected):
            return f"output of the {name}"
        if any(_differs(one, other) for one, other in zip(found, right, strict=True)):
            return f"gradient of the {name}"
    return None


def _differs(found: Tensor, right: Tensor) -> bool:
    return not (found.detach().cpu().double() - right.detach()).norm() <= TOLERANCE * right.detach().norm()
