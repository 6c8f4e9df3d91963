"""Tensors by name of a file that torch has saved: a zip or a legacy pickle, read without running its code; safetensors.

`torch.load` with `weights_only` builds tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..errors import InputError

PARALLEL = "module."  # what torch's DataParallel puts before each name


def read_torch(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name, on the CPU; a prefix of DataParallel is removed.

    A checkpoint that holds the state dict under a key such as ``state_dict`` or ``model`` is read, too.

    Raises
    ------
    InputError
        if there is no such file, or if it is no state dict or holds objects that only unpickling could make
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "", "there is no such file", "correct the path")
    if not path.is_file():
        raise InputError(path, "", "it is no regular file", "give another file")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = f"it holds more than tensors, and is not unpickled ({_first_line(error)})"
        raise InputError(path, "", what, "save its state dict: torch.save(model.state_dict(), FILE)") from None
    except Exception as error:  # torch's reader raises nearly anything on a damaged file
        raise InputError(path, "", f"torch can't read it ({_first_line(error)})", "give another file") from None
    state = _state_dict(found, 3)
    if state is None:
        raise InputError(path, "", "it holds no state dict", "save one: torch.save(model.state_dict(), FILE)")
    if all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    return state


def _state_dict(found: Any, levels: int) -> dict[str, torch.Tensor] | None:
    """The mapping from names to tensors that `found` is, or that one of its values is, so many levels deep."""
    if not isinstance(found, Mapping) or not found or not levels:
        return None
    if all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()):
        return dict(found)
    inner = [state for value in found.values() if (state := _state_dict(value, levels - 1)) is not None]
    return inner[0] if len(inner) == 1 else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
