"""The number of the recipe that networks are trained by, and what of a configuration's group its results depend on.

Goes in: a merged configuration.  Comes out: the part of a group that enters a rule's parameters and the fingerprints.
Standard library only, because the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Of loss, head and optimisers in code.  It is raised if the same configuration trains another network than before:
# fits and checkpoints of another recipe are refused, and pretraining and fits are done again.
#   1: a sum of the targets' losses, torch's first head in pretraining, pooled features as they are
#   2: a weighted mean of the losses, a first head near zero, pooled features divided by the root of their number
RECIPE = 2

# Keys that were added later, each with the value that means what was done before it was added.
ADDED: dict[str, Any] = {
    f"{group}.{key}": value
    for group in ("pretrain", "models.cnn")
    for key, value in (
        ("optimiser", "sgd"),
        ("warmup", 0),
        ("clip_norm", None),
        ("weight_average", None),
        ("schedule.kind", "step"),
    )
} | {
    "quality.page.flag_below_mm3": 700_000,  # it changes the page only
    "cache.crop_rule": "bounding_box",
    "network.scaling": "none",
    "resampling.by": "participant",
    "resampling.per_participant": "all",
    "resampling.stratify": False,
    "models.cnn.calibration_images": None,
    "models.linear.normalise": "mask",
    "models.covariates.site": False,
}


def identity(config: Mapping[str, Any], group: str, without: Collection[str] = ()) -> dict[str, Any]:
    """What results depend on in a group of keys.

    A key of `ADDED` is left out if it has the value that it had in effect before it was added, because a new key
    must not repeat the jobs of a study that does not use it.

    Parameters
    ----------
    config : the merged configuration; it is not changed
    group : such as "pretrain" or "models.cnn"
    without : keys of the group that change no result
    """
    values: Any = config
    for key in group.split("."):
        values = values[key]
    return _pruned({key: value for key, value in values.items() if key not in without}, group)


def _pruned(values: Mapping[str, Any], group: str) -> dict[str, Any]:
    kept = {}
    for key, value in values.items():
        path = f"{group}.{key}"
        if path not in ADDED or value != ADDED[path]:
            kept[key] = _pruned(value, path) if isinstance(value, Mapping) else value
    return kept
