"""The pretraining loop: shards of healthy people in, the weights of the best epoch out."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import InputError
from ..files import write_table
from ..network.device import place
from ..network.fused_norm import ranks
from ..network.sfcn import SFCN, calibrate
from ..seeds import seed_from
from .batches import Images, as_input, epoch_order
from .checkpoints import Checkpoints, asked_to_stop
from .distributed import add_gradients, any_rank, check_all_have, gather, passes_of, rank, share_of
from .evaluation import point_metrics
from .optimiser import Momentum, learning_rate
from .progress import Progress
from .step import backward_passes, predict
from .targets import Target, decode, encode, first_biases, masked_loss

logger = logging.getLogger("neurotransfer")
CALIBRATION_BATCHES = 32  # batches over which batch norm's statistics are taken at the end of an epoch
LOWER = "lower it, by a factor of 3 say"


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives: the state of the best epoch, the history of all, and which was best."""

    state: dict[str, Tensor]
    history: pd.DataFrame
    epoch: int


@dataclass(frozen=True)
class Problem:
    """What is trained on, and how: images and truths of both sets, targets, settings, and the source of seeds.

    `truth` and `validation_truth` are float32 [images, targets], NaN where a label is missing.
    """

    training: Images
    validation: Images
    truth: Tensor
    validation_truth: Tensor
    validation_table: pd.DataFrame
    targets: list[Target]
    settings: Mapping[str, Any]
    seed: int
    device: torch.device


@dataclass
class TrainingState:
    """Everything that a training changes, as a checkpoint keeps it.

    `best` has the `loss`, `epoch` and `state` of the best epoch.  `epoch` and `step` are the next ones, `steps` counts
    those done in all, and `total` sums the losses of the epoch's images so far.
    """

    model: SFCN
    optimiser: Momentum
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=lambda: {"loss": math.inf, "epoch": -1, "state": {}})
    epoch: int = 0
    step: int = 0
    steps: int = 0
    total: float = 0.0

    @property
    def serial(self) -> int:
        """Counts up with every step; an epoch's end counts as later than its last step."""
        return 2 * self.steps + (self.step == 0)

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint; one rank does."""
        if rank() > 0:
            return
        kept = {name: getattr(self, name) for name in ("history", "best", "epoch", "step", "steps", "total")}
        tensors = {"model": self.model.state_dict(), "velocities": self.optimiser.velocities}
        checkpoints.save(self.serial, tensors | kept)

    def load(self, checkpoints: Checkpoints) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if saved := checkpoints.load():
            self.model.load_state_dict(saved.pop("model"))
            self.optimiser.load(saved.pop("velocities"))
            for name, value in saved.items():
                setattr(self, name, value)

    def stop(self, checkpoints: Checkpoints, device: torch.device) -> NoReturn:
        """Save and end the process with status 143, as after SIGTERM."""
        self.save(checkpoints)
        any_rank(True, device)  # no rank leaves before the checkpoint is written
        logger.warning(
            "stopped by SIGTERM in epoch %d, step %d; the next run goes on from there", self.epoch, self.step
        )
        sys.exit(143)


def pretrain(
    training: Images,
    validation: Images,
    tables: Sequence[pd.DataFrame],
    *,
    targets: list[Target],
    network: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
    checkpoints: Checkpoints,
) -> Pretrained:
    """Train the multi-target network and keep the epoch with the lowest validation loss.

    Everything random is a function of (seed, epoch, step), so a run that was stopped and resumed gives the
    same bytes as one that was not (on one kind of device), and a checkpoint needs no generator's state.
    Under torchrun each rank works on its share of every batch, and all of them hold the same weights.

    Parameters
    ----------
    tables : of the training and the validation images, with a column per target
    settings : `epochs`, `batch_size`, `accumulate`, `learning_rate`, `momentum`, `weight_decay`, `schedule`,
        `dropout`, `augmentation`, `patience`, `data_type`, `compile`

    Raises
    ------
    InputError
        if the loss is no longer finite, with the step, the rate and what to try
    SystemExit
        with status 143 after SIGTERM, once a checkpoint is written
    """
    torch.manual_seed(seed_from(seed, "pretrain", "initial"))
    model = SFCN(network["channels"], network["bottleneck"], len(targets), network["pooling"], settings["dropout"])
    with torch.no_grad():
        model.head.bias.copy_(first_biases(targets))
    place(model, device, settings["data_type"], compiled=settings["compile"])
    truth, validation_truth = (encode(table, targets) for table in tables)
    problem = Problem(
        training, validation, truth, validation_truth, tables[1], targets, settings=settings, seed=seed, device=device
    )
    state = TrainingState(model, Momentum(model, settings))
    state.load(checkpoints)
    check_all_have(state.serial, device)
    progress = Progress(len(training), settings["epochs"], state.epoch)
    with asked_to_stop() as asked:
        while state.epoch < settings["epochs"] and not _is_out_of_patience(state, settings["patience"]):
            batches = train_epoch(state, problem, checkpoints, progress, asked)
            progress.conclude(conclude_epoch(state, problem, batches, checkpoints, asked))
    if not state.best["state"]:
        raise InputError("configuration", "pretrain.learning_rate", "no epoch had a finite validation loss", LOWER)
    return Pretrained(state.best["state"], pd.DataFrame(state.history), state.best["epoch"])


def train_epoch(
    state: TrainingState, problem: Problem, checkpoints: Checkpoints, progress: Progress, asked: Sequence[int]
) -> list[np.ndarray]:
    """Do the steps of an epoch that are left; the rows that each of this rank's passes over the whole epoch reads.

    Parameters
    ----------
    asked : signals received that ask to stop
    """
    settings, seed, device, model = problem.settings, problem.seed, problem.device, state.model
    rate = learning_rate(settings, state.epoch)
    order = epoch_order(len(problem.training), settings["batch_size"], seed, state.epoch)
    passes = [passes_of(len(batch), settings["accumulate"]) for batch in order]
    rows = [[batch[positions] for positions in part] for batch, part in zip(order, passes, strict=True)]
    reading = problem.training.batches([part for step in rows[state.step :] for part in step], device)

    def before_pass(number: int) -> None:
        if number and asked and ranks() == 1:
            state.stop(checkpoints, device)  # on a CPU a step can take minutes; this one is repeated whole

    model.train()
    for batch, part in zip(order[state.step :], passes[state.step :], strict=True):
        wanted = problem.truth[torch.as_tensor(batch)]  # [batch, targets]
        known = (~torch.isnan(wanted)).sum(0)  # [targets], of all ranks and passes, so that their losses add up
        state.optimiser.clear()
        summed = backward_passes(
            model,
            reading,
            part,
            len(batch),
            seeds={name: seed_from(seed, name, state.epoch, state.step) for name in ("augmentation", "dropout")},
            augmentation=settings["augmentation"],
            loss_of=lambda outputs, positions, wanted=wanted, known=known: masked_loss(  # type: ignore[misc]
                outputs, wanted[positions].to(device), problem.targets, known.to(device)
            ),
            device=device,
            before_pass=before_pass,
        )
        loss, asked_somewhere = add_gradients(state.optimiser.parameters, summed, bool(asked))
        state.optimiser.step(rate)
        state.total += loss * len(batch)
        if not math.isfinite(state.total):
            where = f"epoch {state.epoch}, step {state.step}, at a learning rate of {rate:g}"
            raise InputError("configuration", "pretrain.learning_rate", f"the loss is not finite in {where}", LOWER)
        state.step, state.steps = state.step + 1, state.steps + 1
        progress.tell(state.epoch, state.step, len(batch), loss)
        if checkpoints.is_due():
            state.save(checkpoints)
        if asked_somewhere:
            state.stop(checkpoints, device)
    return [part for step in rows[:CALIBRATION_BATCHES] for part in step]


def conclude_epoch(
    state: TrainingState,
    problem: Problem,
    batches: Sequence[np.ndarray],
    checkpoints: Checkpoints,
    asked: Sequence[int],
) -> dict[str, float]:
    """Settle batch norm, validate, keep the epoch if it is the best, and save; the epoch's row of the history.

    Parameters
    ----------
    batches : rows of the training images over which batch norm's statistics are taken
    """
    settings, device, model = problem.settings, problem.device, state.model

    def stop_if_asked() -> None:
        if any_rank(bool(asked), device):
            state.stop(checkpoints, device)

    calibrate(model, _with_stops(map(as_input, problem.training.batches(batches, device)), stop_if_asked))
    share = share_of(len(problem.validation))
    outputs = predict(model, problem.validation, share, settings["batch_size"], device, stop_if_asked)
    outputs = gather(outputs, len(problem.validation), device)  # [validation images, targets]
    loss = float(masked_loss(torch.from_numpy(outputs), problem.validation_truth, problem.targets))
    row = {
        "epoch": state.epoch,
        "step": state.steps,
        "learning_rate": learning_rate(settings, state.epoch),
        "train_loss": state.total / len(problem.training),
        "validation_loss": loss,
        **_validation_metrics(outputs, problem.validation_table, problem.targets),
    }
    state.history.append(row)
    if loss < state.best["loss"]:
        kept = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        state.best = {"loss": loss, "epoch": state.epoch, "state": kept}
    state.epoch, state.step, state.total = state.epoch + 1, 0, 0.0
    state.save(checkpoints)
    if rank() == 0:
        write_table(pd.DataFrame(state.history), checkpoints.folder / "history.tsv")
    return row


def _with_stops(batches: Iterable[Tensor], stop_if_asked: Callable[[], None]) -> Iterator[Tensor]:
    for batch in batches:
        stop_if_asked()
        yield batch


def _is_out_of_patience(state: TrainingState, patience: int | None) -> bool:
    return patience is not None and state.epoch - 1 - state.best["epoch"] >= patience


def _validation_metrics(outputs: np.ndarray, table: pd.DataFrame, targets: list[Target]) -> dict[str, float]:
    """The leading metric per target: MAE in its unit, or AUC."""
    values = decode(outputs, targets)
    row = {}
    for column, target in enumerate(targets):
        present = table[target.name].notna().to_numpy()
        if present.any():
            found = point_metrics(table[target.name].to_numpy(float)[present], values[present, column], target.kind)
            name = "mae" if target.kind == "continuous" else "auc"
            row[f"validation_{target.name}_{name}"] = found[name]
    return row
