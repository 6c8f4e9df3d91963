"""The optimisers, shared by pretraining and fits; the rate at which they move; the average of the weights.

torch.optim is not used: when one of its optimisers is made, it imports torch's compiler, which takes more than a
second that each of thousands of fits would pay.  Tests compare each optimiser with torch's own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SECOND_MOMENT, EPSILON = 0.999, 1e-8  # of AdamW: decay of the squares' average, and what its root is raised by


class Optimiser:
    """What optimisers have in common: parameters, the clipping of their gradients, and a state to save.

    Parameters
    ----------
    settings : `weight_decay`; `clip_norm`, the largest norm of all gradients together (None or missing: no limit)
    """

    def __init__(self, model: torch.nn.Module, settings: Mapping[str, Any]) -> None:
        self.parameters: list[Tensor] = list(model.parameters())
        self.weight_decay, self.clip_norm = settings["weight_decay"], settings.get("clip_norm")

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, rate: float) -> Tensor:
        """Move every parameter that has a gradient; the norm of all gradients before clipping, a scalar."""
        norm = self.limit_gradients()
        self.move(rate)
        return norm

    @torch.no_grad()
    def limit_gradients(self) -> Tensor:
        """Scale all gradients, in place, to a norm of at most `clip_norm`; their norm before that, a scalar.

        It stays on the device, so that nothing waits for it.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not gradients:
            return torch.zeros(())
        norm = torch.stack(torch._foreach_norm(gradients)).norm()  # root of the sum of all squares
        if self.clip_norm is not None:
            factor = torch.where(norm.isfinite() & (norm > self.clip_norm), self.clip_norm / norm.double(), 1.0)
            if factor.is_cuda or factor != 1:
                torch._foreach_mul_(gradients, factor.to(norm.dtype))
        return norm

    def with_gradients(self, *kept: list[Tensor]) -> tuple[list[Tensor], ...]:
        """The parameters that have a gradient, these gradients, and what `kept` has for them."""
        moved = [at for at, parameter in enumerate(self.parameters) if parameter.grad is not None]
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return [self.parameters[at] for at in moved], gradients, *([each[at] for at in moved] for each in kept)

    def move(self, rate: float) -> None:
        """Move every parameter that has a gradient."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Everything that the steps change, except the parameters: tensors and numbers."""
        raise NotImplementedError

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        raise NotImplementedError


class Momentum(Optimiser):
    """Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD computes it."""

    def __init__(self, model: torch.nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__(model, settings)
        self.momentum = settings["momentum"]
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def move(self, rate: float) -> None:
        """Velocity = momentum * velocity + gradient + decay * parameter; parameter -= rate * velocity."""
        parameters, gradients, velocities = self.with_gradients(self.velocities)
        if parameters:
            torch._foreach_mul_(velocities, self.momentum)
            torch._foreach_add_(velocities, gradients)
            torch._foreach_add_(velocities, parameters, alpha=self.weight_decay)
            torch._foreach_sub_(parameters, velocities, alpha=rate)

    def state(self) -> dict[str, Any]:
        """The velocities."""
        return {"velocities": self.velocities}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue with the velocities of a checkpoint."""
        _copy(state["velocities"], self.velocities)


class AdamW(Optimiser):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019, arXiv:1711.05101), as torch.optim.AdamW computes it.

    `momentum` of the settings is Adam's first decay (beta 1); the second one is `SECOND_MOMENT`.
    """

    def __init__(self, model: torch.nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__(model, settings)
        self.momentum = settings["momentum"]
        self.steps = 0
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def move(self, rate: float) -> None:
        """Shrink the parameters, then move each by its mean gradient over the root of its mean squared gradient."""
        self.steps += 1
        parameters, gradients, means, squares = self.with_gradients(self.means, self.squares)
        if not parameters:
            return
        torch._foreach_mul_(parameters, 1 - rate * self.weight_decay)
        torch._foreach_lerp_(means, gradients, 1 - self.momentum)  # mean += (1 - beta 1) * (gradient - mean)
        torch._foreach_mul_(squares, SECOND_MOMENT)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - SECOND_MOMENT)
        # both averages began at 0: divided by their weights' sums, they are averages of what was seen
        root = math.sqrt(1 - SECOND_MOMENT**self.steps)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, root)
        torch._foreach_add_(denominators, EPSILON)
        torch._foreach_addcdiv_(parameters, means, denominators, -rate / (1 - self.momentum**self.steps))

    def state(self) -> dict[str, Any]:
        """The number of steps and both averages."""
        return {"steps": self.steps, "means": self.means, "squares": self.squares}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue with the averages of a checkpoint."""
        self.steps = state["steps"]
        _copy(state["means"], self.means)
        _copy(state["squares"], self.squares)


OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": Momentum, "adamw": AdamW}


def make_optimiser(model: torch.nn.Module, settings: Mapping[str, Any]) -> Optimiser:
    """The optimiser that `optimiser` of the settings names ("sgd" if the key is missing)."""
    return OPTIMISERS[settings.get("optimiser", "sgd")](model, settings)


class WeightAverage:
    """An exponential moving average of a network's weights, to be evaluated, saved and used in their place.

    The first averages forget faster, so that the random first weights do not weigh for hundreds of steps: after t
    steps the decay is at most (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage.

    Parameters
    ----------
    decay : share of the average that a step keeps; None: the weights themselves are used, and nothing is averaged
    """

    def __init__(self, model: torch.nn.Module, decay: float | None) -> None:
        self.parameters: list[Tensor] = list(model.parameters())
        self.decay, self.steps = decay, 0
        self.values = [] if decay is None else [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        if self.decay is None:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While the block runs, the network has the averages as its weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, value in zip(self.parameters if self.values else [], self.values, strict=True):
            raw = parameter.clone()
            parameter.copy_(value)
            value.copy_(raw)

    def state(self) -> dict[str, Any]:
        """The number of steps and the averages."""
        return {"steps": self.steps, "values": self.values}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue with the averages of a checkpoint."""
        self.steps = state["steps"]
        _copy(state["values"], self.values)


def learning_rate(settings: Mapping[str, Any], epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of a step.

    `schedule.kind` says how it falls: "step" (also if the key is missing) multiplies it by `factor` after every
    `every` epochs, "cosine" follows half a cosine from the first step to 0 after the last one, and "constant" leaves
    it.  Before that, `warmup` steps raise it linearly.

    Parameters
    ----------
    settings : `learning_rate`, `schedule`, `epochs` (read by "cosine" only) and, if not 0, `warmup`
    epoch, step : from 0; the step is counted within its epoch
    steps : of each epoch
    """
    schedule, done = settings["schedule"], epoch * steps + step
    rate = settings["learning_rate"]
    match schedule.get("kind", "step"):
        case "step":
            rate *= schedule["factor"] ** (epoch // schedule["every"])
        case "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * done / (settings["epochs"] * steps)))
    warmup = settings.get("warmup", 0)
    return rate * (done + 1) / warmup if done < warmup else rate


def _copy(saved: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, saved, strict=True):
        tensor.copy_(value)
