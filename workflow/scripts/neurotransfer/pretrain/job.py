"""Pretraining as the rule does it: from indices and splits to the file of weights, in one process or in several.

``python -m neurotransfer.pretrain.job`` is what torchrun starts, once per GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import fingerprint, read_tables, write_table
from ..network.device import choose_device
from ..study import layout
from . import loop, weights
from .batches import Images
from .checkpoints import Checkpoints
from .distributed import rank, start, take_part
from .targets import as_metadata, learn_targets


def pretrain_in(gpus: int, facts: Mapping[str, Any], log: str | Path | None) -> None:
    """Run `pretrain_study` in as many processes as there are GPUs to use; in this one where that is at most one."""
    if gpus > 1:
        start(gpus, "neurotransfer.pretrain.job", facts, log)
    else:
        pretrain_study(facts)


def pretrain_study(facts: Mapping[str, Any]) -> None:
    """Train on the healthy participants and write weights, history and participants; one rank does the writing.

    Parameters
    ----------
    facts : JSON values: the paths `indices`, `splits`, `weights`, `history`, `participants`, `checkpoints` and
        `key`; `targets`, `network` and `training` of the configuration; `seed`, `crop`, `preprocessing`, `threads`
        (of this process) and `checkpoint_minutes`
    """
    tables = loop.training_rows(read_tables(facts["indices"]), read_tables(facts["splits"]))
    targets = learn_targets(facts["targets"], tables[0])
    network, settings = facts["network"], facts["training"]
    used = [table[["image_id", "checksum"]].to_numpy().tolist() for table in tables]
    depends = fingerprint([facts["seed"], network, settings, as_metadata(targets), used])
    checkpoints = Checkpoints(facts["checkpoints"], depends, facts["checkpoint_minutes"])
    result = loop.pretrain(
        *(Images(table, layout.CACHE) for table in tables),
        tables,
        targets=targets,
        network=network,
        settings=settings,
        seed=facts["seed"],
        device=choose_device(settings["device"], facts["threads"], deterministic=settings["deterministic"]),
        checkpoints=checkpoints,
    )
    if rank() > 0:
        return
    made_with = {"network": network, "crop": facts["crop"], "preprocessing": facts["preprocessing"]}
    metadata = loop.metadata_of(result, tables, targets, key=weights.make_study_key(facts["key"]), **made_with)
    write_table(loop.participants_of(tables), facts["participants"])
    write_table(result.history, facts["history"])
    weights.write_weights(facts["weights"], result.state, metadata)
    checkpoints.delete()


if __name__ == "__main__":
    take_part(pretrain_study)
