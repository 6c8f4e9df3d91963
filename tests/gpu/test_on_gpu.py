"""Network, loop and fits on an NVIDIA GPU: `make test-gpu`, with the Python of the machine.

NEUROTRANSFER_GPU_TESTS=cpu runs the same tests on a CPU, by torch, to see that the tests themselves work.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

DEVICE = torch.device(os.environ.get("NEUROTRANSFER_GPU_TESTS", "cuda"))
if DEVICE.type == "cuda" and not torch.cuda.is_available():
    pytest.skip("no NVIDIA GPU here", allow_module_level=True)

import planted  # noqa: E402
from neurotransfer.errors import InputError  # noqa: E402
from neurotransfer.fit import finetuning  # noqa: E402
from neurotransfer.network import kernel_choice  # noqa: E402
from neurotransfer.network.convolution_check import wrong_part  # noqa: E402
from neurotransfer.network.device import choose_device, place  # noqa: E402
from neurotransfer.network.sfcn import SFCN, Block, calibrate, convolve  # noqa: E402
from neurotransfer.pretrain import batches, loop  # noqa: E402
from neurotransfer.pretrain.optimiser import make_optimiser  # noqa: E402
from neurotransfer.pretrain.step import backward_passes  # noqa: E402
from neurotransfer.split.resampling import write_resample  # noqa: E402
from torch.nn import functional  # noqa: E402

from workbench.plain_layers import PlainSFCN  # noqa: E402

ON_GPU = DEVICE.type == "cuda"
TYPES = [torch.float32, torch.bfloat16]
CHANNELS = [16, 32]
CHANGES = {"data_type": "float32", "epochs": 2}


@pytest.fixture(autouse=True, scope="module")
def chosen():
    """The device as the product sets it up."""
    choose_device(DEVICE.type, 2)


@pytest.fixture
def wide(monkeypatch):
    """A network that is wide enough for the kernels."""
    monkeypatch.setitem(planted.NETWORK, "channels", CHANNELS)


def close(found, right, share):
    """Whether two tensors differ by less than `share` of the second one's norm."""
    found, right = found.detach().cpu().double(), right.detach().cpu().double()
    return bool((found - right).norm() <= share * right.norm() + 1e-12)


def block_of(inputs, channels, training, data_type):
    torch.manual_seed(11)
    block = Block(inputs, channels).train(training)
    block.norm.weight.data = torch.linspace(-1.5, 1.5, channels)
    block.norm.weight.data[channels // 2] = 0
    block.norm.bias.data = torch.randn(channels) * 0.3
    block.norm.running_mean, block.norm.running_var = torch.randn(channels), torch.rand(channels) + 0.5
    block.conv.weight.data = block.conv.weight.to(data_type).float()
    return block


def outcome(block, x, weights, given):
    """Output, running statistics, and all gradients."""
    out = given(block, x)
    (out * weights.to(out)).sum().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    return [out, block.norm.running_mean, block.norm.running_var, *gradients, *([] if x.grad is None else [x.grad])]


def by_product(data_type):
    def run(block, x):
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=data_type == torch.bfloat16):
            return block(x)

    return run


def by_layers(block, x):
    return functional.relu(functional.max_pool3d(block.norm(block.conv(x)), 2))


@pytest.mark.parametrize("data_type", TYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("shape", "channels"), [((2, 1, 17, 16, 19), 32), ((1, 1, 8, 9, 10), 48)], ids=str)
def test_the_first_block_agrees_with_layers_in_float64(shape, channels, training, data_type):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(shape[0], channels, *(length // 2 for length in shape[2:]))
    right = outcome(block_of(1, channels, training, data_type).double(), images.double(), weights, by_layers)
    block = block_of(1, channels, training, data_type).to(DEVICE)
    found = outcome(block, images.to(DEVICE), weights, by_product(data_type))
    share = 2e-2 if data_type == torch.float32 else 0.4  # rounding moves single maxima, and with them gradients
    names = ["output", "mean", "variance", "filters", "bias", "scale", "shift"]
    for name, one, other in zip(names, found, right, strict=True):
        if name == "bias" and training:  # nothing but rounding, about zero
            assert float(one.abs().max()) < (1e-6 if ON_GPU else 1.0)
        else:
            assert close(one, other, share if name in names[3:] else 2e-2), name


@pytest.mark.parametrize("data_type", TYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("size", "channels"), [((9, 10, 7), 64), ((4, 4, 5), 48), ((6, 4, 4), 128)], ids=str)
def test_other_blocks_agree_with_layers_in_float64(size, channels, training, data_type):
    torch.manual_seed(2)
    x, weights = torch.randn(2, 16, *size).to(data_type), torch.randn(2, channels, *(length // 2 for length in size))
    exact, same = x.double().requires_grad_(), x.to(DEVICE).requires_grad_()
    right = outcome(block_of(16, channels, training, data_type).double(), exact, weights, by_layers)
    found = outcome(block_of(16, channels, training, data_type).to(DEVICE), same, weights, by_product(data_type))
    share = 2e-3 if data_type == torch.float32 else 0.3
    for at, (one, other) in enumerate(zip(found, right, strict=True)):
        if at == 4 and training:  # the convolution's bias
            assert float(one.abs().max()) < (1e-6 if ON_GPU else 1.0)
        else:
            assert close(one, other, share if at not in (0, 1, 2) else min(share, 2e-2)), at


@pytest.mark.parametrize("size", [(9, 10, 7), (32, 24, 32)], ids=str)
def test_a_convolution_from_32_channels_agrees_with_float64(size):
    generator = torch.Generator().manual_seed(5)
    x, filters = torch.randn(2, 32, *size, generator=generator), torch.randn(64, 32, 3, 3, 3, generator=generator)
    gradient = torch.randn(2, 64, *size, generator=generator).bfloat16()
    exact = x.bfloat16().double().requires_grad_(), filters.bfloat16().double().requires_grad_()
    right = torch.autograd.grad(functional.conv3d(*exact, padding=1), exact, gradient.double())
    given = x.bfloat16().to(DEVICE).requires_grad_(), filters.to(DEVICE).requires_grad_()
    found = []
    for _ in range(2):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            out = convolve(*given)
        found.append(torch.autograd.grad(out, given, gradient.to(DEVICE)))
    for one, again, other in zip(*found, right, strict=True):
        assert torch.equal(one, again)
        assert close(one, other, 5e-3)
    if ON_GPU and torch.cuda.get_device_capability()[0] == kernel_choice.MEASURED:
        assert "Convolve" in type(out.grad_fn).__name__


def test_the_whole_network_agrees_with_plain_layers():
    images = torch.randint(0, 256, (3, 1, 16, 20, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(4)
    ours = place(SFCN(CHANNELS, 16, 2, "max", 0.0), DEVICE, "float32")
    plain = PlainSFCN(CHANNELS, 16, 2, "max", 0.0).double()
    plain.load_state_dict({name: value.cpu() for name, value in ours.state_dict().items()})
    found, right = ours(images.to(DEVICE)), plain(images.double())
    assert close(found, right, 1e-4)
    found.square().sum().backward()
    right.square().sum().backward()
    exact = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        if not name.endswith(("conv.bias", "bottleneck.bias")):
            assert close(parameter.grad, exact[name].grad, 2e-2), name


def test_batches_of_one_and_images_without_a_voxel_of_brain_have_finite_gradients():
    for value in (0, 200):
        network = place(SFCN(CHANNELS, 16, 1, "max", 0.0), DEVICE, "auto" if ON_GPU else "float32")
        images = torch.full((1, 1, 16, 16, 16), value, dtype=torch.uint8, device=DEVICE)
        network(images).sum().backward()
        assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())


def test_frozen_blocks_stay_as_they_are():
    network = place(SFCN(CHANNELS, 16, 1, "max", 0.0), DEVICE, "float32")
    network.freeze(1)
    network.train()
    before = {name: value.clone() for name, value in network.blocks[0].state_dict().items()}
    images = torch.randint(0, 256, (2, 1, 16, 16, 16), dtype=torch.uint8, device=DEVICE)
    network(images).sum().backward()
    assert network.blocks[0].conv.weight.grad is None
    assert network.blocks[1].conv.weight.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.blocks[0].state_dict().items())


def test_calibration_gives_the_statistics_of_the_weights_as_they_are():
    images = torch.randint(0, 256, (4, 1, 16, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    network = place(SFCN(CHANNELS, 16, 1, "max", 0.0), DEVICE, "float32")
    calibrate(network, [images.to(DEVICE)])
    answers = functional.conv3d(
        images.double(), network.blocks[0].conv.weight.cpu().double(), network.blocks[0].conv.bias.cpu().double(),
        padding=1,
    )  # fmt: skip
    assert close(network.blocks[0].norm.running_mean, answers.mean((0, 2, 3, 4)), 1e-4)
    assert close(network.blocks[0].norm.running_var, answers.var((0, 2, 3, 4)), 1e-4)


def test_augmentation_gives_the_bytes_of_a_cpu():
    images = torch.randint(0, 256, (5, 20, 17, 19), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    settings = {"shift": 3, "mirror": True, "intensity": 0.3}
    assert torch.equal(batches.augment(images.to(DEVICE), settings, 7).cpu(), batches.augment(images, settings, 7))


def trained(steps):
    """Weights after so many steps from the same start, in the device's own data type."""
    torch.manual_seed(8)
    network = place(SFCN(CHANNELS, 16, 1, "max", 0.5), DEVICE, "auto" if ON_GPU else "float32")
    optimiser = make_optimiser(network, {"optimiser": "adamw", "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 1.0})
    images = torch.randint(0, 256, (4, 20, 16, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    images, network = images.to(DEVICE), network.train()
    for step in range(steps):
        if ON_GPU and step == steps - 1:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")  # nothing in a step may wait for the device
        optimiser.clear()
        backward_passes(
            network, iter([images]), [np.arange(4)], 4, seeds={"augmentation": step, "dropout": step},
            augmentation={"shift": 1, "mirror": True, "intensity": 0.1}, device=DEVICE,
            loss_of=lambda outputs, positions: (outputs[:, 0] - 1).square(),
        )  # fmt: skip
        optimiser.step(1e-3)
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")
    return [parameter.detach().cpu().clone() for parameter in network.parameters()]


def test_the_same_seeds_give_the_same_bytes_and_a_step_waits_for_nothing():
    first, second = trained(3), trained(3)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.usefixtures("wide")
def test_pretraining_learns_and_goes_on_after_a_stop_with_the_same_bytes(tmp_path, monkeypatch):
    table = planted.plant(tmp_path)
    whole = planted.pretrained(tmp_path, table, tmp_path / "a", DEVICE, **CHANGES)
    assert np.isfinite(whole.history["validation_loss"]).all()
    real, calls = loop.add_gradients, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), 15)
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, "add_gradients", stopping)
        planted.pretrained(tmp_path, table, tmp_path / "b", DEVICE, **CHANGES)
    resumed = planted.pretrained(tmp_path, table, tmp_path / "b", DEVICE, **CHANGES)
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    assert whole.history.equals(resumed.history)


@pytest.mark.usefixtures("wide")
def test_a_loss_that_is_not_finite_is_noticed_and_named(tmp_path):
    with pytest.raises(InputError, match="not finite in epoch 0, step"):
        planted.pretrained(tmp_path, planted.plant(tmp_path), tmp_path / "a", DEVICE, **CHANGES, learning_rate=1e30)


@pytest.mark.usefixtures("wide")
def test_a_fit_gives_the_same_record_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = Path("results/cache")
    cache.mkdir(parents=True)
    resample = planted.resample_of(planted.plant(cache))
    write_resample(resample, "r.tsv", {"task": "task", "n": 24, "replicate": "001"})
    fitting = {"seed": 1, "network": planted.NETWORK, "settings": [{"learning_rate": 0.01, "dropout": 0.1}]}
    fitting["training"] = planted.SETTINGS | {"epochs": 2, "device": DEVICE.type, "threads": 1}
    first, second = (finetuning.fit("baseline", "r.tsv", fitting)[0] for _ in range(2))
    assert first == second
    assert np.isfinite(first["test"]["score"]).all()


@pytest.mark.skipif(not ON_GPU, reason="a GPU's alone")
def test_this_gpu_s_kernels_and_convolutions_are_right():
    assert kernel_choice.missing_for_kernels(torch.device("cuda", torch.cuda.current_device())) is None
    assert wrong_part((64, 32, 3, 3, 3), (2, 32, 28, 24, 28), DEVICE) is None
