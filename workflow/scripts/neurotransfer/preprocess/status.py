"""What an image's folder says of its preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json


def read_status(folder: Path) -> dict[str, Any] | None:
    """An image's ``status.json``; None if it has no outcome yet."""
    return read_whole_json(folder / "status.json")


def read_whole_json(path: Path) -> dict[str, Any] | None:
    """A JSON file that a job may not have written yet; None if it is not there or cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
