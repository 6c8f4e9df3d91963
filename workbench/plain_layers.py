"""SFCN from torch's own layers, as in Peng et al.'s public code: the reference for our network."""

from itertools import pairwise

from torch import nn

EPSILON, MOMENTUM = 1e-3, 0.01


class PlainBlock(nn.Module):
    """Convolution, batch norm, max-pool, ReLU."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm3d(outputs, eps=EPSILON, momentum=MOMENTUM)
        self.pool = nn.MaxPool3d(2)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.pool(self.norm(self.conv(x))))


class PlainSFCN(nn.Module):
    """The whole network; its state dict has the same names as neurotransfer's."""

    def __init__(self, channels, bottleneck, outputs, pooling, dropout):
        super().__init__()
        widths = [1, *channels]
        self.blocks = nn.Sequential(*(PlainBlock(*pair) for pair in pairwise(widths)))
        self.bottleneck = nn.Conv3d(widths[-1], bottleneck, 1)
        self.norm = nn.BatchNorm3d(bottleneck, eps=EPSILON, momentum=MOMENTUM)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveMaxPool3d(1) if pooling == "max" else nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(bottleneck, outputs)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.bottleneck(self.blocks(x)))))
        return self.head(self.dropout(x.flatten(1)))
