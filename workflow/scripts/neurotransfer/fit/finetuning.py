"""Binary fits on one resample: every setting trained, chosen on validation, tested once.

Baseline and transfer are this same code; the first trunk is all that differs.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from ..cache.provenance import BOUNDING_BOX
from ..errors import InputError
from ..files import read_table
from ..network.convolution_check import check_convolutions
from ..network.device import choose_device, place
from ..network.sfcn import SFCN, calibrate, folded, start_head, training_scale, trunk_of
from ..pretrain.batches import Images, ResidentImages, as_input, epoch_order, on_device
from ..pretrain.distributed import passes_of
from ..pretrain.evaluation import point_metrics
from ..pretrain.optimiser import Optimiser, WeightAverage, learning_rate, make_optimiser
from ..pretrain.step import backward_passes, predict
from ..pretrain.study_key import seen_by, why_unknown
from ..pretrain.weights import check_made_by, check_weights, expected_of, read_weights
from ..seeds import seed_from
from ..split.resampling import read_resample
from ..study import layout
from ..study.recipe import RECIPE
from ..study.same_people import read_people
from .settings import choose, fingerprint_of_fit, fingerprint_of_second, fit_record, seeds_of_fit

logger = logging.getLogger("neurotransfer")
SEEDS = 3  # that a fit with a second seed tries before its divergence is an error


def pretrained_trunk(
    weights: str | Path,
    fitting: Mapping[str, Any],
    resample: str | Path,
    participants: str | Path | None,
    *,
    key: bytes | None,
    accept_other_preprocessing: bool = False,
) -> dict[str, torch.Tensor]:
    """The trunk that transfer starts from, of weights that match the study and have seen none of the resample.

    Parameters
    ----------
    fitting : `network`, `crop`, `crop_rule` and `preprocessing`, which the weights must have been made with
    resample : whose participants pretraining must not have seen, and whose images an engine that it knows made
    participants : the table of those it saw, if pretraining was this study's own; None for given weights,
        whose digests of participants are looked up instead
    key : the study key of these digests; without it the overlap is unknown, which the log says
    accept_other_preprocessing : whether images of another engine, or another version of it, or images that another
        rule has cropped, will do

    Raises
    ------
    InputError
        if the weights do not match, or have seen a participant of the resample
    """
    rows, facts = read_resample(resample)
    made_by, accept = facts["images_made_by"], accept_other_preprocessing
    return matching_trunk(
        weights, fitting, rows, made_by, resample, participants, key=key, accept_other_preprocessing=accept
    )


def matching_trunk(
    weights: str | Path,
    fitting: Mapping[str, Any],
    rows: pd.DataFrame,
    made_by: Sequence[Sequence[str]],
    file: str | Path,
    participants: str | Path | None,
    *,
    key: bytes | None,
    accept_other_preprocessing: bool = False,
) -> dict[str, torch.Tensor]:
    """The same for images of any table.

    Parameters
    ----------
    rows : with `participant_id`
    made_by : from cache.made_by, of the images
    file : that the rows come from, for the message
    """
    state, metadata = read_weights(weights)
    rule = fitting.get("crop_rule", BOUNDING_BOX)
    expected = expected_of(fitting["network"], fitting["crop"], fitting["preprocessing"], rule)
    check_weights(metadata, expected, weights, accept=accept_other_preprocessing)
    check_made_by(metadata, made_by, weights, accept=accept_other_preprocessing)
    check_unseen(metadata, set(rows["participant_id"]), weights, file, participants, key=key)
    return trunk_of(state)


def check_unseen(
    metadata: Mapping[str, Any],
    people: set[str],
    weights: str | Path,
    file: str | Path,
    participants: str | Path | None,
    *,
    key: bytes | None,
) -> None:
    """Refuse participants that pretraining has seen; the log says if that cannot be known.

    Parameters
    ----------
    metadata : of the weights
    file : that names the people, for the message
    participants, key : as for `pretrained_trunk`

    Raises
    ------
    InputError
        with how many they are
    """
    seen = seen_by(metadata, people, key, read_people())
    if participants:
        seen = people & set(read_table(participants)["participant_id"])
    if seen is None:
        unknown = "whether it has seen participants of this resample is unknown"
        logger.warning("%s: %s: %s", weights, unknown, why_unknown(metadata, key))
    elif seen:
        what = f"{len(seen)} of its participants are behind the weights {weights}, such as {min(seen)}"
        fix = f"delete {layout.SPLIT} and {layout.RESAMPLES} and run again; with given weights, leave these people out"
        raise InputError(file, "participant_id", what, fix)


def first_network(
    network: Mapping[str, Any], dropout: float, seeds: Mapping[str, int], trunk: Mapping[str, torch.Tensor] | None
) -> SFCN:
    """A binary network: the given trunk or a random one, and a head that is the same for both.

    The head starts near zero: no image is called a case before training.  A small
    resample has a few dozen steps, too few to undo a random opinion: with torch's own first head, fits of 18
    simulated images from a pretrained trunk could end with test AUCs below .2.
    """
    torch.manual_seed(seeds["trunk"])
    scale = training_scale(network["bottleneck"])
    shape = (network["channels"], network["bottleneck"], 1, network["pooling"])
    model = SFCN(*shape, dropout, scale, network.get("scaling", "none"))
    if trunk is not None:
        model.load_state_dict({**model.state_dict(), **trunk})
    torch.manual_seed(seeds["head"])
    start_head(model.head)
    return model


def fit_setting(
    images: ResidentImages,
    labels: torch.Tensor,
    rows: Mapping[str, np.ndarray],
    model: SFCN,
    settings: Mapping[str, Any],
    seeds: Mapping[str, int],
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train one setting and keep its best epoch on the validation set, by loss or by AUC as `epoch_by` says.

    Parameters
    ----------
    images : of the resample; `labels` float32 [rows]
    rows : by role, rows of the resample
    settings : `models.cnn` of the configuration together with this setting's values

    Returns
    -------
    record : status, epoch, validation AUC and loss; `diverged_epoch` if a later epoch's loss was not finite
    state : the network's at that epoch; empty if the first epoch diverged
    """
    place(model, device, settings["data_type"], compiled=settings["compile"])
    passes = passes_of(min(settings["batch_size"], len(rows["train"])), settings["accumulate"])
    check_convolutions(model, len(passes[0]), images.size, device)
    optimiser, average = make_optimiser(model, settings), WeightAverage(model, settings.get("weight_average"))
    train = rows["train"]
    truth = labels[torch.as_tensor(rows["validation"])]
    best: dict[str, Any] = {}
    least: tuple[float, ...] = (math.inf,)
    state: dict[str, torch.Tensor] = {}
    for epoch in range(settings["epochs"]):
        seen = train_epoch(images, labels, train, model, optimiser, average, settings, seeds, device, epoch)
        with average.in_use():
            calibrate(model, map(as_input, images.batches(seen, device)))
            outputs = predict(model, images, rows["validation"], settings["batch_size"], device)[:, 0]  # [validation]
            now = copy.deepcopy(model.state_dict())
        loss = float(functional.binary_cross_entropy_with_logits(torch.from_numpy(outputs), truth))
        if not math.isfinite(loss):
            diverged = "diverged in epoch %d at a learning rate of %g"
            if best:
                logger.warning(f"{diverged}; epoch %d is kept", epoch, settings["learning_rate"], best["epoch"])
                return best | {"diverged_epoch": epoch}, state
            logger.warning(diverged, epoch, settings["learning_rate"])
            return {"status": "diverged", "epoch": None, "validation_auc": None, "validation_loss": None}, {}
        auc = point_metrics(truth.numpy(), outputs, "binary")["auc"]
        badness = (-auc, loss) if settings["epoch_by"] == "auc" else (loss,)
        if badness < least:
            least = badness
            best = {"status": "ok", "epoch": epoch, "validation_auc": auc, "validation_loss": loss}
            state = now
    return best, state


def train_epoch(
    images: Images,
    labels: torch.Tensor,
    train: np.ndarray,
    model: SFCN,
    optimiser: Optimiser,
    average: WeightAverage,
    settings: Mapping[str, Any],
    seeds: Mapping[str, int],
    device: torch.device,
    epoch: int,
) -> list[np.ndarray]:
    """One pass over the training rows; the rows that batch norm's statistics are taken over, by pass.

    Parameters
    ----------
    train : rows of the resample
    settings : with `calibration_images`, which these rows are at least, if the epoch has as many; None: all
    """
    order = [train[batch] for batch in epoch_order(len(train), settings["batch_size"], seeds["order"], epoch)]
    parts = [[batch[positions] for positions in passes_of(len(batch), settings["accumulate"])] for batch in order]
    seen = [rows for part in parts for rows in part]
    reading = images.batches(seen, device)
    model.train()
    for step, batch in enumerate(order):
        wanted = labels[torch.as_tensor(batch)]  # [batch]
        optimiser.clear()
        backward_passes(
            model,
            reading,
            passes_of(len(batch), settings["accumulate"]),
            len(batch),
            seeds={name: seed_from(seeds[name], epoch, step) for name in ("augmentation", "dropout")},
            augmentation=settings["augmentation"],
            loss_of=lambda outputs, positions, wanted=wanted: _share_of_loss(  # type: ignore[misc]
                outputs, wanted, positions
            ),
            device=device,
        )
        optimiser.step(learning_rate(settings, epoch, step, len(order)))
        average.update()
    return first_of(seen, settings.get("calibration_images"))


def first_of(passes: Sequence[np.ndarray], images: int | None) -> list[np.ndarray]:
    """The first passes that have so many images together, or all if there are fewer, or if it is None."""
    had = np.cumsum([0, *map(len, passes)])
    return [part for part, before in zip(passes, had, strict=False) if images is None or before < images]


def _share_of_loss(outputs: torch.Tensor, wanted: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """What a pass adds to the batch's mean logistic loss: outputs [n, 1] against the labels [batch] at `positions`."""
    truth = on_device(wanted[positions], outputs.device)
    losses = functional.binary_cross_entropy_with_logits(outputs[:, 0], truth, reduction="sum")
    return losses / len(wanted)


def first_of_setting(
    images: Images,
    train: np.ndarray,
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    values: Mapping[str, Any],
    seeds: Mapping[str, int],
    trunk: Mapping[str, torch.Tensor] | None,
    device: torch.device,
) -> SFCN:
    """The network that a setting starts from, with the layers frozen that the setting freezes.

    Parameters
    ----------
    train : rows of the training images
    values : the setting's own
    """
    model = first_network(network, values["dropout"], seeds, trunk)
    if values.get("freeze", 0) != 0:
        if trunk is None:  # batch norm after random filters must know what comes out of them
            place(model, device, training["data_type"])
            order = epoch_order(len(train), training["batch_size"], seeds["order"], 0)
            calibrate(model, map(as_input, images.batches([train[batch] for batch in order], device)))
        model.freeze(values["freeze"])
    return model


def fit_settings(
    images: ResidentImages,
    resample: pd.DataFrame,
    *,
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    settings: Sequence[Mapping[str, Any]],
    seeds: Sequence[Mapping[str, int]],
    trunk: Mapping[str, torch.Tensor] | None,
    device: torch.device,
) -> tuple[list[dict[str, Any]], int, np.ndarray, dict[str, torch.Tensor], np.ndarray]:
    """Every setting on one resample; the chosen one's scores of the test rows, and its network.

    A setting that diverges is recorded as such and the others go on.

    Returns
    -------
    records, chosen, scores : as linear.fit_settings; scores are logits
    state : of the chosen setting's network, as it was trained (see `sfcn.folded`)
    validated : its logits of the validation rows

    Raises
    ------
    InputError
        if all settings diverged
    """
    roles = resample["role"].to_numpy(str)
    rows = {role: np.flatnonzero(roles == role) for role in ("train", "validation", "test")}
    labels = torch.tensor(resample["label"].to_numpy(), dtype=torch.float32)
    records, states = [], []
    for position, values in enumerate(settings):
        model = first_of_setting(images, rows["train"], network, training, values, seeds[position], trunk, device)
        record, state = fit_setting(images, labels, rows, model, {**training, **values}, seeds[position], device)
        logger.info("setting %d %s: %s", position, dict(values), record)
        records.append({"values": dict(values), **record})
        states.append(state)
    chosen = choose(records)
    model = first_network(network, 0.0, seeds[chosen], None)
    model.load_state_dict(states[chosen])
    place(model, device, training["data_type"])
    batch = training["batch_size"]
    scores, validated = (predict(model, images, rows[role], batch, device)[:, 0] for role in ("test", "validation"))
    return records, chosen, scores, states[chosen], validated


def fit(
    model_name: str,
    resample_path: str | Path,
    fitting: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    trunk: Mapping[str, torch.Tensor] | None = None,
    first: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """One replicate of one CNN model type, from its resample's file to its record and the chosen setting's network.

    Parameters
    ----------
    model_name : "baseline" or "transfer"
    fitting : `seed`, `network`, `training` (`models.cnn`) and `settings`
    weights, trunk : for transfer, the file of the pretrained weights and the trunk in it (`pretrained_trunk`)
    first : the record of the same fit, whose chosen setting alone is trained, with a second seed

    Returns
    -------
    record : see settings.fit_record; the test images' scores are logits
    state : the network's, for a head that takes pooled features as they are

    Raises
    ------
    InputError
        if the first fit was made with other parameters, another resample or other weights
    """
    resample, facts = read_resample(resample_path)
    training = fitting["training"]
    device = choose_device(training["device"], training["threads"])
    names = (fitting["seed"], facts["task"], facts["n"], facts["replicate"], model_name)
    made_of = fingerprint_of_fit(model_name, fitting, resample_path, weights)
    options = {"network": fitting["network"], "training": training, "trunk": trunk, "device": device}
    images = ResidentImages(resample, layout.CACHE, device)
    if first is None:
        seeds = [seeds_of_fit(*names, position) for position in range(len(fitting["settings"]))]
        found = fit_settings(images, resample, settings=fitting["settings"], seeds=seeds, **options)
    else:
        if first["fingerprint"] != made_of:
            path = layout.fit(facts["task"], facts["n"], facts["replicate"], model_name)
            fix = "delete it, then run the same command again"
            raise InputError(path, "", "it was made with another configuration, resample or weights", fix)
        values = [fitting["settings"][first["chosen"]]]
        for attempt in range(1, SEEDS + 1):  # a setting that diverges from one start may not from the next
            seeds = [seeds_of_fit(*names, first["chosen"], another=attempt)]
            try:
                found = fit_settings(images, resample, settings=values, seeds=seeds, **options)
                break
            except InputError:  # every setting diverged, and there is one
                if attempt == SEEDS:
                    raise
        made_of = fingerprint_of_second(made_of, first["chosen"])
    records, chosen, scores, state, validated = found
    test, validation = (np.flatnonzero(resample["role"] == role) for role in ("test", "validation"))
    labels = resample["label"].to_numpy()[test]
    record = fit_record(
        facts=facts,
        model=model_name,
        settings=records,
        chosen=chosen,
        test_auc=point_metrics(labels, scores, "binary")["auc"],
        test={"position": test.tolist(), "label": labels.tolist(), "score": scores.tolist()},
        seeds=seeds[chosen],
        fingerprint=made_of,
        recipe=fitting.get("recipe", RECIPE),
        validation={"label": resample["label"].to_numpy()[validation].tolist(), "score": validated.tolist()},
    )
    return record, folded(state, training_scale(fitting["network"]["bottleneck"]))
