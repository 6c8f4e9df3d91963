"""What confounding alone predicts: age, sex and mask volume of a resample's images, for logistic regression.

It stands beside the three models and outside the paper's comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

COVARIATES = ("age", "sex", "mask_volume")


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
