"""The GPU's kernels, run on a CPU by Triton's interpreter, against torch's own layers in float64."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from neurotransfer.network import fused_norm, kernel_choice
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
    monkeypatch.setattr(triton_kernels, "ROWS", 8)


def norm_of(channels, training):
    torch.manual_seed(4)
    norm = nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01).train(training)
    norm.weight.data = torch.linspace(-1.5, 1.5, channels)
    norm.weight.data[channels // 2] = 0.0
    norm.bias.data, norm.running_mean = torch.randn(channels) * 0.3, torch.randn(channels)
    return norm


def fused(x, norm, monkeypatch):
    """What `normalise_pool_relu` gives on a GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(fused_norm, "fused_function", lambda x, size: triton_kernels.NormalisePoolReLU)
        return fused_norm.normalise_pool_relu(x, norm, 2)


def plain(x, norm):
    return functional.relu(functional.max_pool3d(norm(x), 2))


def run(function, x, norm, weights):
    """Output, gradients of x, scale and shift, and running statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(x, norm)
    (out * weights.to(out.dtype)).sum().backward()
    return out.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


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
    most, at, _, _ = triton_kernels.pool(x, torch.ones(16))
    expected, places = functional.max_pool3d(x, 2, return_indices=True)
    assert torch.equal(most.nan_to_num(7, neginf=-9), expected.nan_to_num(7, neginf=-9))
    d, h, w = places // 16 % 2, places // 4 % 2, places % 2
    assert torch.equal(at.long(), 4 * d + 2 * h + w)
    assert triton_kernels.scale_relu(most, torch.zeros(16), torch.ones(16), torch.zeros(16))[0, 1, 0, 0, 0].isnan()


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
    assert kernel_choice.suits(x, 2) and kernel_choice.suits(x.bfloat16(), 2)
    assert not kernel_choice.suits(x.double(), 2) and not kernel_choice.suits(x, 1)
    assert not kernel_choice.suits(x[:, :8], 2) and not kernel_choice.suits(torch.zeros(1, 24, 2, 2, 2), 2)
    assert not kernel_choice.suits(x[..., :1], 2) and not kernel_choice.suits(x[:0], 2)
    assert kernel_choice.fused_function(x, 2) is None  # a CPU


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
        assert "maximum is wrong with triton" in kernel_choice.missing_for_kernels(CPU)
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
    assert done.stdout.split() == ["_pool", "_scale_relu", "_gate_sums", "_unpool"]
