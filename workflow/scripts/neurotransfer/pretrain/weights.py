"""A file of weights: safetensors with metadata that says what the weights must be used with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from .. import __version__
from ..cache.provenance import BOUNDING_BOX, named_engines
from ..errors import InputError
from ..files import written_whole
from ..network.sfcn import SFCN
from .targets import from_metadata
from .weight_checks import CHECKSUM, checksum_of
from .weight_file import FORMAT, read_checked

logger = logging.getLogger("neurotransfer")
KEYS = {"crop": "cache.crop", "crop_rule": "cache.crop_rule", "scaling": "network.scaling"}  # that a fact is set by
SCALING = "none"  # of intensities on their way into the network: 0 to 255 as they are [published]


def write_weights(path: str | Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a network's state with its metadata (JSON values by name), whole.

    The same state and metadata give the same bytes: safetensors writes its own keys in any order, so all
    facts go under one of them.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    facts = {"format": FORMAT, "version": __version__, **metadata}
    facts[CHECKSUM] = checksum_of(tensors, json.loads(json.dumps(facts)))  # as a reader gets them: a tuple is a list
    text = {"neurotransfer": json.dumps(facts, sort_keys=True, allow_nan=False)}
    with written_whole(path, "wb") as file:
        file.write(save(tensors, metadata=text))


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state and the metadata of a file of weights, checked: see weight_checks.py.

    Raises
    ------
    InputError
        if the file is missing, damaged, not one of neurotransfer's, or not what its metadata says, or if its numbers
        are none that training gives
    """
    return read_checked(path, "pt")


def facts_of_use(
    network: Mapping[str, Any], crop: Any, preprocessing: Mapping[str, Any], crop_rule: str = BOUNDING_BOX
) -> dict[str, Any]:
    """What the metadata says of the images that a network takes, and of its architecture; see `expected_of`."""
    rule = {} if crop_rule == BOUNDING_BOX else {"crop_rule": crop_rule}
    return rule | {
        "network": {name: value for name, value in network.items() if name != "scaling"},
        "crop": list(crop),
        "scaling": network.get("scaling", SCALING),
        "preprocessing": {name: preprocessing[name] for name in ("engine", "voxel_size", "grid")},
    }


def expected_of(
    network: Mapping[str, Any], crop: Any, preprocessing: Mapping[str, Any], crop_rule: str = BOUNDING_BOX
) -> dict[str, Any]:
    """What weights must have been made with to be of use, by the name that a person sees in a refusal.

    Which engine made the images is another question, of the images and not of the configuration: `check_made_by`.
    """
    expected = {f"network.{name}": value for name, value in network.items() if name != "scaling"}
    expected |= {"crop": list(crop), "crop_rule": crop_rule, "scaling": network.get("scaling", SCALING)}
    return expected | {"preprocessing.voxel_size": preprocessing["voxel_size"]}


def check_weights(
    metadata: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path, *, accept: bool = False
) -> None:
    """Refuse weights made for something else.

    Parameters
    ----------
    expected : from `expected_of`; a dot in a name leads into the metadata
    accept : `pretrain.accept_other_preprocessing`; if it is true, a crop that is placed by another rule will do, and
        the log names the difference

    Raises
    ------
    InputError
        with the two values side by side
    """
    for name, value in expected.items():
        has: Any = metadata
        for part in name.split("."):
            has = has.get(part) if isinstance(has, Mapping) else None
        if has is None and name == "crop_rule":
            has = BOUNDING_BOX  # of files from before there was a choice
        if has == value or (name == "preprocessing.voxel_size" and _is_within(value, has)):
            continue
        what = f"the weights were made with {json.dumps(has)}, this study has {json.dumps(value)}"
        if name == "crop_rule" and accept:
            logger.warning("%s: crop_rule: %s, which the configuration accepts", path, what)
            continue
        key = KEYS.get(name, name)
        fix = f"use weights that match, or change {key}"
        if name == "crop_rule":
            fix += ", or say pretrain.accept_other_preprocessing: true"
        raise InputError(path, name, what, fix)


def _is_within(value: float, limits: object) -> bool:
    """Whether a voxel size is between the two that published weights state."""
    return isinstance(limits, list) and len(limits) == 2 and limits[0] <= value <= limits[1]


def check_head(metadata: Mapping[str, Any], targets: Iterable[str], path: str | Path, *, accept: bool = False) -> None:
    """Refuse weights whose head predicts other targets than the study's.

    Fits do not use the head; evaluation and predictions do.

    Parameters
    ----------
    targets : of the configuration
    accept : `pretrain.accept_other_head`; if it is true the log names the difference, and only what the head predicts
        is evaluated

    Raises
    ------
    InputError
        with the two lists side by side
    """
    has, wanted = sorted(target["name"] for target in metadata["targets"]), sorted(targets)
    if has == wanted:
        return
    what = f"the head of the weights predicts {', '.join(has)}; this study's targets are {', '.join(wanted)}"
    if accept:
        logger.warning("%s: %s, which the configuration accepts", path, what)
        return
    raise InputError(path, "targets", what, "use weights that match, or say pretrain.accept_other_head: true")


def network_from(metadata: Mapping[str, Any], dropout: float = 0.0) -> SFCN:
    """A network of the weights' architecture, with the outputs of its targets."""
    shape = metadata["network"]
    outputs = sum(target.outputs for target in from_metadata(metadata["targets"]))
    scaling = metadata.get("scaling", SCALING)
    return SFCN(shape["channels"], shape["bottleneck"], outputs, shape["pooling"], dropout, scaling=scaling)


def check_made_by(
    metadata: Mapping[str, Any], images: Sequence[Sequence[str]], path: str | Path, *, accept: bool = False
) -> None:
    """Refuse images that another engine, or another version of it, made than those that the weights learnt from.

    Parameters
    ----------
    images : from cache.made_by, of the images that the weights are to be used on
    accept : `pretrain.accept_other_preprocessing`; if it is true the log names the difference

    Raises
    ------
    InputError
        with the two sides beside each other
    """
    known = metadata.get("images_made_by")
    if known is not None and {tuple(pair) for pair in images} <= {tuple(pair) for pair in known}:
        return
    learnt = "engines that their file does not name" if known is None else named_engines(known)
    what = f"the weights learnt from images of {learnt}, these images are of {named_engines(images)}"
    if accept:
        logger.warning("%s: %s, which the configuration accepts", path, what)
        return
    fix = "use weights that match, or say pretrain.accept_other_preprocessing: true"
    raise InputError(path, "images_made_by", what, fix)
