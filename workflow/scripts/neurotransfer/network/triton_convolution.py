"""Gradients of a 3³ convolution from few channels, in kernels written in Triton, for a GPU of the Hopper generation.

cuDNN computes these two slowly where the input has 32 channels: on an H200 the paper's second block reaches 170 and 250
TFLOP/s, where wider blocks reach 500 to 700.  The limit is how often tiles are read from the second-level cache: once
for each of 27 shifts.  Here the tiles of one line serve all three shifts along W: nine reads in place of 27.

Tensors are [N, C, D, H, W], channels last in memory, so they are read as rows of C numbers: row v is voxel v of all
images' voxels.  A row that a shift along W takes out of its line, or another shift out of its image, counts as zeros.

As in `triton_kernels`, sums have a fixed order, so results are the same bytes each time; its interpreter runs them too.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .triton_kernels import share, type_of_products

INPUT_ROWS = 128  # rows that a program of `_input_gradient` works on, of which it writes all but two
FILTER_ROWS = 32  # rows that a program of `_filter_gradient` works on at once
FILTER_WIDTH = 64  # output channels that a program works on
FILTER_PROGRAMS = 176  # for each plane of shifts; with three planes 4 for each of an H200's 132 multiprocessors


@triton.jit
def _place(v, D, H, W):
    """Of row v: d, h, w."""
    return (v // (W * H)) % D, (v // W) % H, v % W


@triton.jit(do_not_specialize=["rows", "D", "H", "W"])
def _input_gradient(gradient, filters, to, rows, D, H, W, C: tl.constexpr, OUT: tl.constexpr, B: tl.constexpr,
                    P: tl.constexpr, T: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """Reads the output's gradient nine times, from cache but for the first; writes the input's.

    filters [9, OUT, 4, C] are those of `_turned`.  A product of a tile by [B, 4 C] has what its rows give to the rows
    after them, to themselves and to those before; the sum of the three is then taken across rows.
    """
    r = tl.arange(0, P)
    v = tl.program_id(0) * (P - 2) - 1 + r
    d, h, w = _place(v, D, H, W)
    there = (v >= 0) & (v < rows)
    o, column = tl.arange(0, B), tl.arange(0, 4 * C)
    total = tl.zeros([P, 4 * C], tl.float32)
    for part in range(9 * (OUT // B)):
        shift, block = part % 9, part // 9
        a, b = shift // 3 - 1, shift % 3 - 1
        inside = there & (d + a >= 0) & (d + a < D) & (h + b >= 0) & (h + b < H)
        at = (v + (a * H + b) * W)[:, None].to(OFFSET) * OUT + block * B + o[None, :]
        g = tl.load(gradient + at, mask=inside[:, None], other=0.0).to(T)  # [P, B]
        f = tl.load(filters + (shift * OUT + block * B + o[:, None]) * 4 * C + column[None, :]).to(T)
        total = tl.dot(g, f, total, input_precision="ieee")
    outer, inner = tl.split(tl.permute(tl.reshape(total, (P, 2, 2, C)), (0, 3, 1, 2)))  # of four: 0 and 2, 1 and 3
    to_next, to_previous = tl.split(outer)  # [P, C]
    to_itself, _ = tl.split(inner)
    previous = tl.maximum(r - 1, 0)[:, None] + tl.zeros([P, C], tl.int32)
    following = tl.minimum(r + 1, P - 1)[:, None] + tl.zeros([P, C], tl.int32)
    from_previous = tl.where((w > 0)[:, None], tl.gather(to_next, previous, 0), 0.0)
    from_next = tl.where((w < W - 1)[:, None], tl.gather(to_previous, following, 0), 0.0)
    mine = (there & (r > 0) & (r < P - 1))[:, None]
    result = (to_itself + from_previous + from_next).to(to.dtype.element_ty)
    tl.store(to + v[:, None].to(OFFSET) * C + tl.arange(0, C)[None, :], result, mask=mine)


@triton.jit(do_not_specialize=["rows", "D", "H", "W", "per"])
def _filter_gradient(x, gradient, to, rows, D, H, W, per, C: tl.constexpr, OUT: tl.constexpr, B: tl.constexpr,
                     P: tl.constexpr, T: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """Reads input and gradient nine times, from cache but for the first; writes partial sums.

    to [programs, OUT, 27, C].  A program has a filter's nine places at one shift along D: the input's tile at three
    shifts along H, by the gradient's at three shifts along W.
    """
    pid, a = tl.program_id(0), tl.program_id(1) - 1
    o, c = tl.program_id(2) * B + tl.arange(0, B), tl.arange(0, C)
    sum00 = tl.zeros([B, C], tl.float32)
    sum01 = tl.zeros([B, C], tl.float32)
    sum02 = tl.zeros([B, C], tl.float32)
    sum10 = tl.zeros([B, C], tl.float32)
    sum11 = tl.zeros([B, C], tl.float32)
    sum12 = tl.zeros([B, C], tl.float32)
    sum20 = tl.zeros([B, C], tl.float32)
    sum21 = tl.zeros([B, C], tl.float32)
    sum22 = tl.zeros([B, C], tl.float32)
    for tile in range(per):
        v = (pid * per + tile) * P + tl.arange(0, P)
        d, h, w = _place(v, D, H, W)
        there = v < rows
        inside = there & (d + a >= 0) & (d + a < D)
        at = gradient + v[:, None].to(OFFSET) * OUT + o[None, :]
        g0 = tl.trans(tl.load(at + OUT, mask=(there & (w < W - 1))[:, None], other=0.0).to(T))  # [B, P]
        g1 = tl.trans(tl.load(at, mask=there[:, None], other=0.0).to(T))
        g2 = tl.trans(tl.load(at - OUT, mask=(there & (w > 0))[:, None], other=0.0).to(T))
        at = x + (v + a * H * W)[:, None].to(OFFSET) * C + c[None, :]
        x0 = tl.load(at - W * C, mask=(inside & (h > 0))[:, None], other=0.0).to(T)  # [P, C]
        x1 = tl.load(at, mask=inside[:, None], other=0.0).to(T)
        x2 = tl.load(at + W * C, mask=(inside & (h < H - 1))[:, None], other=0.0).to(T)
        sum00 = tl.dot(g0, x0, sum00, input_precision="ieee")
        sum01 = tl.dot(g1, x0, sum01, input_precision="ieee")
        sum02 = tl.dot(g2, x0, sum02, input_precision="ieee")
        sum10 = tl.dot(g0, x1, sum10, input_precision="ieee")
        sum11 = tl.dot(g1, x1, sum11, input_precision="ieee")
        sum12 = tl.dot(g2, x1, sum12, input_precision="ieee")
        sum20 = tl.dot(g0, x2, sum20, input_precision="ieee")
        sum21 = tl.dot(g1, x2, sum21, input_precision="ieee")
        sum22 = tl.dot(g2, x2, sum22, input_precision="ieee")
    out = to + ((pid.to(tl.int64) * OUT + o[:, None]) * 27 + (a + 1) * 9) * C + c[None, :]
    tl.store(out, sum00)
    tl.store(out + C, sum01)
    tl.store(out + 2 * C, sum02)
    tl.store(out + 3 * C, sum10)
    tl.store(out + 4 * C, sum11)
    tl.store(out + 5 * C, sum12)
    tl.store(out + 6 * C, sum20)
    tl.store(out + 7 * C, sum21)
    tl.store(out + 8 * C, sum22)


def _turned(filters: Tensor) -> Tensor:
    """Filters [OUT, C, 3, 3, 3] by the place that a voxel's gradient comes from: [9, OUT, 4, C].

    First the nine places along D and H; the four are those along W: before, here, behind, and one of zeros.
    """
    outputs, inputs = filters.shape[:2]
    turned = filters.flip(2, 3, 4).permute(2, 3, 0, 4, 1)  # [3, 3, OUT, 3, C]
    return functional.pad(turned, (0, 0, 0, 1)).reshape(9, outputs, 4, inputs)


def _type_of_offsets(*tensors: Tensor) -> tl.dtype:
    """int32 is faster, and enough for most."""
    return tl.int64 if max(tensor.numel() for tensor in tensors) > 2**31 - 2**16 else tl.int32


def input_gradient(gradient: Tensor, filters: Tensor) -> Tensor:
    """The gradient of the input of a 3³ convolution that is padded by one voxel.

    Parameters
    ----------
    gradient : of the output, [N, OUT, D, H, W], channels last in memory; OUT is a multiple of 64
    filters : [OUT, C, 3, 3, 3], of the same type; C is a power of two, 16 at least

    Returns
    -------
    [N, C, D, H, W], channels last in memory
    """
    count, outputs, *size = gradient.shape
    channels, rows = filters.shape[1], gradient.numel() // outputs
    result = torch.empty(
        (count, channels, *size), dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last_3d
    )
    _input_gradient[(triton.cdiv(rows, INPUT_ROWS - 2),)](
        gradient, _turned(filters), result, rows, *size, channels, outputs, FILTER_WIDTH, INPUT_ROWS,
        type_of_products(gradient.dtype), _type_of_offsets(gradient, result),
    )  # fmt: skip
    return result


def filter_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the filters of a 3³ convolution that is padded by one voxel: float32 [OUT, C, 3, 3, 3].

    Parameters
    ----------
    x : [N, C, D, H, W], channels last in memory; C is a power of two, 16 at least
    gradient : of the output, [N, OUT, D, H, W], of the same type, channels last in memory; OUT is a multiple of 64
    """
    channels, outputs, size = x.shape[1], gradient.shape[1], x.shape[2:]
    rows = x.numel() // channels
    programs, per = share(rows, FILTER_ROWS, FILTER_PROGRAMS)
    parts = torch.empty(programs, outputs, 27, channels, device=x.device)
    _filter_gradient[programs, 3, outputs // FILTER_WIDTH](
        x, gradient, parts, rows, *size, per, channels, outputs, FILTER_WIDTH, FILTER_ROWS,
        type_of_products(x.dtype), _type_of_offsets(x, gradient),
    )  # fmt: skip
    total = parts.sum(0, dtype=torch.double).float()
    return total.view(outputs, 3, 3, 3, channels).permute(0, 4, 1, 2, 3)


class Convolve(torch.autograd.Function):
    """cuDNN's 3³ convolution of x by filters, which may be float32, padded by one voxel, with the gradients above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, filters)
        return functional.conv3d(x, filters.to(x.dtype), padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, filters = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        by_x = input_gradient(gradient, filters.to(gradient.dtype)) if ctx.needs_input_grad[0] else None
        by_filters = filter_gradient(x, gradient).to(filters.dtype) if ctx.needs_input_grad[1] else None
        return by_x, by_filters
