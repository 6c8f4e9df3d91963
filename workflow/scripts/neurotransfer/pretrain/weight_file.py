"""A file of weights, read and checked without torch, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..cache.provenance import named_engines
from ..errors import InputError
from ..text import printable
from .study_key import SCHEME
from .weight_checks import CHECKSUM, check_facts, check_tensors, checksum_of, facts_in, tensors_of

FORMAT, WITHOUT_CHECKSUM = "neurotransfer-2", "neurotransfer-1"


def read_checked(path: str | Path, framework: str = "numpy") -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and the metadata of a file of weights, checked: see weight_checks.py.

    Parameters
    ----------
    framework : "numpy" for arrays, "pt" for tensors of torch

    Raises
    ------
    InputError
        if the file is missing, damaged, not one of neurotransfer's, or not what its metadata says, or if its numbers
        are none that training gives
    """
    if not Path(path).is_file():
        raise InputError(path, "", "there is no such file of weights", "correct pretrain.weights")
    try:
        with safe_open(path, framework=framework) as file:
            facts = facts_in((file.metadata() or {})["neurotransfer"])
            if facts["format"] not in (FORMAT, WITHOUT_CHECKSUM):
                raise InputError(path, "format", f"it is not {FORMAT!r}", "use a matching version")
            check_facts(facts)
            _check_network(file, facts)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        check_tensors(state)
        if facts["format"] != WITHOUT_CHECKSUM and facts[CHECKSUM] != checksum_of(state, facts):
            raise ValueError("its checksum is another one: the file was damaged or changed")
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        reason = f"no {error} in its metadata" if isinstance(error, KeyError) else error
        raise InputError(path, "", f"no whole weights of neurotransfer ({reason})", "give another file") from None
    return state, facts


def _check_network(file: Any, facts: Mapping[str, Any]) -> None:
    """Refuse tensors of other names, types or shapes than the network's; their values are not read yet."""
    wanted, names = tensors_of(facts), file.keys()
    if len(names) != len(wanted) or set(names) != wanted.keys():
        raise ValueError("its tensors are not those of the network that its metadata describes")
    for name, (shape, kind) in wanted.items():
        given = file.get_slice(name)
        if given.get_dtype() != kind:
            raise ValueError(f"{name} is of the type {given.get_dtype()}, not {kind}")
        if tuple(given.get_shape()) != shape:
            raise ValueError("its tensors are not those of the network that its metadata describes")


def show(path: str | Path) -> str:
    """What a file of weights says of itself, a line per fact; nothing in it controls the terminal."""
    state, facts = read_checked(path)
    lines = [f"{path}: {sum(value.size for value in state.values()):,} numbers in {len(state)} tensors"]
    for name in sorted(facts):
        if name == "targets":
            lines.append("  targets:")
            for target in facts["targets"]:
                unit = f"mean {target['mean']:.4g}, sd {target['sd']:.4g}"
                lines.append(f"    {target['name']}: {target['kind']}, {unit}, weight {target['weight']}")
        elif name == "participants":
            lines.append(f"  participants: {_shown_participants(facts[name])}")
        elif name == "people":
            lines.append("  people who trained it, by cohort and age:")
            lines += [f"    {cell['cohort']}, {cell['ages']}: {cell['participants']}" for cell in facts[name]]
        elif name == "images_made_by":
            lines.append(f"  images made by: {named_engines(facts[name])}")
        else:
            lines.append(f"  {name}: {json.dumps(facts[name])}")
    return "\n".join(map(printable, lines))


def _shown_participants(known: Mapping[str, Any]) -> str:
    if known.get("scheme") != SCHEME:
        return "digests of an older kind, with their key beside them: not used, and not to be passed on"
    return f"{len(known['digests'])} HMAC-SHA256 digests under the study key {known['key_id']}"
