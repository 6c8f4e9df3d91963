"""Error rates of each test: many simulated studies in, rejections by test, null hypothesis and n out.

Each study goes through the same functions as a real study's comparisons.  `make type-one` writes docs/type-one.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from ..seeds import seed_from
from ..statistics.inference import NULLS
from ..statistics.populations import Draws, SecondSeeds, bootstrap_test, draw_participants, expected_value, overlap
from ..statistics.tests import bootstrap_interval, sign_flip_test
from ..study.plan import seconds_of
from .simulated_pools import Population, draw_pool, replicate, with_difference

SCENARIOS = ("this pool", "the population", "a difference")


@dataclass(frozen=True)
class Plan:
    """One kind of simulated study.

    Attributes
    ----------
    scenario : the null hypothesis that holds, or a difference in the population
    draws, permutations : numbers for the bootstrap over participants and for the sign-flip test
    second_seeds : share of replicates that are fitted once more
    """

    pool: str
    population: Population
    scenario: str
    n: int
    replicates: int = 100
    draws: int = 119  # makes 0.05 a possible p-value
    permutations: int = 1999
    share: float = 0.2
    second_seeds: float = 0.2


def study(plan: Plan, seed: int) -> dict[str, float]:
    """One study: the p-value of each test, and intervals for the first model's expected AUC.

    Returns
    -------
    `auc` and `difference`; `p_<test>`; `low_<interval>` and `high_<interval>` of the first model's mean AUC for
    "population" (expected_value), "participants" (the bootstrap over participants alone) and "replicates" (the
    bootstrap over replicates, which is about this pool)
    """
    generator = np.random.default_rng(seed)
    population = plan.population
    if plan.scenario == "a difference":
        population = with_difference(population)
    same = plan.scenario == "this pool"
    count = seconds_of(plan.replicates, plan.second_seeds)
    drawn = replicate(
        draw_pool(population, generator),
        plan.n,
        plan.replicates,
        generator,
        same_features=same,
        share=plan.share,
        noise=population.noise,
        second_seeds=count,
    )

    def draw(scores: np.ndarray) -> Draws:  # of the first replicates, [models, rows]
        images = (values[: scores.shape[1]] for values in (drawn.labels, drawn.people, drawn.replicates))
        return draw_participants(scores, *images, people=population.participants, draws=plan.draws, seed=seed)

    found = draw(drawn.scores)
    first, other = found.aucs
    both, one = None, None
    if count:
        again, at = draw(drawn.second), np.arange(count)
        both = SecondSeeds(at, again.aucs[0] - again.aucs[1], again.drawn[0] - again.drawn[1])
        one = SecondSeeds(at, again.aucs[0], again.drawn[0])
    shared = overlap(drawn.counts)
    apart = expected_value(first - other, found.drawn[0] - found.drawn[1], shared, second=both)
    alone = expected_value(first, found.drawn[0], shared, second=one)
    flip = sign_flip_test(first, other, statistic="mean", permutations=plan.permutations, seed=seed)
    averages = found.averages()[0]
    limits = {
        "population": (alone.low, alone.high),
        "participants": tuple(np.nanquantile(averages, (0.025, 0.975))),
        "replicates": bootstrap_interval(first, statistic="mean", resamples=plan.draws, seed=seed),
    }
    return {
        "auc": float(first.mean()),
        "difference": float((first - other).mean()),
        "p_sign_flip": flip.two_sided,
        "p_participants": bootstrap_test(found, 0, 1).two_sided,
        "p_population": apart.two_sided,
        **{f"low_{name}": float(low) for name, (low, _) in limits.items()},
        **{f"high_{name}": float(high) for name, (_, high) in limits.items()},
    }


def run_studies(plan: Plan, studies: int, processes: int, seed: int = 1) -> pd.DataFrame:
    """Many studies of one plan, a row each; the rows do not depend on the number of processes."""
    names = (plan.pool, plan.scenario, plan.n, plan.replicates)
    seeds = [seed_from("study", seed, *names, number) for number in range(studies)]
    if processes == 1:
        return pd.DataFrame([study(plan, each) for each in seeds])
    with ProcessPoolExecutor(processes, initializer=one_thread) as pool:
        return pd.DataFrame(list(pool.map(partial(study, plan), seeds, chunksize=max(1, studies // processes // 8))))


def one_thread() -> None:
    """Limit numerical libraries to one thread, because the processes already use all cores."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def rejections(found: pd.DataFrame, alpha: float = 0.05) -> list[dict[str, object]]:
    """Per test, the share of studies in which p ≤ alpha, with the standard error of that share."""
    rows = []
    for test, null in NULLS.items():
        share = float((found[f"p_{test}"] <= alpha).mean())
        error = float(np.sqrt(share * (1 - share) / len(found)))
        rows.append({"test": test, "null": null, "rejected": share, "error": error, "studies": len(found)})
    return rows


def plans(pools: Mapping[str, Population], sizes: Sequence[int], **options: object) -> list[Plan]:
    """Every pool, scenario and n."""
    return [
        replace(Plan(name, population, scenario, n), **options)  # type: ignore[arg-type]
        for name, population in pools.items()
        for scenario in SCENARIOS
        for n in sizes
    ]


def type_one_rows(plan: Plan, studies: int, processes: int, seed: int = 1) -> pd.DataFrame:
    """One plan's rejections: pool, scenario, n, test, null, rejected, error, studies, auc, difference, spread."""
    found = run_studies(plan, studies, processes, seed)
    facts = {"pool": plan.pool, "scenario": plan.scenario, "n": plan.n}
    means = {"auc": found["auc"].mean(), "difference": found["difference"].mean()}
    means["spread"] = found["difference"].std(ddof=1)
    return pd.DataFrame([facts | row | means for row in rejections(found)])
