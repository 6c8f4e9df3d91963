"""The six targets of pretraining, in the order of the authors' published model; the one list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGETS = ("age", "sex", "handedness", "bmi", "fluid_intelligence", "neuroticism")
UNITS = {"age": "years", "bmi": "kg/m²"}  # of those that have one
CLASSES = {"sex": "male", "handedness": "left-handed"}  # what class 1 of a binary target is
UNKNOWN = (0.0, 1.0)  # mean and sd of a target that no training image has
KNOWN = "known_targets"  # in the metadata of weights, only if a target that images had has this mean and sd, too


def learnt_targets(metadata: Mapping[str, Any]) -> list[str]:
    """The targets that weights have learnt, in the order of the outputs: those that a training image had.

    Parameters
    ----------
    metadata : of the weights; those of imported ones say nothing of the images, and all their targets are learnt
    """
    targets = metadata.get("targets", ())
    names = [target["name"] for target in targets]
    if KNOWN in metadata:
        return [name for name in names if name in metadata[KNOWN]]
    seen = [target["name"] for target in targets if target.get("bins") or _scale(target) != UNKNOWN]
    return names if "source" in metadata or not seen else seen


def _scale(target: Mapping[str, Any]) -> tuple[float, float]:
    return target["mean"], target["sd"]
