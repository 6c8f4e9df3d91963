"""Whether imported weights have shown that they predict what was published.  Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FACT = "known_answers"  # of the metadata
UNCHECKED, PASSED = "unchecked", "passed"  # its state


def is_unchecked(metadata: Mapping[str, Any]) -> bool:
    """Whether weights were imported, and nothing has shown that they predict what was published."""
    return metadata.get(FACT, {}).get("state") == UNCHECKED
