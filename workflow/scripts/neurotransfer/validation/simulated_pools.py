"""Pools from a known population, and replicates of two models that learn from them, with features instead of images.

As in a real study, people have several similar images; all replicates draw from one finite pool (by the workflow's own
`resampling.draw_rows`); fits learn from these draws, so they differ by pool and by replicate; the scores of the two
models are correlated.  A model is a ridge classifier on a random half of its features, whose weights a random start
disturbs; half and disturbance play the part of a network's random initial weights, order and augmentation, and a second
seed draws both again.

Two null hypotheses hold by symmetry, for any learner.  For *this pool*: both models have the same features and differ
only in their random halves, so they are exchangeable given any pool.  For *the population*: each model has its own
features from the same distribution; the models are exchangeable over pools, but in each pool one of them is better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..split.resampling import draw_rows

RESAMPLING: dict[str, Any] = {"validation_share": 0.2, "test_share": 0.2, "min_per_class": 2, "max_redraws": 100}


@dataclass(frozen=True)
class Population:
    """The distribution that pools are drawn from.

    Attributes
    ----------
    participants, images : numbers in one pool
    cases : share of participants with label 1
    separations : per model, the distance between the classes' mean features, in within-class standard deviations
    features : number of features per model
    stable : share of a feature's variance that all scans of a person share
    alike : share of a feature's variance that the two models' features share
    worse : factor on the second model's separation in `with_difference`
    noise : of random starts: the length of what disturbs a fit's weights over the length of these
    """

    participants: int
    images: int
    cases: float = 0.5
    separations: tuple[float, float] = (1.0, 1.0)
    features: int = 16
    stable: float = 0.8
    alike: float = 0.5
    worse: float = 0.85
    noise: float = 0.0


# The paper's pools: TOP (1,037 images of 861 participants) and ADNI (10,660 of 1,678).  `worse` makes a difference of
# about 0.05 in AUC; the noise of random starts makes a standard deviation of about 0.04 in a fit's AUC at n = 500.
TOP = Population(861, 1037, separations=(1.05, 1.05), worse=0.75)
ADNI = Population(1678, 10660, cases=0.4, separations=(3.2, 3.2), worse=0.8)
POOLS = {
    "TOP": TOP,
    "ADNI": ADNI,
    "TOP, noisy starts": replace(TOP, noise=1.1, worse=0.65),
    "ADNI, noisy starts": replace(ADNI, noise=0.85, worse=0.8),
}


@dataclass(frozen=True)
class Pool:
    """`labels` and `people` [images] and `features` float32 [models, images, features]."""

    labels: np.ndarray
    people: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class ScoredReplicates:
    """Test scores of a pool's replicates.

    Attributes
    ----------
    scores : [models, rows]; a row is a test image of a replicate
    labels, people, replicates : int [rows]
    counts : [replicates, participants], the number of training images of each participant
    second : [models, rows of the first replicates], scores of fits with a second seed
    """

    scores: np.ndarray
    labels: np.ndarray
    people: np.ndarray
    replicates: np.ndarray
    counts: np.ndarray
    second: np.ndarray


def draw_pool(population: Population, generator: np.random.Generator) -> Pool:
    """One pool: each participant has one image, and the others go to participants drawn at random."""
    people = np.arange(population.participants)
    more = generator.integers(0, len(people), population.images - len(people))
    people = np.sort(np.r_[people, more])
    case = np.zeros(population.participants, dtype=int)
    case[: round(population.cases * population.participants)] = 1
    labels = generator.permutation(case)[people]

    def normal(rows: int) -> np.ndarray:  # [models, rows, features], correlated between models
        own = generator.standard_normal((2, rows, population.features), dtype=np.float32)
        common = generator.standard_normal((rows, population.features), dtype=np.float32)
        return np.sqrt(population.alike) * common + np.sqrt(1 - population.alike) * own

    person, scan = normal(population.participants), normal(population.images)
    features = np.sqrt(population.stable) * person[:, people] + np.sqrt(1 - population.stable) * scan
    steps = np.array(population.separations) / np.sqrt(population.features)
    features += (steps[:, None] * labels)[..., None]
    return Pool(labels, people, features.astype(np.float32))


def replicate(
    pool: Pool,
    n: int,
    replicates: int,
    generator: np.random.Generator,
    *,
    same_features: bool,
    share: float = 0.2,
    noise: float = 0.0,
    second_seeds: int = 0,
) -> ScoredReplicates:
    """Draw replicates of a pool, fit both models on each and score its test images.

    Parameters
    ----------
    n : training images
    same_features : if true, both models have the first one's features and differ only in their random halves
    share : numbers of validation and of test images, each as a share of n
    noise : as Population's
    second_seeds : replicates, the first ones, that are fitted once more with another random start
    """
    size = round(n * share)
    sets: list[list[np.ndarray]] = []
    while len(sets) < replicates:
        rows = draw_rows(pool.labels, pool.people, (n, size, size), RESAMPLING["min_per_class"], generator)
        if rows is not None:
            sets.append(rows)
    train, _, test = map(np.array, zip(*sets, strict=True))

    def scores(count: int) -> np.ndarray:  # [models, rows of the first replicates]
        features = [pool.features[0 if same_features else model] for model in (0, 1)]
        sets = (pool.labels, train[:count], test[:count], generator)
        return np.array([fit_and_score(each, *sets, noise).ravel() for each in features])

    counts = np.zeros((replicates, int(pool.people.max()) + 1), dtype=np.float32)
    np.add.at(counts, (np.arange(replicates)[:, None], pool.people[train]), 1)
    scored = test.ravel()
    return ScoredReplicates(
        scores=scores(replicates),
        labels=pool.labels[scored],
        people=pool.people[scored],
        replicates=np.repeat(np.arange(replicates), size),
        counts=counts,
        second=scores(second_seeds),
    )


def fit_and_score(
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    generator: np.random.Generator,
    noise: float = 0.0,
) -> np.ndarray:
    """Ridge classifiers on random halves of the features, one per replicate: scores of their test images.

    Parameters
    ----------
    features : [images, features]; `labels` [images]
    train, test : rows, [replicates, images of the set]
    noise : as Population's
    """
    replicates, half = len(train), features.shape[1] // 2
    chosen = np.argsort(generator.random((replicates, features.shape[1])), axis=1)[:, :half]
    x = features[train[..., None], chosen[:, None]]
    x = x - x.mean(1, keepdims=True)
    y = 2.0 * labels[train] - 1
    y = (y - y.mean(1, keepdims=True)).astype(np.float32)
    across = x.transpose(0, 2, 1)
    gram = across @ x + half * np.eye(half, dtype=np.float32)
    weights = np.linalg.solve(gram, across @ y[..., None])
    if noise:
        start = generator.standard_normal(weights.shape, dtype=np.float32)
        weights = weights + noise * np.linalg.norm(weights, axis=1, keepdims=True) / np.sqrt(half) * start
    return (features[test[..., None], chosen[:, None]] @ weights)[..., 0]


def aucs_of_pools(
    population: Population, n: int, pools: int, generator: np.random.Generator, share: float = 0.2
) -> np.ndarray:
    """The first model's test AUC in one replicate of each of many independent pools, float [pools]."""
    from ..statistics.populations import pairs_in_order

    found = np.empty(pools)
    for number in range(pools):
        pool = draw_pool(population, generator)
        one = replicate(pool, n, 1, generator, same_features=True, share=share, noise=population.noise)
        positive, negative = (one.scores[0, one.labels == label] for label in (1, 0))
        found[number] = pairs_in_order(positive, negative).mean()
    return found


def with_difference(population: Population) -> Population:
    """The same population with a smaller separation for the second model."""
    first, second = population.separations
    return replace(population, separations=(first, population.worse * second))
