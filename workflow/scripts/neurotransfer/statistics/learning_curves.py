"""AUCs by number of training images in; what pretraining is worth in scans, and where two models cross, out.

Curves are made monotone, because more training images do not make a model worse on average, and are read
between the sizes on a line over the logarithm of n.  Nothing is read beyond the largest n: what is not reached
there is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def monotone(values: np.ndarray) -> np.ndarray:
    """The nearest non-decreasing curves in least squares (isotonic regression), along the last axis.

    By the max-min formula (Barlow et al., 1972): at i the largest, over starts j ≤ i, of the smallest, over ends
    k ≥ i, mean of the values from j to k.

    Parameters
    ----------
    values : [..., sizes]
    """
    values = np.asarray(values, dtype=float)
    size = values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    result = np.full(values.shape, -np.inf)
    for start in range(size):
        means = (sums[..., start + 1 :] - sums[..., start, None]) / np.arange(1, size - start + 1)
        smallest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]  # over ends at i and later
        result[..., start:] = np.maximum(result[..., start:], smallest)
    return result


def size_that_reaches(sizes: Sequence[int], curve: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The smallest n at which a non-decreasing curve reaches a level.

    Parameters
    ----------
    sizes : ascending numbers of training images
    curve : AUCs, [..., sizes]
    level : AUC to be reached, [...]

    Returns
    -------
    [...]; the smallest size if it is reached from the start, infinity if it is not by the largest
    """
    curve, level = np.asarray(curve, dtype=float), np.asarray(level, dtype=float)
    reached = curve >= level[..., None] - 1e-12
    after = np.argmax(reached, axis=-1)
    return np.where(reached.any(-1), _between(sizes, curve - level[..., None], after), np.inf)


def size_from_which(sizes: Sequence[int], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The n from which on the first curve is never below the second, up to the largest size.

    Returns
    -------
    [...]; the smallest size if it never is, infinity if it still is at the largest
    """
    ahead = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    below = ahead < -1e-12
    after = np.where(below.any(-1), ahead.shape[-1] - np.argmax(below[..., ::-1], axis=-1), 0)
    inside = np.minimum(after, ahead.shape[-1] - 1)
    return np.where(after < ahead.shape[-1], _between(sizes, ahead, inside), np.inf)


def _between(sizes: Sequence[int], ahead: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where, up to the size at place `after`, a curve that is negative at the place before becomes 0."""
    of = np.asarray(sizes, dtype=float)
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(ahead, at[..., None], axis=-1)[..., 0] for at in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(after > 0, np.clip(-low / (high - low), 0, 1), 0.0)
    return of[before] * (of[after] / of[before]) ** share


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of draws some of which are infinite, of values that were drawn."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail), method="inverted_cdf")
    return float(low), float(high)


def worth_in_scans(sizes: Sequence[int], pretrained: np.ndarray, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each n, the AUC with pretraining there, and the n that training from scratch needs for it.

    Parameters
    ----------
    sizes : ascending, [sizes]
    pretrained, scratch : AUCs of the two models, [..., sizes]; they are made monotone here

    Returns
    -------
    levels, needed : [..., sizes]; `needed` as in `size_that_reaches`
    """
    levels, curve = monotone(pretrained), monotone(scratch)
    needed = [size_that_reaches(sizes, curve, levels[..., place]) for place in range(len(sizes))]
    return levels, np.stack(needed, axis=-1)
