"""The network: Peng et al.'s Simple Fully Convolutional Network (SFCN) in the authors' variant.

An image of raw intensities (0 to 255), as bytes or floats, goes in; one number per target comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .first_block import convolve_normalise_pool_relu
from .fused_norm import left_to_compiler, normalise_pool_relu
from .kernel_choice import convolution_kernels_for, dtype_of_products, kernels_for

EPSILON, MOMENTUM = 1e-3, 0.01  # of batch norm [published]
HEAD_SD = 0.01  # [assumed] of the head's first weights
SMALLEST_MEAN = 1e-6  # of an image, by which it is divided: one without a brain stays 0
WIDE = 16  # channels from which the first block's own way pays; the demo's 8 took 45 ms by it and 30 without


def convolve(x: Tensor, filters: Tensor) -> Tensor:
    """The convolution by filters [outputs, inputs, k, k, k], k odd, that leaves the size of x; without a bias."""
    if filters.shape[-1] == 3 and (kernels := convolution_kernels_for(x, len(filters))) is not None:
        return kernels.Convolve.apply(x.to(dtype_of_products(x)), filters)
    return functional.conv3d(x, filters, padding=filters.shape[-1] // 2)


class Block(nn.Module):
    """3³ convolution, batch norm, 2³ max-pool, ReLU: what torch's layers one after another give, faster."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm3d(outputs, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, D, H, W] -> [N, outputs, D // 2, H // 2, W // 2]
        images = x.shape[1] == 1 and not x.requires_grad
        if images and self.conv.out_channels >= WIDE and not left_to_compiler():
            return convolve_normalise_pool_relu(x, self.conv, self.norm)
        x = x.float() if x.dtype == torch.uint8 else x
        if kernels_for(x, self.conv.out_channels) is not None:
            return normalise_pool_relu(convolve(x, self.conv.weight), self.norm, 2, self.conv.bias)
        return normalise_pool_relu(self.convolve(x), self.norm, 2)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution; on a CPU in float32 if x has two planes.

        There oneDNN (as torch 2.13 has it) leaves the weights' gradient in bfloat16 unwritten: whatever lay in memory.
        """
        if x.shape[2] == 2 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.conv(x.float())
        return self.conv(x)


class SFCN(nn.Module):
    """SFCN (Peng et al., 2021, doi:10.1016/j.media.2020.101871) with a linear head.

    Intensities need no scaling: batch norm follows every convolution, so the scale of what goes in leaves
    outputs and gradients as they are (except for batch norm's epsilon, 1e-3 against variances of 1e3).

    Parameters
    ----------
    channels : of the convolutional blocks; each halves the image, so with five of them an axis needs at
        least 32 voxels
    bottleneck : channels of the 1³ convolution after them
    outputs : numbers per image
    pooling : "max" over the remaining voxels (the authors) or "average" (Peng et al.)
    dropout : probability of zeroing a pooled feature in training
    scale : the pooled features are multiplied by it before the head (see `training_scale`); state dicts do not
        hold it, and `folded` moves it into the head's weights
    scaling : of the images on their way in: "none", or "mean" if each is divided by its mean (Peng et al.)

    Examples
    --------
    Six numbers for each of two images; five blocks need 32 voxels along each axis:

    >>> network = SFCN(channels=[4, 8, 8, 16, 8], bottleneck=8, outputs=6, pooling="max", dropout=0.5).eval()
    >>> images = torch.zeros(2, 1, 32, 40, 32)
    >>> tuple(network(images).shape), tuple(network.features(images).shape)
    ((2, 6), (2, 8))
    """

    def __init__(
        self,
        channels: Sequence[int],
        bottleneck: int,
        outputs: int,
        pooling: str,
        dropout: float,
        scale: float = 1.0,
        scaling: str = "none",
    ) -> None:
        super().__init__()
        if pooling not in ("max", "average"):
            raise ValueError(f"pooling is 'max' or 'average', not {pooling!r}")
        if scaling not in ("none", "mean"):
            raise ValueError(f"scaling is 'none' or 'mean', not {scaling!r}")
        widths = [1, *channels]
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairwise(widths)))
        self.bottleneck = nn.Conv3d(widths[-1], bottleneck, 1)
        self.norm = nn.BatchNorm3d(bottleneck, eps=EPSILON, momentum=MOMENTUM)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.scale, self.scaling = scale, scaling
        self.head = nn.Linear(bottleneck, outputs)
        self.data_type = torch.float32  # of convolutions and matrix products; `device.place` sets it

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:  # [N, 1, D, H, W] -> [N, outputs]
        x = self.pooled(images)  # [N, bottleneck]
        x = self.dropout(x) if kept is None else x * kept  # kept [N, bottleneck]: a mask drawn elsewhere
        return self.head(x * self.scale)  # [N, outputs]

    def pooled(self, images: Tensor) -> Tensor:  # [N, 1, D, H, W] -> [N, bottleneck]
        """The pooled features, computed in `data_type` and returned in the head's type."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.data_type == torch.bfloat16):
            return self.features(images).to(self.head.weight.dtype)  # [N, bottleneck]

    def features(self, images: Tensor) -> Tensor:  # [N, 1, D, H, W] -> [N, bottleneck]
        """What the trunk says of each image, the same for all targets."""
        least = 2 ** len(self.blocks)
        if min(images.shape[2:]) < least:
            raise ValueError(f"an image of {tuple(images.shape[2:])} voxels: each axis needs at least {least}")
        return self._pool(self._squeezed(self.blocks(self.scaled(images))))

    def features_of_layers(self, images: Tensor) -> Tensor:  # [N, 1, D, H, W] -> [N, sum of channels + bottleneck]
        """The pooled output of every block, the trunk's features last; in float32."""
        found, x = [], self.scaled(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.data_type == torch.bfloat16):
            for block in self.blocks:
                x = block(x)  # [N, channels of the block, half of each axis]
                found.append(self._pool(x).float())
            found.append(self._pool(self._squeezed(x)).float())
        return torch.cat(found, dim=1)

    def scaled(self, images: Tensor) -> Tensor:  # [N, 1, D, H, W] -> [N, 1, D, H, W]
        """Images as the first block takes them."""
        if self.scaling == "none":
            return images
        images = images.float()
        return images / images.mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=SMALLEST_MEAN)

    def _squeezed(self, x: Tensor) -> Tensor:
        """The bottleneck's output: [N, channels[-1], D / 32, H / 32, W / 32] -> [N, bottleneck, ...]."""
        return normalise_pool_relu(self.bottleneck(x), self.norm, 1)

    def _pool(self, x: Tensor) -> Tensor:  # [N, C, D, H, W] -> [N, C]
        if self.pooling == "max" and x.device.type == "cuda":  # whose adaptive pooling adds gradients in any order
            return x.flatten(2).max(2).values
        pool = functional.adaptive_max_pool3d if self.pooling == "max" else functional.adaptive_avg_pool3d
        return pool(x, 1).flatten(1)

    def freeze(self, first: int | str) -> None:
        """Keep the first so many blocks, or the whole "trunk", as they are, batch norm's statistics included."""
        parts = [self.blocks, self.bottleneck, self.norm] if first == "trunk" else list(self.blocks)[: int(first)]
        for part in parts:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> SFCN:
        """Training mode for all but what is frozen."""
        super().train(mode)
        for norm in _norms(self, frozen=True):
            norm.eval()
        return self


def _norms(model: nn.Module, *, frozen: bool) -> list[nn.BatchNorm3d]:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    return [norm for norm in norms if norm.weight.requires_grad != frozen]


def training_scale(bottleneck: int) -> float:
    """What training multiplies the pooled features by: 1 / sqrt(bottleneck).

    A maximum over many normalised voxels is 2 to 4 in size, so the squared length of a feature vector grows with the
    bottleneck's width.  The curvature of the head's squared loss is twice that squared length.  Divided by the width,
    it no longer limits the learning rate (docs/pretraining.md).
    """
    return bottleneck**-0.5


def folded(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state whose head takes the pooled features as they are: the state of a network with `scale` 1.

    Parameters
    ----------
    state : of a network that was trained with `scale`
    """
    return {**state, "head.weight": state["head.weight"] * scale}


def start_head(head: nn.Linear) -> None:
    """Draw the head's first weights near zero, with biases of 0: the first outputs hardly depend on the image."""
    nn.init.normal_(head.weight, std=HEAD_SD)
    nn.init.zeros_(head.bias)


def trunk_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What transfer carries over of a network's state: everything but the head."""
    return {name: value for name, value in state.items() if not name.startswith("head.")}


@torch.no_grad()
def live_features(model: SFCN, batches: Iterable[Tensor]) -> Tensor:
    """Which pooled features are above zero for any image of `batches`: bool [bottleneck].

    It is counted in evaluation mode, so batch norm's running statistics must be those of the weights as they are
    now: call `calibrate` first.

    Parameters
    ----------
    batches : inputs of the network, [N, 1, D, H, W]
    """
    model.eval()
    live = torch.zeros(model.head.in_features, dtype=torch.bool, device=model.head.weight.device)  # [bottleneck]
    for batch in batches:
        live |= (model.pooled(batch) > 0).any(0)  # [N, bottleneck] -> [bottleneck]
    return live


@torch.no_grad()
def calibrate(model: SFCN, batches: Iterable[Tensor]) -> None:
    """Set batch norm's running statistics to averages over `batches` under the weights as they are now.

    Running averages with the published momentum of 0.01 need hundreds of steps to forget where they
    started; a small fit has fewer ("precise" batch norm, Wu & Johnson, 2021, arXiv:2105.07576).

    Parameters
    ----------
    batches : inputs of the network, [N, 1, D, H, W], as in training, but not augmented
    """
    norms = _norms(model, frozen=False)
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what follows
    model.train()
    for batch in batches:
        model(batch)
    for norm in norms:
        norm.momentum = MOMENTUM
