"""What the network's blocks and the augmentation compute on an NVIDIA GPU, in kernels written in Triton.

They compute what `fused_norm`, `first_block` and `batches.augment` compute with torch, which stays as their reference.
A convolution's output x is [N, C, D, H, W], channels last in memory, so it is read as rows of C numbers:
[N D H W, C].  A window is 2³ voxels.  Windows at the end of an odd axis are incomplete: their voxels count in the
statistics, but are not pooled.  Convolutions lack their bias, which batch norm takes out again; the functions are given
it as `left_out`.

The first block reads uint8 images and never writes its convolution's output.  The 4³ voxels under a window hold the
patches of its eight corners (4a + 2b + c), so one matrix product with the filters, each shifted to a corner, gives
the eight numbers of which the greatest is kept; the same 4³ voxels give the moments of all patches, of which the
statistics are closed forms.

A kernel runs as a fixed number of programs.  Each sums its own part in a fixed order, and float64 adds the parts, so
results are the same bytes each time, without atomic operations.

Triton's interpreter runs them on a CPU (TRITON_INTERPRET=1, set before triton is imported); the tests do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .first_block import corners_of, over_all_patches
from .fused_norm import memory_for_gradient, over_all_ranks

PROGRAMS = 2112  # 16 for each of an H100's 132 multiprocessors; another number rounds sums differently
UNPOOL_PROGRAMS = 8448  # of `_unpool`, which has no sums
ROWS = 16  # windows that a program works on at once
WIDEST = 64  # channels that a program works on
FIRST_PROGRAMS = 528  # of the first block, each of which writes up to 64 KB of partial sums
FIRST_ROWS = {torch.bfloat16: 64, torch.float32: 32}  # windows of the first block that a program works on at once
FILTER_ROWS = {torch.bfloat16: 128, torch.float32: 32}  # windows that a program of `_filter_sums` works on at once
FIRST_WIDEST = 32  # channels that a program of the first block works on: with eight corners, 256 columns
FEW = 16  # channels that a program works on where there is one number for each
MOMENT_ROWS = 128  # windows that a program of `_moments` works on at once
COLUMN_ROWS = 128  # windows that a program writes rows of
LINES = 8  # of an image that a program pads or moves


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
def _pool(x, weight, most, at, parts, windows, D, H, W, per, C, P: tl.constexpr, B: tl.constexpr):
    """Reads x once; writes an eighth (the greatest of each window) and a sixteenth (its place), and partial sums.

    parts [2, programs, C]: sums of x and of its squares, about the voxel in the middle of the first image.
    """
    c, pid = tl.program_id(0) * B + tl.arange(0, B), tl.program_id(1)
    around = tl.load(x + ((D // 2 * H + H // 2) * W + W // 2) * C + c).to(tl.float32)  # [B]
    scale = tl.load(weight + c)
    positive = tl.where(scale > 0, 1.0, tl.where(scale < 0, -1.0, 0.0))  # if 0, all tie, and torch takes the first
    total = tl.zeros([P, B], tl.float32)
    total_of_squares = tl.zeros([P, B], tl.float32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        first, pooled, pd, ph, pw = _window(p, D, H, W)
        voxel = x + first * C
        best = tl.full([P, B], float("-inf"), tl.float32)
        value = tl.zeros([P, B], tl.float32)
        place = tl.zeros([P, B], tl.int32)
        for k in tl.static_range(8):
            inside = (p < windows) & (2 * pd + k // 4 < D) & (2 * ph + (k // 2) % 2 < H) & (2 * pw + k % 2 < W)
            step = ((k // 4) * H * W + ((k // 2) % 2) * W + k % 2) * C + c  # from the window's first voxel
            v = tl.load(voxel[:, None] + step[None, :], mask=inside[:, None], other=0.0).to(tl.float32)  # [P, B]
            off = tl.where(inside[:, None], v - around[None, :], 0.0)
            total += off
            total_of_squares += off * off
            signed = v * positive[None, :]
            take = (signed > best) | (signed != signed) | (k == 0)  # the first of equals, and NaN before all, as torch
            place = tl.where(take, k, place)
            value = tl.where(take, v, value)
            best = tl.where(take, signed, best)
        complete = ((p < windows) & (pd < D // 2) & (ph < H // 2) & (pw < W // 2))[:, None]
        to = pooled[:, None] * C + c[None, :]
        tl.store(most + to, value.to(most.dtype.element_ty), mask=complete)
        tl.store(at + to, place.to(tl.uint8), mask=complete)
    tl.store(parts + pid * C + c, tl.sum(total, 0))
    tl.store(parts + (tl.num_programs(1) + pid) * C + c, tl.sum(total_of_squares, 0))


@triton.jit(do_not_specialize=["row", "voxels"])
def _raw_sums(sums, x, row, voxels, to, C, B: tl.constexpr):
    """From sums [2, C] about x's `row`, float64, those about 0: voxels, sum, sum of squares, float64 [3, C]."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    around = tl.load(x + row * C + c).to(tl.float64)
    total, squares = tl.load(sums + c), tl.load(sums + C + c)
    tl.store(to + c, tl.zeros([B], tl.float64) + voxels)
    tl.store(to + C + c, total + around * voxels)
    tl.store(to + 2 * C + c, squares + 2 * around * total + around * around * voxels)


@triton.jit
def _settle(raw, weight, bias, left_out, running_mean, running_var, steps, exact, rounded, epsilon, momentum, C,
            B: tl.constexpr, TRAINING: tl.constexpr):  # fmt: skip
    """What batch norm does to each channel, from `_raw_sums`; in training it moves the running statistics on.

    exact [3, C] float64: mean, 1 / standard deviation, voxels.  rounded [3, C] float32: mean, scale, shift; the output
    is (x - mean) * scale + shift.  A momentum below 0 is 1 / steps.
    """
    c = tl.program_id(0) * B + tl.arange(0, B)
    missing = tl.load(left_out + c).to(tl.float64)
    old_mean, old_var = tl.load(running_mean + c), tl.load(running_var + c)
    count = tl.load(raw + c)
    if TRAINING:
        mean = tl.load(raw + C + c) / count
        variance = tl.load(raw + 2 * C + c) / count - mean * mean
        share = momentum
        if momentum < 0:
            share = 1.0 / tl.load(steps).to(tl.float32)
        unbiased = variance * (count / (count - 1))
        tl.store(running_mean + c, (old_mean + share * (mean + missing - old_mean)).to(tl.float32))
        tl.store(running_var + c, (old_var + share * (unbiased - old_var)).to(tl.float32))
    else:
        mean, variance = old_mean.to(tl.float64) - missing, old_var.to(tl.float64)
    slope = 1.0 / tl.sqrt(variance + epsilon)
    tl.store(exact + c, mean)
    tl.store(exact + C + c, slope)
    tl.store(exact + 2 * C + c, count)
    tl.store(rounded + c, mean.to(tl.float32))
    tl.store(rounded + C + c, (slope * tl.load(weight + c)).to(tl.float32))
    tl.store(rounded + 2 * C + c, tl.load(bias + c).to(tl.float32))


@triton.jit(do_not_specialize=["rows"])
def _scale_relu(most, out, rounded, rows, C, P: tl.constexpr, B: tl.constexpr):
    """Reads and writes the pooled eighth."""
    p, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * B + tl.arange(0, B)
    mean, scale, shift = tl.load(rounded + c), tl.load(rounded + C + c), tl.load(rounded + 2 * C + c)
    at, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < rows)[:, None]
    v = tl.load(most + at, mask=inside, other=0.0).to(tl.float32)
    v = (v - mean[None, :]) * scale[None, :] + shift[None, :]
    tl.store(out + at, tl.where(v < 0, 0.0, v).to(out.dtype.element_ty), mask=inside)  # NaN stays


@triton.jit(do_not_specialize=["rows", "per"])
def _gate_sums(gradient, most, out, rounded, parts, rows, per, C, P: tl.constexpr, B: tl.constexpr):
    """Reads the pooled eighth three times (gradient, maxima, output); writes partial sums.

    parts [2, programs, C]: of the gradient that ReLU lets through, and of its product with maxima - mean.
    """
    c, pid = tl.program_id(0) * B + tl.arange(0, B), tl.program_id(1)
    centre = tl.load(rounded + c)
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
    tl.store(parts + pid * C + c, tl.sum(total, 0))
    tl.store(parts + (tl.num_programs(1) + pid) * C + c, tl.sum(total_of_products, 0))


@triton.jit
def _spread(mine, everywhere, exact, rounded, by_weight, by_bias, by_left_out, dense, C, B: tl.constexpr,
            TRAINING: tl.constexpr):  # fmt: skip
    """From `_gate_sums`, of this rank and of all, the parameters' gradients and what every voxel gets.

    dense [2, C] float32: level and tilt; a voxel of x gets level + tilt * (x - mean), through mean and variance.
    """
    c = tl.program_id(0) * B + tl.arange(0, B)
    slope, count, scale = tl.load(exact + C + c), tl.load(exact + 2 * C + c), tl.load(rounded + C + c).to(tl.float64)
    shift_mine, scale_mine = tl.load(mine + c), tl.load(mine + C + c) * slope
    tl.store(by_weight + c, scale_mine.to(tl.float32))
    tl.store(by_bias + c, shift_mine.to(tl.float32))
    if TRAINING:  # the mean takes the bias out again
        level = -scale * tl.load(everywhere + c) / count
        tilt = -scale * slope * slope * tl.load(everywhere + C + c) / count
        by_missing = tl.zeros([B], tl.float32)
    else:
        level, tilt = tl.zeros([B], tl.float64), tl.zeros([B], tl.float64)
        by_missing = (scale * shift_mine).to(tl.float32)
    tl.store(by_left_out + c, by_missing)
    tl.store(dense + c, level.to(tl.float32))
    tl.store(dense + C + c, tilt.to(tl.float32))


@triton.jit(do_not_specialize=["windows", "D", "H", "W", "per"])
def _unpool(x, to, gradient, out, at, rounded, dense, windows, D, H, W, per, C, P: tl.constexpr, B: tl.constexpr):
    """Reads x and the pooled eighth two and a half times; writes x's gradient, in place if `to` is `x`.

    It is what `_spread` says, and at each maximum scale times the gradient if ReLU lets it through.
    """
    c, pid = tl.program_id(0) * B + tl.arange(0, B), tl.program_id(1)
    centre, factor = tl.load(rounded + c), tl.load(rounded + C + c)
    base, slant = tl.load(dense + c), tl.load(dense + C + c)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        first, pooled, pd, ph, pw = _window(p, D, H, W)
        voxel, written = x + first * C, to + first * C
        complete = ((p < windows) & (pd < D // 2) & (ph < H // 2) & (pw < W // 2))[:, None]
        q = pooled[:, None] * C + c[None, :]
        g = tl.load(gradient + q, mask=complete, other=0.0).to(tl.float32) * factor[None, :]
        g = tl.where(tl.load(out + q, mask=complete, other=0.0) > 0, g, 0.0)
        place = tl.load(at + q, mask=complete, other=8).to(tl.int32)
        for k in tl.static_range(8):
            inside = (p < windows) & (2 * pd + k // 4 < D) & (2 * ph + (k // 2) % 2 < H) & (2 * pw + k % 2 < W)
            step = ((k // 4) * H * W + ((k // 2) % 2) * W + k % 2) * C + c
            v = tl.load(voxel[:, None] + step[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
            moved = base[None, :] + slant[None, :] * (v - centre[None, :]) + tl.where(place == k, g, 0.0)
            tl.store(written[:, None] + step[None, :], moved.to(to.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=["D", "H", "W", "width"])
def _pad(images, to, D, H, W, width, R: tl.constexpr, B: tl.constexpr):
    """Reads the images once; writes them with a voxel of zeros around, lines of `width` voxels."""
    n, d = tl.program_id(2), tl.program_id(1)
    h, w = tl.program_id(0) * R + tl.arange(0, R)[:, None], tl.arange(0, B)[None, :]
    inside = (h > 0) & (h <= H) & (w > 0) & (w <= W) & (d > 0) & (d <= D)
    v = tl.load(images + ((n.to(tl.int64) * D + d - 1) * H + h - 1) * W + w - 1, mask=inside, other=0)
    tl.store(to + ((n.to(tl.int64) * (D + 2) + d) * (H + 2) + h) * width + w, v, mask=(h < H + 2) & (w < width))


@triton.jit(do_not_specialize=["windows", "d", "h", "w", "line", "plane", "volume"])
def _columns(images, to, windows, d, h, w, line, plane, volume, P: tl.constexpr):
    """Reads the padded images, two voxels at a time; writes the 4³ voxels under each window as a row of 64 bytes.

    line, plane, volume: from one to the next, in pairs.  Neighbouring windows are a pair apart, so that the threads
    of a warp read neighbouring pairs.  Without these rows, the two kernels that need them took four times as long.
    """
    p, k = tl.program_id(0) * P + tl.arange(0, P), tl.arange(0, 32)
    first = (p // (w * h * d)).to(tl.int64) * volume
    first += 2 * ((p // (w * h)) % d) * plane + 2 * ((p // w) % h) * line + p % w
    inner = (k // 8) * plane + ((k // 2) % 4) * line + k % 2
    inside = (p < windows)[None, :]
    pairs = tl.load(images + inner[:, None] + first[None, :], mask=inside, other=0)  # [32, P]
    tl.store(to + p[None, :].to(tl.int64) * 32 + k[:, None], pairs, mask=inside)


@triton.jit
def _shift(filters, weight, to, C, B: tl.constexpr):
    """Writes filters [C, 27] at the eight corners of a window, [64, 8, C], with the signs of batch norm's scales.

    Of scale 0 all answers tie, and max-pool takes the first, so all corners have the filter of the first.
    """
    k, column = tl.arange(0, 64)[:, None], tl.arange(0, 8 * B)[None, :]
    c = tl.program_id(0) * B + column % B
    scale = tl.load(weight + c)
    corner = tl.where(scale == 0, 0, column // B)
    a, b, e = k // 16 - corner // 4, (k // 4) % 4 - (corner // 2) % 2, k % 4 - corner % 2
    inside = (a >= 0) & (a < 3) & (b >= 0) & (b < 3) & (e >= 0) & (e < 3)
    f = tl.load(filters + c * 27 + a * 9 + b * 3 + e, mask=inside, other=0.0)
    f = f * tl.where(scale < 0, -1.0, 1.0)
    tl.store(to + (k * 8 + column // B) * C + c, f.to(to.dtype.element_ty))


@triton.jit(do_not_specialize=["windows", "per"])
def _convolve_pool(columns, filters, weight, most, at, windows, per, C, P: tl.constexpr, B: tl.constexpr,
                   T: tl.constexpr):  # fmt: skip
    """Reads the windows' rows of bytes; writes pooled maxima and their places.

    A product of [P, 64] by [64, 8 B] of what `_shift` wrote gives all eight corners' answers.
    """
    c, pid, k = tl.program_id(0) * B + tl.arange(0, B), tl.program_id(1), tl.arange(0, 64)
    column = tl.arange(0, 8 * B)
    f = tl.load(filters + (k[:, None] * 8 + (column // B)[None, :]) * C + (tl.program_id(0) * B + column % B)[None, :])
    f = f.to(T)  # [64, 8 B]
    positive = tl.where(tl.load(weight + c) < 0, -1.0, 1.0)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        inside = (p < windows)[:, None]
        x = tl.load(columns + p[:, None].to(tl.int64) * 64 + k[None, :], mask=inside, other=0).to(tl.float32).to(T)
        y = tl.reshape(tl.dot(x, f, input_precision="ieee"), (P, 8, B))
        best, place = tl.max(y, 1, return_indices=True)  # [P, B], the first of equals
        to = p[:, None].to(tl.int64) * C + c[None, :]
        tl.store(most + to, (best * positive[None, :]).to(most.dtype.element_ty), mask=inside)
        tl.store(at + to, place.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["windows", "per"])
def _moments(columns, firsts, seconds, windows, per, P: tl.constexpr):
    """Reads the windows' rows of bytes; writes partial sums of them, [programs, 64], and of their products.

    Together with `_convolve_pool` it takes longer than by itself: a program of both needs too many registers.
    """
    pid, k = tl.program_id(0), tl.arange(0, 64)
    first = tl.zeros([64], tl.float32)
    second = tl.zeros([64, 64], tl.int32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        x = tl.load(columns + p[:, None].to(tl.int64) * 64 + k[None, :], mask=(p < windows)[:, None], other=0)
        x = x.to(tl.float32).to(tl.float16)  # exact, and so are the sums: P * 255² < 2²⁴
        first += tl.sum(x.to(tl.float32), 0)
        second += tl.dot(tl.trans(x), x).to(tl.int32)
    tl.store(firsts + pid * 64 + k, first)
    tl.store(seconds + pid * 4096 + k[:, None] * 64 + k[None, :], second)


@triton.jit
def _by_corner(x, g, place, corner: tl.constexpr, T: tl.constexpr):
    """[64, P] by what of the gradients [P, B] a corner's maxima let through: [64, B]."""
    return tl.dot(x, tl.where(place == corner, g, 0.0).to(T), input_precision="ieee")


@triton.jit(do_not_specialize=["windows", "per"])
def _filter_sums(columns, gradient, most, out, at, rounded, totals, parts, windows, per, C, P: tl.constexpr,
                 B: tl.constexpr, T: tl.constexpr):  # fmt: skip
    """Reads the windows' rows of bytes and the pooled tensors three and a half times; writes partial sums.

    totals [programs, 64, 8, C]: of each of a window's 4³ voxels by the gradient that a corner's maximum lets through.
    parts are those of `_gate_sums`.
    """
    c, pid, k = tl.program_id(0) * B + tl.arange(0, B), tl.program_id(1), tl.arange(0, 64)
    centre = tl.load(rounded + c)
    total = tl.zeros([B], tl.float32)
    total_of_products = tl.zeros([B], tl.float32)
    corner0 = tl.zeros([64, B], tl.float32)
    corner1 = tl.zeros([64, B], tl.float32)
    corner2 = tl.zeros([64, B], tl.float32)
    corner3 = tl.zeros([64, B], tl.float32)
    corner4 = tl.zeros([64, B], tl.float32)
    corner5 = tl.zeros([64, B], tl.float32)
    corner6 = tl.zeros([64, B], tl.float32)
    corner7 = tl.zeros([64, B], tl.float32)
    for tile in range(per):
        p = (pid * per + tile) * P + tl.arange(0, P)
        q, inside = p[:, None].to(tl.int64) * C + c[None, :], (p < windows)[:, None]
        x = tl.load(columns + p[:, None].to(tl.int64) * 64 + k[None, :], mask=inside, other=0)
        x = tl.trans(x.to(tl.float32).to(T))  # [64, P]
        m = tl.load(most + q, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(gradient + q, mask=inside, other=0.0)
        g = tl.where(tl.load(out + q, mask=inside, other=0.0) > 0, g, 0.0)  # [P, B]
        total += tl.sum(g.to(tl.float32), 0)
        total_of_products += tl.sum(g.to(tl.float32) * (m - centre[None, :]), 0)
        place = tl.load(at + q, mask=inside, other=8)
        corner0 += _by_corner(x, g, place, 0, T)
        corner1 += _by_corner(x, g, place, 1, T)
        corner2 += _by_corner(x, g, place, 2, T)
        corner3 += _by_corner(x, g, place, 3, T)
        corner4 += _by_corner(x, g, place, 4, T)
        corner5 += _by_corner(x, g, place, 5, T)
        corner6 += _by_corner(x, g, place, 6, T)
        corner7 += _by_corner(x, g, place, 7, T)
    to = totals + pid.to(tl.int64) * 512 * C + k[:, None] * 8 * C + c[None, :]
    tl.store(to, corner0)
    tl.store(to + C, corner1)
    tl.store(to + 2 * C, corner2)
    tl.store(to + 3 * C, corner3)
    tl.store(to + 4 * C, corner4)
    tl.store(to + 5 * C, corner5)
    tl.store(to + 6 * C, corner6)
    tl.store(to + 7 * C, corner7)
    tl.store(parts + pid * C + c, total)
    tl.store(parts + (tl.num_programs(1) + pid) * C + c, total_of_products)


@triton.jit(do_not_specialize=["D", "H", "W"])
def _augment(images, to, moves, gains, D, H, W, R: tl.constexpr, B: tl.constexpr):
    """Reads and writes the images once; moves [N, 4] int32 has shifts along D, H and W, and whether D is mirrored."""
    n, d = tl.program_id(2), tl.program_id(1)
    h, w = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, B)
    moves += n * 4
    from_d, from_h, from_w = d - tl.load(moves), h - tl.load(moves + 1), w - tl.load(moves + 2)
    inside = (from_h >= 0) & (from_h < H)
    inside = inside[:, None] & ((from_w >= 0) & (from_w < W))[None, :] & (from_d >= 0) & (from_d < D)
    from_d = tl.where(tl.load(moves + 3) != 0, D - 1 - from_d, from_d)
    start = n.to(tl.int64) * D * H * W
    v = tl.load(images + start + (from_d * H + from_h[:, None]) * W + from_w[None, :], mask=inside, other=0)
    v = v.to(tl.float32) * tl.load(gains + n)
    v = v + 12582912.0 - 12582912.0  # 1.5 * 2²³: rounds to the nearest, and a half to the even number
    written = (h < H)[:, None] & (w < W)[None, :]
    tl.store(to + start + (d * H + h[:, None]) * W + w[None, :], tl.minimum(v, 255.0).to(tl.uint8), mask=written)


def share(rows: int, at_once: int, programs: int) -> tuple[int, int]:
    """How many programs work on `rows`, and how often each takes `at_once` of them."""
    tiles = triton.cdiv(rows, at_once)
    per = triton.cdiv(tiles, programs)
    return triton.cdiv(tiles, per), per


def _width(channels: int, widest: int) -> int:
    """A power of two that divides the channels: how many of them a program works on."""
    return min(widest, channels & -channels)


def _windows(shape: torch.Size) -> int:
    count, _, d, h, w = shape
    return count * ((d + 1) // 2) * ((h + 1) // 2) * ((w + 1) // 2)


def _added(parts: Tensor) -> Tensor:
    """Over the programs: [2, programs, C] to float64 [2, C]."""
    return parts.sum(1, dtype=torch.double)


def pool(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The greatest voxel of each window (the least if the scale `weight` [C] is negative), and x's statistics.

    Parameters
    ----------
    x : [N, C, D, H, W], channels last in memory, bfloat16 or float32; C is a multiple of 16

    Returns
    -------
    maxima and their places in the window, 4a + 2b + c as uint8, both [N, C, D // 2, H // 2, W // 2]; the number of
    voxels, their sum and the sum of their squares, float64 [3, C]
    """
    count, channels, *size = x.shape
    pooled = (count, channels, *(length // 2 for length in size))
    most = torch.empty(pooled, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    at = torch.empty_like(most, dtype=torch.uint8)
    windows, width = _windows(x.shape), _width(channels, WIDEST)
    programs, per = share(windows, ROWS, PROGRAMS)
    parts = torch.empty((2, programs, channels), device=x.device)
    _pool[channels // width, programs](x, weight, most, at, parts, windows, *size, per, channels, ROWS, width)
    raw = torch.empty((3, channels), dtype=torch.double, device=x.device)
    middle = (size[0] // 2 * size[1] + size[1] // 2) * size[2] + size[2] // 2
    _raw_sums[(channels // FEW,)](_added(parts), x, middle, x.numel() // channels, raw, channels, FEW)
    return most, at, raw


def settle(raw: Tensor, norm: nn.BatchNorm3d, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """What `norm` does to each channel, and its running statistics moved on in training.

    Parameters
    ----------
    raw : number of voxels, sum and sum of squares over all ranks, float64 [3, C]
    left_out : the bias that the convolution lacks, [C]

    Returns
    -------
    mean, 1 / standard deviation and number of voxels, float64 [3, C]; mean, scale and shift, float32 [3, C]
    """
    channels = raw.shape[1]
    steps = norm.num_batches_tracked
    assert steps is not None  # track_running_stats
    if norm.training:
        steps += 1
    exact, rounded = torch.empty_like(raw), torch.empty_like(raw, dtype=torch.float32)
    _settle[(channels // FEW,)](
        raw, norm.weight, norm.bias, left_out, norm.running_mean, norm.running_var, steps, exact, rounded,
        norm.eps, -1.0 if norm.momentum is None else norm.momentum, channels, FEW, norm.training,
    )  # fmt: skip
    return exact, rounded


def scale_relu(most: Tensor, rounded: Tensor) -> Tensor:
    """ReLU of (maxima - mean) * scale + shift, which are the rows of `rounded`, float32 [3, C]."""
    out = torch.empty_like(most)
    channels = most.shape[1]
    rows, width = most.numel() // channels, _width(channels, WIDEST)
    _scale_relu[triton.cdiv(rows, 2 * ROWS), channels // width](most, out, rounded, rows, channels, 2 * ROWS, width)
    return out


def gate_sums(gradient: Tensor, most: Tensor, out: Tensor, rounded: Tensor) -> Tensor:
    """Sums of the gradient that ReLU lets through, and of its product with maxima - mean: float64 [2, C]."""
    channels = most.shape[1]
    rows, width = most.numel() // channels, _width(channels, WIDEST)
    programs, per = share(rows, 2 * ROWS, PROGRAMS)
    parts = torch.empty((2, programs, channels), device=most.device)
    _gate_sums[channels // width, programs](
        gradient, most, out, rounded, parts, rows, per, channels, 2 * ROWS, width
    )  # fmt: skip
    return _added(parts)


def spread(
    mine: Tensor, everywhere: Tensor, exact: Tensor, rounded: Tensor, *, training: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Where the gradients of the maxima lead.

    Parameters
    ----------
    mine, everywhere : `gate_sums` of this rank and of all

    Returns
    -------
    the gradients of batch norm's weight and bias and of the convolution's bias, float32 [C]; and what every voxel x
    gets through mean and variance, level and tilt of level + tilt * (x - mean), float32 [2, C]
    """
    channels = mine.shape[1]
    by_weight, by_bias, by_left_out = (torch.empty(channels, device=mine.device) for _ in range(3))
    dense = torch.empty((2, channels), device=mine.device)
    _spread[(channels // FEW,)](
        mine, everywhere, exact, rounded, by_weight, by_bias, by_left_out, dense, channels, FEW, training
    )  # fmt: skip
    return (by_weight, by_bias, by_left_out), dense


def unpool(x: Tensor, to: Tensor, gradient: Tensor, out: Tensor, at: Tensor, rounded: Tensor, dense: Tensor) -> None:
    """Write x's gradient to `to`: what `spread` says, and at each maximum scale * `gradient` if ReLU is open."""
    channels, size = x.shape[1], x.shape[2:]
    windows, width = _windows(x.shape), _width(channels, WIDEST)
    programs, per = share(windows, ROWS, UNPOOL_PROGRAMS)
    _unpool[channels // width, programs](
        x, to, gradient, out, at, rounded, dense, windows, *size, per, channels, ROWS, width
    )  # fmt: skip


class NormalisePoolReLU(torch.autograd.Function):
    """`fused_norm`'s function with pooling windows of 2³, of a convolution without its bias, which is `left_out` [C].

    `weight` and `bias` are those of `norm`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, left_out: Tensor, norm: nn.BatchNorm3d
    ) -> Tensor:  # fmt: skip
        rows = x.contiguous(memory_format=torch.channels_last_3d)
        most, at, raw = pool(rows, weight)
        if norm.training:
            raw = over_all_ranks(raw)
        exact, rounded = settle(raw, norm, left_out)
        out = scale_relu(most, rounded)
        ctx.save_for_backward(rows, most, at, out, exact, rounded)
        ctx.training, ctx.leaf = norm.training, x.is_leaf
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, most, at, out, exact, rounded = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        mine = gate_sums(gradient, most, out, rounded)
        everywhere = over_all_ranks(mine.clone()) if ctx.training else mine
        by_parameters, dense = spread(mine, everywhere, exact, rounded, training=ctx.training)
        result = memory_for_gradient(x, ctx.leaf)
        unpool(x, result, gradient, out, at, rounded, dense)
        return result, *by_parameters, None


def columns(images: Tensor, size: Sequence[int]) -> Tensor:
    """The 4³ voxels under each complete window of images that are padded for it: uint8 [windows, 64].

    Parameters
    ----------
    images : uint8, from `padded`
    size : windows along each axis
    """
    pairs = images.view(torch.uint16)
    count, (d, h, w) = len(images), size
    result = torch.empty(count * d * h * w, 64, dtype=torch.uint8, device=images.device)
    volume, plane, line, _ = pairs.stride()
    _columns[(triton.cdiv(len(result), COLUMN_ROWS),)](
        pairs, result.view(torch.uint16), len(result), d, h, w, line, plane, volume, COLUMN_ROWS
    )  # fmt: skip
    return result


def padded(images: Tensor) -> Tensor:
    """uint8 [N, 1, D, H, W] with zeros around each image, and lines of whole pairs: [N, D + 2, H + 2, W + 2 or 3]."""
    count, _, d, h, w = images.shape
    result = torch.empty(count, d + 2, h + 2, w + 2 + w % 2, dtype=torch.uint8, device=images.device)
    width = result.shape[-1]
    _pad[triton.cdiv(h + 2, LINES), d + 2, count](
        images.contiguous(), result, d, h, w, width, LINES, triton.next_power_of_2(width)
    )
    return result


def convolve_pool(
    rows: Tensor, shape: Sequence[int], filters: Tensor, weight: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The greatest answer of the filters in each complete window (the least if the scale `weight` [C] is negative).

    Parameters
    ----------
    rows : from `columns`
    shape : of the result, [N, C, D // 2, H // 2, W // 2]; C is a multiple of 16
    filters : float32 [C, 27]
    dtype : of filters in the products, and of the result: bfloat16 (sums in float32) or float32

    Returns
    -------
    maxima and their places in the window, 4a + 2b + c as uint8, channels last in memory
    """
    channels, at_once = shape[1], FIRST_ROWS[dtype]
    most = torch.empty(tuple(shape), dtype=dtype, device=rows.device, memory_format=torch.channels_last_3d)
    at = torch.empty_like(most, dtype=torch.uint8)
    width, (programs, per) = _width(channels, FIRST_WIDEST), share(len(rows), at_once, PROGRAMS)
    shifted = torch.empty(64, 8, channels, dtype=dtype, device=rows.device)
    _shift[(channels // FEW,)](filters, weight, shifted, channels, FEW)
    _convolve_pool[channels // width, programs](
        rows, shifted, weight, most, at, len(rows), per, channels, at_once, width, type_of_products(dtype)
    )  # fmt: skip
    return most, at


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the 4³ voxels under the windows, float64 [64], and of their products, float64 [64, 64]; both are exact.

    Parameters
    ----------
    rows : from `columns`
    """
    programs, per = exact_share(len(rows))
    firsts = torch.empty(programs, 64, device=rows.device)
    seconds = torch.empty(programs, 64, 64, dtype=torch.int32, device=rows.device)
    _moments[(programs,)](rows, firsts, seconds, len(rows), per, MOMENT_ROWS, num_stages=1)
    return firsts.sum(0, dtype=torch.double), seconds.sum(0, dtype=torch.double)


def exact_share(windows: int) -> tuple[int, int]:
    """Programs of `_moments`, and tiles of each, few enough that int32 holds the sums of squares of bytes."""
    tiles = triton.cdiv(windows, MOMENT_ROWS)
    per = min(triton.cdiv(tiles, FIRST_PROGRAMS), (2**31 - 1) // (MOMENT_ROWS * 255**2))
    return triton.cdiv(tiles, per), per


def type_of_products(dtype: torch.dtype) -> tl.dtype:
    """What goes into a matrix product; the interpreter multiplies bfloat16 wrongly, and float32 gives the same."""
    return tl.float32 if dtype == torch.float32 or triton.knobs.runtime.interpret else tl.bfloat16


def filter_sums(
    images: Tensor, gradient: Tensor, most: Tensor, out: Tensor, at: Tensor, rounded: Tensor
) -> tuple[Tensor, Tensor]:
    """What the gradient at the kept maxima gives the filters, but for the scale: float64 [C, 27]; and `gate_sums`.

    Parameters
    ----------
    images, most, at : as in `convolve_pool`; gradient, out : as most
    """
    channels = most.shape[1]
    windows, width, rows = most.numel() // channels, _width(channels, FIRST_WIDEST), FILTER_ROWS[most.dtype]
    programs, per = share(windows, rows, FIRST_PROGRAMS)
    totals = torch.empty(programs, 64, 8, channels, device=images.device)
    parts = torch.empty((2, programs, channels), device=images.device)
    _filter_sums[channels // width, programs](
        columns(images, most.shape[2:]), gradient, most, out, at, rounded, totals, parts, windows, per, channels,
        rows, width, type_of_products(most.dtype), num_stages=1,
    )  # fmt: skip
    total = totals.sum(0, dtype=torch.double)  # [64, 8, C]
    of_patches = total[corners_of(images.device), torch.arange(8, device=images.device)]  # [27, 8, C]
    return of_patches.sum(1).T, _added(parts)


class ConvolvePoolReLU(torch.autograd.Function):
    """The first block of uint8 images; `weight` and `bias` are those of `norm`, `filters` float32 [C, 27]."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        filters: Tensor,
        weight: Tensor,
        bias: Tensor,
        left_out: Tensor,
        norm: nn.BatchNorm3d,
        dtype: torch.dtype,
    ) -> Tensor:
        wide, size = padded(images), [length // 2 for length in images.shape[2:]]
        rows = columns(wide, size)
        most, at = convolve_pool(rows, [len(images), len(filters), *size], filters, weight, dtype)
        exact_filters = filters.to(dtype).double()  # as the products have them
        raw = exact_filters.new_ones(3, len(filters))  # [3, C]
        mean_patch = by_filters = exact_filters  # to be saved, if nothing else is
        if norm.training:
            count, mean_patch, covariance = over_all_patches(*moments(rows), images)
            by_filters = exact_filters @ covariance  # [C, 27]
            mean = exact_filters @ mean_patch
            raw = torch.stack([raw[0], mean, (by_filters * exact_filters).sum(1) + mean.square()]) * count
        exact, rounded = settle(raw, norm, left_out)
        out = scale_relu(most, rounded)
        ctx.save_for_backward(wide, most, at, out, exact, rounded, mean_patch, by_filters)
        ctx.training = norm.training
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, most, at, out, exact, rounded, mean_patch, by_filters = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        sparse, mine = filter_sums(images, gradient, most, out, at, rounded)
        # each rank's own part of what goes through mean and variance: the parts add up with the gradients
        by_parameters, dense = spread(mine, mine, exact, rounded, training=ctx.training)
        result = sparse * rounded[1, :, None]
        if ctx.training:  # the sum, over all voxels, of level + tilt * (answer - mean), times the patch
            level, tilt = (dense * exact[2]).unsqueeze(-1)  # [C, 1] each
            result = result + level * mean_patch + tilt * by_filters
        return None, result.float(), *by_parameters, None, None


def augment(images: Tensor, moves: Tensor, gains: Tensor) -> Tensor:
    """Each image moved, mirrored and brightened: `batches.augment` in one kernel.

    Parameters
    ----------
    images : uint8 [N, D, H, W]
    moves : int32 [N, 4], voxels along each axis, and whether the first one is mirrored
    gains : float32 [N], by which intensities are multiplied
    """
    result = torch.empty_like(images)
    count, d, h, w = images.shape
    # a product that is fused with the sum after it would not be rounded, as torch rounds it
    _augment[triton.cdiv(h, LINES), d, count](
        images, result, moves, gains, d, h, w, LINES, triton.next_power_of_2(w), enable_fp_fusion=False
    )
    return result
