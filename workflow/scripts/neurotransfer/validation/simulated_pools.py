"""Pools whose population is known, and replicates of two models that learn on them; features in place of images.

What it keeps of a real study: people with several images that resemble each other, one finite pool that all
replicates draw from (by the workflow's own `resampling.draw_rows`), fits that learn from those draws and so differ
by pool and by replicate, and scores of two models that are alike.  A model is a ridge classifier on a random half
of its features: which half is its random start.

Two nulls hold by symmetry, whatever the learner does.  Of *this pool*: both models have the same features and only
their starts differ, so given any pool they are exchangeable.  Of *the population*: each model has features of its
own, alike in law; over pools they are exchangeable, in each pool one of them is ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..split.resampling import draw_rows

SIMULATED_PLAN = {"validation_share": 0.2, "test_share": 0.2, "min_per_class": 2, "max_redraws": 100}


@dataclass(frozen=True)
class Population:
    """Where pools come from.

    Attributes
    ----------
    participants, images : of one pool
    cases : share of participants with label 1
    separations : of each model, the distance of its features' means, in within-class standard deviations
    features : of each model
    stable : share of a feature's variance that a person keeps from scan to scan
    alike : share of a feature's variance that the two models' features have in common
    worse : where the second model is worse, its separation as a share of the one given here
    """

    participants: int
    images: int
    cases: float = 0.5
    separations: tuple[float, float] = (1.0, 1.0)
    features: int = 16
    stable: float = 0.8
    alike: float = 0.5
    worse: float = 0.85


# The paper's pools: TOP (1,037 images of 861 participants) and ADNI (10,660 of 1,678)
TOP = Population(861, 1037, separations=(1.05, 1.05))
ADNI = Population(1678, 10660, cases=0.4, separations=(3.2, 3.2), worse=0.92)


@dataclass(frozen=True)
class Pool:
    """`labels` and `people` [images] and `features` float32 [models, images, features]."""

    labels: np.ndarray
    people: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Replicates:
    """Test scores of a pool's replicates: `scores` [models, rows], and the rest by row as in populations.py.

    `counts` [replicates, participants] are the training images of each participant.
    """

    scores: np.ndarray
    labels: np.ndarray
    people: np.ndarray
    replicates: np.ndarray
    counts: np.ndarray


def draw_pool(population: Population, generator: np.random.Generator) -> Pool:
    """One pool: everybody has one image, and the rest fall on anybody."""
    people = np.arange(population.participants)
    more = generator.integers(0, len(people), population.images - len(people))
    people = np.sort(np.r_[people, more])
    case = np.zeros(population.participants, dtype=int)
    case[: round(population.cases * population.participants)] = 1
    labels = generator.permutation(case)[people]

    def normal(rows: int) -> np.ndarray:  # [models, rows, features], the models' alike
        own = generator.standard_normal((2, rows, population.features), dtype=np.float32)
        common = generator.standard_normal((rows, population.features), dtype=np.float32)
        return np.sqrt(population.alike) * common + np.sqrt(1 - population.alike) * own

    person, scan = normal(population.participants), normal(population.images)
    features = np.sqrt(population.stable) * person[:, people] + np.sqrt(1 - population.stable) * scan
    steps = np.array(population.separations) / np.sqrt(population.features)
    features += (steps[:, None] * labels)[..., None]
    return Pool(labels, people, features.astype(np.float32))


def replicate(
    pool: Pool, n: int, replicates: int, generator: np.random.Generator, *, same_features: bool, share: float = 0.2
) -> Replicates:
    """Draw replicates of a pool, fit both models on each and score its test images.

    Parameters
    ----------
    n : training images
    same_features : whether the second model has the first one's features, and only a random start of its own
    share : of validation and of test images, of n
    """
    size = round(n * share)
    sets: list[list[np.ndarray]] = []
    while len(sets) < replicates:
        rows = draw_rows(pool.labels, pool.people, (n, size, size), SIMULATED_PLAN["min_per_class"], generator)
        if rows is not None:
            sets.append(rows)
    train, test = (np.array([rows[place] for rows in sets]) for place in (0, 2))
    scores = [
        fit_and_score(pool.features[0 if same_features else model], pool.labels, train, test, generator)
        for model in (0, 1)
    ]
    counts = np.zeros((replicates, int(pool.people.max()) + 1), dtype=np.float32)
    np.add.at(counts, (np.arange(replicates)[:, None], pool.people[train]), 1)
    places = np.repeat(np.arange(replicates), size)
    flat = test.ravel()
    return Replicates(np.array(scores).reshape(2, -1), pool.labels[flat], pool.people[flat], places, counts)


def fit_and_score(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Ridge classifiers on random halves of the features, one per replicate: scores of their test images.

    Parameters
    ----------
    features : [images, features]; `labels` [images]
    train, test : rows, [replicates, images of the set]
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
    return (features[test[..., None], chosen[:, None]] @ weights)[..., 0]


def aucs_of_pools(
    population: Population, n: int, pools: int, generator: np.random.Generator, share: float = 0.2
) -> np.ndarray:
    """The first model's test AUC in one replicate of each of many independent pools, [pools]."""
    from ..statistics.populations import pairs_in_order

    found = np.empty(pools)
    for place in range(pools):
        one = replicate(draw_pool(population, generator), n, 1, generator, same_features=True, share=share)
        positive, negative = (one.scores[0, one.labels == label] for label in (1, 0))
        found[place] = pairs_in_order(positive, negative).mean()
    return found


def with_difference(population: Population) -> Population:
    """The same population, but the second model's features tell the classes apart less well."""
    first, second = population.separations
    return replace(population, separations=(first, population.worse * second))
