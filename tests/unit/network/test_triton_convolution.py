"""The gradients of narrow convolutions, run on a CPU by Triton's interpreter, against torch's in float64."""

import os

import pytest
import torch
from neurotransfer.network import fused_norm, kernel_choice, sfcn
from torch.nn import functional

CHANNELS_LAST = torch.channels_last_3d

try:
    import triton.language as tl
    from neurotransfer.network import triton_convolution, triton_kernels
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip("triton is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Several programs, and several tiles in each, at tiny sizes."""
    monkeypatch.setattr(triton_convolution, "FILTER_PROGRAMS", 3)
    monkeypatch.setattr(triton_convolution, "FILTER_ROWS", 16)
    monkeypatch.setattr(triton_convolution, "INPUT_ROWS", 32)


def drawn(shape, outputs, data_type=torch.float32):
    """Input, filters and the output's gradient of a convolution."""
    generator = torch.Generator().manual_seed(3)
    sizes = shape, (outputs, shape[1], 3, 3, 3), (shape[0], outputs, *shape[2:])
    return [torch.randn(size, generator=generator).to(data_type) for size in sizes]


def gradients(convolve, x, filters, gradient):
    x, filters = x.clone().requires_grad_(), filters.clone().requires_grad_()
    return torch.autograd.grad(convolve(x, filters), (x, filters), gradient)


def exact(x, filters, gradient):
    return gradients(
        lambda *given: functional.conv3d(*given, padding=1), x.double(), filters.double(), gradient.double()
    )


@pytest.mark.parametrize(
    ("shape", "outputs"), [((2, 32, 4, 5, 6), 64), ((1, 16, 3, 2, 9), 128), ((3, 32, 1, 1, 2), 64)], ids=str
)
@pytest.mark.parametrize("data_type", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offsets", ["int32", "int64"])
def test_gradients_are_those_of_torch_in_float64(shape, outputs, data_type, offsets, monkeypatch):
    monkeypatch.setattr(triton_convolution, "_type_of_offsets", lambda *tensors: getattr(tl, offsets))
    given = drawn(shape, outputs, data_type)
    given[1] = given[1].float()  # as the network keeps its filters
    by_x, by_filters = gradients(triton_convolution.Convolve.apply, *given)
    right_x, right_filters = exact(given[0], given[1].to(data_type), given[2])
    assert (by_x.dtype, by_filters.dtype) == (data_type, torch.float32)
    assert by_x.is_contiguous(memory_format=CHANNELS_LAST)
    share = 1e-6 if data_type == torch.float32 else 4e-3
    assert (by_x - right_x).norm() <= share * right_x.norm()
    assert (by_filters - right_filters).norm() <= 1e-6 * right_filters.norm()  # its sums and its result are float32


def test_a_voxel_beside_the_border_gets_nothing_from_the_next_line_or_image():
    x, filters, gradient = drawn((2, 16, 2, 3, 2), 64)
    gradient[:, :, :, 1] = 0
    by_x, _ = gradients(triton_convolution.Convolve.apply, x, filters, gradient)
    alone = torch.cat([exact(x[[at]], filters, gradient[[at]])[0] for at in (0, 1)])
    assert torch.allclose(by_x.double(), alone, atol=1e-4)


def test_the_same_bytes_each_time_and_only_the_gradients_that_are_asked_for():
    x, filters, gradient = (tensor.bfloat16() for tensor in drawn((1, 32, 3, 3, 4), 64))
    first, second = (gradients(triton_convolution.Convolve.apply, x, filters, gradient) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    learnt = filters.clone().requires_grad_()
    triton_convolution.Convolve.apply(x, learnt).backward(gradient)  # of frozen blocks before
    assert torch.equal(learnt.grad, first[1])
    moving = x.clone().requires_grad_()
    triton_convolution.Convolve.apply(moving, filters).backward(gradient)
    assert torch.equal(moving.grad, first[0])


def test_large_tensors_get_wide_offsets():
    small = torch.empty(1)
    assert triton_convolution._type_of_offsets(small, small) == tl.int32
    large = torch.empty(1).expand(2**31)
    assert triton_convolution._type_of_offsets(small, large) == tl.int64


def test_they_are_chosen_for_narrow_convolutions_in_bfloat16_on_the_gpus_that_were_measured(monkeypatch):
    x = torch.zeros(1, 32, 4, 4, 4, dtype=torch.bfloat16)
    assert kernel_choice.convolution_kernels_for(x, 64) is None  # a CPU
    monkeypatch.setattr(kernel_choice, "kernels_for", lambda x, channels: triton_kernels)
    capability = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    assert kernel_choice.convolution_kernels_for(x, 64) is triton_convolution
    assert kernel_choice.convolution_kernels_for(x, 128) is triton_convolution
    for other, outputs in (
        (x.float(), 64),
        (x, 32),
        (x, 96),
        (x[:, :16], 64),
        (x.expand(2, -1, -1, -1, -1)[:, :31], 64),
    ):
        assert kernel_choice.convolution_kernels_for(other, outputs) is None
    for capability[0] in ((8, 0), (10, 0)):
        assert kernel_choice.convolution_kernels_for(x, 64) is None


def test_a_block_learns_the_same_with_them(monkeypatch):
    torch.manual_seed(5)
    block, x = sfcn.Block(32, 64), torch.randn(2, 32, 4, 4, 4)
    found = []
    for kernels in (None, triton_convolution):
        monkeypatch.setattr(sfcn, "convolution_kernels_for", lambda x, channels, kernels=kernels: kernels)
        for module in (sfcn, fused_norm):
            monkeypatch.setattr(module, "kernels_for", lambda x, channels: triton_kernels)
        block.zero_grad()
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = block(given)
        out.float().square().sum().backward()
        found.append([out, given.grad, *(parameter.grad for parameter in block.parameters())])
    assert found[1][0].dtype == torch.bfloat16
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 2e-2 * other.norm() + 1e-4
