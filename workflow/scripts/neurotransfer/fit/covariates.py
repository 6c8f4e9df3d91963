"""What confounding alone predicts: age, sex, mask volume and perhaps site of a resample's images, for regression.

It stands beside the three models and outside the paper's comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..manifest.scanners import with_scanner

COVARIATES = ("age", "sex", "mask_volume")


def in_words(settings: Mapping[str, Any]) -> str:
    """What the arm has, by the configuration's `models.covariates`."""
    return "age, sex, mask volume, cohort and scanner" if settings.get("site") else "age, sex and mask volume"


def read_covariates(resample: pd.DataFrame, indices: Mapping[str, pd.DataFrame], masks: np.ndarray) -> np.ndarray:
    """Age (years), sex (0 or 1) and mask volume (mm³) of a resample's images, by its rows.

    Parameters
    ----------
    resample : with `cohort` and `index_row`
    indices : by cohort, its index with `age` and `sex`
    masks : mask volume per row

    Returns
    -------
    float64 [rows, 3]; what is missing is NaN, to be filled in by what training images know
    """
    values = np.full((len(resample), len(COVARIATES)), np.nan)
    for cohort, rows in resample.groupby("cohort").groups.items():
        at = resample.index.get_indexer(rows)
        known = indices[cohort].iloc[resample.loc[rows, "index_row"].to_numpy(int)]
        values[np.ix_(at, [0, 1])] = known[["age", "sex"]].to_numpy(float)
    values[:, 2] = np.where(masks > 0, masks, np.nan)
    return values


def sites_of(resample: pd.DataFrame, scanners: pd.DataFrame) -> np.ndarray:
    """Cohort and scanner of a resample's images as indicators: 0 or 1 [rows, cohorts + scanners].

    A site that no training image has is constant there, so it changes no score.

    Parameters
    ----------
    resample : with `image_id` and `cohort`
    scanners : from manifest.scanners.scanners_of; without rows if no scanner is known
    """
    sites = with_scanner(resample, scanners)
    return pd.get_dummies(sites[[name for name in ("cohort", "scanner") if name in sites]]).to_numpy(float)
