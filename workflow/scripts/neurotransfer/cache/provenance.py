"""Where cached images come from: the engines that made them, and the rule that placed their crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

BOUNDING_BOX, PYMENT = "bounding_box", "pyment"  # values of cache.crop_rule


def made_by(images: pd.DataFrame) -> list[list[str]]:
    """The engines that made these images: a sorted list of distinct [engine, version].

    Parameters
    ----------
    images : of an index, with `engine` and `engine_version`
    """
    pairs = images[["engine", "engine_version"]].drop_duplicates().fillna("unknown")
    return sorted(pairs.astype(str).to_numpy().tolist())


def named_engines(pairs: Sequence[Sequence[str]]) -> str:
    """Engines and versions as text: "fastsurfer 2.4.2, freesurfer 7.4.1"."""
    return ", ".join(" ".join(pair) for pair in pairs) or "nothing"
