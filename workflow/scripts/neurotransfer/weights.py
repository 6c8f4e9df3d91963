"""A file of weights: safetensors with metadata that says what the weights must be used with."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def write_weights(path: str | Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a state with its metadata (JSON values by name), whole."""
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
        where the file is missing, damaged, or not one of neurotransfer's
    """
    if not Path(path).is_file():
        raise InputError(path, "", "there is no such file of weights", "correct pretrain.weights")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["neurotransfer"])
            if facts["format"] != FORMAT:
                raise InputError(path, "format", f"{facts['format']!r} is not {FORMAT!r}", "use a matching version")
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, "", f"not whole weights of neurotransfer ({error})", "give another file") from None


def check_weights(metadata: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path) -> None:
    """Refuse weights made for something else.

    Parameters
    ----------
    expected : any of `network`, `crop` and `preprocessing` (engine and voxel size), as configured

    Raises
    ------
    InputError
        with the two values side by side
    """
    for name, value in expected.items():
        has = metadata.get(name)
        if name == "preprocessing":
            keys = ("engine", "voxel_size")
            has, value = ({key: item[key] for key in keys} for item in (has, value))
        if has != value:
            what = f"the weights were made with {json.dumps(has)}, this study has {json.dumps(value)}"
            raise InputError(path, name, what, "use weights that match, or change the configuration")


def network_from(metadata: Mapping[str, Any], dropout: float = 0.0) -> SFCN:
    """A network of the weights' architecture, with an output per target."""
    shape = metadata["network"]
    return SFCN(shape["channels"], shape["bottleneck"], len(metadata["targets"]), shape["pooling"], dropout)


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
        else:
            lines.append(f"  {name}: {json.dumps(facts[name])}")
    return "\n".join(lines)
