"""A network as others publish it: plain layers, under Peng et al.'s names, for images in another order of axes."""

import torch
from torch import nn

CHANNELS = [3, 4, 5, 4, 3, 6]  # of five blocks and the bottleneck


class Published(nn.Module):
    """A network of plain layers under Peng et al.'s names: convolution, batch norm, pooling, ReLU, average, 1³ head."""

    def __init__(self, outputs, channels=CHANNELS, epsilon=1e-5):
        super().__init__()
        self.feature_extractor = nn.Sequential()
        for at, (inputs, out) in enumerate(zip([1, *channels[:-1]], channels, strict=True)):
            last = at == len(channels) - 1
            conv = nn.Conv3d(inputs, out, 1 if last else 3, padding=0 if last else 1)
            layers = [conv, nn.BatchNorm3d(out, eps=epsilon), *([] if last else [nn.MaxPool3d(2)]), nn.ReLU()]
            self.feature_extractor.add_module(f"conv_{at}", nn.Sequential(*layers))
        self.classifier = nn.Sequential()
        self.classifier.add_module(f"conv_{len(channels)}", nn.Conv3d(channels[-1], outputs, 1))

    def forward(self, images):
        return self.classifier(self.feature_extractor(images).mean((2, 3, 4), keepdim=True)).flatten(1)


def published(outputs, smallness=1.0, epsilon=1e-5, channels=CHANNELS):
    """The network with random weights and the running statistics of two images.

    Convolutions are multiplied by `smallness`.
    """
    torch.manual_seed(3)
    network = Published(outputs, channels, epsilon)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
            elif isinstance(module, nn.Conv3d) and module.out_channels != outputs:
                module.weight *= smallness
                module.bias *= smallness
        _, theirs = image_pair()
        network.train()(theirs / theirs.mean((1, 2, 3, 4), keepdim=True))
    return network.eval()


def image_pair():
    """An image in LIA order, and the same one as Peng et al. read it: left, anterior, superior."""
    coarse = torch.rand(2, 1, 8, 8, 16, generator=torch.Generator().manual_seed(1))
    ours = (nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear") * 255).round()
    return ours, ours.flip(3).permute(0, 1, 2, 4, 3)
