"""A file of weights: safetensors with metadata that says what the weights must be used with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from . import __version__
from .errors import InputError
from .files import written_whole
from .model import SFCN

FORMAT = "neurotransfer-1"
SCALING = "none"  # of intensities on their way into the network: 0 to 255 as they are [published]


def write_weights(path: str | Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a network's state with its metadata (JSON values by name), whole.

    The same state and metadata give the same bytes: safetensors writes its own keys in any order, so all
    facts go under one of them.
    """
    facts = {"format": FORMAT, "version": __version__, **metadata}
    text = {"neurotransfer": json.dumps(facts, sort_keys=True, allow_nan=False)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with written_whole(path, "wb") as file:
        file.write(save(tensors, metadata=text))


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state and the metadata of a file of weights.

    Raises
    ------
    InputError
        where the file is missing, damaged, not one of neurotransfer's, or not what its metadata says
    """
    if not Path(path).is_file():
        raise InputError(path, "", "there is no such file of weights", "correct pretrain.weights")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["neurotransfer"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        if facts["format"] != FORMAT:
            raise InputError(path, "format", f"{facts['format']!r} is not {FORMAT!r}", "use a matching version")
        with torch.device("meta"):
            wanted = {name: value.shape for name, value in network_from(facts).state_dict().items()}
        if wanted != {name: value.shape for name, value in state.items()}:
            raise ValueError("its tensors are not those of the network that its metadata describes")
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        reason = f"no {error} in its metadata" if isinstance(error, KeyError) else error
        raise InputError(path, "", f"no whole weights of neurotransfer ({reason})", "give another file") from None
    return state, facts


def expected_of(network: Mapping[str, Any], crop: Any, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """What weights must have been made with to be of use, by the name that a person sees in a refusal."""
    expected = {f"network.{name}": value for name, value in network.items()} | {"crop": list(crop), "scaling": SCALING}
    return expected | {f"preprocessing.{name}": preprocessing[name] for name in ("engine", "voxel_size")}


def check_weights(metadata: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path) -> None:
    """Refuse weights made for something else.

    Parameters
    ----------
    expected : from `expected_of`; a dot in a name leads into the metadata

    Raises
    ------
    InputError
        with the two values side by side
    """
    for name, value in expected.items():
        has: Any = metadata
        for part in name.split("."):
            has = has.get(part) if isinstance(has, Mapping) else None
        if has != value:
            what = f"the weights were made with {json.dumps(has)}, this study has {json.dumps(value)}"
            raise InputError(path, name, what, "use weights that match, or change the configuration")


def network_from(metadata: Mapping[str, Any], dropout: float = 0.0) -> SFCN:
    """A network of the weights' architecture, with an output per target."""
    shape = metadata["network"]
    return SFCN(shape["channels"], shape["bottleneck"], len(metadata["targets"]), shape["pooling"], dropout)


def digests_of(participants: Iterable[str], key: str) -> dict[str, Any]:
    """Keyed digests of the participants behind weights, so that another study can notice the same people.

    They keep names out of the file and files from being joined by them; who knows the key, which stands
    beside them, can still test whether a name is among them.
    """
    return {"key": key, "digests": sorted(_digest(name, key) for name in set(participants))}


def seen_by(metadata: Mapping[str, Any], participants: Iterable[str]) -> set[str] | None:
    """Those of `participants` who are behind the weights; None where the weights can't tell."""
    known = metadata.get("participants")
    if not known:
        return None
    digests = set(known["digests"])
    return {name for name in participants if _digest(name, known["key"]) in digests}


def _digest(participant: str, key: str) -> str:
    return hashlib.blake2b(participant.encode(), key=key.encode(), digest_size=8).hexdigest()


def show(path: str | Path) -> str:
    """What a file of weights says of itself, a line per fact."""
    state, facts = read_weights(path)
    lines = [f"{path}: {sum(value.numel() for value in state.values()):,} numbers in {len(state)} tensors"]
    for name in sorted(facts):
        if name == "targets":
            lines.append("  targets:")
            for target in facts["targets"]:
                unit = f"mean {target['mean']:.4g}, sd {target['sd']:.4g}"
                lines.append(f"    {target['name']}: {target['kind']}, {unit}, weight {target['weight']}")
        elif name == "participants":
            lines.append(f"  participants: {len(facts[name]['digests'])} keyed digests")
        else:
            lines.append(f"  {name}: {json.dumps(facts[name])}")
    return "\n".join(lines)
