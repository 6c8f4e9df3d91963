"""The age bias of a network, fitted on its validation set, and predicted ages without it.

Networks predict too high an age for young people and too low an age for old ones.  Cole's linear correction (Cole et
al., 2018, doi:10.1038/mp.2017.62; named and compared by de Lange & Cole, 2020, doi:10.1016/j.nicl.2020.102229) fits

    predicted = slope * age + intercept

on people who did not train, and gives (predicted - intercept) / slope.  It needs no age of the person at hand.
"""

from __future__ import annotations

import numpy as np

FEWEST = 10  # [assumed] images on which a line is fitted
LEAST_SLOPE = 0.2  # [assumed] dividing by a smaller slope makes noise more than five times as large


def fit_age_bias(age: np.ndarray, predicted: np.ndarray) -> dict[str, float] | None:
    """The line of predicted on true ages by least squares; None if the images are too few or hardly follow age.

    Parameters
    ----------
    age, predicted : float [images], years; images without an age are left out

    Returns
    -------
    `slope`, `intercept` (years) and `images`, the number of images that it was fitted on
    """
    known = np.isfinite(age) & np.isfinite(predicted)
    if np.count_nonzero(known) < FEWEST or np.ptp(age[known]) == 0:
        return None
    slope, intercept = np.polyfit(age[known], predicted[known], 1)
    if slope < LEAST_SLOPE:
        return None
    return {"slope": float(slope), "intercept": float(intercept), "images": int(np.count_nonzero(known))}


def corrected_age(predicted: np.ndarray, bias: dict[str, float] | None) -> np.ndarray:
    """Predicted ages (years) without the bias that `fit_age_bias` found; NaN if there is none."""
    if bias is None:
        return np.full(len(predicted), np.nan)
    return (predicted - bias["intercept"]) / bias["slope"]
