"""Whether a file of weights can be trusted: its facts, its tensors, and their checksum.

Goes in: what a safetensors file holds.  Comes out: nothing, or a ValueError in words; `weights.read_weights` names the
file.  Nothing is computed from a size that the file states before that size is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from ..study.targets import KNOWN, TARGETS

BLOCKS, CHANNELS = 9, 4096  # at most, as in config.schema.yaml: nine blocks halve 512 voxels to one
METADATA = 32 * 2**20  # characters; the digests of 114,257 participants are 4 MB
# Largest size of a number.  The first convolution adds 27 products with intensities of up to 255, and batch norm
# squares the sum: (27 * 255 * 1e15)² is 5e37, and float32 ends at 3e38.
LARGEST = 1e15
CHECKSUM = "checksum"  # the fact that holds it
TARGET_FIELDS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "kind": lambda value: value in ("continuous", "binary"),
    "loss": lambda value: value in ("squared", "absolute", "logistic"),
    "weight": lambda value: _is_number(value) and value >= 0,
    "mean": lambda value: _is_number(value),
    "sd": lambda value: _is_number(value) and value > 0,
    "positive_weight": lambda value: _is_number(value) and value > 0,
}


def facts_in(text: str) -> dict[str, Any]:
    """The facts in the metadata of a file of weights.

    Raises
    ------
    ValueError
        if it is too long, or holds anything else than JSON; NaN and Infinity are no JSON
    """
    if len(text) > METADATA:
        raise ValueError(f"its metadata has {len(text):,} characters")
    try:
        facts = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None
    if not isinstance(facts, dict):
        raise ValueError("its metadata is not a group of facts")
    return facts


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"its metadata holds {name}")


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse facts of the wrong kind or size, before a network is built from them.

    Raises
    ------
    ValueError
        with the fact's name
    KeyError
        if `network` or `targets` is missing
    """
    network, targets = facts["network"], facts["targets"]
    _require(isinstance(network, Mapping), "network")
    channels = network["channels"]
    _require(isinstance(channels, list) and 1 <= len(channels) <= BLOCKS, "network.channels")
    for width in (*channels, network["bottleneck"]):
        _require(_is_whole(width) and 1 <= width <= CHANNELS, "network.channels or network.bottleneck")
    _require(network["pooling"] in ("max", "average"), "network.pooling")
    _require(isinstance(targets, list) and 1 <= len(targets) <= len(TARGETS), "targets")
    for target in targets:
        _require(isinstance(target, Mapping) and target.keys() - {"bins"} == TARGET_FIELDS.keys(), "targets")
        _require("bins" not in target or _are_bins(target["bins"]), "targets.bins")
        for field, allowed in TARGET_FIELDS.items():
            _require(isinstance(target[field], str | int | float) and allowed(target[field]), f"targets.{field}")
    task = facts.get("task")  # of a network that was trained further
    known = TARGETS if task is None else [_name_of(task)]
    _require(all(target["name"] in known for target in targets), "targets.name")
    _require(len({target["name"] for target in targets}) == len(targets), "targets.name")
    learnt = facts.get(KNOWN, [])
    _require(isinstance(learnt, list) and all(isinstance(name, str) for name in learnt), KNOWN)
    _require(facts.get("scaling", "none") in ("none", "mean"), "scaling")
    _require(isinstance(facts.get("crop_rule", ""), str), "crop_rule")
    size = facts["preprocessing"].get("voxel_size", 1.0) if isinstance(facts.get("preprocessing"), Mapping) else 1.0
    sizes = size if isinstance(size, list) and len(size) == 2 else [size]
    _require(all(map(_is_number, sizes)), "preprocessing.voxel_size")
    made_by, participants = facts.get("images_made_by", []), facts.get("participants", {})
    _require(isinstance(made_by, list) and all(map(_is_engine, made_by)), "images_made_by")
    for name in ("preprocessing", "training", "participants", "source", "known_answers"):
        _require(isinstance(facts.get(name, {}), Mapping), name)
    if "scheme" in participants:
        digests = participants.get("digests")
        _require(isinstance(participants.get("key_id"), str), "participants.key_id")
        _require(isinstance(digests, list) and all(isinstance(one, str) for one in digests), "participants.digests")
    _require(_is_whole(facts.get("recipe", 1)), "recipe")
    _check_facts_for_others(facts)


def _check_facts_for_others(facts: Mapping[str, Any]) -> None:
    """Refuse an age bias, a reference of quality or counts of people of the wrong kind; none is no fault."""
    bias, quality, people = (facts.get(name) for name in ("age_bias", "quality", "people"))
    line = isinstance(bias, Mapping) and all(_is_number(bias.get(name)) for name in ("slope", "intercept"))
    _require(bias is None or (line and bias["slope"] > 0), "age_bias")
    pairs = quality.values() if isinstance(quality, Mapping) else [None]
    usable = (
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) and pair[1] > 0 for pair in pairs
    )
    _require(quality is None or all(usable), "quality")
    cells = people if isinstance(people, list) else [None]
    known = (
        isinstance(cell, Mapping)
        and all(isinstance(cell.get(name), str) for name in ("cohort", "ages"))
        and all(_is_whole(cell.get(name)) for name in ("participants", "images"))
        for cell in cells
    )
    _require(people is None or all(known), "people")


def _name_of(task: Any) -> str:
    name = task.get("name") if isinstance(task, Mapping) else None
    _require(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_]+", name), "task.name")
    _require(all(isinstance(task.get(side), list) for side in ("positive", "negative")), "task")
    _require(isinstance(task.get("title"), str), "task.title")
    return str(name)


def _require(right: object, name: str) -> None:
    if not right:
        raise ValueError(f"its metadata has no usable {name}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _is_engine(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


def _are_bins(bins: object) -> bool:
    """Whether these are start, width and number of the bins of a target (`pretrain.targets.Target`)."""
    if not isinstance(bins, list) or len(bins) != 3 or not all(map(_is_number, bins)):
        return False
    return bins[1] > 0 and _is_whole(bins[2]) and 1 <= bins[2] <= CHANNELS


def tensors_of(facts: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type, by safetensors' name, of each tensor of the network that checked facts describe.

    >>> found = tensors_of({"network": {"channels": [8], "bottleneck": 16}, "targets": [{}]})
    >>> len(found), found["blocks.0.conv.weight"], found["head.bias"]
    (16, ((8, 1, 3, 3, 3), 'F32'), ((1,), 'F32'))
    """
    channels, width = facts["network"]["channels"], facts["network"]["bottleneck"]
    outputs = sum((target.get("bins") or (0, 1, 1))[2] for target in facts["targets"])
    found = _convolution("bottleneck", channels[-1], width, 1) | _norm("norm", width)
    for block, (inputs, here) in enumerate(pairwise([1, *channels])):
        found |= _convolution(f"blocks.{block}.conv", inputs, here, 3) | _norm(f"blocks.{block}.norm", here)
    return found | {"head.weight": ((outputs, width), "F32"), "head.bias": ((outputs,), "F32")}


def _convolution(name: str, inputs: int, outputs: int, size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    return {f"{name}.weight": ((outputs, inputs, size, size, size), "F32"), f"{name}.bias": ((outputs,), "F32")}


def _norm(name: str, channels: int) -> dict[str, tuple[tuple[int, ...], str]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": ((channels,), "F32") for part in parts} | {f"{name}.num_batches_tracked": ((), "I64")}


def check_tensors(state: Mapping[str, Any]) -> None:
    """Refuse numbers that no training gives: not finite, too large for float32, a negative variance or count.

    Parameters
    ----------
    state : arrays of numpy, or tensors of torch in the memory of the CPU

    Raises
    ------
    ValueError
        with the tensor's name
    """
    for name, value in state.items():
        low, high = float(value.min()), float(value.max())
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(f"{name} holds numbers that are not finite")
        if max(-low, high) > LARGEST:
            raise ValueError(f"{name} holds numbers above {LARGEST:g}")
        if name.endswith(("running_var", "num_batches_tracked")) and low < 0:
            raise ValueError(f"{name} holds negative numbers")


def checksum_of(state: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """SHA-256 of facts and tensors (names, types, shapes and bytes), whatever their order in the file.

    Parameters
    ----------
    state : arrays of numpy, or tensors of torch in the memory of the CPU
    facts : a checksum among them does not count
    """
    known = {name: fact for name, fact in facts.items() if name != CHECKSUM}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, allow_nan=False).encode())
    for name in sorted(state):
        value = np.asarray(state[name], order="C")
        digest.update(f"\x1f{name}\x1ftorch.{value.dtype}\x1f{list(value.shape)}\x1f".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
