"""The pretraining loop: shards of healthy people in, the weights of the best epoch out."""

from __future__ import annotations

import copy
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
from ..network.convolution_check import check_convolutions
from ..network.device import place
from ..network.fused_norm import over_all_ranks, ranks
from ..network.sfcn import SFCN, calibrate, folded, live_features, start_head, training_scale
from ..seeds import seed_from
from .batches import Images, as_input, epoch_order, on_device
from .checkpoints import Checkpoints, asked_to_stop
from .distributed import add_gradients, any_rank, check_all_have, gather, passes_of, rank, share_of
from .evaluation import point_metrics
from .optimiser import Optimiser, WeightAverage, learning_rate, make_optimiser
from .progress import Progress
from .step import backward_passes, predict
from .targets import Target, decode, encode, first_biases, masked_loss, target_losses

logger = logging.getLogger("neurotransfer")
CALIBRATION_BATCHES = 32  # batches over which batch norm's statistics are taken at the end of an epoch
DEAD_IMAGES = 32  # training images, at least, over which dead features are counted
# steps after which their losses are read: reading waits until a GPU has done them all
LOOKS = {"cpu": 1, "cuda": 50}
LOWERED, LOWERINGS = 3.0, 5  # [assumed] what a diverging run divides its rate by, and how many times
LOWER = "lower it by a factor of 3, or set pretrain.clip_norm: 1, or pretrain.on_divergence: lower_rate"


class DivergenceError(InputError):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives: the state of the best epoch, the history of all, and which was best."""

    state: dict[str, Tensor]
    history: pd.DataFrame
    epoch: int


@dataclass(frozen=True)
class Problem:
    """What is trained on, and how: images and truths of both sets, targets, settings, and the source of seeds.

    `truth` and `validation_truth` are float32 [images, targets], NaN if a label is missing.
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


@dataclass(frozen=True)
class DoneStep:
    """A step whose figures are still on the device: its number in the epoch, its rate, and how many images it had.

    `found` has how many ranks were asked to stop, each target's part of the loss, and the gradients' norm.
    """

    step: int
    rate: float
    images: int
    found: Tensor


@dataclass
class TrainingState:
    """Everything that a training changes, as a checkpoint keeps it.

    `best` has the `loss`, `epoch` and `state` of the best epoch.  `epoch` and `step` are the next ones, `steps` counts
    those done in all.  Of the epoch so far, `total` sums the losses of the images, and `largest` and `norm` are the
    largest loss and gradient norm of a step.  `first` and `last` are each target's part of the loss in the first and
    in the latest step.  `lowered` counts how often the rate was lowered because the loss was not finite, and
    `epoch_start` is the whole state before the epoch's first step.  `unread` are the steps whose figures are not yet
    in `total` and the others: none when a checkpoint is written.
    """

    model: SFCN
    optimiser: Optimiser
    average: WeightAverage
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=lambda: {"loss": math.inf, "epoch": -1, "state": {}})
    epoch: int = 0
    step: int = 0
    steps: int = 0
    total: float = 0.0
    largest: float = 0.0
    norm: float = 0.0
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    lowered: int = 0
    epoch_start: dict[str, Any] = field(default_factory=dict)
    unread: list[DoneStep] = field(default_factory=list)

    NUMBERS = ("history", "best", "epoch", "step", "steps", "total", "largest", "norm", "first", "last", "lowered")

    @property
    def serial(self) -> int:
        """Counts up with every step; an epoch's end counts as later than its last step."""
        return 2 * self.steps + (self.step == 0)

    def contents(self) -> dict[str, Any]:
        """Everything except `epoch_start`; tensors are the ones in use, not copies."""
        tensors = {"model": self.model.state_dict(), "optimiser": self.optimiser.state()}
        return tensors | {"average": self.average.state()} | {name: getattr(self, name) for name in self.NUMBERS}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take over what `contents` gave."""
        self.model.load_state_dict(contents["model"])
        self.optimiser.load(contents["optimiser"])
        self.average.load(contents["average"])
        for name in self.NUMBERS:
            setattr(self, name, copy.deepcopy(contents[name]))

    def begin_epoch(self) -> None:
        """Copy the state before an epoch's first step, to go back to if the loss is not finite in the epoch."""
        self.epoch_start = copy.deepcopy(self.contents())

    def lower_rate(self) -> None:
        """Go back to the epoch's first step, with a lower rate from there on."""
        lowered = self.lowered + 1
        self.unread.clear()
        self.restore(self.epoch_start)
        self.lowered = self.epoch_start["lowered"] = lowered

    def read(self, targets: Sequence[Target], progress: Progress) -> bool:
        """Take in the figures of the steps that are not read yet; whether any rank has been asked to stop.

        Raises
        ------
        DivergenceError
            naming the first step whose loss is not finite
        """
        if not self.unread:
            return False
        done, self.unread = self.unread, []
        asked = False
        for one, (stop, *parts, norm) in zip(done, torch.stack([one.found for one in done]).tolist(), strict=True):
            loss = sum(parts)
            self.first = self.first or parts
            if not math.isfinite(loss):
                raise _divergence(self, targets, one)
            self.total += loss * one.images
            self.largest, self.norm, self.last = max(self.largest, loss), max(self.norm, norm), parts
            progress.tell(self.epoch, one.step + 1, one.images, loss)
            asked |= stop > 0
        return asked

    def rate_at(self, settings: Mapping[str, Any], step: int, steps: int) -> float:
        """The learning rate of a step of this epoch, which has so many steps."""
        return learning_rate(settings, self.epoch, step, steps) / LOWERED**self.lowered

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint; one rank does."""
        if rank() == 0:
            checkpoints.save(self.serial, self.contents() | {"epoch_start": self.epoch_start})

    def load(self, checkpoints: Checkpoints) -> None:
        """Continue from the newest checkpoint, if there is one."""
        if saved := checkpoints.load():
            self.epoch_start = saved["epoch_start"]
            self.restore(saved)

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
    settings : `epochs`, `batch_size`, `accumulate`, `optimiser`, `learning_rate`, `momentum`, `weight_decay`,
        `schedule`, `warmup`, `clip_norm`, `weight_average`, `dropout`, `augmentation`, `patience`, `on_divergence`,
        `data_type`, `compile`

    Raises
    ------
    InputError
        if the loss is no longer finite, with the step, the rate, the target and what to try
    SystemExit
        with status 143 after SIGTERM, once a checkpoint is written
    """
    torch.manual_seed(seed_from(seed, "pretrain", "initial"))
    scale = training_scale(network["bottleneck"])
    shape = (network["channels"], network["bottleneck"], len(targets), network["pooling"])
    model = SFCN(*shape, settings["dropout"], scale, network.get("scaling", "none"))
    start_head(model.head)
    with torch.no_grad():
        model.head.bias.copy_(first_biases(targets))
    place(model, device, settings["data_type"], compiled=settings["compile"])
    passes = passes_of(min(settings["batch_size"], len(training)), settings["accumulate"])
    check_convolutions(model, len(passes[0]), training.size, device)
    truth, validation_truth = (encode(table, targets) for table in tables)
    problem = Problem(
        training, validation, truth, validation_truth, tables[1], targets, settings=settings, seed=seed, device=device
    )
    average = WeightAverage(model, settings.get("weight_average"))
    state = TrainingState(model, make_optimiser(model, settings), average)
    state.load(checkpoints)
    check_all_have(state.serial, device)
    progress = Progress(len(training), settings["epochs"], state.epoch)
    with asked_to_stop() as asked:
        while state.epoch < settings["epochs"] and not _is_out_of_patience(state, settings["patience"]):
            try:
                batches = train_epoch(state, problem, checkpoints, progress, asked)
            except DivergenceError as error:
                if settings.get("on_divergence", "stop") == "stop" or state.lowered == LOWERINGS:
                    raise
                state.lower_rate()
                logger.warning("%s: back to the start of epoch %d, at a lower rate", error.what, state.epoch)
                state.save(checkpoints)
                continue
            progress.conclude(conclude_epoch(state, problem, batches, checkpoints, asked))
    if not state.best["state"]:
        raise InputError("configuration", "pretrain.learning_rate", "no epoch had a finite validation loss", LOWER)
    return Pretrained(folded(state.best["state"], scale), pd.DataFrame(state.history), state.best["epoch"])


def train_epoch(
    state: TrainingState, problem: Problem, checkpoints: Checkpoints, progress: Progress, asked: Sequence[int]
) -> list[np.ndarray]:
    """Do the steps of an epoch that are left; the rows that each of this rank's passes over the whole epoch reads.

    Parameters
    ----------
    asked : signals received that ask to stop
    """
    settings, seed, device, model = problem.settings, problem.seed, problem.device, state.model
    if state.step == 0:
        state.begin_epoch()
    order = epoch_order(len(problem.training), settings["batch_size"], seed, state.epoch)
    passes = [passes_of(len(batch), settings["accumulate"]) for batch in order]
    rows = [[batch[positions] for positions in part] for batch, part in zip(order, passes, strict=True)]
    reading = problem.training.batches([part for step in rows[state.step :] for part in step], device)

    def before_pass(number: int) -> None:
        if number and asked and ranks() == 1:
            state.read(problem.targets, progress)
            state.stop(checkpoints, device)  # on a CPU a step can take minutes; this one is repeated whole

    model.train()
    for batch, part in zip(order[state.step :], passes[state.step :], strict=True):
        wanted = problem.truth[torch.as_tensor(batch)]  # [batch, targets]
        known = (~torch.isnan(wanted)).sum(0)  # [targets], of all ranks and passes, so that their losses add up
        state.optimiser.clear()
        rate = state.rate_at(settings, state.step, len(order))
        summed = backward_passes(
            model,
            reading,
            part,
            len(batch),
            seeds={name: seed_from(seed, name, state.epoch, state.step) for name in ("augmentation", "dropout")},
            augmentation=settings["augmentation"],
            loss_of=lambda outputs, positions, wanted=wanted, known=known: target_losses(  # type: ignore[misc]
                outputs, on_device(wanted[positions], device), problem.targets, on_device(known, device)
            ),
            device=device,
            before_pass=before_pass,
        )
        sums = add_gradients(state.optimiser.parameters, summed, bool(asked))  # [1 + targets]
        norm = state.optimiser.step(rate)
        state.average.update()
        state.unread.append(DoneStep(state.step, rate, len(batch), torch.cat([sums, norm.view(1)])))
        state.step, state.steps = state.step + 1, state.steps + 1
        if state.steps == 1:
            _tell_first_loss(sums, wanted, problem.targets)
        # all ranks look at the same steps, so that they stop together
        looking = state.steps % LOOKS[device.type] == 0 or state.step == len(order)
        asked_somewhere = looking and state.read(problem.targets, progress)
        if checkpoints.is_due():
            state.read(problem.targets, progress)
            state.save(checkpoints)
        if asked_somewhere or (asked and ranks() == 1):
            state.read(problem.targets, progress)
            state.stop(checkpoints, device)
    return [part for step in rows[:CALIBRATION_BATCHES] for part in step]


def _tell_first_loss(sums: Tensor, wanted: Tensor, targets: Sequence[Target]) -> None:
    """Log the loss of the first batch, and what the dummy has there.

    Parameters
    ----------
    sums : from `add_gradients`; wanted : the batch's targets, [batch, targets]
    """
    means = first_biases(list(targets)).expand_as(wanted)  # [batch, targets]
    dummy, loss = float(masked_loss(means, wanted, list(targets))), sum(sums[1:].tolist())
    logger.info("the first batch's loss is %.4f; predicting the training means gives %.4f", loss, dummy)


def conclude_epoch(
    state: TrainingState,
    problem: Problem,
    batches: Sequence[np.ndarray],
    checkpoints: Checkpoints,
    asked: Sequence[int],
) -> dict[str, float]:
    """Settle batch norm, count dead features, validate, keep the epoch if it is the best, and save.

    Parameters
    ----------
    batches : rows of the training images over which batch norm's statistics are taken

    Returns
    -------
    the epoch's row of the history
    """
    settings, device, model = problem.settings, problem.device, state.model

    def stop_if_asked() -> None:
        if any_rank(bool(asked), device):
            state.stop(checkpoints, device)

    looked_at = batches[: settings["accumulate"] * -(-DEAD_IMAGES // settings["batch_size"])]
    with state.average.in_use():
        calibrate(model, _with_stops(map(as_input, problem.training.batches(batches, device)), stop_if_asked))
        live = live_features(model, map(as_input, problem.training.batches(looked_at, device)))  # [bottleneck]
        share = share_of(len(problem.validation))
        outputs = predict(model, problem.validation, share, settings["batch_size"], device, stop_if_asked)
        outputs = gather(outputs, len(problem.validation), device)  # [validation images, targets]
        kept = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    dead = int((over_all_ranks(live.float()) == 0).sum())
    if 2 * dead > len(live):
        what = "epoch %d: %d of %d pooled features are zero for all %d training images looked at"
        fix = "try a lower pretrain.learning_rate, pretrain.optimiser: adamw, or network.pooling: average"
        logger.warning(f"{what}; {fix}", state.epoch, dead, len(live), ranks() * sum(map(len, looked_at)))
    loss = float(masked_loss(torch.from_numpy(outputs), problem.validation_truth, problem.targets))
    row = {
        "epoch": state.epoch,
        "step": state.steps,
        "learning_rate": state.rate_at(settings, state.step - 1, state.step),
        "train_loss": state.total / len(problem.training),
        "validation_loss": loss,
        **_validation_metrics(outputs, problem.validation_table, problem.targets),
        "largest_loss": state.largest,
        "gradient_norm": state.norm,
        "dead_features": dead,
        "times_lowered": state.lowered,
    }
    state.history.append(row)
    if loss < state.best["loss"]:
        state.best = {"loss": loss, "epoch": state.epoch, "state": kept}
    state.largest = state.norm = 0.0
    state.epoch, state.step, state.total = state.epoch + 1, 0, 0.0
    state.save(checkpoints)
    if rank() == 0:
        write_table(pd.DataFrame(state.history), checkpoints.folder / "history.tsv")
    return row


def _divergence(state: TrainingState, targets: Sequence[Target], failed: DoneStep) -> DivergenceError:
    """The error that says in which step the loss is not finite, and which target's loss grew before."""
    what = f"the loss is not finite in epoch {state.epoch}, step {failed.step}, at a learning rate of {failed.rate:g}"
    if state.last:
        grown = [last - first for first, last in zip(state.first, state.last, strict=True)]
        worst = max(range(len(grown)), key=grown.__getitem__)
        what += f"; one step before, {targets[worst].name}'s part of it was {state.last[worst]:.3g}"
        what += f" ({state.first[worst]:.3g} in the first step), and the largest gradient norm {state.norm:.3g}"
    return DivergenceError("configuration", "pretrain.learning_rate", what, LOWER)


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
