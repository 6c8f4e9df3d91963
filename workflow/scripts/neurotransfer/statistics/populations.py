"""Test scores by participant in; what they say about the population that the pool comes from, out.

Replicates of one pool share its participants, so their AUCs are not independent draws from the population.
Participants are: the bootstrap here draws them anew, weighs each replicate's test images by how often their
participant was drawn, takes the AUC *within* each replicate and averages over replicates.  The fits are not
repeated, so it covers the choice of participants to test on, not that of participants to train on;
`expected_value` adds an estimate of that part, less what random starts vary by, which fits with a second seed measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tests import Estimate, student, unjudged

WEIGHTS_AT_ONCE = 8_000_000  # numbers held together by a draw of participants (32 MB)


@dataclass(frozen=True)
class Draws:
    """AUCs of models within replicates, as they are and under bootstrap draws of the pool's participants.

    Attributes
    ----------
    aucs : [models, replicates]
    drawn : float32 [models, draws, replicates]; NaN if a draw leaves a replicate's test set with one class
    """

    aucs: np.ndarray
    drawn: np.ndarray

    def averages(self) -> np.ndarray:
        """The mean AUC over replicates in each draw, [models, draws]."""
        return _mean_of_defined(self.drawn, axis=-1)


def draw_participants(
    scores: np.ndarray,
    labels: np.ndarray,
    participants: np.ndarray,
    replicates: np.ndarray,
    *,
    people: int,
    draws: int,
    seed: int,
) -> Draws:
    """AUCs within replicates under draws, with replacement, of the pool's participants.

    A participant who is drawn k times has weight k on each of their images in every replicate's test set;
    the AUC is the weighted share of (positive, negative) pairs in the right order, ties by half.

    Parameters
    ----------
    scores : [models, rows], of every test image of every replicate
    labels : 0 or 1 per row
    participants : whole numbers below `people`, per row; `people` are drawn from, those never tested too
    replicates : whole numbers from 0 on, per row

    Raises
    ------
    ValueError
        if a replicate's test set has one class
    """
    count = int(replicates.max()) + 1
    generator = np.random.default_rng(seed)
    aucs = np.empty((len(scores), count))
    drawn = np.empty((len(scores), draws, count), dtype=np.float32)
    sets = []
    order = np.argsort(replicates, kind="stable")
    for replicate, rows in enumerate(np.split(order, np.searchsorted(replicates[order], np.arange(1, count)))):
        positive, negative = rows[labels[rows] == 1], rows[labels[rows] == 0]
        if not len(positive) or not len(negative):
            raise ValueError(f"the test set of replicate {replicate} has one class, so it has no AUC")
        wins = pairs_in_order(scores[:, positive], scores[:, negative])
        aucs[:, replicate] = wins.mean((1, 2))
        sets.append((participants[positive], participants[negative], wins.transpose(0, 2, 1)))
    shares = np.full(people, 1 / people)
    most = max(1, WEIGHTS_AT_ONCE // people)
    for start in range(0, draws, most):
        times = generator.multinomial(people, shares, size=min(most, draws - start))
        times = np.ascontiguousarray(times.T, dtype=np.float32)  # [participants, draws]: whole rows are gathered
        for replicate, (positive, negative, wins) in enumerate(sets):
            up, down = times[positive], times[negative]
            pairs = up.sum(0) * down.sum(0)
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn[:, start : start + times.shape[1], replicate] = ((wins @ up) * down).sum(1) / pairs
    return Draws(aucs, drawn)


def pairs_in_order(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Which (positive, negative) pairs are in the right order: 1, a half for ties, or 0.

    Parameters
    ----------
    positive, negative : scores, [..., positives] and [..., negatives]

    Returns
    -------
    float32 [..., positives, negatives]; its mean is the AUC (Mann & Whitney, 1947)
    """
    differences = positive[..., :, None] - negative[..., None, :]
    return (np.sign(differences) * 0.5 + 0.5).astype(np.float32)


def _mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN if nothing is."""
    known = np.isfinite(values)
    counts = known.sum(axis)
    sums = np.where(known, values, 0).sum(axis, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def bootstrap_test(draws: Draws, first: int, second: int, *, level: float = 0.95) -> Estimate:
    """Whether two models' mean AUCs differ when the pool's participants are drawn anew.

    p = (b + 1) / (m + 1) from the m draws, of which b are not on the side of the alternative; two-sided is
    twice the smaller, at most 1 (Efron & Tibshirani, 1993, chapter 15).  The interval is of percentiles, the
    standard error the draws' standard deviation.  Fits are not repeated.

    Parameters
    ----------
    first, second : positions of the models
    """
    averages = draws.averages()
    differences = averages[first] - averages[second]
    differences = differences[np.isfinite(differences)]
    observed = float(draws.aucs[first].mean() - draws.aucs[second].mean())
    if not len(differences):
        return unjudged(observed)
    greater, less = ((np.sum(sign * differences <= 1e-9) + 1) / (len(differences) + 1) for sign in (1, -1))
    low, high = np.quantile(differences, ((1 - level) / 2, (1 + level) / 2))
    both = min(1.0, 2 * min(greater, less))
    return Estimate(observed, float(differences.std()), *map(float, (low, high, both, greater, less)))


def overlap(counts: np.ndarray) -> float:
    """How alike the training sets of a pool's replicates are: 0 if they share no participant, 1 if they are one.

    The mean product of two replicates' counts of the same participant over the mean square of one's.  To first
    order a fit is a sum of what each training participant adds, so this is the correlation of two fits.

    Parameters
    ----------
    counts : images of each participant in each training set, [replicates, participants]
    """
    counts = np.asarray(counts, dtype=float)
    replicates = len(counts)
    squares = (counts**2).sum()
    if replicates < 2:
        return 0.0
    shared = (counts.sum(0) ** 2).sum() - squares
    return float(np.clip(shared / (replicates - 1) / squares, 0.0, 1.0))


@dataclass(frozen=True)
class SecondSeeds:
    """Replicates that were fitted once more with another seed, on the same training and test images.

    Attributes
    ----------
    replicates : their positions among all replicates, [seconds]
    aucs : of the second fits (or differences of two models' AUCs), [seconds]
    drawn : the same under the draws of participants that the first fits had, [draws, seconds]
    """

    replicates: np.ndarray
    aucs: np.ndarray
    drawn: np.ndarray


def seed_variance(aucs: np.ndarray, drawn: np.ndarray, second: SecondSeeds) -> float:
    """The variance, over random starts, of a fit's AUC among all people; the estimate may be below 0.

    Half the mean square of the two seeds' differences, less the part of it that test sets of this size add: two
    networks rank the same few test images differently even if they are equally good.  That part is the variance of the
    difference over the draws of participants.

    Parameters
    ----------
    aucs, drawn : of the first fits, [replicates] and [draws, replicates]
    """
    gaps = aucs[second.replicates] - second.aucs
    by_test = np.nanvar(drawn[:, second.replicates] - second.drawn, axis=0, dtype=np.float64)
    return float((gaps**2).mean() - np.nanmean(by_test)) / 2


def expected_value(
    aucs: np.ndarray,
    drawn: np.ndarray,
    shared: float,
    *,
    second: SecondSeeds | None = None,
    level: float = 0.95,
) -> Estimate:
    """An AUC, or a difference of two, expected at n in the population: over pools, fits and test sets.

    Three parts add up to its variance:

    * whom the pool has to test on: that of the mean over the draws of participants;
    * whom it has to train on: replicates share `shared` of what their fits have learnt, and no number of
      replicates averages that away; what fits vary by is the variance over replicates beyond their test sets'
      own and their random starts', and within a pool 1 - `shared` of it is seen;
    * the finite number of replicates.

    Without second seeds the random starts' variance counts as that of shared training images, so that the error is too
    large for networks.

    Parameters
    ----------
    aucs : [replicates]
    drawn : the same under draws of participants, [draws, replicates]
    shared : from `overlap`
    second : what measures the random starts' variance

    Returns
    -------
    Estimate : from Student's t; nothing to judge by if there are fewer than two replicates or nothing varies.  Its
        degrees of freedom are one less than the replicates, and no more than the second fits, whose variance is
        known that little
    """
    count, value = len(aucs), float(np.mean(aucs))
    if count < 2 or shared >= 1:
        return unjudged(value)
    averages = _mean_of_defined(drawn, axis=-1)
    within = np.nanvar(drawn, axis=0, dtype=np.float64)  # of each replicate's test set
    seen = float(np.var(aucs, ddof=1) - np.nanmean(within))
    starts, degrees = 0.0, count - 1
    if second is not None and (aucs[second.replicates] != second.aucs).any():
        starts, degrees = seed_variance(aucs, drawn, second), min(degrees, len(second.aucs))
    fits = max(0.0, seen - starts) / (1 - shared)
    error = float(np.sqrt(np.nanvar(averages) + fits * shared + max(0.0, seen) / count))
    if not error > 1e-9:
        return unjudged(value, 0.0)
    return student(value, error, degrees, level)
