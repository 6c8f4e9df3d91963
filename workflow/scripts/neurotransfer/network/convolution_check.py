"""Whether the GPU's library computes the network's convolutions in bfloat16 rightly: compared before the first step.

Public versions of cuDNN under torch gave wrong 3-D convolutions in bfloat16, without a word (pytorch issue 163539).
Each shape of the network is compared with float32 on the device: the output, and both gradients.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .sfcn import SFCN, convolve

logger = logging.getLogger("neurotransfer")
TOLERANCE = 0.02  # [assumed] of a difference's norm; rounding to bfloat16 gives 0.002
FIX = "set data_type: float32, or install another version of torch"


def check_convolutions(model: SFCN, count: int, size: Sequence[int], device: torch.device) -> None:
    """Compare each convolution after the first block, as a step has it, in bfloat16 with float32.

    Each shape is compared once in a process.  It does nothing on a CPU, and for a network that computes in float32.
    The first block is a product of matrices, which the kernels' own check compares.

    Parameters
    ----------
    count, size : images of a step's pass, and the voxels of each

    Raises
    ------
    InputError
        naming the shape, the part that is wrong and the versions
    """
    if device.type != "cuda" or model.data_type != torch.bfloat16:
        return
    started = time.monotonic()
    for at, block in enumerate(list(model.blocks)[1:], 1):
        shape = tuple(block.conv.weight.shape)  # type: ignore[union-attr, arg-type]
        _check(shape, (count, shape[1], *(length >> at for length in size)), device)
    shape = tuple(model.bottleneck.weight.shape)
    _check(shape, (count, shape[1], *(length >> len(model.blocks) for length in size)), device)
    logger.info("the convolutions in bfloat16 are right, compared in %.1f s", time.monotonic() - started)


@functools.cache
def _check(weight: tuple[int, ...], images: tuple[int, ...], device: torch.device) -> None:
    wrong = wrong_part(weight, images, device)
    if wrong is not None:
        part, difference = wrong
        of = f"of {images[1]} to {weight[0]} channels at {'×'.join(map(str, images[2:]))} voxels, batch {images[0]}"
        versions = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        what = f"a convolution {of} in bfloat16 has a wrong {part}, off by {difference:.2g} of its norm ({versions})"
        raise InputError("configuration", "data_type", what, FIX)


def wrong_part(
    weight: tuple[int, ...], images: tuple[int, ...], device: torch.device
) -> tuple[str, float] | None:  # fmt: skip
    """What a convolution in bfloat16 gets wrong, and by which part of its norm; None if nothing.

    Parameters
    ----------
    weight, images : shapes of the filters, [outputs, inputs, k, k, k], and of the input, [N, inputs, D, H, W]
    """
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        return values.contiguous(memory_format=torch.channels_last_3d)

    padding = weight[-1] // 2
    # two images fill the batch, in an order without a period, so that float32 computes two, whatever the batch
    order = [number.bit_count() % 2 for number in range(images[0])]
    first = [order.index(which) for which in sorted(set(order))]
    x = drawn(len(first), *images[1:])[order].contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    gradient = drawn(len(first), weight[0], *images[2:])[order].contiguous(memory_format=torch.channels_last_3d)
    filters = drawn(*weight).requires_grad_()
    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        out = convolve(x, filters)
        by_x, by_filters = torch.autograd.grad(_End.apply(out, gradient), (x, filters))
        exact = torch.zeros(weight, device=device)
        for which, example in enumerate(first):  # one by one, which needs little memory
            one, same = x[[example]].detach().float().requires_grad_(), filters.detach().float().requires_grad_()
            right = functional.conv3d(one, same, padding=padding)
            end = _End.apply(right, gradient[[example]].float())
            right_x, right_filters = torch.autograd.grad(end, (one, same))
            exact += right_filters * order.count(which)
            for at in (at for at, other in enumerate(order) if other == which):
                for name, found, expected in (("output", out, right), ("gradient of the input", by_x, right_x)):
                    difference = _difference(found[at : at + 1], expected)
                    if not difference <= TOLERANCE:
                        return name, difference
    difference = _difference(by_filters, exact)
    return None if difference <= TOLERANCE else ("gradient of the filters", difference)


class _End(torch.autograd.Function):
    """A scalar whose gradient by `out` is the given one; told of a gradient, torch imports sympy, which takes 2 s."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return out.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient, None


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().float() - expected.detach()).norm() / expected.detach().norm())
