"""The first block without its full-resolution activation, which holds most of a step's time and memory.

The block's convolution has one input channel, so its statistics depend only on the image's patches of 3³ voxels:

- its batch statistics are closed forms of the patches' mean m [27] and covariance S [27, 27], for the
  convolution w of a patch has mean w·m and variance w S w, whatever w is;
- with them batch norm is folded into the weights, and convolution, max-pool and ReLU run piece by piece in
  cache: the 4³ voxels under a pooled voxel hold its 8 patches, so one matrix product gives all 8 candidates;
- the folded weights get their gradient from the maxima alone, and autograd leads it on through the closed
  forms, so mean and variance have theirs, too.

Across ranks the patches' moments add; nothing else is exchanged, and nothing on the way back.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .fused_norm import move_on, over_all_ranks
from .kernel_choice import dtype_of_products, kernels_for

PIECE = {"cpu": 1 << 13, "cuda": 1 << 18}  # pooled voxels at once: 8 MB of answers of 32 channels on a CPU
CORNERS = list(itertools.product((0, 1), repeat=3))  # a, b, c: the position of a patch in a pooling window of 2³


def convolve_normalise_pool_relu(images: Tensor, conv: nn.Conv3d, norm: nn.BatchNorm3d) -> Tensor:
    """ReLU of the 2³ max-pool of `norm(conv(images))`, and the running statistics moved on.

    Parameters
    ----------
    images : [N, 1, D, H, W], floats or uint8, which get no gradient; a GPU reads uint8 as it is
    conv : from one channel, 3³, padded by one voxel

    Returns
    -------
    [N, C, D // 2, H // 2, W // 2], channels last in memory
    """
    assert conv.bias is not None and norm.running_mean is not None and norm.running_var is not None
    dtype = dtype_of_products(images)
    if images.dtype == torch.uint8:
        if kernels := kernels_for(images, conv.out_channels):
            filters = conv.weight.flatten(1)
            return kernels.ConvolvePoolReLU.apply(images, filters, norm.weight, norm.bias, conv.bias, norm, dtype)
        images = images.float()
    filters = conv.weight.flatten(1).double()  # [C, 27]
    if norm.training:
        count, mean_patch, covariance = moments(images)
        mean = filters @ mean_patch  # without conv.bias, which batch norm takes out again
        variance = ((filters @ covariance) * filters).sum(1)
        move_on(norm, mean + conv.bias, variance, count)
        gone = mean
    else:
        gone, variance = norm.running_mean.double() - conv.bias, norm.running_var.double()
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    folded, shift = (filters * scale[:, None]).to(images.dtype), (norm.bias - gone * scale).to(images.dtype)
    if conv.bias.requires_grad and norm.training:
        shift = shift + 0 * conv.bias  # a gradient of zero, as batch norm gives it, and not of None
    return _ConvolvePoolReLU.apply(images, folded, shift, dtype, torch.is_grad_enabled())


@torch.no_grad()
def moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean [27] and covariance [27, 27] of the zero-padded 3³ patches around all voxels, over all ranks.

    In float64, products included: a filter that answers to little of what there is has a variance far below
    the covariance's entries.
    """
    first = torch.zeros(4, 4, 4, dtype=torch.double, device=images.device)
    second = torch.zeros(64, 64, dtype=torch.double, device=images.device)
    for _, voxels in _neighbourhoods(images, torch.double):
        first += voxels.sum(1).view(4, 4, 4)
        second += voxels @ voxels.T
    return over_all_patches(first.flatten(), second, images)


@torch.no_grad()
def over_all_patches(first: Tensor, second: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The `moments` of `images`, from sums over their complete windows.

    Parameters
    ----------
    first, second : of the 4³ voxels under the windows, and of their products, float64 [64] and [64, 64]
    """
    total = torch.zeros(28, 28, dtype=torch.double, device=images.device)  # row 27: sums, and the number
    at = corners_of(images.device)  # [27, 8]
    total[:27, :27], total[27, :27] = second[at[:, None], at].sum(2), first[at].sum(1)
    for left_over in _patches_outside_windows(images):
        total[:27, :27] += left_over.T @ left_over
        total[27, :27] += left_over.sum(0)
    total[27:, 27:].fill_(images.numel())  # an assignment would wait for a GPU
    total = over_all_ranks(total)
    count, mean = total[27, 27], total[27, :27] / total[27, 27]
    return count, mean, total[:27, :27] / count - mean.outer(mean)


@functools.cache
def corners_of(device: torch.device) -> Tensor:
    """Where the voxels of the patch at each corner of a window are among its 4³: int64 [27, 8]."""
    indices = torch.arange(64).view(4, 4, 4)
    found = [indices[a : a + 3, b : b + 3, c : c + 3].flatten() for a, b, c in CORNERS]
    return torch.stack(found, 1).to(device)


def _neighbourhoods(images: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Piece by piece: which pooled voxels (of all, images first), and the 4³ voxels under each, [64, piece]."""
    count, _, *size = images.shape
    d, h, w = (length // 2 for length in size)
    group = max(1, PIECE[images.device.type] // (d * h * w))  # whole images in a piece, or planes of one
    planes = d if group > 1 else max(1, PIECE[images.device.type] // (h * w))
    room = [part for length in reversed(size) for part in (1, 1 - length % 2)]
    for start in range(0, count, group):
        padded = functional.pad(images[start : start + group, 0], room)  # [n, 2(d + 1), 2(h + 1), 2(w + 1)]
        split = padded.new_empty((2, 2, 2, len(padded), d + 1, h + 1, w + 1))  # even and odd voxels apart
        for a, b, c in CORNERS:
            split[a, b, c] = padded[:, a::2, b::2, c::2]
        windows = split.unfold(4, d, 1).unfold(5, h, 1).unfold(6, w, 1)  # [2, 2, 2, n, 2, 2, 2, d, h, w]
        windows = windows.permute(4, 0, 5, 1, 6, 2, 3, 7, 8, 9)  # voxel 2p + q along an axis: shift p, parity q
        for plane in range(0, d, planes):
            piece = windows[..., plane : plane + planes, :, :]
            voxels = torch.empty(piece.shape, dtype=dtype, device=images.device).copy_(piece).view(64, -1)
            at = (start * d + plane) * h * w
            yield slice(at, at + voxels.shape[1]), voxels


def _patches_outside_windows(images: Tensor) -> Iterator[Tensor]:
    """Patches, float64 [n, 27], around the last voxels of odd axes, which no pooling window covers."""
    if all(length % 2 == 0 for length in images.shape[2:]):
        return
    patches = functional.pad(images[:, 0], (1,) * 6).unfold(1, 3, 1).unfold(2, 3, 1).unfold(3, 3, 1)
    for axis in (1, 2, 3):
        length = patches.shape[axis]
        if length % 2:
            yield patches.narrow(axis, length - 1, 1).reshape(-1, 27).double()
            patches = patches.narrow(axis, 0, length - 1)


class _ConvolvePoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor, shift: Tensor, dtype: torch.dtype, keep: bool) -> Tensor:
        count, _, *size = images.shape
        channels, shape = len(filters), [length // 2 for length in size]
        candidates = filters.new_zeros((2, 2, 2, channels, 3, 4, 4))  # a filter at each patch's place in 3 × 4 × 4
        for a, b, c in CORNERS:
            candidates[a, c, b, :, :, b : b + 3, c : c + 3] = filters.view(channels, 3, 3, 3)
        candidates = candidates.view(2, -1, 48).to(dtype)
        out = images.new_empty((count * shape[0] * shape[1] * shape[2], channels), dtype=dtype)
        winners = torch.empty(out.shape[::-1] if keep else 0, dtype=torch.uint8, device=images.device)
        for at, voxels in _neighbourhoods(images, dtype):
            answers = (candidates @ _by_a(voxels).transpose(1, 2)).view(2, 2, 2, channels, -1)  # a, c, b
            if keep:
                answers, winners[:, at] = _greatest(answers)
            else:
                answers = answers.flatten(0, 2).amax(0)
            out[at] = answers.T
        out.add_(shift.to(dtype)).relu_()
        ctx.save_for_backward(images, out, winners)
        ctx.dtype = dtype
        return out.view(count, *shape, channels).permute(0, 4, 1, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, out, winners = ctx.saved_tensors
        channels = out.shape[1]
        gradient = gradient.permute(0, 2, 3, 4, 1).reshape(-1, channels)
        total = torch.zeros(2, 4 * channels, 48, dtype=torch.double, device=images.device)
        by_shift = torch.zeros(channels, dtype=torch.double, device=images.device)
        for at, voxels in _neighbourhoods(images, ctx.dtype):
            passed = gradient.new_empty((channels, voxels.shape[1])).copy_((gradient[at] * (out[at] > 0)).T)
            by_shift += passed.sum(1)
            apart = by_place(passed, winners[:, at], images.device.type)
            total += apart.view(2, 4 * channels, -1) @ _by_a(voxels)
        total = total.view(2, 2, 2, channels, 3, 4, 4)
        first, *others = (total[a, c, b, :, :, b : b + 3, c : c + 3] for a, b, c in CORNERS)
        by_filters = sum(others, first)
        return None, by_filters.reshape(channels, 27).to(images.dtype), by_shift.to(images.dtype), None, None


def by_place(passed: Tensor, winners: Tensor, kind: str) -> Tensor:
    """Numbers [C, piece], each at its winner's place of eight and zero at the others: [8, C, piece].

    Parameters
    ----------
    kind : of device, "cpu" or "cuda"
    """
    if kind == "cuda":  # there a deterministic scatter may sort; comparing does not
        indices = torch.arange(8, dtype=torch.uint8, device=passed.device).view(8, 1, 1)
        return torch.where(winners == indices, passed, 0)
    return passed.new_zeros((8, *passed.shape)).scatter_(0, winners.long()[None], passed[None])


def _by_a(voxels: Tensor) -> Tensor:
    """Of the 4³ voxels under each window, [64, piece], the 3 × 4 × 4 that its patches at a see: [a, piece, 48]."""
    return voxels.unfold(0, 48, 16)


def _greatest(answers: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest of eight, by a, c, b: [2, 2, 2, ...] to [...], and its place as 4a + 2c + b; the first of equals.

    First c, then b, then a, and the earlier half if both are equal: what max-pool's scan meets first.
    """
    c = answers[:, 1] > answers[:, 0]  # [a, b, ...]
    answers = torch.maximum(answers[:, 0], answers[:, 1])
    b = answers[:, 1] > answers[:, 0]  # [a, ...]
    answers = torch.maximum(answers[:, 0], answers[:, 1])
    a = answers[1] > answers[0]
    c = _choose(b, c.transpose(0, 1))
    b, c, a = (place.view(torch.uint8) for place in (_choose(a, b), _choose(a, c), a))
    return torch.maximum(answers[0], answers[1]), a * 4 + c * 2 + b


def _choose(later: Tensor, pair: Tensor) -> Tensor:
    """pair[1] where `later`, else pair[0]; in bits, because torch.where takes 20 times as long."""
    return pair[0] ^ ((pair[0] ^ pair[1]) & later)
