"""Batch norm, max-pool and ReLU in one: half the memory and a fraction of the traffic of the three layers.

Max-pool comes first.  It commutes with ReLU, and with batch norm's affine map if that map's scale is
positive; a negative scale turns the greatest voxel into the least, which the sign of the scale shows before
any statistics are known.  So all that is kept at full resolution is the convolution's own output, and batch
norm works on an eighth of the voxels; only its statistics and the gradient through them need every voxel.
That gradient takes the place of the output in memory, voxel by voxel, because the output is not needed after it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .kernel_choice import kernels_for

PIECE = {"cpu": 1 << 18, "cuda": 1 << 26}  # numbers worked on at once: within a core's cache; enough for a GPU
NARROW, WIDE = 16, 256  # numbers in a row that vector instructions do not pay for, and in one that they do


def normalise_pool_relu(x: Tensor, norm: nn.BatchNorm3d, size: int, left_out: Tensor | None = None) -> Tensor:
    """ReLU of the max-pool of `norm(x)`, and `norm`'s running statistics moved on, as torch's layers do it.

    Parameters
    ----------
    x : [N, C, D, H, W], of a convolution that is used nowhere else: in training its gradient overwrites it, unless x is
        a leaf or the graph is kept for another backward pass
    size : of the pooling window and its stride, in voxels
    left_out : the convolution's bias [C] if x lacks it; for `triton_kernels` alone, which then save a pass over x

    Raises
    ------
    ValueError
        if training gives batch norm one voxel, which has no variance
    """
    if left_to_compiler():
        return functional.relu(functional.max_pool3d(norm(x), size))
    if norm.training and x.numel() == x.shape[1] and ranks() == 1:
        raise ValueError("batch norm has one voxel per channel to learn from: the batch or the images are too small")
    if left_out is not None:
        return kernels_for(x, x.shape[1]).NormalisePoolReLU.apply(x, norm.weight, norm.bias, left_out, norm)
    running = None if norm.training else (norm.running_mean, norm.running_var)
    learns = torch.is_grad_enabled()
    out, mean, variance, count = _NormalisePoolReLU.apply(x, norm.weight, norm.bias, norm.eps, size, running, learns)
    if norm.training:
        move_on(norm, mean, variance, count)
    return out


@torch.no_grad()
def move_on(norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Running statistics with those of one batch, whose `variance` [C] is over `count` voxels and biased."""
    steps, running_mean, running_var = norm.num_batches_tracked, norm.running_mean, norm.running_var
    assert steps is not None and running_mean is not None and running_var is not None  # track_running_stats
    steps += 1
    share = 1 / steps if norm.momentum is None else norm.momentum
    running_mean += share * (mean - running_mean)
    running_var += share * (variance * (count / (count - 1)) - running_var)


def left_to_compiler() -> bool:
    """Whether torch's compiler is at work: it fuses plain layers, but breaks ours to pieces, for minutes."""
    return torch.compiler.is_compiling() and ranks() == 1


def ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def over_all_ranks(sums: Tensor) -> Tensor:
    """Sums over all ranks."""
    if ranks() > 1:
        distributed.all_reduce(sums)
    return sums


def mean_and_variance(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each column of [rows, C], over all ranks: mean, biased variance, and the number of rows, in float64."""
    step = max(1, PIECE[rows.device.type] // rows.shape[1])
    pieces = rows.split(step)
    wide = torch.promote_types(rows.dtype, torch.float32)
    sums = sum(piece.sum(0, dtype=wide).double() for piece in pieces)
    mean = sums / len(rows)  # this rank's; squares are summed about it, because else large terms would cancel
    several, (means,) = _side_by_side(rows, step, mean.to(wide))
    memory = torch.empty_like(pieces[0], dtype=wide)
    squares = torch.zeros_like(mean)
    for piece in pieces:
        difference = memory[: len(piece)]
        torch.sub(several(piece), means, out=several(difference))
        squares += difference.square_().sum(0)
    return combined(torch.full_like(mean, len(rows)), sums, squares)


def _side_by_side(rows: Tensor, step: int, *values: Tensor) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """What lays narrow rows [R, C] side by side, [R / several, several C], and each of the values [C] as often.

    Row by row, torch needs as long for 8 channels as for 64.

    Parameters
    ----------
    step : rows of a piece that is laid so; the last piece may have fewer
    """
    channels = rows.shape[1]
    if channels >= NARROW or not rows.is_contiguous():
        return lambda piece: piece, list(values)
    width = channels * math.gcd(len(rows), step, WIDE // channels)
    return lambda piece: piece.view(-1, width), [value.repeat(width // channels) for value in values]


def _greatest(x: Tensor, size: int) -> Tensor:
    """Max-pool [N, C, D, H, W] by windows of `size` voxels, without indices: a third of the time on a CPU.

    There an axis of fewer than `size` voxels gives an empty tensor; on other devices it is torch's error.
    """
    if x.device.type != "cpu":
        return functional.max_pool3d(x, size)
    for axis in (2, 3, 4):
        whole = x.shape[axis] // size * size
        before = (slice(None),) * axis
        x = functools.reduce(torch.maximum, [x[*before, slice(first, whole, size)] for first in range(size)])
    return x


def combined(count: Tensor, sums: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Over all ranks: mean, biased variance and count, of each rank's count, sums, and squares about its own mean.

    All are float64 [C].
    """
    count, sums, squares = over_all_ranks(torch.stack([count, sums, squares + sums * (sums / count)]))
    mean = sums / count
    return mean, squares / count - mean.square(), count


class _NormalisePoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        size: int,
        running: tuple[Tensor, Tensor] | None,
        learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = _rows(x)  # [N D H W, C]
        if running is None:
            mean, variance, count = mean_and_variance(rows)
        else:
            mean, variance = (value.double() for value in running)
            count = torch.full_like(mean, len(rows))
        slope = torch.rsqrt(variance + epsilon)  # normalised = (x - mean) * slope
        scale = slope * weight
        at = None
        if size == 1:
            most = x
        elif not learns:  # a gradient alone needs to know which voxel it was
            sign = weight.sign().to(x.dtype).view(-1, 1, 1, 1)
            most = _greatest(x, size) if bool((weight > 0).all()) else _greatest(x * sign, size) * sign
        elif bool((weight > 0).all()):
            most, at = functional.max_pool3d(x, size, return_indices=True)
        else:  # if the scale is 0 all voxels tie, and torch's layers then take the first
            at = functional.max_pool3d(x * weight.sign().to(x.dtype).view(-1, 1, 1, 1), size, return_indices=True)[1]
            most = x.flatten(2).gather(2, at.flatten(2)).view(at.shape)
        wide = torch.promote_types(x.dtype, torch.float32)
        pooled = _rows(most)  # [N d h w, C]
        out = torch.addcmul((bias - mean * scale).to(wide), pooled, scale.to(wide)).relu_().to(x.dtype)
        if at is not None:  # half of what max-pool's own 64 bits take
            at = _rows(at.int()) if x[0, 0].numel() < 2**31 else _rows(at)
        ctx.save_for_backward(rows, pooled, at, out, mean, slope, weight, count)
        ctx.shape, ctx.training, ctx.leaf = x.shape, running is None, x.is_leaf
        volumes = out.view(len(x), *most.shape[2:], x.shape[1]).permute(0, 4, 1, 2, 3)
        ctx.mark_non_differentiable(mean, variance, count)
        return volumes, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, pooled, at, out, mean, slope, weight, count = ctx.saved_tensors
        wide = torch.promote_types(rows.dtype, torch.float32)
        gradient = _rows(gradient).to(wide) * (out > 0)  # of the normalised maxima
        by_bias = gradient.sum(0)
        by_weight = (pooled - mean.to(wide)).mul_(slope.to(wide)).mul_(gradient).sum(0)
        scale = slope * weight
        if ctx.training:  # every voxel moves mean and variance, which lead back to it
            level, tilt = (value.to(wide) for value in dense_gradient(by_bias, by_weight, scale, slope, count))
            result = memory_for_gradient(rows, ctx.leaf)
            step = max(1, PIECE[rows.device.type] // rows.shape[1])
            several, (means, levels, tilts) = _side_by_side(rows, step, mean.to(wide), level, tilt)
            for piece, target in zip(rows.split(step), result.split(step), strict=True):
                difference = several(piece) - means
                if rows.dtype == wide:
                    torch.addcmul(levels, difference, tilts, out=several(target))
                else:
                    several(target).copy_(torch.addcmul(levels, difference, tilts))
        else:
            result = torch.zeros_like(rows)
        count_of_images, channels = ctx.shape[:2]
        moved = gradient.mul_(scale.to(wide)).to(rows.dtype)
        shape = (count_of_images, -1, channels)
        if at is None:
            result.add_(moved)
        else:
            for image, winners, values in zip(result.view(shape), at.view(shape), moved.view(shape), strict=True):
                image.scatter_add_(0, winners.long(), values)
        result = result.view(count_of_images, *ctx.shape[2:], channels).permute(0, 4, 1, 2, 3)
        return result, by_weight.to(weight.dtype), by_bias.to(weight.dtype), None, None, None, None


def dense_gradient(
    by_bias: Tensor, by_weight: Tensor, scale: Tensor, slope: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """What every voxel x gets through mean and variance, over all ranks: level + tilt * (x - mean).

    Parameters
    ----------
    by_bias, by_weight : the gradients of batch norm's shift and scale, of this rank
    scale, slope, count : scale over standard deviation, one over standard deviation, and voxels, float64

    Returns
    -------
    level, tilt : float64; as all parameters, [C]
    """
    bias_mean, weight_mean = over_all_ranks(torch.stack([by_bias, by_weight]).double()) / count
    return -scale * bias_mean, -scale * slope * weight_mean


def memory_for_gradient(x: Tensor, leaf: bool) -> Tensor:
    """Memory for the gradient of a convolution's output x: its own, unless somebody reads x after this pass.

    Parameters
    ----------
    leaf : whether x was given to the network, and not computed by it
    """
    kept = torch._C._autograd._get_current_graph_task_keep_graph()  # what torch asks before it reuses memory itself
    return torch.empty_like(x) if leaf or kept else x


def _rows(x: Tensor) -> Tensor:
    """[N, C, D, H, W] to [N D H W, C]: a view if channels come last in memory."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
