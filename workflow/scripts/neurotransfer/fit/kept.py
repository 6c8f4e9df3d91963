"""Networks of a task that are kept: which one is best, and a file with all that is needed to apply it.

Goes in: records of fits, and the state of a network.  Comes out: a file of weights with one target, the task, which
`neurotransfer predict` and `neurotransfer weights export` take.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..cache.provenance import BOUNDING_BOX
from ..errors import InputError
from ..files import read_json
from ..network.device import choose_device
from ..network.sfcn import folded, training_scale
from ..pretrain.batches import ResidentImages
from ..pretrain.study_key import digests_of, read_study_key
from ..pretrain.targets import Target, as_metadata
from ..pretrain.training_people import people_by_age
from ..pretrain.weights import facts_of_use, write_weights
from ..quality.reference import reference_of
from ..split.resampling import read_resample
from ..study import layout
from ..study.recipe import RECIPE
from ..study.same_people import read_people
from .finetuning import first_of_setting, fit_setting
from .settings import fingerprint_of_fit, seeds_of_fit

logger = logging.getLogger("neurotransfer")
ALIKE = 0.02  # [assumed] AUC; another kind of processor rounds differently, so a fit that is repeated may differ


def write_network(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    rows: pd.DataFrame,
    task: Mapping[str, Any],
    *,
    made_with: Mapping[str, Any],
    fit: Mapping[str, Any],
    made_by: Sequence[Sequence[str]],
    key: bytes | None,
) -> None:
    """Write the network of a task as a file of weights.

    Parameters
    ----------
    state : of the network, for a head that takes pooled features as they are
    rows : the training images, with `label`; `cohort` and `age` if they are known
    task : `name`, `title`, `positive` and `negative`
    made_with : `network`, `crop`, `preprocessing` (engine, voxel size and grid) and, if there is one, `crop_rule`
    fit : what is to be said of its training: JSON values by name
    made_by : from cache.made_by, of the training images
    key : the study key, under which the participants have digests; None leaves them out
    """
    images = rows.drop_duplicates("image_id")
    images = images if "age" in images else images.assign(age=np.nan)
    target = Target(task["name"], "binary", 1.0, "logistic", float(rows["label"].mean()), 1.0, 1.0)
    rule = made_with.get("crop_rule", BOUNDING_BOX)
    facts = facts_of_use(made_with["network"], made_with["crop"], made_with["preprocessing"], rule) | {
        "task": {name: task[name] for name in ("name", "title", "positive", "negative")},
        "targets": as_metadata([target]),
        "training": {"images": len(images), "participants": int(images["participant_id"].nunique()), **fit},
        "recipe": RECIPE,
        "images_made_by": [list(pair) for pair in made_by],
        "quality": reference_of(images),
        "people": people_by_age(images),
    }
    if key is not None:
        facts["participants"] = digests_of(images["participant_id"], key, read_people())
    write_weights(path, state, facts)


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a kept network says of the fit that it comes from."""
    chosen = record["settings"][record["chosen"]]
    facts = {name: record[name] for name in ("model", "n", "replicate", "test_auc")}
    return facts | {name: chosen[name] for name in ("values", "epoch", "validation_auc", "validation_loss")}


def keep(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    resample: str | Path,
    task: Mapping[str, Any],
    *,
    made_with: Mapping[str, Any],
    key: bytes | None,
) -> None:
    """Write the network of one fit; see `write_network`."""
    rows, facts = read_resample(resample)
    training = rows[rows["role"] == "train"]
    made_by = facts["images_made_by"]
    write_network(path, state, training, task, made_with=made_with, fit=facts_of(record), made_by=made_by, key=key)


def keep_if_asked(
    path: str | None,
    state: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    resample: str | Path,
    config: Mapping[str, Any],
) -> None:
    """Write the network of a fit if `models.cnn.keep` asks for it.

    Parameters
    ----------
    path : of the network; None if it is not kept
    config : the whole configuration
    """
    if path is None:
        return
    task = config["tasks"][record["task"]] | {"name": record["task"]}
    made_with = {name: config[name] for name in ("network", "preprocessing")}
    made_with |= {name: config["cache"][name] for name in ("crop", "crop_rule")}
    key = read_study_key(config["pretrain"]["participants_key"])
    keep(path, state, record, resample, task, made_with=made_with, key=key)


def read_fits(paths: Sequence[str | Path], fitting: Mapping[str, Any], weights: str | Path) -> list[dict[str, Any]]:
    """Records of fits of one task.

    Parameters
    ----------
    fitting : by model, what its fits depend on

    Raises
    ------
    InputError
        if a fit was made with other parameters, another resample or other weights
    """
    records = [read_json(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        resample = layout.resample(record["task"], record["n"], record["replicate"])
        model = record["model"]
        used = weights if model == "transfer" else None
        if record["fingerprint"] != fingerprint_of_fit(model, fitting[model], resample, used):
            raise InputError(path, "", "it was made with other settings", "delete it, then run the same command again")
    return records


def best_of(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fit whose chosen setting has the highest validation AUC; ties go to the lower loss, then to the first.

    The test AUC has no part in it.
    """

    def badness(record: Mapping[str, Any]) -> tuple[float, float]:
        chosen = record["settings"][record["chosen"]]
        return -chosen["validation_auc"], chosen["validation_loss"]

    return min(records, key=badness)


def repeat(
    record: Mapping[str, Any], fitting: Mapping[str, Any], trunk: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """The network of a fit's chosen setting, trained again from the same seeds.

    On the kind of device that the fit was made on it is the same network.

    Parameters
    ----------
    fitting : of the record's model
    trunk : of the pretrained network, if the model is transfer
    """
    resample, _ = read_resample(layout.resample(record["task"], record["n"], record["replicate"]))
    training, values = fitting["training"], fitting["settings"][record["chosen"]]
    device = choose_device(training["device"], training["threads"])
    names = (record["task"], record["n"], record["replicate"], record["model"])
    seeds = seeds_of_fit(fitting["seed"], *names, record["chosen"])
    roles = resample["role"].to_numpy(str)
    rows = {role: np.flatnonzero(roles == role) for role in ("train", "validation")}
    images = ResidentImages(resample, layout.CACHE, device)
    labels = torch.tensor(resample["label"].to_numpy(), dtype=torch.float32)
    model = first_of_setting(images, rows["train"], fitting["network"], training, values, seeds, trunk, device)
    found, state = fit_setting(images, labels, rows, model, {**training, **values}, seeds, device)
    before = record["settings"][record["chosen"]]["validation_auc"]
    if found["status"] != "ok" or abs(found["validation_auc"] - before) > ALIKE:
        message = "trained again, its validation AUC is %s, not %.3f: this machine computes otherwise than the fit's"
        logger.warning(message, found["validation_auc"], before)
    return folded(state, training_scale(fitting["network"]["bottleneck"]))
