"""The pretraining loop: shards of healthy people in, the weights of the best epoch out."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from .batches import Images, as_input, augment, epoch_order
from .checkpoints import Checkpoints, asked_to_stop
from .device import autocast, place
from .errors import InputError
from .evaluation import point_metrics
from .model import SFCN, calibrate
from .seeds import seed_from
from .targets import Target, decode, encode, masked_loss

logger = logging.getLogger("neurotransfer")
CALIBRATION_BATCHES = 32  # batches over which batch norm's statistics are taken at the end of an epoch


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives: the state of the best epoch, the history of all, and which was best."""

    state: dict[str, torch.Tensor]
    history: pd.DataFrame
    epoch: int


def learning_rate(settings: Mapping[str, Any], epoch: int) -> float:
    """The step schedule: the first rate times `factor` for every `every` epochs done."""
    schedule = settings["schedule"]
    return settings["learning_rate"] * schedule["factor"] ** (epoch // schedule["every"])


def optimiser_for(model: torch.nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum and weight decay."""
    options = {"momentum": settings["momentum"], "weight_decay": settings["weight_decay"]}
    return torch.optim.SGD(model.parameters(), lr=settings["learning_rate"], **options)


@torch.no_grad()
def predict(model: SFCN, images: Images, rows: np.ndarray, batch_size: int, device: torch.device) -> np.ndarray:
    """The network's raw outputs for rows of `images`: float32 [len(rows), outputs]."""
    model.eval()
    outputs = []
    for batch in images.batches([rows[at : at + batch_size] for at in range(0, len(rows), batch_size)], device):
        with autocast(device):
            outputs.append(model(as_input(batch)).float().cpu().numpy())
    return np.concatenate(outputs)


def pretrain(
    training: Images,
    validation: Images,
    tables: tuple[pd.DataFrame, pd.DataFrame],
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
    same bytes as one that was not (on one kind of device).

    Parameters
    ----------
    tables : of the training and the validation images, with a column per target
    settings : `epochs`, `batch_size`, `learning_rate`, `momentum`, `weight_decay`, `schedule`, `dropout`,
        `augmentation`, `patience`

    Raises
    ------
    InputError
        where the loss is no longer finite, with the step, the rate and what to try
    SystemExit
        with status 143 after SIGTERM, once a checkpoint is written
    """
    torch.manual_seed(seed_from(seed, "pretrain", "initial"))
    model = SFCN(network["channels"], network["bottleneck"], len(targets), network["pooling"], settings["dropout"])
    place(model, device)
    optimiser = optimiser_for(model, settings)
    truth, validation_truth = (encode(table, targets) for table in tables)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"loss": math.inf, "epoch": -1, "state": {}}
    epoch = step = 0
    total = 0.0
    if saved := checkpoints.load():
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        history, best = saved["history"], saved["best"]
        epoch, step, total = saved["epoch"], saved["step"], saved["total"]

    def save() -> None:
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "history": history, "best": best}
        per_epoch = math.ceil(len(training) / settings["batch_size"]) + 1
        checkpoints.save(epoch * per_epoch + step, state | {"epoch": epoch, "step": step, "total": total})

    started, seen, told = time.monotonic(), 0, time.monotonic()
    with asked_to_stop() as stop:
        while epoch < settings["epochs"] and not _out_of_patience(epoch, best["epoch"], settings["patience"]):
            rate = learning_rate(settings, epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            order = epoch_order(len(training), settings["batch_size"], seed, epoch)
            model.train()
            for batch in training.batches(order[step:], device):
                rows = order[step]
                torch.manual_seed(seed_from(seed, "dropout", epoch, step))
                images = augment(batch, settings["augmentation"], seed_from(seed, "augmentation", epoch, step))
                with autocast(device):
                    outputs = model(as_input(images))
                loss = masked_loss(outputs.float(), truth[torch.as_tensor(rows)].to(device), targets)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss) * len(rows)
                if not math.isfinite(total):
                    what = f"the loss is not finite in epoch {epoch}, step {step}, at a learning rate of {rate:g}"
                    raise InputError("configuration", "pretrain", what, "lower pretrain.learning_rate")
                step += 1
                seen += len(rows)
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    logger.info(
                        "epoch %d, step %d of %d: %.1f images/s", epoch, step, len(order), seen / (told - started)
                    )
                if stop:
                    save()
                    logger.warning(
                        "stopped by SIGTERM in epoch %d, step %d; the next run goes on from there", epoch, step
                    )
                    sys.exit(143)
            plain = training.batches(order[:CALIBRATION_BATCHES], device)
            calibrate(model, (as_input(batch) for batch in plain))
            rows = np.arange(len(validation))
            outputs = predict(model, validation, rows, settings["batch_size"], device)
            loss = float(masked_loss(torch.from_numpy(outputs), validation_truth, targets))
            row = {"epoch": epoch, "learning_rate": rate, "train_loss": total / len(training), "validation_loss": loss}
            row |= _validation_metrics(outputs, tables[1], targets)
            history.append(row)
            if loss < best["loss"]:
                state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
                best = {"loss": loss, "epoch": epoch, "state": state}
            epoch, step, total = epoch + 1, 0, 0.0
            save()
            elapsed = time.monotonic() - started
            figures = ", ".join(
                f"{name.removeprefix('validation_')} {value:.3f}" for name, value in row.items() if value
            )
            remaining = elapsed / len(history) * (settings["epochs"] - epoch)
            logger.info("%s; %.1f images/s, %.0f s to go", figures, seen / elapsed, remaining)
    if not best["state"]:
        raise InputError(
            "configuration", "pretrain", "no epoch had a finite validation loss", "lower the learning rate"
        )
    return Pretrained(best["state"], pd.DataFrame(history), best["epoch"])


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


def training_rows(indices: pd.DataFrame, splits: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The index rows of the training and of the validation images.

    Raises
    ------
    InputError
        where either has none
    """
    roles = indices["image_id"].map(splits.set_index("image_id")["role"])
    tables = tuple(indices[roles == role].reset_index(drop=True) for role in ("train", "validation"))
    for role, table in zip(("training", "validation"), tables, strict=True):
        if table.empty:
            fix = "give more cohorts the role pretraining, or raise split.validation_share"
            raise InputError("results/split/cohorts", "role", f"no image is for {role}", fix)
    shared = set(tables[0]["participant_id"]) & set(tables[1]["participant_id"])
    if shared:
        raise InputError("results/split/cohorts", "role", f"{len(shared)} participants are on two sides", "split anew")
    return tables
