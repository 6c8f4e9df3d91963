"""Predictions of scans: of a cached shard, as the rule does it; or of all of them, in one process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cache.image_figures import FIGURES
from ..cache.write import images_of_shard, write_cache_table, write_shard
from ..errors import InputError
from ..files import digest_of_file, read_facts, read_table, read_tables, write_table
from ..network.device import choose_device, place
from ..preprocess.run import preprocess_images, slice_of_job
from ..pretrain.age_bias import corrected_age
from ..pretrain.batches import Images
from ..pretrain.step import predict
from ..pretrain.targets import decode, from_metadata
from ..pretrain.weights import network_from, read_weights
from ..quality.reference import compare
from ..study import layout
from ..study.plan import Study
from ..study.targets import learnt_targets

logger = logging.getLogger("neurotransfer")
PREFIX = "predicted_"
CORRECTED = f"{PREFIX}age_corrected"
OTHER_ENGINE = "other_engine"  # the reason of scans whose outputs are of an engine that the weights do not know


def predict_shard(weights: str | Path, shard: str, config: Mapping[str, Any], threads: int) -> None:
    """Write the predictions of one cached shard: ``results/predict/<shard>.tsv``, a row for each of its images.

    Parameters
    ----------
    weights : the file; the first line of the predictions holds its digest
    config : the configuration; `pretrain` says where and in what data type the network computes, and `quality.exclude`
        has the limits that are flagged

    Raises
    ------
    InputError
        if the weights or the shard cannot be read, or the shard's crop is not that of the weights
    """
    state, metadata = read_weights(weights)
    path = Path(layout.CACHED.format(shard=shard))
    cached, crop = read_table(path), read_facts(path)["crop"]
    if list(crop) != list(metadata["crop"]):
        what = f"its images have {crop} voxels, those of the weights {metadata['crop']}"
        raise InputError(path, "crop", what, "use weights that match, or delete it and run the same command again")
    targets, settings = from_metadata(metadata["targets"]), config["pretrain"]
    table = cached[["image_id", "status", "reason", "engine", "engine_version"]].copy()
    if not settings["accept_other_preprocessing"]:
        known = {tuple(pair) for pair in metadata.get("images_made_by") or ()}
        pairs = zip(table["engine"], table["engine_version"], strict=True)
        other = (table["status"] == "ok") & np.array([pair not in known for pair in pairs], bool)
        table.loc[other, "status"], table.loc[other, "reason"] = "failed", OTHER_ENGINE
    rows = np.flatnonzero(table["status"] == "ok")
    values = np.full((len(table), len(targets)), np.nan)
    if len(rows):
        model = network_from(metadata)
        model.load_state_dict(state)
        device = choose_device(settings["device"], threads)
        place(model, device, settings["data_type"])
        images = Images(cached.assign(shard=shard), layout.CACHE)
        values[rows] = decode(predict(model, images, rows, settings["batch_size"], device), targets)
    learnt = learnt_targets(metadata)
    for column, target in enumerate(targets):
        if target.name not in learnt:
            values[:, column] = np.nan
        table[f"{PREFIX}{target.name}"] = values[:, column]
        if target.name == "age":
            table[CORRECTED] = corrected_age(values[:, column], metadata.get("age_bias"))
    figures = cached[list(FIGURES)].astype(float)
    compared = compare(figures, metadata.get("quality"), config["quality"]["exclude"])
    compared.loc[(table["status"] != "ok").to_numpy(), :] = None
    write_table(
        pd.concat([table, figures, compared], axis=1),
        layout.PREDICTED.format(shard=shard),
        {"weights_sha256": digest_of_file(weights)},
    )


def predict_here(study: Study, config: Mapping[str, Any], cores: int) -> None:
    """Preprocess, cache and predict all scans in this process; the log has a line for each.

    What was preprocessed in an earlier run is not repeated.
    """
    settings = config["preprocessing"] | {"threads": cores}
    for shard in study.shards.values():
        images = read_table(f"{layout.SHARD_TABLES}/{shard.name}.tsv")
        settings["volumes"] = shard.cohort not in study.without_volumes
        if len(study.shards) > 1:
            logger.info("%s: %d scans", shard.name, len(images))
        for job in shard.jobs:
            part = slice_of_job(images, job, shard.images_per_job)
            write_table(preprocess_images(part, settings, layout.SUBJECTS), layout.ledger(shard.name, job))
        ledger = images_of_shard(images, read_tables(study.ledgers_of([shard.name])), shard.name)
        folders = [Path(layout.SUBJECTS, shard.name, name) for name in ledger["image_id"]]
        cache, path = config["cache"], Path(layout.CACHED.format(shard=shard.name))
        written = (path.with_suffix(".npy"), folders, ledger, cache["crop"], settings["voxel_size"])
        table, _ = write_shard(*written, cache["compression"], cache["crop_rule"])
        write_cache_table(table, path, cache["crop"], [], cache["crop_rule"])
        predict_shard(config["pretrain"]["weights"], shard.name, config, cores)
