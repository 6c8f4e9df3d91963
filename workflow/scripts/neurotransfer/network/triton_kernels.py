"""What the network's blocks and the augmentation compute on an NVIDIA GPU, in kernels written in Triton.

They compute what `fused_norm`, `first_block` and `batches.augment` compute with torch, which stays as their reference.
A convolution's output x is [N, C, D, H, W], channels last in memory, so it is read as rows of C numbers:
[N D H W, C].  A window is 2³ voxels.  Windows at the end of an odd axis are incomplete: their voxels count in the
statistics, but are not pooled.

The first block reads uint8 images and never writes its convolution's output.  The 4³ voxels under a window hold the
patches of its eight corners (4a + 2b + c), so one matrix product with the filters, each shifted to a corner, gives
the eight numbers of which the greatest is kept; the same 4³ voxels give the moments of all patches.

A kernel runs as a fixed number of programs.  Each sums its own part in a fixed order, and float64 adds the parts, so
results are the same bytes each time, without atomic operations.

Triton's interpreter runs them on a CPU (TRITON_INTERPRET=1, set before triton is imported); the tests do.
"""

from __future__ import annotations

import itertools
import math
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
WINDOWS = 64  # of the first block that a program works on at once: sums of 64 squares of bytes are exact in float32
WIDEST_FIRST = 32  # channels that a program of the first block works on: with eight corners, 256 columns
CORNERS = {torch.bfloat16: 8, torch.float32: 2}  # of a window in one matrix product; float32 has no tensor cores
FIRST_WARPS = 8  # of 32 threads, of a program of the first block
FIRST_PROGRAMS = 528  # of the first block's gradient, which writes 64 KB of partial sums for each
BYTES = 4096  # voxels that a program of the augmentation writes


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


@triton.jit(do_not_specialize=["windows", "D", "H", "W", "per"])
def _pool(x, shift, sign, most, at, sums, squares, windows, D, H, W, per, C, P: tl.constexpr, B: tl.constexpr):
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


@triton.jit(do_not_specialize=["rows"])
def _scale_relu(most, out, mean, scale, bias, rows, C, P: tl.constexpr, B: tl.constexpr):
    """Reads and writes the pooled eighth."""
    p, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * B + tl.arange(0, B)
    at, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < rows)[:, None]
    v = tl.load(most + at, mask=inside, other=0.0).to(tl.float32)
    v = (v - tl.load(mean + c)[None, :]) * tl.load(scale + c)[None, :] + tl.load(bias + c)[None, :]
    tl.store(out + at, tl.where(v < 0, 0.0, v).to(out.dtype.element_ty), mask=inside)  # NaN stays


@triton.jit(do_not_specialize=["rows", "per"])
def _gate_sums(gradient, most, out, mean, sums, products, rows, per, C, P: tl.constexpr, B: tl.constexpr):
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


@triton.jit(do_not_specialize=["windows", "D", "H", "W", "per"])
def _unpool(x, to, gradient, out, at, scale, level, tilt, mean, windows, D, H, W, per, C, P: tl.constexpr,
            B: tl.constexpr):  # fmt: skip
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

@triton.jit
def _neighbourhood(p, d, h, w, line, plane, volume):
    """First voxel (int64) of the 4³ under window p in images that are padded by a voxel, and the 64 steps from it."""
    k = tl.arange(0, 64)
    first = (p // (w * h * d)).to(tl.int64) * volume
    first += 2 * ((p // (w * h)) % d) * plane + 2 * ((p // w) % h) * line + 2 * (p % w)
    return first, (k // 16) * plane + ((k // 4) % 4) * line + k % 4


@triton.jit(do_not_specialize=["windows", "d", "h", "w", "line", "plane", "volume", "per"])
def _convolve_pool(images, filters, sign, most, at, firsts, seconds, windows, d, h, w, line, plane, volume, per, C,
                   P: tl.constexpr, B: tl.constexpr, G: tl.constexpr, T: tl.constexpr,
                   MOMENTS: tl.constexpr):  # fmt: skip
    """Reads the images once, as bytes; writes pooled maxima and their places, and partial sums of the moments.

    filters [64, 8, C] are times `sign`.  In products of G corners' filters, [P, 64] by [64, G B].
    """
    pid, c = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    k, column = tl.arange(0, 64), tl.arange(0, G * B)
    positive = tl.load(sign + c)
    first = tl.zeros([P, 64], tl.float32)
    second = tl.zeros([64, 64], tl.int32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        voxel, inner = _neighbourhood(p, d, h, w, line, plane, volume)
        read = tl.load(images + voxel[:, None] + inner[None, :], mask=(p < windows)[:, None], other=0)  # [P, 64]
        read = read.to(tl.float32)
        x = read.to(T)
        best = tl.full([P, B], float("-inf"), tl.float32)
        place = tl.zeros([P, B], tl.int32)
        for group in tl.static_range(8 // G):
            of = (group * G + column // B) * C + tl.program_id(1) * B + column % B
            y = tl.dot(x, tl.load(filters + k[:, None] * 8 * C + of[None, :]).to(T), input_precision="ieee")
            greatest, which = tl.max(tl.reshape(y, (P, G, B)), 1, return_indices=True)  # the first of equals
            take = greatest > best
            place = tl.where(take, group * G + which, place)
            best = tl.where(take, greatest, best)
        if MOMENTS:
            v = read.to(tl.float16)  # exact, and so are the sums: P * 255² < 2²⁴
            first += read
            second += tl.dot(tl.trans(v), v).to(tl.int32)
        to, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < windows)[:, None]
        tl.store(most + to, (best * positive[None, :]).to(most.dtype.element_ty), mask=inside)
        tl.store(at + to, place.to(tl.uint8), mask=inside)
    if MOMENTS:
        if tl.program_id(1) == 0:
            tl.store(firsts + pid * 64 + k, tl.sum(first, 0))
            tl.store(seconds + pid * 4096 + k[:, None] * 64 + k[None, :], second)


@triton.jit(do_not_specialize=["windows", "d", "h", "w", "line", "plane", "volume", "per"])
def _filter_sums(images, gradient, most, out, at, mean, totals, sums, products, windows, d, h, w, line, plane, volume,
                 per, C, P: tl.constexpr, B: tl.constexpr, G: tl.constexpr, T: tl.constexpr):  # fmt: skip
    """Reads the images as bytes and the pooled tensors three and a half times; writes partial sums.

    totals [programs, 64, 8, C]: of each of a window's 4³ voxels by the gradient that a corner's maximum lets through.
    In products [64, P] by [P, G B].  The sums of gradients are those of `_gate_sums`.
    """
    pid, c = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    k, corner, column = tl.arange(0, 64), tl.program_id(2) * G + tl.arange(0, G), tl.arange(0, G * B)
    centre = tl.load(mean + c)
    total = tl.zeros([P, B], tl.float32)
    total_of_products = tl.zeros([P, B], tl.float32)
    by_filters = tl.zeros([64, G * B], tl.float32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        voxel, inner = _neighbourhood(p, d, h, w, line, plane, volume)
        x = tl.load(images + voxel[:, None] + inner[None, :], mask=(p < windows)[:, None], other=0)  # [P, 64]
        q, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < windows)[:, None]
        m = tl.load(most + q, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(gradient + q, mask=inside, other=0.0)
        g = tl.where(tl.load(out + q, mask=inside, other=0.0) > 0, g, 0.0)  # [P, B]
        total += g.to(tl.float32)
        total_of_products += g.to(tl.float32) * (m - centre[None, :])
        place = tl.load(at + q, mask=inside, other=8).to(tl.int32)
        apart = tl.where(place[:, None, :] == corner[None, :, None], g[:, None, :], 0.0)  # [P, G, B]
        apart = tl.reshape(apart.to(T), (P, G * B))
        by_filters += tl.dot(tl.trans(x.to(tl.float32).to(T)), apart, input_precision="ieee")
    to = (k[:, None] * 8 + (tl.program_id(2) * G + column // B)[None, :]) * C
    to += (tl.program_id(1) * B + column % B)[None, :]
    tl.store(totals + pid.to(tl.int64) * 512 * C + to, by_filters)
    if tl.program_id(2) == 0:
        tl.store(sums + pid * C + c, tl.sum(total, 0))
        tl.store(products + pid * C + c, tl.sum(total_of_products, 0))


@triton.jit(do_not_specialize=["D", "H", "W", "voxels"])
def _augment(images, to, moves, gains, D, H, W, voxels, B: tl.constexpr):
    """Reads and writes the images once; moves [N, 4] int32 has shifts along D, H and W, and whether D is mirrored."""
    n = tl.program_id(1)
    i = tl.program_id(0) * B + tl.arange(0, B)
    by_d, by_h, by_w = tl.load(moves + n * 4), tl.load(moves + n * 4 + 1), tl.load(moves + n * 4 + 2)
    d, h, w = i // (W * H) - by_d, (i // W) % H - by_h, i % W - by_w
    inside = (i < voxels) & (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    d = tl.where(tl.load(moves + n * 4 + 3) != 0, D - 1 - d, d)
    start = n.to(tl.int64) * voxels
    v = tl.load(images + start + (d * H + h) * W + w, mask=inside, other=0).to(tl.float32) * tl.load(gains + n)
    v = v + 12582912.0 - 12582912.0  # 1.5 * 2²³: rounds to the nearest, and a half to the even number
    tl.store(to + start + i, tl.minimum(v, 255.0).to(tl.uint8), mask=i < voxels)



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
    """`fused_norm`'s function with pooling windows of 2³, of a convolution without its bias [C], which it is given."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        running: tuple[Tensor, Tensor] | None,
        left_out: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = x.contiguous(memory_format=torch.channels_last_3d)
        most, at, sums, squares = pool(rows, weight)
        count = torch.full_like(sums, x.numel() // x.shape[1])
        if running is None:
            mean, variance, count = combined(count, sums, squares)
        else:
            mean, variance = running[0].double() - left_out, running[1].double()
        slope = torch.rsqrt(variance + epsilon)  # normalised = (x - mean) * slope
        scale = slope * weight
        out = scale_relu(most, mean.float(), scale.float(), bias.float())
        ctx.save_for_backward(rows, most, at, out, mean, slope, weight, count)
        ctx.training, ctx.leaf = running is None, x.is_leaf
        mean_with_bias = mean + left_out
        ctx.mark_non_differentiable(mean_with_bias, variance, count)
        return out, mean_with_bias, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, most, at, out, mean, slope, weight, count = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        by_bias, by_weight = gate_sums(gradient, most, out, mean.float())
        by_weight = by_weight * slope
        scale = slope * weight
        level = tilt = torch.zeros_like(mean)
        by_left_out = by_bias * scale
        if ctx.training:  # every voxel moves mean and variance, which lead back to it
            level, tilt = dense_gradient(by_bias, by_weight, scale, slope, count)
            by_left_out = torch.zeros_like(mean)  # the mean takes it out again
        result = memory_for_gradient(x, ctx.leaf)
        unpool(x, result, gradient, out, at, scale.float(), (level.float(), tilt.float(), mean.float()))
        by_weight, by_bias, by_left_out = (value.to(weight.dtype) for value in (by_weight, by_bias, by_left_out))
        return result, by_weight, by_bias, None, None, by_left_out


def convolve_pool(
    images: Tensor, filters: Tensor, weight: Tensor, dtype: torch.dtype, *, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The greatest answer of the filters in each complete window (the least if the scale `weight` [C] is negative).

    Parameters
    ----------
    images : uint8 [N, D + 2, H + 2, W + 2], padded with zeros
    filters : float64 [C, 27]; C is a multiple of 16
    dtype : of products and of the result: bfloat16 (sums in float32) or float32
    moments : whether to sum the windows' voxels and their products

    Returns
    -------
    maxima and their places in the window, 4a + 2b + c as uint8, both [N, C, D // 2, H // 2, W // 2] and channels last
    in memory; sums of the 4³ voxels under the windows, float64 [64], and of their products, float64 [64, 64], both
    exact, and 0 if they are not asked for
    """
    channels, (count, *padded) = len(filters), images.shape
    d, h, w = ((length - 2) // 2 for length in padded)
    sign = torch.where(weight.detach() < 0, -1.0, 1.0)
    shifted = torch.zeros(4, 4, 4, 2, 2, 2, channels, dtype=dtype, device=images.device)
    shaped = (filters.detach() * sign[:, None]).to(dtype).T.reshape(3, 3, 3, channels)
    for a, b, c in CORNERS_OF_WINDOW:  # of scale 0 all answers tie, and max-pool takes the first: give it that one
        shifted[a : a + 3, b : b + 3, c : c + 3, a, b, c] = shaped
    shifted = shifted.view(64, 8, channels)
    shifted = torch.where((weight.detach() == 0), shifted[:, :1], shifted)
    pooled = (count, channels, d, h, w)
    most = torch.empty(pooled, dtype=dtype, device=images.device, memory_format=torch.channels_last_3d)
    at = torch.empty_like(most, dtype=torch.uint8)
    windows, width = count * d * h * w, min(WIDEST_FIRST, channels & -channels)
    programs, per = _programs(triton.cdiv(windows, WINDOWS), PROGRAMS, moments)
    firsts = torch.zeros(programs, 64, device=images.device)
    seconds = torch.zeros(programs, 64, 64, dtype=torch.int32, device=images.device)
    _convolve_pool[programs, channels // width](
        images, shifted, sign, most, at, firsts, seconds, windows, d, h, w, *_steps(images), per, channels,
        WINDOWS, width, CORNERS[dtype], _type_of_products(dtype), moments, num_warps=FIRST_WARPS,
    )  # fmt: skip
    return most, at, firsts.double().sum(0), seconds.double().sum(0)


CORNERS_OF_WINDOW = list(itertools.product((0, 1), repeat=3))


def _type_of_products(dtype: torch.dtype) -> tl.dtype:
    """What goes into a matrix product; the interpreter multiplies bfloat16 wrongly, and float32 gives the same."""
    return tl.float32 if dtype == torch.float32 or triton.knobs.runtime.interpret else tl.bfloat16


def _steps(images: Tensor) -> tuple[int, int, int]:
    """From one line, plane and volume of padded images to the next, in voxels."""
    _, plane, line, _ = images.stride()
    return line, plane, images.stride(0)


def _programs(tiles: int, most: int, exact: bool) -> tuple[int, int]:
    """Programs, and tiles of each, of which there are few enough that int32 holds exact sums of squared bytes."""
    per = triton.cdiv(tiles, most)
    if exact:
        per = min(per, (2**31 - 1) // (WINDOWS * 255**2))
    return triton.cdiv(tiles, per), per


def filter_sums(
    images: Tensor, gradient: Tensor, most: Tensor, out: Tensor, at: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient at the kept maxima gives the filters: float64 [C, 27]; and `gate_sums`' two sums.

    Parameters
    ----------
    images, most, at : as in `convolve_pool`; gradient, out : as most; mean : float32 [C]
    """
    channels, windows, (d, h, w) = most.shape[1], most.numel() // most.shape[1], most.shape[2:]
    width, corners = min(WIDEST_FIRST, channels & -channels), CORNERS[most.dtype]
    programs, per = _programs(triton.cdiv(windows, WINDOWS), FIRST_PROGRAMS, False)
    totals = torch.empty(programs, 4, 4, 4, 2, 2, 2, channels, device=images.device)
    parts = torch.empty((2, programs, channels), device=images.device)
    _filter_sums[programs, channels // width, 8 // corners](
        images, gradient, most, out, at, mean, totals, parts[0], parts[1], windows, d, h, w, *_steps(images), per,
        channels, WINDOWS, width, corners, _type_of_products(most.dtype), num_warps=FIRST_WARPS,
    )  # fmt: skip
    total = totals.double().sum(0)
    by_filters = torch.zeros(3, 3, 3, channels, dtype=torch.double, device=images.device)
    for a, b, c in CORNERS_OF_WINDOW:
        by_filters += total[a : a + 3, b : b + 3, c : c + 3, a, b, c]
    sums, products = parts.double().sum(1)
    return by_filters.view(27, channels).T, sums, products


class ScaleReLU(torch.autograd.Function):
    """The first block's output of its pooled answers: ReLU of maxima * `scale` + `shift`.

    It leads the gradient to the filters whose answers the maxima are; the one through the statistics takes autograd's
    way through `scale` and `shift`.

    Parameters
    ----------
    images, most, at : of `convolve_pool`
    filters : float64 [C, 27], as scale, shift and mean [C]; mean : of the answers, about which sums are taken
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, most: Tensor, at: Tensor, filters: Tensor, scale: Tensor, shift: Tensor, mean: Tensor
    ) -> Tensor:
        out = scale_relu(most, mean.float(), scale.float(), (shift + mean * scale).float())
        ctx.save_for_backward(images, most, at, out, scale, mean)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, most, at, out, scale, mean = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        by_filters, by_shift, products = filter_sums(images, gradient, most, out, at, mean.float())
        return None, None, None, by_filters * scale[:, None], products + mean * by_shift, by_shift, None


def augment(images: Tensor, moves: Tensor, gains: Tensor) -> Tensor:
    """Each image moved, mirrored and brightened: `batches.augment` in one kernel.

    Parameters
    ----------
    images : uint8 [N, D, H, W]
    moves : int32 [N, 4], voxels along each axis, and whether the first one is mirrored
    gains : float32 [N], by which intensities are multiplied
    """
    result = torch.empty_like(images)
    count, *size = images.shape
    voxels = math.prod(size)
    # a product that is fused with the sum after it would not be rounded, as torch rounds it
    _augment[triton.cdiv(voxels, BYTES), count](
        images, result, moves, gains, *size, voxels, BYTES, enable_fp_fusion=False
    )
    return result
