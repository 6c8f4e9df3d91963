"""AUCs of replicates in; intervals, effects and paired tests out.  Plain functions on arrays.

Two questions are kept apart.  *This pool*: replicates are independent draws from it, and the paper's paired
permutation test (`sign_flip_test`) speaks about them.  *The population* that the pool comes from: replicates
share the pool, so that test is too generous there; `populations.expected_value` judges it.  `corrected_t_test` is a
figure for readers who ask for it and decides nothing (docs/statistics.md says why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median}
CHUNK = 4_000_000  # numbers drawn together (32 MB), so that 5,000 replicates need no more memory than 100


@dataclass(frozen=True)
class PairedTest:
    """Result of a paired permutation test: the statistic and its p-values.

    `error` is the Monte Carlo standard error of the two-sided p; 0 if all sign patterns were used.
    """

    statistic: float
    two_sided: float
    greater: float
    less: float
    exact: bool
    permutations: int
    error: float


@dataclass(frozen=True)
class Estimate:
    """What holds in the population that pools come from: value, standard error, interval and p-values against 0.

    The p-values are meant for differences of AUCs.  Where there is nothing to judge by they are 1 and the interval NaN.
    """

    value: float
    error: float
    low: float
    high: float
    two_sided: float
    greater: float
    less: float


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError("one-dimensional, non-empty values are needed")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite: a replicate without an AUC can't be compared")
    return array


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    ours, theirs = _checked(first), _checked(second)
    if len(ours) != len(theirs):
        raise ValueError(f"pairs are needed, not {len(ours)} values against {len(theirs)}")
    return ours - theirs


def sign_flip_test(
    first: Sequence[float], second: Sequence[float], *, statistic: str, permutations: int, seed: int
) -> PairedTest:
    """Paired permutation (sign-flip) test of `first` against `second`.

    Under the null each pair's difference is as likely with either sign.  All 2**m sign patterns are used
    if there are no more than `permutations`; otherwise that many are drawn and p = (b + 1) / (m + 1),
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

    Examples
    --------
    Of eight replicates the transferred network is better in seven:

    >>> transfer = [0.81, 0.78, 0.85, 0.80, 0.79, 0.83, 0.77, 0.82]
    >>> baseline = [0.78, 0.76, 0.80, 0.79, 0.80, 0.78, 0.74, 0.80]
    >>> found = sign_flip_test(transfer, baseline, statistic="mean", permutations=10_000, seed=1)
    >>> f"{found.statistic:.3f}, p = {found.two_sided:.3f}, exact: {found.exact}"
    '0.025, p = 0.023, exact: True'
    """
    differences = _differences(first, second)
    function = STATISTICS[statistic]
    observed = float(function(differences))
    count = len(differences)
    exact = 2**count <= permutations
    if exact:
        patterns: Iterable[np.ndarray] = [np.array(list(product((1.0, -1.0), repeat=count)))]
    else:
        generator = np.random.default_rng(seed)
        patterns = (generator.choice((-1.0, 1.0), size=(rows, count)) for rows in _chunks(permutations, count))
    null = np.concatenate([function(signs * differences, axis=1) for signs in patterns])
    tolerance = 1e-12 * max(1.0, abs(observed))  # sums in another order must not count as smaller
    extra = 0 if exact else 1
    greater = (np.sum(null >= observed - tolerance) + extra) / (len(null) + extra)
    less = (np.sum(null <= observed + tolerance) + extra) / (len(null) + extra)
    smaller = min(greater, less)
    error = 0.0 if exact else 2 * np.sqrt(smaller * (1 - smaller) / len(null))
    p_values = (float(min(1.0, 2 * smaller)), float(greater), float(less))
    return PairedTest(observed, *p_values, exact, len(null), float(error))


def _chunks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, each at most what `CHUNK` holds."""
    most = max(1, CHUNK // columns)
    for start in range(0, rows, most):
        yield min(most, rows - start)


def paired_comparison(
    first: Sequence[float],
    second: Sequence[float],
    *,
    statistic: str,
    permutations: int,
    bootstrap: int,
    seeds: tuple[int, int],
) -> tuple[PairedTest, tuple[float, float]]:
    """The sign-flip test of paired AUCs, and the bootstrap interval of the tested statistic of their differences.

    Parameters
    ----------
    seeds : of the test and of the interval
    """
    test = sign_flip_test(first, second, statistic=statistic, permutations=permutations, seed=seeds[0])
    differences = _differences(first, second)
    return test, bootstrap_interval(differences, statistic=statistic, resamples=bootstrap, seed=seeds[1])


def corrected_t_test(
    first: Sequence[float], second: Sequence[float], *, train: float, test: float, level: float = 0.95
) -> Estimate:
    """Nadeau and Bengio's corrected resampled t-test of paired values of replicates that share a pool.

    The variance of the mean difference is taken as (1 / replicates + test / train) times that of the
    differences, since their overlap makes replicates correlated (Nadeau & Bengio, 2003, section 3).

    Parameters
    ----------
    first, second : AUCs of the same replicates, [replicates]
    train, test : images that a replicate trains and tests on, means over replicates
    level : of the interval

    Returns
    -------
    Estimate : of the mean difference; nothing to judge by if the differences have no spread

    Raises
    ------
    ValueError
        for values that are not finite or not paired, and sizes that are not positive
    """
    differences = _differences(first, second)
    if not (train > 0 and test > 0):
        raise ValueError(f"the sizes of training and test sets must be positive, not {train} and {test}")
    count, mean = len(differences), float(differences.mean())
    spread = float(differences.std(ddof=1)) if count > 1 else 0.0
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return unjudged(mean, 0.0)
    return student(mean, float(spread * np.sqrt(1 / count + test / train)), count - 1, level)


def student(value: float, error: float, degrees: int, level: float = 0.95) -> Estimate:
    """A value with a standard error above 0, judged by Student's t with so many degrees of freedom."""
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    greater, less = (float(stats.t.sf(sign * value / error, degrees)) for sign in (1, -1))
    return Estimate(value, error, value - half, value + half, min(1.0, 2 * min(greater, less)), greater, less)


def unjudged(value: float, error: float = np.nan) -> Estimate:
    """A value about which nothing can be said."""
    return Estimate(value, error, np.nan, np.nan, 1.0, 1.0, 1.0)


def superiority(first: Sequence[float], second: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """The probability that the first model beats the second in a replicate of this pool, ties counting half.

    Returns
    -------
    share, low, high : with Wilson's score interval (1927), which does not shrink to a point if one model
        won every time
    """
    differences = _differences(first, second)
    count = len(differences)
    share = float(((differences > 0) + 0.5 * (differences == 0)).mean())
    z = stats.norm.ppf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return share, max(0.0, float(centre - half)), min(1.0, float(centre + half))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjustment of a family of p-values, in their order (Holm, 1979)."""
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, statistic: str, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over replicates.

    Returns
    -------
    low, high : the (1 - level) / 2 and (1 + level) / 2 quantiles of the statistic over `resamples` draws

    Examples
    --------
    >>> aucs = [0.81, 0.78, 0.85, 0.80, 0.79, 0.83, 0.77, 0.82]
    >>> low, high = bootstrap_interval(aucs, statistic="median", resamples=5000, seed=1)
    >>> f"{low:.2f} to {high:.2f}"
    '0.78 to 0.83'
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
