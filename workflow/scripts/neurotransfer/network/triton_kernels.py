"""Batch norm, max-pool and ReLU of one block on an NVIDIA GPU, in four kernels written in Triton.

They compute what `fused_norm` computes with torch, which stays as their reference.  A convolution's output x is
[N, C, D, H, W], channels last in memory, so it is read as rows of C numbers: [N D H W, C].  A window is 2³ voxels.
Windows at the end of an odd axis are incomplete: their voxels count in the statistics, but are not pooled.

A kernel runs as a fixed number of programs.  Each sums its own part in a fixed order, and float64 adds the parts, so
results are the same bytes each time, without atomic operations.

Triton's interpreter runs them on a CPU (TRITON_INTERPRET=1, set before triton is imported); the tests do.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fused_norm import combined, dense_gradient, memory_for_gradient

PROGRAMS = 2112  # 16 for each of an H100's 132 multiprocessors; another number rounds sums differently
ROWS = 32  # windows that a program works on at once
WIDEST = 64  # channels that a program works on


@triton.jit
def _window(p, D, H, W):
    """Of window p: its first voxel's row in x (int64), its row in the pooled output (int64), pd, ph, pw."""
    d, h, w = (D + 1) // 2, (H + 1) // 2, (W + 1) // 2
    pw = p % w
    ph = (p // w) % h
    pd = (p // (w * h)) % d
    n = (p // (w * h * d)).to(tl.int64)
    first = ((n * D + 2 * pd) * H + 2 * ph) * W + 2 * pw
    pooled = ((n * (D // 2) + pd) * (H // 2) + ph) * (W // 2) + pw
    return first, pooled, pd, ph, pw


@triton.jit(do_not_specialize=["per"])
def _pool(x, shift, sign, most, at, sums, squares, windows, D, H, W, per, C: tl.constexpr, P: tl.constexpr,
          B: tl.constexpr):  # fmt: skip
    """Reads x once; writes an eighth (the greatest of each window) and a sixteenth (its place), and partial sums."""
    pid, c = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    around, positive = tl.load(shift + c), tl.load(sign + c)  # [B]
    total = tl.zeros([P, B], tl.float32)
    total_of_squares = tl.zeros([P, B], tl.float32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        first, pooled, pd, ph, pw = _window(p, D, H, W)
        best = tl.full([P, B], float("-inf"), tl.float32)
        value = tl.zeros([P, B], tl.float32)
        place = tl.zeros([P, B], tl.int32)
        for k in tl.static_range(8):
            inside = (p < windows) & (2 * pd + k // 4 < D) & (2 * ph + (k // 2) % 2 < H) & (2 * pw + k % 2 < W)
            row = first + (k // 4) * H * W + ((k // 2) % 2) * W + k % 2
            v = tl.load(x + row[:, None] * C + c[None, :], mask=inside[:, None], other=0.0).to(tl.float32)  # [P, B]
            off = tl.where(inside[:, None], v - around[None, :], 0.0)
            total += off
            total_of_squares += off * off
            signed = v * positive[None, :]
            take = (signed > best) | (signed != signed) | (k == 0)  # the first of equals, and NaN before all, as torch
            place = tl.where(take, k, place)
            value = tl.where(take, v, value)
            best = tl.where(take, signed, best)
        complete = (p < windows) & (pd < D // 2) & (ph < H // 2) & (pw < W // 2)
        to = pooled[:, None] * C + c[None, :]
        tl.store(most + to, value.to(most.dtype.element_ty), mask=complete[:, None])
        tl.store(at + to, place.to(tl.uint8), mask=complete[:, None])
    tl.store(sums + pid * C + c, tl.sum(total, 0))
    tl.store(squares + pid * C + c, tl.sum(total_of_squares, 0))


@triton.jit
def _scale_relu(most, out, mean, scale, bias, rows, C: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """Reads and writes the pooled eighth."""
    p, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * B + tl.arange(0, B)
    at, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < rows)[:, None]
    v = tl.load(most + at, mask=inside, other=0.0).to(tl.float32)
    v = (v - tl.load(mean + c)[None, :]) * tl.load(scale + c)[None, :] + tl.load(bias + c)[None, :]
    tl.store(out + at, tl.where(v < 0, 0.0, v).to(out.dtype.element_ty), mask=inside)  # NaN stays


@triton.jit(do_not_specialize=["per"])
def _gate_sums(gradient, most, out, mean, sums, products, rows, per, C: tl.constexpr, P: tl.constexpr,
               B: tl.constexpr):  # fmt: skip
    """Reads the pooled eighth three times (gradient, maxima, output); writes partial sums."""
    pid, c = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    centre = tl.load(mean + c)
    total = tl.zeros([P, B], tl.float32)
    total_of_products = tl.zeros([P, B], tl.float32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        at, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < rows)[:, None]
        m = tl.load(most + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(tl.load(out + at, mask=inside, other=0.0) > 0, g, 0.0)
        total += g
        total_of_products += g * (m - centre[None, :])
    tl.store(sums + pid * C + c, tl.sum(total, 0))
    tl.store(products + pid * C + c, tl.sum(total_of_products, 0))


@triton.jit(do_not_specialize=["per"])
def _unpool(x, to, gradient, out, at, scale, level, tilt, mean, windows, D, H, W, per, C: tl.constexpr,
            P: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """Reads x and the pooled eighth two and a half times; writes x's gradient, in place if `to` is `x`."""
    pid, c = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    base, slant, centre, factor = tl.load(level + c), tl.load(tilt + c), tl.load(mean + c), tl.load(scale + c)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        first, pooled, pd, ph, pw = _window(p, D, H, W)
        complete = ((p < windows) & (pd < D // 2) & (ph < H // 2) & (pw < W // 2))[:, None]
        q = pooled[:, None] * C + c[None, :]
        g = tl.load(gradient + q, mask=complete, other=0.0).to(tl.float32) * factor[None, :]
        g = tl.where(tl.load(out + q, mask=complete, other=0.0) > 0, g, 0.0)
        place = tl.load(at + q, mask=complete, other=8).to(tl.int32)
        for k in tl.static_range(8):
            inside = (p < windows) & (2 * pd + k // 4 < D) & (2 * ph + (k // 2) % 2 < H) & (2 * pw + k % 2 < W)
            voxel = (first + (k // 4) * H * W + ((k // 2) % 2) * W + k % 2)[:, None] * C + c[None, :]
            v = tl.load(x + voxel, mask=inside[:, None], other=0.0).to(tl.float32)
            moved = base[None, :] + slant[None, :] * (v - centre[None, :]) + tl.where(place == k, g, 0.0)
            tl.store(to + voxel, moved.to(to.dtype.element_ty), mask=inside[:, None])


def _grid(rows: int, channels: int) -> tuple[tuple[int, int], int, int]:
    """Programs along rows and channels; tiles of ROWS for each; channels of each."""
    width = min(WIDEST, channels & -channels)  # a power of two that divides the channels
    tiles = triton.cdiv(rows, ROWS)
    per = triton.cdiv(tiles, PROGRAMS)
    return (triton.cdiv(tiles, per), channels // width), per, width


def _windows(shape: torch.Size) -> int:
    count, _, d, h, w = shape
    return count * ((d + 1) // 2) * ((h + 1) // 2) * ((w + 1) // 2)


def pool(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The greatest voxel of each window (the least if the scale `weight` [C] is negative), and x's statistics.

    Parameters
    ----------
    x : [N, C, D, H, W], channels last in memory, bfloat16 or float32; C is a multiple of 16

    Returns
    -------
    maxima and their places in the window, 4a + 2b + c as uint8, both [N, C, D // 2, H // 2, W // 2]; sum, and
    sum of squares about the mean, float64 [C]
    """
    count, channels, *size = x.shape
    pooled = (count, channels, *(length // 2 for length in size))
    most = torch.empty(pooled, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    at = torch.empty_like(most, dtype=torch.uint8)
    shift = x[0, :, size[0] // 2, size[1] // 2, size[2] // 2].float()  # sums about it cancel little
    grid, per, width = _grid(_windows(x.shape), channels)
    parts = torch.empty((2, grid[0], channels), device=x.device)
    sign = weight.detach().sign().float()
    _pool[grid](x, shift, sign, most, at, parts[0], parts[1], _windows(x.shape), *size, per, channels, ROWS, width)
    sums, squares = parts.double().sum(1)
    voxels = x.numel() // channels
    return most, at, shift.double() * voxels + sums, squares - sums.square() / voxels


def scale_relu(most: Tensor, mean: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """ReLU of (maxima - `mean`) * `scale` + `bias`, all float32 [C]."""
    out = torch.empty_like(most)
    channels = most.shape[1]
    rows = most.numel() // channels
    _, _, width = _grid(rows, channels)
    _scale_relu[triton.cdiv(rows, ROWS), channels // width](most, out, mean, scale, bias, rows, channels, ROWS, width)
    return out


def gate_sums(gradient: Tensor, most: Tensor, out: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the gradient that ReLU lets through, and of its product with maxima - `mean`: float64 [C]."""
    channels = most.shape[1]
    rows = most.numel() // channels
    grid, per, width = _grid(rows, channels)
    parts = torch.empty((2, grid[0], channels), device=most.device)
    _gate_sums[grid](gradient, most, out, mean, parts[0], parts[1], rows, per, channels, ROWS, width)
    sums, products = parts.double().sum(1)
    return sums, products


def unpool(
    x: Tensor, to: Tensor, gradient: Tensor, out: Tensor, at: Tensor, scale: Tensor, dense: tuple[Tensor, ...]
) -> None:
    """Write x's gradient to `to`: level + tilt * (x - mean), and at each maximum scale * `gradient` if ReLU is open.

    Parameters
    ----------
    dense : level, tilt, mean: float32 [C], as `scale`
    """
    channels, size = x.shape[1], x.shape[2:]
    grid, per, width = _grid(_windows(x.shape), channels)
    _unpool[grid](x, to, gradient, out, at, scale, *dense, _windows(x.shape), *size, per, channels, ROWS, width)


class NormalisePoolReLU(torch.autograd.Function):
    """`fused_norm`'s function of the same arguments, with pooling windows of 2³."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, running: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = x.contiguous(memory_format=torch.channels_last_3d)
        most, at, sums, squares = pool(rows, weight)
        count = torch.full_like(sums, x.numel() // x.shape[1])
        if running is None:
            mean, variance, count = combined(count, sums, squares)
        else:
            mean, variance = (value.double() for value in running)
        slope = torch.rsqrt(variance + epsilon)  # normalised = (x - mean) * slope
        scale = slope * weight
        out = scale_relu(most, mean.float(), scale.float(), bias.float())
        ctx.save_for_backward(rows, most, at, out, mean, slope, weight, count)
        ctx.training, ctx.leaf = running is None, x.is_leaf
        ctx.mark_non_differentiable(mean, variance, count)
        return out, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, most, at, out, mean, slope, weight, count = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        by_bias, by_weight = gate_sums(gradient, most, out, mean.float())
        by_weight = by_weight * slope
        scale = slope * weight
        level = tilt = torch.zeros_like(mean)
        if ctx.training:  # every voxel moves mean and variance, which lead back to it
            level, tilt = dense_gradient(by_bias, by_weight, scale, slope, count)
        result = memory_for_gradient(x, ctx.leaf)
        unpool(x, result, gradient, out, at, scale.float(), (level.float(), tilt.float(), mean.float()))
        return result, by_weight.to(weight.dtype), by_bias.to(weight.dtype), None, None
