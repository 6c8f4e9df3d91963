"""Pretraining as the rule does it: from indices and splits to the file of weights, in one process or in several.

``python -m neurotransfer.pretrain.job`` is what torchrun starts, once per GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..cache.provenance import BOUNDING_BOX, made_by
from ..errors import InputError
from ..files import fingerprint, read_tables, write_table
from ..network.device import choose_device, place
from ..quality.reference import reference_of
from ..study import layout
from ..study.recipe import RECIPE
from ..study.same_people import NOBODY, People, read_people
from ..text import counted
from . import study_key, weights
from .age_bias import fit_age_bias
from .batches import Images
from .checkpoints import Checkpoints
from .distributed import rank, start, take_part
from .evaluation import is_metric
from .loop import Pretrained, pretrain
from .step import predict
from .targets import Target, as_metadata, decode, from_metadata, known_targets, learn_targets
from .training_people import people_by_age


@dataclass(frozen=True)
class PretrainingJob:
    """What a pretraining reads, writes and depends on; JSON values, because they cross to other processes.

    `indices` and `splits` are tables read; `weights`, `history` and `participants` are files written; `checkpoints` is
    a folder and `key` the file of the study key.  `targets`, `network` and `training` are groups of the configuration,
    `preprocessing` the identity of the engine (study/demands.py), and `threads` those of one process.
    `on_divergence` ("stop" or "lower_rate") is apart from `training`: it is no part of the checkpoints' fingerprint, so
    a run that has stopped can continue with another value.
    """

    indices: list[str]
    splits: list[str]
    weights: str
    history: str
    participants: str
    checkpoints: str
    key: str
    targets: Mapping[str, Mapping[str, Any]]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    crop: Sequence[int]
    seed: int
    threads: int
    checkpoint_minutes: float
    on_divergence: str = "stop"
    crop_rule: str = BOUNDING_BOX


def pretrain_in(gpus: int, job: PretrainingJob, log: str | Path | None) -> None:
    """Run `pretrain_study` in as many processes as there are GPUs to use; in this one if that is at most one."""
    if gpus > 1:
        start(gpus, "neurotransfer.pretrain.job", asdict(job), log)
    else:
        pretrain_study(job)


def pretrain_study(job: PretrainingJob) -> None:
    """Train on the healthy participants and write weights, history and participants; one rank does the writing."""
    tables = training_rows(read_tables(job.indices), read_tables(job.splits))
    targets = learn_targets(job.targets, tables[0])
    used = [table[["image_id", "checksum"]].to_numpy().tolist() for table in tables]
    depends = fingerprint([job.seed, job.network, job.training, as_metadata(targets), used])
    checkpoints = Checkpoints(job.checkpoints, depends, job.checkpoint_minutes)
    train, validation = (Images(table, layout.CACHE) for table in tables)
    device = choose_device(job.training["device"], job.threads, deterministic=job.training["deterministic"])
    result = pretrain(
        train,
        validation,
        tables,
        targets=targets,
        network=job.network,
        settings={**job.training, "on_divergence": job.on_divergence},
        seed=job.seed,
        device=device,
        checkpoints=checkpoints,
    )
    if rank() > 0:
        return
    made_with: dict[str, Any] = {"network": job.network, "crop": job.crop, "preprocessing": job.preprocessing}
    made_with["crop_rule"] = job.crop_rule
    made_with["people"] = read_people()
    metadata = metadata_of(result, tables, targets, key=study_key.make_study_key(job.key), **made_with)
    metadata["age_bias"] = _age_bias(metadata, result.state, validation, tables[1], job.training, device)
    write_table(participants_of(tables), job.participants)
    write_table(result.history, job.history)
    weights.write_weights(job.weights, result.state, metadata)
    checkpoints.delete()


def _age_bias(
    metadata: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    validation: Images,
    table: pd.DataFrame,
    training: Mapping[str, Any],
    device: torch.device,
) -> dict[str, float] | None:
    """The age bias of the finished network on its validation images; None if it does not predict age."""
    targets = from_metadata(metadata["targets"])
    column = next((at for at, target in enumerate(targets) if target.name == "age"), None)
    if column is None:
        return None
    model = weights.network_from(metadata)
    model.load_state_dict(state)
    place(model, device, training["data_type"])
    outputs = predict(model, validation, np.arange(len(table)), training["batch_size"], device)
    return fit_age_bias(table["age"].to_numpy(float), decode(outputs, targets)[:, column])


def training_rows(indices: pd.DataFrame, splits: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The index rows of the training and of the validation images.

    Raises
    ------
    InputError
        if either has none, or a participant is in both
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
        raise InputError(
            layout.COHORT_SPLITS,
            "role",
            f"{counted(len(shared), 'participant is', 'participants are')} on two sides",
            fix,
        )
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
    crop_rule: str = BOUNDING_BOX,
    people: People = NOBODY,
) -> dict[str, Any]:
    """What the file of weights says of them: what they must be used with, and what they come from.

    Parameters
    ----------
    key : the study key that the participants' digests are made with; it is not among what is returned
    people : who has several names; a person counts once, and each name has a digest
    """
    best = result.history.iloc[result.epoch]
    metrics = {name: float(best[name]) for name in best.index if is_metric(name) and math.isfinite(best[name])}
    persons = people.named(tables[0])
    figures = {
        "epoch": result.epoch,
        "epochs": len(result.history),
        "images": len(tables[0]),
        "participants": int(persons["participant_id"].nunique()),
        "validation_images": len(tables[1]),
        "validation_loss": float(best["validation_loss"]),
        **metrics,
    }
    if lowered := int(result.history["times_lowered"].max()):
        figures["times_lowered"] = lowered
    return weights.facts_of_use(network, crop, preprocessing, crop_rule) | {
        "targets": as_metadata(targets),
        **known_targets(targets, tables[0]),
        "training": figures,
        "recipe": RECIPE,
        "images_made_by": made_by(tables[0]),
        "quality": reference_of(tables[0]),
        "people": people_by_age(persons),
        "participants": study_key.digests_of(participants_of(tables)["participant_id"], key, people),
    }


def _take_part(facts: Mapping[str, Any]) -> None:
    pretrain_study(PretrainingJob(**facts))


if __name__ == "__main__":
    take_part(_take_part)
