"""The network: Peng et al.'s Simple Fully Convolutional Network (SFCN) in the authors' variant.

An image of raw intensities (0 to 255) goes in, one number per target comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

EPSILON, MOMENTUM = 1e-3, 0.01  # of batch norm [published]


class Block(nn.Module):
    """3³ convolution, batch norm, 2³ max-pool, ReLU; ReLU after pooling gives the same for an eighth of the work."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm3d(outputs, eps=EPSILON, momentum=MOMENTUM)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, D, H, W] -> [N, outputs, D // 2, H // 2, W // 2]
        return torch.relu(self.pool(self.norm(self.conv(x))))


class SFCN(nn.Module):
    """SFCN (Peng et al., 2021, doi:10.1016/j.media.2020.101871) with a linear head.

    Intensities need no scaling: batch norm follows every convolution, so the scale of what goes in leaves
    neither outputs nor gradients another (but for batch norm's epsilon, 1e-3 against variances of 1e3).

    Parameters
    ----------
    channels : of the convolutional blocks; each halves the image, so with five of them an axis needs at
        least 32 voxels
    bottleneck : channels of the 1³ convolution after them
    outputs : numbers per image
    pooling : "max" over the remaining voxels (the authors) or "average" (Peng et al.)
    dropout : probability of zeroing a pooled feature in training
    """

    def __init__(self, channels: Sequence[int], bottleneck: int, outputs: int, pooling: str, dropout: float) -> None:
        super().__init__()
        if pooling not in ("max", "average"):
            raise ValueError(f"pooling is 'max' or 'average', not {pooling!r}")
        widths = [1, *channels]
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairwise(widths)))
        self.bottleneck = nn.Conv3d(widths[-1], bottleneck, 1)
        self.norm = nn.BatchNorm3d(bottleneck, eps=EPSILON, momentum=MOMENTUM)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(bottleneck, outputs)

    def forward(self, images: Tensor) -> Tensor:  # [N, 1, D, H, W], float -> [N, outputs]
        x = self.blocks(images)  # [N, channels[-1], D // 32, H // 32, W // 32] with five blocks
        x = torch.relu(self.norm(self.bottleneck(x)))  # [N, bottleneck, ...]
        x = x.amax((2, 3, 4)) if self.pooling == "max" else x.mean((2, 3, 4))  # [N, bottleneck]
        return self.head(self.dropout(x))


def trunk_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What transfer carries over of a network's state: everything but the head."""
    return {name: value for name, value in state.items() if not name.startswith("head.")}


@torch.no_grad()
def calibrate(model: SFCN, batches: Iterable[Tensor]) -> None:
    """Set batch norm's running statistics to averages over `batches` under the weights as they are now.

    Running averages with the published momentum of 0.01 need hundreds of steps to forget where they
    started; a small fit has fewer ("precise" batch norm, Wu & Johnson, 2021, arXiv:2105.07576).

    Parameters
    ----------
    batches : inputs of the network, float32 [N, 1, D, H, W], as training sees them but for augmentation
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what follows
    model.train()
    for batch in batches:
        model(batch)
    for norm in norms:
        norm.momentum = MOMENTUM
