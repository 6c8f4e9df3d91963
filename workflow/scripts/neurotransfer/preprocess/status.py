"""What an image's folder says of its preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import is_number, read_json

STATES = ("ok", "failed")


def read_status(folder: Path) -> dict[str, Any] | None:
    """An image's ``status.json``; None if it has no outcome yet, or one that no job writes."""
    status = read_whole_json(folder / "status.json")
    if status is None or status.get("state") not in STATES:
        return None
    texts = (status.get(name) for name in ("reason", "detail", "engine", "engine_version", "fingerprint"))
    numbers = [status.get("seconds") or 0]
    parts = status.get("parts") or {}
    numbers += parts.values() if isinstance(parts, dict) else [None]
    usable = all(text is None or isinstance(text, str) for text in texts) and all(map(is_number, numbers))
    return status if usable else None


def read_whole_json(path: Path) -> dict[str, Any] | None:
    """A JSON object that a job may not have written yet; None if it is not there or cannot be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
