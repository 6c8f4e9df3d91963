"""The network against the plain composition of torch's layers, and batch norm's calibration."""

import copy

import pytest
import torch
from neurotransfer.network import first_block, fused_norm
from neurotransfer.network.sfcn import SFCN, calibrate, trunk_of
from torch import nn

from workbench.plain_layers import PlainSFCN


def test_the_published_trunk_has_2950336_parameters():
    model = SFCN([32, 64, 128, 256, 256], 64, 6, "max", 0.5)
    assert sum(value.numel() for name, value in model.named_parameters() if not name.startswith("head.")) == 2_950_336


@pytest.fixture(autouse=True)
def one_thread_and_the_first_block_s_own_way(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr("neurotransfer.network.sfcn.WIDE", 1)


def both(pooling="max", channels=(3, 4, 5), dtype=torch.double, scales="positive"):
    """Our network and torch's plain layers with the same weights, scales and running statistics."""
    torch.manual_seed(0)
    ours, theirs = (kind(channels, 4, 2, pooling, 0.0).to(dtype) for kind in (SFCN, PlainSFCN))
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if scales != "positive":
                module.weight.data[::2] *= -1
                module.weight.data[1] = 0
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def distance(ours, theirs, least=1e-30) -> float:
    """Of two tensors, relative to the second one's size, which counts as no less than `least`."""
    return float((ours - theirs).detach().norm()) / max(float(theirs.detach().norm()), least)


def compare(ours, theirs, x, within):
    """Outputs, every gradient and every running statistic."""
    found, expected = ours(x), theirs(x.to(theirs.head.weight.dtype))
    assert distance(found, expected) < within
    for out in (found, expected):
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters()}
    # what batch norm takes out again, such as a bias before it, has a gradient of 0 but for rounding
    least = 0.01 * float(max(value.norm() for value in gradients.values()))
    for name, value in ours.named_parameters():
        assert distance(value.grad, gradients[name], least) < within, name
    buffers = dict(theirs.named_buffers())
    for name, value in ours.named_buffers():
        assert distance(value.double(), buffers[name].double()) < within, name


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    """Small images are one piece of work, unless pieces are small, too."""
    if request.param == "many pieces":
        monkeypatch.setitem(first_block.PIECE, "cpu", 700)
        monkeypatch.setitem(fused_norm.PIECE, "cpu", 1000)


@pytest.mark.parametrize("size", [(16, 24, 16), (17, 20, 23)], ids=["even", "odd"])
@pytest.mark.parametrize("scales", ["positive", "negative and zero"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_outputs_gradients_and_statistics_are_those_of_plain_layers(pooling, training, scales, size, pieces):
    ours, theirs = both(pooling, scales=scales)
    x = torch.rand(2, 1, *size, dtype=torch.double) * 255
    compare(ours.train(training), theirs.train(training), x, 1e-10)


def test_five_blocks_at_their_smallest_size():
    compare(*both(channels=(3, 4, 5, 6, 7)), torch.rand(3, 1, 32, 33, 32, dtype=torch.double) * 255, 1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_batch_of_one(training):
    ours, theirs = both()
    x = torch.rand(1, 1, 17, 24, 19, dtype=torch.double) * 255
    compare(ours.train(training), theirs.train(training), x, 1e-10)


def test_a_narrow_network_goes_the_same_way_in_every_block(monkeypatch):
    monkeypatch.setattr("neurotransfer.network.sfcn.WIDE", 16)
    compare(*both(scales="negative and zero"), torch.rand(2, 1, 17, 24, 19, dtype=torch.double) * 255, 1e-10)


@pytest.mark.parametrize("size", [(16, 24, 16), (17, 20, 23)], ids=["even", "odd"])
@pytest.mark.parametrize("scales", ["positive", "negative and zero"])
def test_without_gradients_outputs_and_statistics_have_the_same_bytes(scales, size, monkeypatch):
    """There the maxima are taken in another way, which needs no indices."""
    monkeypatch.setattr("neurotransfer.network.sfcn.WIDE", 16)
    ours, _ = both(channels=(8, 6, 20), dtype=torch.float32, scales=scales)
    ours.to(memory_format=torch.channels_last_3d)
    x = torch.randint(0, 255, (3, 1, *size), dtype=torch.uint8)
    x[0, :, :9] = 0  # ties
    other = copy.deepcopy(ours)
    for training in (True, False):
        with torch.no_grad():
            found = other.train(training)(x)
        assert torch.equal(found, ours.train(training)(x))
    for (name, value), expected in zip(other.state_dict().items(), ours.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("rows", [1, 37, 96, 4096])
@pytest.mark.parametrize("channels", [1, 3, 8, 16])
def test_narrow_rows_side_by_side_have_the_same_statistics(rows, channels, pieces):
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(rows)) + 5
    mean, variance, count = fused_norm.mean_and_variance(x)
    assert torch.allclose(mean, x.double().mean(0), rtol=1e-6)
    assert torch.allclose(variance, x.double().var(0, correction=0), rtol=1e-5)
    assert count.tolist() == [rows] * channels


@pytest.mark.parametrize("scales", ["positive", "negative and zero"])
def test_a_constant_image_where_every_voxel_ties(scales):
    ours, theirs = both(scales=scales)
    x = torch.full((2, 1, 16, 17, 16), 100, dtype=torch.double)
    x[1] = 0
    compare(ours, theirs, x, 1e-10)


@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "anatomy"])
def test_float32_is_as_near_to_the_exact_result_as_plain_layers(smooth, pieces):
    """Within 1e-5; smooth intensities cost plain layers in this memory layout more, and may cost ours as much."""
    ours, theirs = both("average", channels=(8, 8, 8), dtype=torch.float32)
    exact = copy.deepcopy(theirs).double()
    theirs.to(memory_format=torch.channels_last_3d)
    x = torch.rand(2, 1, 8, 8, 8) * 255
    x = nn.functional.interpolate(x, (40, 40, 40), mode="trilinear" if smooth else "nearest").round()
    x += 0 if smooth else (torch.rand_like(x) * 30).round()
    found, known = {}, {}
    for model in (ours, theirs, exact):
        out = model(x.to(model.head.weight.dtype).contiguous(memory_format=torch.channels_last_3d))
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        known = {name: value.grad.double() for name, value in model.named_parameters()}
        found[model] = known | {name: value.double() for name, value in model.named_buffers()} | {"out": out.double()}
    least = 0.01 * float(max(known[name].norm() for name in known))
    vanishing = [name for name in known if name.endswith(("conv.bias", "bottleneck.bias"))]  # 0 but for rounding
    for name, truth in found[exact].items():
        if name in vanishing:
            continue
        error, allowed = (distance(found[model][name], truth, least) for model in (ours, theirs))
        assert error < max(1e-5, allowed), name


def test_states_load_both_ways():
    ours, theirs = both()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(1)
    other = PlainSFCN((3, 4, 5), 4, 2, "max", 0.0).double().eval()
    ours.load_state_dict(other.state_dict())
    x = torch.rand(1, 1, 16, 16, 16, dtype=torch.double)
    assert distance(ours.eval()(x), other(x)) < 1e-10


def test_images_can_have_a_gradient_too():
    """As a saliency map asks for."""
    ours, theirs = both(scales="negative and zero")
    x, y = (torch.rand(2, 1, 16, 17, 18, dtype=torch.double).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    ours(x).sum().backward()
    theirs(y).sum().backward()
    assert distance(x.grad, y.grad) < 1e-10


def test_peng_et_al_s_network_has_their_sizes():
    """160 x 192 x 160 voxels leave 5 x 6 x 5 to average over (their figure 1)."""
    model = SFCN([32, 64, 128, 256, 256], 64, 40, "average", 0.5)
    assert [length // 2 ** len(model.blocks) for length in (160, 192, 160)] == [5, 6, 5]
    assert model.dropout.p == 0.5
    plain = PlainSFCN([32, 64, 128, 256, 256], 64, 40, "average", 0.5)
    assert [value.shape for value in model.state_dict().values()] == [v.shape for v in plain.state_dict().values()]


def test_images_too_small_for_the_network_are_refused():
    model = SFCN([2, 2, 2], 2, 1, "max", 0.0)
    with pytest.raises(ValueError, match="each axis needs at least 8"):
        model(torch.rand(2, 1, 8, 7, 9))
    with pytest.raises(ValueError, match="one voxel per channel"):
        model(torch.rand(1, 1, 8, 8, 8))


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


def test_images_divided_by_their_mean_may_be_of_any_brightness():
    torch.manual_seed(0)
    network = SFCN([16, 4], 3, 1, "average", 0.0, scaling="mean").eval()  # as wide as the first block's own way
    plain = SFCN([16, 4], 3, 1, "average", 0.0).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 8, 8, 8)
    with torch.no_grad():
        wanted = plain(images / images.mean((1, 2, 3, 4), keepdim=True))
        torch.testing.assert_close(network(images * 7), wanted)
        torch.testing.assert_close(network.features_of_layers(images)[:, -3:], network.features(images * 7))
        assert torch.isfinite(network(torch.zeros(1, 1, 8, 8, 8))).all()
        assert not torch.allclose(plain(images * 7), plain(images))
    with pytest.raises(ValueError, match="scaling is 'none' or 'mean', not 'unit'"):
        SFCN([4], 3, 1, "max", 0.0, scaling="unit")


def test_the_trunk_is_everything_but_the_head():
    state = SFCN([4], 3, 2, "max", 0.0).state_dict()
    assert state.keys() - trunk_of(state).keys() == {"head.weight", "head.bias"}
