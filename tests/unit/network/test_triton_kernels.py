"""The GPU's kernels, run on a CPU by Triton's interpreter, against torch's own layers in float64."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from neurotransfer.network import first_block as first_block_module
from neurotransfer.network import fused_norm, kernel_choice, sfcn
from neurotransfer.pretrain import batches
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)
CHANNELS_LAST = torch.channels_last_3d

try:
    from neurotransfer.network import triton_kernels
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip("triton is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Several programs, and several tiles in each, at tiny sizes."""
    monkeypatch.setattr(triton_kernels, "PROGRAMS", 2)
    monkeypatch.setattr(triton_kernels, "ROWS", 4)
    monkeypatch.setattr(triton_kernels, "FIRST_ROWS", dict.fromkeys(triton_kernels.FIRST_ROWS, 8))
    monkeypatch.setattr(triton_kernels, "FILTER_ROWS", dict.fromkeys(triton_kernels.FILTER_ROWS, 16))
    monkeypatch.setattr(triton_kernels, "FIRST_PROGRAMS", 2)
    monkeypatch.setattr(triton_kernels, "MOMENT_ROWS", 8)
    monkeypatch.setattr(triton_kernels, "COLUMN_ROWS", 8)


def norm_of(channels, training):
    torch.manual_seed(4)
    norm = nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01).train(training)
    norm.weight.data = torch.linspace(-1.5, 1.5, channels)
    norm.weight.data[channels // 2] = 0.0
    norm.bias.data, norm.running_mean = torch.randn(channels) * 0.3, torch.randn(channels)
    return norm


def fused(x, norm, monkeypatch, left_out=None):
    """What `normalise_pool_relu` gives on a GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(fused_norm, "kernels_for", lambda x, channels: triton_kernels)
        return fused_norm.normalise_pool_relu(x, norm, 2, torch.zeros(x.shape[1]) if left_out is None else left_out)


def plain(x, norm):
    return functional.relu(functional.max_pool3d(norm(x), 2))


def run(function, x, norm, weights):
    """Output, gradients of x, scale and shift, and running statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(x, norm)
    (out * weights.to(out.dtype)).sum().backward()
    return out.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


def first_block(images, channels, training, data_type, monkeypatch=None):
    """A block of uint8 images by the kernels, or by torch's layers in float64 with the filters in `data_type`.

    Its output, running statistics, and the gradients of filters, bias, scale and shift.
    """
    torch.manual_seed(11)
    block = sfcn.Block(1, channels).train(training)
    block.norm = norm_of(channels, training)
    block.conv.weight.data = block.conv.weight.to(data_type).float()
    weights = torch.randn(len(images), channels, *(length // 2 for length in images.shape[2:]))
    if monkeypatch is None:
        block.double()
        out = plain(block.conv(images.double()), block.norm)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(first_block_module, "kernels_for", lambda x, channels: triton_kernels)
            with torch.autocast("cpu", torch.bfloat16, enabled=data_type == torch.bfloat16):
                out = block(images)
    (out * weights.to(out.dtype)).sum().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    return [out.detach(), block.norm.running_mean, block.norm.running_var, *gradients]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("shape", "channels"), [((2, 1, 4, 6, 4), 16), ((1, 1, 3, 5, 7), 48), ((3, 1, 2, 2, 3), 32)], ids=str
)
@pytest.mark.parametrize("data_type", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_first_block_of_bytes_agrees_with_plain_layers_in_float64(
    shape, channels, training, data_type, monkeypatch
):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(12))
    images[0, 0, :, :2] = 0
    found = first_block(images, channels, training, data_type, monkeypatch)
    expected = first_block(images, channels, training, data_type)
    rough = data_type == torch.bfloat16
    assert found[0].dtype == data_type
    for at, (one, other) in enumerate(zip(found, expected, strict=True)):
        exact = 1e-4 if at in (1, 2) or not rough else 3e-2  # statistics are of exact sums in both types
        assert torch.allclose(one.double(), other, rtol=exact, atol=exact * max(1e-2, float(other.abs().max())))


def test_the_first_block_of_constant_and_of_empty_images_has_finite_gradients(monkeypatch):
    for value in (0, 255):
        images = torch.full((1, 1, 4, 4, 4), value, dtype=torch.uint8)
        found, expected = (first_block(images, 16, True, torch.float32, *given) for given in ([monkeypatch], []))
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one.double(), other, rtol=1e-3, atol=1e-3 * max(1.0, float(other.abs().max())))


def test_moments_of_many_bright_windows_are_exact(monkeypatch):
    monkeypatch.setattr(triton_kernels, "FIRST_PROGRAMS", 1)
    images = torch.full((2, 1, 8, 8, 8), 255, dtype=torch.uint8)
    first, second = triton_kernels.moments(triton_kernels.columns(triton_kernels.padded(images), (4, 4, 4)))
    padded = functional.pad(images[:, 0], (1,) * 6).double()
    windows = padded.unfold(1, 4, 2).unfold(2, 4, 2).unfold(3, 4, 2).reshape(-1, 64)
    assert torch.equal(first, windows.sum(0))
    assert torch.equal(second, windows.T @ windows)
    programs, per = triton_kernels.exact_share(8 * 10**6)  # of one program int32 would not hold the sums
    assert programs * per >= 10**6
    assert per * 8 * 255**2 < 2**31


@pytest.mark.parametrize("shape", [(2, 1, 4, 5, 6), (1, 1, 3, 2, 7)], ids=str)
def test_padded_images_have_zeros_around_and_whole_pairs(shape):
    images = torch.randint(1, 256, shape, dtype=torch.uint8)
    expected = functional.pad(images[:, 0], (1, 1 + shape[-1] % 2, 1, 1, 1, 1))
    assert torch.equal(triton_kernels.padded(images), expected)


@pytest.mark.parametrize("settings", [{"shift": 3, "mirror": True, "intensity": 0.3}, {"shift": 0, "mirror": False}])
def test_the_augmentation_of_a_gpu_gives_the_bytes_of_a_cpu_s(settings, monkeypatch):
    images = torch.randint(0, 256, (5, 6, 5, 7), dtype=torch.uint8)
    monkeypatch.setattr(triton_kernels, "LINES", 2)
    taken = []

    def by_kernel(images, shifts, mirrored, gains):
        taken.append(1)
        return triton_kernels.augment(images, torch.cat([shifts, mirrored[:, None]], 1).int(), gains)

    expected = batches.augment(images, settings, 3)
    monkeypatch.setattr(batches, "_augment", by_kernel)
    assert torch.equal(batches.augment(images, settings, 3), expected)
    part = batches.augment(images[1:3], settings, 3, np.array([1, 2]), 5)
    assert torch.equal(part, expected[1:3])
    assert len(taken) == 2


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "shape", [(2, 16, 4, 6, 4), (1, 48, 3, 5, 3), (3, 16, 2, 3, 2), (1, 128, 2, 2, 2)], ids=lambda shape: str(shape)
)
def test_kernels_agree_with_plain_layers_in_float64(shape, training, monkeypatch):
    torch.manual_seed(5)
    x = (torch.randn(shape) * 3 + 50).contiguous(memory_format=CHANNELS_LAST)
    weights = torch.randn(shape[0], shape[1], *(length // 2 for length in shape[2:]))
    found = run(lambda x, norm: fused(x, norm, monkeypatch), x, norm_of(shape[1], training), weights)
    expected = run(plain, x.double(), norm_of(shape[1], training).double(), weights.double())
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_convolution_s_bias_can_be_left_out(training, monkeypatch):
    """With it and without it: output, gradients, its own among them, and running statistics."""
    torch.manual_seed(9)
    x, weights = torch.randn(2, 16, 4, 4, 4), torch.randn(2, 16, 2, 2, 2)
    bias = torch.randn(16, requires_grad=True)
    found = run(lambda x, norm: fused(x, norm, monkeypatch, bias), x, norm_of(16, training), weights)
    by_bias, bias.grad = bias.grad, None
    expected = run(lambda x, norm: plain(x + bias.view(-1, 1, 1, 1), norm), x, norm_of(16, training), weights)
    for one, other in zip([*found, by_bias], [*expected, bias.grad], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_kernels_agree_with_the_torch_version_in_bfloat16(monkeypatch):
    torch.manual_seed(6)
    x = torch.randn(2, 32, 5, 4, 6).to(torch.bfloat16, memory_format=CHANNELS_LAST)
    weights = torch.randn(2, 32, 2, 2, 3)
    found = run(lambda x, norm: fused(x, norm, monkeypatch), x, norm_of(32, True), weights)
    expected = run(lambda x, norm: fused_norm.normalise_pool_relu(x, norm, 2), x, norm_of(32, True), weights)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one.float(), other.float(), rtol=2e-2, atol=2e-2)


def test_nan_and_ties_are_pooled_as_torch_pools_them():
    x = torch.zeros(1, 16, 4, 4, 4).contiguous(memory_format=CHANNELS_LAST)  # all tie
    x[0, 1, 0, 1, 1], x[0, 2, 1, 1, 1] = float("nan"), float("-inf")
    x[0, 3, :2, :2, :2] = float("-inf")
    most, at, _ = triton_kernels.pool(x, torch.ones(16))
    expected, places = functional.max_pool3d(x, 2, return_indices=True)
    assert torch.equal(most.nan_to_num(7, neginf=-9), expected.nan_to_num(7, neginf=-9))
    d, h, w = places // 16 % 2, places // 4 % 2, places % 2
    assert torch.equal(at.long(), 4 * d + 2 * h + w)
    rounded = torch.tensor([0.0, 1.0, 0.0])[:, None].expand(3, 16).contiguous()  # mean, scale, shift
    assert triton_kernels.scale_relu(most, rounded)[0, 1, 0, 0, 0].isnan()


def test_constant_images_have_no_variance_and_the_same_bytes_each_time(monkeypatch):
    x = torch.full((2, 16, 4, 4, 4), 200.0).contiguous(memory_format=CHANNELS_LAST)
    first, second = (run(lambda x, n: fused(x, n, monkeypatch), x, norm_of(16, True), torch.ones(1)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.allclose(first[0][0, :, 0, 0, 0], norm_of(16, True).bias.relu(), rtol=0, atol=1e-7)


def test_a_kept_graph_gives_its_gradient_twice(monkeypatch):
    torch.manual_seed(7)
    x = torch.randn(1, 16, 4, 4, 4, requires_grad=True)  # not channels last
    loss = fused(x * 1, norm_of(16, True), monkeypatch).square().sum()
    one, other = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert one.abs().sum() > 0
    assert torch.equal(one, other)


def test_only_what_the_kernels_compute_is_given_to_them():
    x = torch.zeros(1, 16, 2, 2, 2)
    assert all(kernel_choice.suits(kind, 16) for kind in (x, x.bfloat16(), x.byte()))
    assert not kernel_choice.suits(x.double(), 16)
    assert not kernel_choice.suits(x, 8) and not kernel_choice.suits(x, 24)
    assert not kernel_choice.suits(x[..., :1], 16) and not kernel_choice.suits(x[:0], 16)
    assert kernel_choice.kernels_for(x, 16) is None  # a CPU


@pytest.fixture
def fresh_choice():
    kernel_choice.missing_for_kernels.cache_clear()
    yield
    kernel_choice.missing_for_kernels.cache_clear()


CPU = torch.device("cpu")


@pytest.mark.usefixtures("fresh_choice")
def test_the_device_s_own_results_are_compared_before_the_kernels_are_used(monkeypatch, caplog):
    assert kernel_choice.missing_for_kernels(CPU) is None
    kernel_choice.missing_for_kernels.cache_clear()
    right = triton_kernels.pool
    monkeypatch.setattr(triton_kernels, "pool", lambda x, w: (right(x, w)[0] + 1, *right(x, w)[1:]))
    with caplog.at_level(logging.WARNING, "neurotransfer"):
        assert "output of the block after the first is wrong with triton" in kernel_choice.missing_for_kernels(CPU)
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("fresh_choice")
def test_a_failed_compilation_fails_no_job(monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(triton_kernels, "pool", fails)
    with caplog.at_level(logging.WARNING, "neurotransfer"):
        assert kernel_choice.missing_for_kernels(CPU).endswith("RuntimeError: Failed to find C compiler.")
        kernel_choice.missing_for_kernels(CPU)
    assert len(caplog.records) == 1


def test_compiled_kernels_are_kept_in_a_folder_of_this_user_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    kernel_choice.use_node_cache("3.7.1")
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    folder = tmp_path / f"neurotransfer-triton-3.7.1-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")  # not to be trusted
    kernel_choice.use_node_cache("3.7.1")
    assert os.environ["TRITON_CACHE_DIR"] != str(folder)
    folder.unlink()
    monkeypatch.delenv("TRITON_CACHE_DIR")
    kernel_choice.use_node_cache("3.7.1")
    assert os.environ["TRITON_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o77 == 0


def test_kernels_compile_for_a_gpu_without_atomic_operations(tmp_path):
    script = Path(__file__).parents[2] / "compile_kernels.py"
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    environment["PYTHONPATH"] = str(Path(fused_norm.__file__).parents[2])
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "_pool", "_raw_sums", "_settle", "_scale_relu", "_gate_sums", "_spread", "_unpool", "_pad",
        "_columns", "_shift", "_convolve_pool", "_moments", "_filter_sums", "_augment", "_input_gradient",
        "_filter_gradient",
    ]  # fmt: skip
