"""AUCs of replicates in; medians, intervals and paired tests out.  Plain functions on arrays.

The paired test is the paper's: is one model's AUC consistently greater than another's over the replicates
of one pool?  Replicates are independent given the pool, so it speaks about *this pool*; about the
population that pools come from it would be too generous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

STATISTICS = {"mean": np.mean, "median": np.median}
CHUNK = 4_000_000  # numbers drawn together (32 MB), so that 5,000 replicates need no more memory than 100


@dataclass(frozen=True)
class PairedTest:
    """Result of a paired permutation test: the statistic and its p-values."""

    statistic: float
    two_sided: float
    greater: float
    less: float
    exact: bool
    permutations: int


def _checked(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError("one-dimensional, non-empty values are needed")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite: a replicate without an AUC can't be compared")
    return array


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    first, second = _checked(first), _checked(second)
    if len(first) != len(second):
        raise ValueError(f"pairs are needed, not {len(first)} values against {len(second)}")
    return first - second


def sign_flip_test(
    first: Sequence[float], second: Sequence[float], *, statistic: str, permutations: int, seed: int
) -> PairedTest:
    """Paired permutation (sign-flip) test of `first` against `second`.

    Under the null each pair's difference is as likely with either sign.  All 2**m sign patterns are used
    where there are no more than `permutations`; otherwise that many are drawn and p = (b + 1) / (m + 1),
    the observed pattern counting as one (Phipson & Smyth, 2010).

    The smallest two-sided p of m replicates is 2 / 2**m for the mean, but 2**-(m // 2) for the median, which
    stays where it is when the smallest differences flip: to reach 0.05 they need 6 and 10 replicates.

    Parameters
    ----------
    first, second : AUCs of the same replicates, [replicates]
    statistic : of the differences, "mean" or "median"

    Returns
    -------
    PairedTest : the two-sided p is twice the smaller one-sided p, at most 1, as in
        scipy.stats.permutation_test

    Raises
    ------
    ValueError
        for values that are not finite or not paired
    """
    differences = _differences(first, second)
    function = STATISTICS[statistic]
    observed = float(function(differences))
    count = len(differences)
    exact = 2**count <= permutations
    if exact:
        patterns = [np.array(list(product((1.0, -1.0), repeat=count)))]
    else:
        generator = np.random.default_rng(seed)
        patterns = (generator.choice((-1.0, 1.0), size=(rows, count)) for rows in _chunks(permutations, count))
    null = np.concatenate([function(signs * differences, axis=1) for signs in patterns])
    tolerance = 1e-12 * max(1.0, abs(observed))  # sums in another order must not count as smaller
    extra = 0 if exact else 1
    greater = (np.sum(null >= observed - tolerance) + extra) / (len(null) + extra)
    less = (np.sum(null <= observed + tolerance) + extra) / (len(null) + extra)
    two_sided = min(1.0, 2 * min(greater, less))
    return PairedTest(observed, float(two_sided), float(greater), float(less), exact, len(null))


def _chunks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, each at most what `CHUNK` holds."""
    most = max(1, CHUNK // columns)
    for start in range(0, rows, most):
        yield min(most, rows - start)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjustment of a family of p-values, in their order (Holm, 1979)."""
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def bootstrap_interval(
    values: Sequence[float], *, statistic: str, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over replicates.

    Returns
    -------
    low, high : the (1 - level) / 2 and (1 + level) / 2 quantiles of the statistic over `resamples` draws
    """
    array = _checked(values)
    generator = np.random.default_rng(seed)
    found = [
        STATISTICS[statistic](array[generator.integers(len(array), size=(rows, len(array)))], axis=1)
        for rows in _chunks(resamples, len(array))
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), (tail, 1 - tail))
    return float(low), float(high)
