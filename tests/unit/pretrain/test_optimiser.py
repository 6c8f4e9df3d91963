"""Optimisers, schedules and averages against torch's own and against their formulas."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from neurotransfer.pretrain.optimiser import AdamW, WeightAverage, learning_rate, make_optimiser


def models():
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    return first, copy.deepcopy(first)


def gradients(model, x, size=1.0):
    model.zero_grad()
    (size * model(x).square().sum()).backward()


@pytest.mark.parametrize(("beta", "decay"), [(0.9, 0.01), (0.5, 0.0)])
def test_adamw_is_torchs_own(beta, decay):
    ours, theirs = models()
    optimiser = make_optimiser(ours, {"optimiser": "adamw", "momentum": beta, "weight_decay": decay})
    reference = torch.optim.AdamW(theirs.parameters(), lr=1.0, betas=(beta, 0.999), weight_decay=decay)
    assert isinstance(optimiser, AdamW)
    for rate in (0.01, 0.01, 0.003, 0.1):
        x = torch.randn(5, 4)
        for model in (ours, theirs):
            gradients(model, x)
        optimiser.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-6, atol=1e-7)


def test_a_frozen_parameter_stays_as_it_is():
    ours, before = models()
    ours[0].requires_grad_(False)
    optimiser = make_optimiser(ours, {"optimiser": "adamw", "momentum": 0.9, "weight_decay": 0.1})
    gradients(ours, torch.randn(5, 4))
    optimiser.step(0.1)
    assert torch.equal(ours[0].weight, before[0].weight)
    assert not torch.equal(ours[2].weight, before[2].weight)


@pytest.mark.parametrize("size", [1.0, 1e-4])  # above the limit, and below
def test_gradients_are_limited_as_torch_does(size):
    ours, theirs = models()
    x = torch.randn(5, 4)
    for model in (ours, theirs):
        gradients(model, x, size)
    optimiser = make_optimiser(ours, {"momentum": 0.9, "weight_decay": 0.0, "clip_norm": 0.5})
    norm = optimiser.limit_gradients()
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)), rel=1e-6)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-5)


def test_the_rate_rises_over_the_warmup_and_falls_along_a_cosine():
    settings = {"learning_rate": 2.0, "schedule": {"kind": "cosine"}, "epochs": 5, "warmup": 4}
    rates = [learning_rate(settings, epoch, step, 10) for epoch in range(5) for step in range(10)]
    expected = [1 + math.cos(math.pi * step / 50) for step in range(50)]
    assert rates[4:] == pytest.approx(expected[4:])
    assert rates[:4] == pytest.approx([expected[step] * (step + 1) / 4 for step in range(4)])
    constant = settings | {"schedule": {"kind": "constant"}, "warmup": 0}
    assert {learning_rate(constant, epoch, 3, 10) for epoch in range(5)} == {2.0}


def test_the_average_of_weights_follows_its_formula_and_is_in_use_only_in_its_block():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average, expected = WeightAverage(model, 0.5), 1.0
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.in_use():
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == 5.0
    saved, other = copy.deepcopy(average.state()), WeightAverage(model, 0.5)
    other.load(saved)
    with other.in_use():
        assert float(model.weight.detach()) == pytest.approx(expected)


def test_making_an_optimiser_does_not_import_torchs_compiler():
    """torch.optim does, which takes more than a second in each of thousands of fits."""
    script = (
        "import sys, torch; from neurotransfer.pretrain.optimiser import make_optimiser; "
        "make_optimiser(torch.nn.Linear(1, 1), {'optimiser': 'adamw', 'momentum': 0.9, 'weight_decay': 0.0}); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
