"""How unusual each image of a cohort is, and which images are left out for it.

Goes in: the figures of cached images (cache/image_figures.py).  Comes out: robust z-scores within cohort and age
band, and the rules of the configuration that exclude an image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..cache.image_figures import FIGURES
from ..errors import InputError
from ..study import layout

logger = logging.getLogger("neurotransfer")
NORMAL_MAD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


def robust_z(values: np.ndarray, least: float) -> np.ndarray:
    """How far each value is from the median, in robust standard deviations; missing values stay missing.

    Parameters
    ----------
    values : float [images]
    least : the smallest standard deviation; a robust one is 1.4826 times the median absolute deviation, which is 0
        if most values are alike
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return values.copy()
    middle = np.median(known)
    return (values - middle) / max(NORMAL_MAD * float(np.median(np.abs(known - middle))), least)


def on_scale(name: str, values: np.ndarray) -> np.ndarray:
    """Values of a figure on the scale on which they are compared: as they are, or as logarithms."""
    offset = FIGURES[name].offset
    return values if offset is None else np.log10(values + offset)


def badness(name: str, scores: pd.Series) -> pd.Series:
    """How far z-scores of a figure lie on a side that is a fault; 0 on the other side and if the score is missing."""
    return (scores.abs() if FIGURES[name].low_is_bad else scores.clip(lower=0)).fillna(0)


def age_groups(age: pd.Series, age_band: float, min_group: int) -> pd.Series:
    """The group that each image is compared with: "20 to 30" (years), or "all" its cohort.

    An image without an age, or whose band holds fewer than `min_group` images, is compared with its whole cohort.
    """
    low = (age.astype(float) // age_band) * age_band
    names = [np.nan if pd.isna(at) else f"{at:g} to {at + age_band:g}" for at in low]
    bands = pd.Series(names, index=age.index, dtype=object)
    return bands.where(bands.map(bands.value_counts()) >= min_group, "all")


def cached_images(images: pd.DataFrame, cached: pd.DataFrame) -> pd.DataFrame:
    """The images of a cohort that lie in its cache, with the figures found there.

    Parameters
    ----------
    images : the cohort's manifest rows
    cached : the tables of its shards

    Raises
    ------
    InputError
        if the cohort has no image at all
    """
    if images.empty:
        fix = f"look into {layout.EXCLUDED}, or remove the cohort's row from its table"
        raise InputError(layout.SHARDS, "", "the cohort has no image", fix)
    about = images[["image_id", "cohort", "shard", "age"]]
    figures = cached[cached["status"] == "ok"][["image_id", "row", "engine", "engine_version", *FIGURES, "checksum"]]
    return about.merge(figures, on="image_id", how="inner", validate="one_to_one")


def judge(images: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Every cached image of one cohort with its figures, how unusual they are, and whether it is left out.

    Parameters
    ----------
    images : `image_id`, `age` (years) and the figures
    settings : `age_band` (years), `min_group` (images) and `exclude`, limits (`min`, `max`) by figure, and by
        `z` (`max`) for `unusual`; null sets no limit

    Returns
    -------
    `images` with `group`, a z-score per figure, `unusual` (the largest |z|, of figures of which only a high
    value is a fault the largest z), `why` (its figure),
    `status` (ok, excluded), `reason` (the first rule that excludes it, such as ``mask_volume_mm3_min``) and
    `detail` (the value and the limit)
    """
    table = images.reset_index(drop=True)
    table["group"] = age_groups(table["age"], settings["age_band"], settings["min_group"])
    bands = [rows for group, rows in table.groupby("group").indices.items() if group != "all"]
    for name, figure in FIGURES.items():
        table[name] = table[name].to_numpy(float)
        values = on_scale(name, table[name].to_numpy())
        scores = robust_z(values, figure.least)
        for rows in bands:
            scores[rows] = robust_z(values[rows], figure.least)
        table[f"z_{name}"] = scores
    scores = pd.DataFrame({f"z_{name}": badness(name, table[f"z_{name}"]) for name in FIGURES})
    table["unusual"] = scores.max(axis=1)
    table["why"] = scores.idxmax(axis=1).str.removeprefix("z_") if len(table) else pd.Series(dtype=object)
    table["status"], table["reason"], table["detail"] = "ok", None, None
    for name, values, low, high in limits_of(table, settings["exclude"]):
        for ending, limit, beyond in (("min", low, values < (low or 0)), ("max", high, values > (high or 0))):
            if limit is not None:
                new = beyond & (table["status"] == "ok")
                table.loc[new, "status"], table.loc[new, "reason"] = "excluded", f"{name}_{ending}"
                table.loc[new, "detail"] = [f"{value:.6g}, limit {limit:g}" for value in values[new]]
    return table


def limits_of(table: pd.DataFrame, rules: Mapping[str, Any]):
    """Name, values, smallest and largest allowed value of each rule."""
    for name, limits in rules.items():
        yield name, table["unusual" if name == "z" else name], limits.get("min"), limits.get("max")


def accepted(images: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """The rows of a cohort's manifest that are cached and not excluded, with their cache row and figures.

    Parameters
    ----------
    images : the cohort's manifest rows
    quality : of the cohort, from `judge`
    """
    kept = quality[quality["status"] == "ok"]
    columns = ["image_id", "row", "engine", "engine_version", *FIGURES, "checksum"]
    return images.merge(kept[columns], on="image_id", how="inner", validate="one_to_one")


def why_empty(cohort: str, cached: pd.DataFrame, quality: pd.DataFrame) -> str:
    """One line about a cohort without a usable image: where its images went."""
    lost = pd.concat([cached[cached["status"] != "ok"], quality[quality["status"] != "ok"]])
    reasons = (lost["status"] + " " + lost["reason"].fillna("")).str.strip().value_counts()
    said = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "it has none"
    return f"cohort {cohort}: none of its {len(cached)} images is usable ({said}); its index is empty"
