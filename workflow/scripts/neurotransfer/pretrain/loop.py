"""The pretraining loop: shards of healthy people in, the weights of the best epoch out."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..cache.write import made_by
from ..errors import InputError
from ..files import write_table
from ..network.device import place
from ..network.fused_norm import ranks
from ..network.sfcn import SFCN, calibrate
from ..seeds import seed_from
from ..study import layout
from .batches import Images, as_input, augment, dropout_mask, epoch_order
from .checkpoints import Checkpoints, asked_to_stop
from .distributed import add_gradients, any_rank, check_all_have, gather, passes_of, rank, share_of
from .evaluation import PREDICTIONS, long_form, point_metrics
from .targets import Target, as_metadata, decode, encode, first_biases, masked_loss
from .weights import SCALING, digests_of

logger = logging.getLogger("neurotransfer")
CALIBRATION_BATCHES = 32  # batches over which batch norm's statistics are taken at the end of an epoch
NEWS_SECONDS = 60.0  # between two lines of progress within an epoch


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives: the state of the best epoch, the history of all, and which was best."""

    state: dict[str, Tensor]
    history: pd.DataFrame
    epoch: int


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


@torch.no_grad()
def predict(
    model: SFCN,
    images: Images,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    after_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The network's raw outputs for rows of `images`: float32 [len(rows), outputs]."""
    model.eval()
    outputs = []
    for batch in images.batches([rows[at : at + batch_size] for at in range(0, len(rows), batch_size)], device):
        outputs.append(model(as_input(batch)).cpu().numpy())
        after_batch()
    return np.concatenate(outputs)


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
        where the loss is no longer finite, with the step, the rate and what to try
    SystemExit
        with status 143 after SIGTERM, once a checkpoint is written
    """
    torch.manual_seed(seed_from(seed, "pretrain", "initial"))
    model = SFCN(network["channels"], network["bottleneck"], len(targets), network["pooling"], settings["dropout"])
    with torch.no_grad():
        model.head.bias.copy_(first_biases(targets))
    place(model, device, settings["data_type"], compiled=settings["compile"])
    optimiser = Momentum(model, settings)
    truth, validation_truth = (encode(table, targets) for table in tables)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"loss": math.inf, "epoch": -1, "state": {}}
    epoch = step = steps = 0  # the epoch, steps done in it, and steps done in all
    total = 0.0  # of the losses of the epoch's images so far
    if saved := checkpoints.load():
        model.load_state_dict(saved["model"])
        optimiser.load(saved["velocities"])
        history, best = saved["history"], saved["best"]
        epoch, step, steps, total = (saved[name] for name in ("epoch", "step", "steps", "total"))
    check_all_have(2 * steps + (step == 0), device)

    def save() -> None:
        if rank() == 0:
            state = {"model": model.state_dict(), "velocities": optimiser.velocities, "history": history, "best": best}
            state |= {"epoch": epoch, "step": step, "steps": steps, "total": total}
            checkpoints.save(2 * steps + (step == 0), state)  # an epoch's end counts as later than its last step

    def stop() -> None:
        save()
        any_rank(True, device)  # nobody leaves before it is written
        logger.warning("stopped by SIGTERM in epoch %d, step %d; the next run goes on from there", epoch, step)
        sys.exit(143)

    def stop_if_asked() -> None:
        if any_rank(bool(asked), device):
            stop()

    progress = Progress(len(training), settings["epochs"], epoch)
    with asked_to_stop() as asked:
        while epoch < settings["epochs"] and not _out_of_patience(epoch, best["epoch"], settings["patience"]):
            rate = learning_rate(settings, epoch)
            order = epoch_order(len(training), settings["batch_size"], seed, epoch)
            parts = [passes_of(len(batch), settings["accumulate"]) for batch in order]
            mine = [[batch[places] for places in part] for batch, part in zip(order, parts, strict=True)]
            reading = training.batches([rows for part in mine[step:] for rows in part], device)
            model.train()
            for batch, part in zip(order[step:], parts[step:], strict=True):
                wanted = truth[torch.as_tensor(batch)]
                known = (~torch.isnan(wanted)).sum(0)  # on all ranks and in all passes, so that their losses add up
                draws = [seed_from(seed, name, epoch, step) for name in ("augmentation", "dropout")]
                kept = dropout_mask(model, len(batch), draws[1])
                summed = torch.zeros((), device=device)
                optimiser.clear()
                for number, places in enumerate(part):
                    if number and asked and ranks() == 1:
                        stop()  # on a CPU a step can take minutes; this one begins anew
                    images = augment(next(reading), settings["augmentation"], draws[0], places, len(batch))
                    outputs = model(as_input(images), kept[places].to(device))
                    loss = masked_loss(outputs, wanted[places].to(device), targets, known.to(device))
                    loss.backward()
                    summed += loss.detach()
                value, asked_somewhere = add_gradients(optimiser.parameters, summed, bool(asked))
                optimiser.step(rate)
                total += value * len(batch)
                if not math.isfinite(total):
                    what = f"the loss is not finite in epoch {epoch}, step {step}, at a learning rate of {rate:g}"
                    raise InputError("configuration", "pretrain.learning_rate", what, "lower it, by a factor of 3 say")
                step, steps = step + 1, steps + 1
                progress.tell(epoch, step, len(batch), value)
                if checkpoints.is_due():
                    save()
                if asked_somewhere:
                    stop()
            seen = [rows for part in mine[:CALIBRATION_BATCHES] for rows in part]
            calibrate(model, _listening(map(as_input, training.batches(seen, device)), stop_if_asked))
            share = share_of(len(validation))
            outputs = predict(model, validation, share, settings["batch_size"], device, stop_if_asked)
            outputs = gather(outputs, len(validation), device)
            loss = float(masked_loss(torch.from_numpy(outputs), validation_truth, targets))
            row = {"epoch": epoch, "step": steps, "learning_rate": rate, "train_loss": total / len(training)}
            row |= {"validation_loss": loss, **_validation_metrics(outputs, tables[1], targets)}
            history.append(row)
            if loss < best["loss"]:
                state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
                best = {"loss": loss, "epoch": epoch, "state": state}
            epoch, step, total = epoch + 1, 0, 0.0
            save()
            if rank() == 0:
                write_table(pd.DataFrame(history), checkpoints.folder / "history.tsv")
            progress.conclude(row)
    if not best["state"]:
        what = "no epoch had a finite validation loss"
        raise InputError("configuration", "pretrain.learning_rate", what, "lower it, by a factor of 3 say")
    return Pretrained(best["state"], pd.DataFrame(history), best["epoch"])


def _listening(batches: Iterable[Tensor], stop_if_asked: Callable[[], None]) -> Iterator[Tensor]:
    for batch in batches:
        stop_if_asked()
        yield batch


class Progress:
    """Lines for a person: one per minute within an epoch, and one per epoch, with the latest validation metrics.

    Parameters
    ----------
    images : of an epoch
    epochs : that there will be
    epoch : that this process begins with
    """

    def __init__(self, images: int, epochs: int, epoch: int) -> None:
        self.images, self.epochs, self.first = images, epochs, epoch
        self.started = self.told = time.monotonic()
        self.seen = 0
        self.figures = ""

    def tell(self, epoch: int, step: int, images: int, loss: float) -> None:
        """Count a step's images, and write a line where the last one is a minute old."""
        self.seen += images
        now = time.monotonic()
        if now - self.told > NEWS_SECONDS:
            self.told = now
            pace = self.seen / (now - self.started)
            left = (self.epochs - self.first) * self.images - self.seen
            message = "epoch %d, step %d: loss %.4f%s; %.1f images/s, %s to go"
            logger.info(message, epoch, step, loss, self.figures, pace, _duration(left / pace))

    def conclude(self, row: Mapping[str, float]) -> None:
        """Write an epoch's line."""
        self.told = time.monotonic()
        elapsed, done = self.told - self.started, row["epoch"] + 1 - self.first
        figures = [f"{name.removeprefix('validation_')} {value:.3f}" for name, value in list(row.items())[3:]]
        self.figures = f" (after epoch {row['epoch']}: {', '.join(figures[1:])})"
        left = _duration(elapsed / done * (self.epochs - row["epoch"] - 1))
        message = "epoch %d: %s; %.1f images/s, %s to go"
        logger.info(message, row["epoch"], ", ".join(figures), self.seen / elapsed, left)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _out_of_patience(epoch: int, best: int, patience: int | None) -> bool:
    return patience is not None and epoch - 1 - best >= patience


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


def predictions_of(
    model: SFCN,
    parts: Mapping[str, pd.DataFrame],
    folder: str | Path,
    targets: list[Target],
    batch_size: int,
    device: torch.device,
) -> pd.DataFrame:
    """Predictions in long form (see evaluation.PREDICTIONS) of index rows by split; none where there is no image."""
    found = []
    for split, table in parts.items():
        if len(table):
            outputs = predict(model, Images(table, folder), np.arange(len(table)), batch_size, device)
            found.append(long_form(table, decode(outputs, targets), targets, split))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=PREDICTIONS)


def training_rows(indices: pd.DataFrame, splits: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The index rows of the training and of the validation images.

    Raises
    ------
    InputError
        where either has none, or a participant is in both
    """
    roles = indices["image_id"].map(splits.set_index("image_id")["role"])
    tables = tuple(indices[roles == role].reset_index(drop=True) for role in ("train", "validation"))
    for role, table in zip(("training", "validation"), tables, strict=True):
        if table.empty:
            fix = "give more cohorts the role pretraining, or raise split.validation_share"
            raise InputError(layout.COHORT_SPLITS, "role", f"no image is for {role}", fix)
    shared = set(tables[0]["participant_id"]) & set(tables[1]["participant_id"])
    if shared:
        fix = f"delete {layout.SPLIT}, then run the same command again"
        raise InputError(layout.COHORT_SPLITS, "role", f"{len(shared)} participants are on two sides", fix)
    return tables


def participants_of(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Who is behind the weights: participant_id and role ("train" or "validation"), a row per person."""
    people = [
        table[["participant_id"]].assign(role=role) for table, role in zip(tables, ("train", "validation"), strict=True)
    ]
    return pd.concat(people).drop_duplicates().sort_values("participant_id", ignore_index=True)


def metadata_of(
    result: Pretrained,
    tables: Sequence[pd.DataFrame],
    targets: list[Target],
    *,
    network: Mapping[str, Any],
    crop: Sequence[int],
    preprocessing: Mapping[str, Any],
    key: bytes,
) -> dict[str, Any]:
    """What the file of weights says of them: what they must be used with, and what they come from.

    Parameters
    ----------
    key : the study key that the participants' digests are made with; it is not among what is returned
    """
    best = result.history.iloc[result.epoch]
    figures = {"epoch": result.epoch, "epochs": len(result.history), "images": len(tables[0])}
    figures["participants"] = int(tables[0]["participant_id"].nunique())
    figures |= {"validation_images": len(tables[1]), "validation_loss": float(best["validation_loss"])}
    figures |= {name: float(best[name]) for name in best.index[5:] if math.isfinite(best[name])}
    return {
        "network": dict(network),
        "crop": list(crop),
        "scaling": SCALING,
        "preprocessing": {name: preprocessing[name] for name in ("engine", "voxel_size", "grid")},
        "targets": as_metadata(targets),
        "training": figures,
        "images_made_by": made_by(tables[0]),
        "participants": digests_of(participants_of(tables)["participant_id"], key),
    }
