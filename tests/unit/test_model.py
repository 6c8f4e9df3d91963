"""The network against the plain composition of torch's layers, and batch norm's calibration."""

import pytest
import torch
from neurotransfer.model import SFCN, calibrate, trunk_of
from torch import nn


def plain(model: SFCN, x: torch.Tensor) -> torch.Tensor:
    """ReLU before pooling, layer by layer, as published."""
    for block in model.blocks:
        x = nn.functional.max_pool3d(nn.functional.relu(block.norm(block.conv(x))), 2)
    x = nn.functional.relu(model.norm(model.bottleneck(x)))
    x = nn.functional.adaptive_max_pool3d(x, 1) if model.pooling == "max" else nn.functional.adaptive_avg_pool3d(x, 1)
    return model.head(model.dropout(x.flatten(1)))


def test_the_published_trunk_has_2950336_parameters():
    model = SFCN([32, 64, 128, 256, 256], 64, 6, "max", 0.5)
    assert sum(value.numel() for name, value in model.named_parameters() if not name.startswith("head.")) == 2_950_336


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(32, 32, 32), (33, 40, 45)])
def test_outputs_and_gradients_are_those_of_plain_layers(pooling, training, size):
    torch.manual_seed(0)
    model = SFCN([3, 4, 5, 6, 7], 4, 2, pooling, 0.0).double().train(training)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):  # negative and zero scales: max and ReLU must still commute
            module.weight.data = torch.linspace(-1, 1, module.num_features, dtype=torch.double)
    x = torch.rand(2, 1, *size, dtype=torch.double) * 255
    ours, theirs = model(x), plain(model, x)
    assert torch.allclose(ours, theirs, atol=1e-10)
    for parameter, reference in zip(
        torch.autograd.grad(ours.square().sum(), list(model.parameters())),
        torch.autograd.grad(theirs.square().sum(), list(model.parameters())),
        strict=True,
    ):
        assert torch.allclose(parameter, reference, atol=1e-8, rtol=1e-8)


def test_calibrated_statistics_are_those_of_the_batches():
    torch.manual_seed(1)
    model = SFCN([4], 3, 1, "max", 0.0)
    batches = [torch.rand(4, 1, 8, 8, 8) * 255 for _ in range(3)]
    calibrate(model, batches)
    with torch.no_grad():
        means = torch.stack([model.blocks[0].conv(batch).mean((0, 2, 3, 4)) for batch in batches]).mean(0)
    assert torch.allclose(model.blocks[0].norm.running_mean, means, rtol=1e-4, atol=1e-3)
    assert model.blocks[0].norm.momentum == 0.01


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling"):
        SFCN([4], 3, 1, "median", 0.0)


def test_calibration_changes_statistics_and_no_weight():
    torch.manual_seed(2)
    model = SFCN([4, 5], 3, 2, "max", 0.5)
    before = {name: value.clone() for name, value in model.named_parameters()}
    images = torch.rand(4, 1, 8, 8, 8) * 255
    calibrate(model, [images])
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    first = {name: value.clone() for name, value in model.named_buffers()}
    calibrate(model, [images / 3])
    assert not torch.equal(first["blocks.0.norm.running_var"], model.blocks[0].norm.running_var)
    calibrate(model, [images])  # what was there before leaves no trace
    assert all(torch.equal(first[name], value) for name, value in model.named_buffers())


def test_the_scale_of_intensities_does_not_matter():
    torch.manual_seed(3)
    model = SFCN([4, 5], 3, 2, "max", 0.0)
    x = torch.rand(4, 1, 16, 16, 16) * 255
    assert torch.allclose(model(x), model(3 * x), atol=1e-3)


def test_the_trunk_is_everything_but_the_head():
    state = SFCN([4], 3, 2, "max", 0.0).state_dict()
    assert state.keys() - trunk_of(state).keys() == {"head.weight", "head.bias"}
