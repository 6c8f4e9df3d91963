"""Which device computes, and how it is set up."""

import copy
import logging
import math

import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.network import device
from neurotransfer.network.device import WORTHWHILE_GAIN, bfloat16_gain, choose_data_type, choose_device, place
from neurotransfer.network.fused_norm import left_to_compiler
from neurotransfer.network.sfcn import SFCN

CPU = torch.device("cpu")


def test_the_cpu_computes_with_the_threads_asked_for():
    before = torch.get_num_threads()
    try:
        assert choose_device("cpu", 2).type == "cpu"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_auto_takes_a_gpu_where_there_is_one():
    assert choose_device("auto", 1).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="finds no GPU; set auto or cpu"):
        choose_device("cuda", 1)


@pytest.mark.parametrize(("gain", "chosen"), [(3.5, torch.bfloat16), (0.5, torch.float32)])
def test_bfloat16_is_for_a_cpu_that_proves_it(gain, chosen, monkeypatch, caplog):
    """Its instructions alone are not enough: on some processors that have them, they are slower than float32."""
    choose_data_type.cache_clear()
    monkeypatch.setattr(device, "bfloat16_gain", lambda: gain)
    with caplog.at_level(logging.INFO, "neurotransfer"):
        assert choose_data_type("auto", CPU) == chosen
        assert f"in bfloat16 is {gain} times as fast" in caplog.text
        assert choose_data_type("float32", CPU) == torch.float32
        assert choose_data_type("bfloat16", CPU) == torch.bfloat16
    assert caplog.text.count("as configured") == 2
    choose_data_type.cache_clear()


def test_what_bfloat16_gains_is_measured_alike_each_time():
    """So that every fit of a study on one kind of processor computes in the same data type."""
    found = [bfloat16_gain() for _ in range(11)]
    assert all(0 < gain < math.inf for gain in found)
    assert len({gain > WORTHWHILE_GAIN for gain in found}) == 1, found


def test_a_network_computes_in_the_type_that_it_is_placed_with():
    torch.manual_seed(0)
    model = SFCN([4, 8], 4, 2, "average", 0.0)
    images = torch.rand(4, 1, 16, 16, 16) * 255
    exact = place(model, CPU, "float32")(images)
    inside = []
    model.blocks[1].conv.register_forward_hook(lambda module, given, out: inside.append(out.dtype))
    rounded = place(model, CPU, "bfloat16")(images)
    assert inside == [torch.bfloat16]
    assert rounded.dtype == exact.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.02
    rounded.sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in model.parameters())


@pytest.mark.parametrize("planes", [4, 8, 12, 16, 20])
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(planes):
    """However few planes the last blocks see; two of them are what oneDNN's own gradient fails at."""
    torch.manual_seed(0)
    model = SFCN([8, 16, 16], 8, 2, "average", 0.0)
    images = torch.rand(4, 1, 2 * planes, 16, 24) * 255
    gradients = {}
    for data_type in ("float32", "bfloat16"):
        place(model, CPU, data_type).zero_grad()
        loss = model(images).square().sum()
        left = [torch.full((size,), 1e35) for size in range(64, 16384, 64)]
        del left  # it lies about in memory that nobody writes
        loss.backward()
        gradients[data_type] = [block.conv.weight.grad.clone() for block in model.blocks]
    for rounded, exact in zip(gradients["bfloat16"], gradients["float32"], strict=True):
        assert (rounded - exact).norm() < exact.norm()  # of a small network, whose maxima change places


def test_a_compiled_network_gives_the_outputs_and_gradients_of_the_other(monkeypatch):
    """What the compiler is given, run as it stands: compiling it takes a minute, and is the compiler's own matter."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.manual_seed(0)
    images = torch.rand(3, 1, 17, 16, 18) * 255
    compiled = SFCN([16, 4], 4, 2, "max", 0.0)
    with torch.no_grad():
        compiled.blocks[1].norm.weight[:2] *= -1
    ours = copy.deepcopy(compiled)
    assert left_to_compiler()
    compiled(images).square().sum().backward()
    monkeypatch.undo()
    ours(images).square().sum().backward()
    for (name, value), other in zip(compiled.named_parameters(), ours.parameters(), strict=True):
        assert torch.allclose(value.grad, other.grad, rtol=1e-3, atol=1e-3 * other.grad.abs().max() + 1e-4), name
    for (name, value), other in zip(compiled.named_buffers(), ours.buffers(), strict=True):
        assert torch.allclose(value, other, rtol=1e-4, atol=1e-5), name
