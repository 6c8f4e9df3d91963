"""The optimiser, shared by pretraining and fits, and the rate at which it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Momentum:
    """Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD computes it.

    torch's own imports its compiler when it is made, a second that each of thousands of fits would pay.
    """

    def __init__(self, model: torch.nn.Module, settings: Mapping[str, Any]) -> None:
        self.parameters = list(model.parameters())
        self.momentum, self.weight_decay = settings["momentum"], settings["weight_decay"]
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient."""
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            if parameter.grad is not None:
                velocity.mul_(self.momentum).add_(parameter.grad).add_(parameter, alpha=self.weight_decay)
                parameter.sub_(velocity, alpha=rate)

    def load(self, velocities: Sequence[Tensor]) -> None:
        """Go on with the velocities of a checkpoint."""
        for velocity, saved in zip(self.velocities, velocities, strict=True):
            velocity.copy_(saved)


def learning_rate(settings: Mapping[str, Any], epoch: int) -> float:
    """The step schedule: the first rate times `factor` for every `every` epochs done."""
    schedule = settings["schedule"]
    return settings["learning_rate"] * schedule["factor"] ** (epoch // schedule["every"])
