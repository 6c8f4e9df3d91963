"""Convolutions in bfloat16 are compared with float32 before a GPU is trusted with them."""

import os
import subprocess
import sys

import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.network import convolution_check
from neurotransfer.network.convolution_check import check_convolutions, wrong_part
from neurotransfer.network.sfcn import SFCN
from torch.nn import functional

CPU = torch.device("cpu")
SHAPES = (4, 2, 3, 3, 3), (2, 2, 4, 5, 3)


def test_right_convolutions_pass():
    assert wrong_part(*SHAPES, CPU) is None
    assert wrong_part((4, 2, 1, 1, 1), (1, 2, 3, 3, 3), CPU) is None


class WrongInBfloat16(torch.autograd.Function):
    """A convolution that spoils one part of what it is asked for."""

    part = ""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        out = functional.conv3d(x, weight, padding=1)
        return out + (WrongInBfloat16.part == "output")

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        found = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, [True, True, False]
        )
        spoiled = ["gradient of the input", "gradient of the filters"]
        return tuple(
            value * (1 - 0.1 * (name == WrongInBfloat16.part)) for name, value in zip(spoiled, found, strict=False)
        )


@pytest.fixture
def spoiled(monkeypatch):
    """A function after which convolutions in bfloat16 are those of a class; it returns what float32 has computed."""
    real, exact = functional.conv3d, []

    def spoil(convolution):
        def convolve(x, weight, padding):
            if x.dtype != torch.bfloat16:
                exact.append(x.shape)
                return real(x, weight, padding=padding)
            with monkeypatch.context() as patch:
                patch.setattr(functional, "conv3d", real)
                return convolution(x, weight)

        monkeypatch.setattr(functional, "conv3d", convolve)
        return exact

    return spoil


@pytest.mark.parametrize("part", ["output", "gradient of the input", "gradient of the filters"])
def test_each_part_that_is_wrong_is_named(part, monkeypatch, spoiled):
    monkeypatch.setattr(WrongInBfloat16, "part", part)
    spoiled(WrongInBfloat16.apply)
    assert wrong_part(*SHAPES, CPU)[0] == part


@pytest.mark.parametrize("at", range(5))
def test_one_wrong_image_of_a_batch_is_found_and_float32_computes_two(at, spoiled):
    factors = torch.ones(5, 1, 1, 1, 1, dtype=torch.bfloat16)
    factors[at] = 0.9
    exact = spoiled(lambda x, weight: functional.conv3d(x, weight, padding=1) * factors)
    assert wrong_part(SHAPES[0], (5, 2, 4, 5, 3), CPU)[0] == "output"
    assert 1 <= len(exact) <= 2


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 0], [4, 3, 2, 1, 0], [0, 0, 2, 3, 4], [2, 3, 0, 1, 4]])
def test_images_of_a_batch_that_are_exchanged_are_found(order, spoiled):
    exact = spoiled(lambda x, weight: functional.conv3d(x, weight, padding=1)[order])
    assert wrong_part(SHAPES[0], (5, 2, 4, 5, 3), CPU) is not None
    assert len(exact) <= 2


def test_a_wrong_convolution_stops_with_shape_versions_and_fix(monkeypatch):
    monkeypatch.setattr(convolution_check, "wrong_part", lambda *shapes: ("output", 0.4))
    convolution_check._check.cache_clear()
    with pytest.raises(InputError, match=r"of 2 to 4 channels at 4×5×3 voxels, batch 2.*wrong output.*cuDNN"):
        convolution_check._check(*SHAPES, CPU)


def test_a_gpu_s_network_in_bfloat16_has_all_its_shapes_compared_once(monkeypatch):
    seen = []
    monkeypatch.setattr(convolution_check, "wrong_part", lambda *shapes: seen.append(shapes))
    convolution_check._check.cache_clear()
    network = SFCN([16, 32, 8], bottleneck=4, outputs=1, pooling="max", dropout=0.0)
    gpu = torch.device("cuda")
    check_convolutions(network, 2, (8, 16, 8), gpu)  # in float32
    network.data_type = torch.bfloat16
    check_convolutions(network, 2, (8, 16, 8), CPU)
    assert seen == []
    for _ in range(2):
        check_convolutions(network, 2, (8, 16, 8), gpu)
    assert [shapes[:2] for shapes in seen] == [
        ((32, 16, 3, 3, 3), (2, 16, 4, 8, 4)),
        ((8, 32, 3, 3, 3), (2, 32, 2, 4, 2)),
        ((4, 8, 1, 1, 1), (2, 8, 1, 2, 1)),
    ]


BEFORE_THE_FIRST_STEP = """
import sys, torch
from neurotransfer.network import convolution_check, kernel_choice
cpu = torch.device("cpu")
assert kernel_choice.wrong_result(cpu, torch.bfloat16) is None
assert convolution_check.wrong_part((4, 2, 3, 3, 3), (2, 2, 4, 5, 3), cpu) is None
torch.set_deterministic_debug_mode("warn")
print(*{"sympy", "torch._inductor", "torch._dynamo"} & set(sys.modules))
"""


def test_checks_before_the_first_step_import_no_compiler():
    pytest.importorskip("triton")
    source = os.path.dirname(os.path.dirname(os.path.dirname(convolution_check.__file__)))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": source}
    command = [sys.executable, "-c", BEFORE_THE_FIRST_STEP]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
