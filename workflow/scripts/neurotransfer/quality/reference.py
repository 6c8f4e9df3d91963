"""Figures of images that a network has learnt from, to compare other people's images with, one at a time.

Goes in: the figures of cached images (cache/image_figures.py).  Comes out: a median and a robust standard deviation of
each, which say nothing of any one image; and, of another image, what is unusual about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..cache.image_figures import FIGURES
from .judge import NORMAL_MAD, badness, limits_of, on_scale

FEWEST = 30  # [assumed] images that make a reference
UNUSUAL = 5.0  # [assumed] robust standard deviations beyond which a figure is flagged


def reference_of(images: pd.DataFrame) -> dict[str, list[float]] | None:
    """Median and robust standard deviation of each figure, on the scale on which it is compared; None for few images.

    Parameters
    ----------
    images : with the figures, in the units of results/quality/*.tsv
    """
    if len(images) < FEWEST:
        return None
    found = {}
    for name, figure in FIGURES.items():
        values = on_scale(name, images[name].to_numpy(float)) if name in images else np.empty(0)
        known = values[np.isfinite(values)]
        if len(known) >= FEWEST:
            middle = float(np.median(known))
            spread = NORMAL_MAD * float(np.median(np.abs(known - middle)))
            found[name] = [middle, max(spread, figure.least)]
    return found or None


def compare(
    images: pd.DataFrame, reference: Mapping[str, list[float]] | None, exclude: Mapping[str, Any]
) -> pd.DataFrame:
    """How unusual images are among those of a reference, and which limits they break.

    Parameters
    ----------
    images : with the figures
    reference : from `reference_of`; None compares with nothing
    exclude : `quality.exclude` of the configuration; its limit on z-scores is left out, because that is one within
        a cohort

    Returns
    -------
    by the rows of `images`: `unusual`, the largest z-score on a side that is a fault (NaN without a reference), `why`,
    its figure, and `flags`, the limits broken and figures beyond `UNUSUAL`, separated by commas; None if there are none
    """
    known = [name for name in FIGURES if reference and name in reference]
    scores = pd.DataFrame(index=images.index)
    for name in known:
        middle, spread = (reference or {})[name]
        scores[name] = badness(name, pd.Series((on_scale(name, images[name].to_numpy(float)) - middle) / spread)).values
    flags: list[list[str]] = [[] for _ in range(len(images))]
    for name, values, low, high in limits_of(images, {key: rule for key, rule in exclude.items() if key != "z"}):
        for ending, broken in (
            ("min", values < (-np.inf if low is None else low)),
            ("max", values > (np.inf if high is None else high)),
        ):
            for at in np.flatnonzero(broken):
                flags[at].append(f"{name}_{ending}")
    for name in known:
        for at in np.flatnonzero(scores[name] > UNUSUAL):
            flags[at].append(f"unusual_{name}")
    result = pd.DataFrame(index=images.index)
    result["unusual"] = scores.max(axis=1) if known else np.nan
    result["why"] = scores.idxmax(axis=1) if known and len(images) else None
    result["flags"] = [", ".join(found) or None for found in flags]
    return result
