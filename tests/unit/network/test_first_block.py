"""The parts of the fast blocks by themselves: patches' moments, gradients, and ranks that train together."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.network.first_block import by_place, moments
from neurotransfer.network.fused_norm import mean_and_variance, normalise_pool_relu
from neurotransfer.network.sfcn import Block
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.tuples(*[st.integers(2, 9)] * 3))
def test_moments_are_those_of_all_patches(count, size):
    images = torch.rand(count, 1, *size) * 255
    padded = functional.pad(images[:, 0].double(), (1,) * 6)
    d, h, w = size
    offsets = itertools.product(range(3), repeat=3)
    patches = torch.stack([padded[:, a : a + d, b : b + h, c : c + w].flatten() for a, b, c in offsets])
    number, mean, covariance = moments(images)
    assert number == patches.shape[1]
    assert torch.allclose(mean, patches.mean(1), rtol=1e-12)
    assert torch.allclose(covariance, torch.cov(patches, correction=0), rtol=1e-9, atol=1e-9)


def test_a_filter_that_hardly_answers_has_an_exact_variance():
    """A difference of neighbours over a bright ramp: its variance is a millionth of the intensities'."""
    ramp = torch.arange(40.0).expand(40, 40, 40) * 5 + torch.rand(40, 40, 40) * 0.1
    images = ramp[None, None]
    filters = torch.zeros(1, 1, 3, 3, 3, dtype=torch.double)
    filters[..., 1, 1, 0], filters[..., 1, 1, 1] = -1, 1
    inner = functional.conv3d(images.double(), filters, padding=1)
    _, mean, covariance = moments(images)
    flat = filters.flatten()
    assert torch.allclose(flat @ covariance @ flat, inner.var(correction=0), rtol=1e-9)
    assert torch.allclose(flat @ mean, inner.mean(), rtol=1e-9)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_gradcheck_of_the_first_block(training, monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setattr("neurotransfer.network.sfcn.WIDE", 1)
    block = Block(1, 3).double().train(training)
    block.norm.weight.data = torch.tensor([1.5, -0.7, 0.4], dtype=torch.double)
    images = torch.rand(2, 1, 3, 4, 4, dtype=torch.double) * 10
    names = [name for name, _ in block.named_parameters()]

    def of(*parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), images)

    assert torch.autograd.gradcheck(of, list(block.parameters()))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [1, 2])
def test_gradcheck_of_the_other_blocks(training, size):
    torch.manual_seed(2)
    norm = nn.BatchNorm3d(3).double().train(training)
    norm.weight.data = torch.tensor([1.5, -0.7, 0.4], dtype=torch.double)
    x = torch.randn(2, 3, 2, 3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normalise_pool_relu(x, norm, size), [x])


@pytest.mark.parametrize("kept", [True, False], ids=["graph kept", "graph gone"])
def test_a_convolution_s_output_makes_room_for_its_gradient_once_nobody_needs_it(kept):
    """The same gradients either way, and as often as asked for where the graph is kept."""
    torch.manual_seed(3)
    conv, norm = nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3)
    x = torch.rand(2, 2, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    plain = functional.relu(functional.max_pool3d(norm(conv(x)), 2)).square().sum()
    expected = torch.autograd.grad(plain, [*conv.parameters(), *norm.parameters()])
    between = conv(x)
    values = between.detach().clone()
    loss = normalise_pool_relu(between, norm, 2).square().sum()
    for _ in range(1 + kept):
        found = torch.autograd.grad(loss, [*conv.parameters(), *norm.parameters()], retain_graph=kept)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)
    assert torch.equal(between, values) == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_s_way_to_part_gradients_gives_the_bytes_of_a_cpu_s(dtype):
    torch.manual_seed(8)
    passed, winners = torch.randn(5, 77).to(dtype), torch.randint(0, 8, (5, 77), dtype=torch.uint8)
    on_gpu, on_cpu = (by_place(passed, winners, kind) for kind in ("cuda", "cpu"))
    assert on_gpu.dtype == dtype
    assert torch.equal(on_gpu, on_cpu)
    assert torch.equal(on_gpu.sum(0), passed)


def test_mean_and_variance_do_not_cancel():
    rows = torch.randn(100_000, 3) * 0.01 + torch.tensor([0.0, 100.0, -1000.0])
    mean, variance, count = mean_and_variance(rows)
    assert torch.allclose(mean, rows.double().mean(0), rtol=1e-7, atol=1e-7)
    assert torch.allclose(variance, rows.double().var(0, correction=0), rtol=1e-4)
    assert (count == 100_000).all()


def test_two_ranks_have_the_statistics_and_gradients_of_one(tmp_path):
    """Two real processes, an uneven share of the batch each."""
    script = Path(__file__).parents[2] / "two_ranks.py"
    ranks = [subprocess.Popen([sys.executable, script, tmp_path, str(rank)]) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    together, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("together", "alone"))
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.allclose(together[name], value, rtol=1e-9, atol=1e-9 * float(alone["largest gradient"])), name
