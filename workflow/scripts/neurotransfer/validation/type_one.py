"""How often each test is wrong: many simulated studies in, rejections by test, null and n out.

Each study goes through the very functions that compare.tsv comes from.  `make type-one` writes docs/type-one.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from ..seeds import seed_from
from ..statistics.populations import bootstrap_test, draw_participants, expected_value, overlap
from ..statistics.tests import bootstrap_interval, corrected_t_test, sign_flip_test
from .simulated_pools import Population, draw_pool, replicate, with_difference

TESTS = {  # what each is called, and the null that it speaks to
    "sign_flip": ("paired sign-flip", "this pool"),
    "corrected_t": ("corrected t", "the population"),
    "participants": ("participants drawn anew", "the population"),
    "population": ("participants and overlap", "the population"),
}
SCENARIOS = ("this pool", "the population", "a difference")


@dataclass(frozen=True)
class Plan:
    """One kind of simulated study.

    Attributes
    ----------
    scenario : which null holds, or that there is a difference in the population
    draws, permutations : of the bootstrap over participants and of the sign-flip test
    """

    pool: str
    population: Population
    scenario: str
    n: int
    replicates: int = 100
    draws: int = 119  # so that 0.05 is a p that can be had exactly
    permutations: int = 1999
    share: float = 0.2


def study(plan: Plan, seed: int) -> dict[str, float]:
    """One study: the p-value of each test, and intervals for the first model's expected AUC.

    Returns
    -------
    `auc`, `difference`; `p_<test>`; `low_<interval>` and `high_<interval>` of the first model's mean AUC for
    "population" (expected_value), "participants" (the bootstrap alone) and "replicates" (the bootstrap over
    replicates, which speaks about this pool)
    """
    generator = np.random.default_rng(seed)
    population = plan.population
    if plan.scenario == "a difference":
        population = with_difference(population)
    same = plan.scenario == "this pool"
    drawn = replicate(
        draw_pool(population, generator), plan.n, plan.replicates, generator, same_features=same, share=plan.share
    )
    people = population.participants
    found = draw_participants(
        drawn.scores, drawn.labels, drawn.people, drawn.replicates, people=people, draws=plan.draws, seed=seed
    )
    first, second = found.aucs
    shared = overlap(drawn.counts)
    apart = expected_value(first - second, found.drawn[0] - found.drawn[1], shared)
    alone = expected_value(first, found.drawn[0], shared)
    flip = sign_flip_test(first, second, statistic="mean", permutations=plan.permutations, seed=seed)
    t = corrected_t_test(first, second, train=plan.n, test=round(plan.n * plan.share))
    result = {"auc": float(first.mean()), "difference": float((first - second).mean())}
    result |= {"p_sign_flip": flip.two_sided, "p_corrected_t": t.two_sided}
    result |= {"p_participants": bootstrap_test(found, 0, 1).two_sided, "p_population": apart.two_sided}
    averages = found.averages()[0]
    limits = {
        "population": (alone.low, alone.high),
        "participants": tuple(np.nanquantile(averages, (0.025, 0.975))),
        "replicates": bootstrap_interval(first, statistic="mean", resamples=plan.draws, seed=seed),
    }
    for name, (low, high) in limits.items():
        result |= {f"low_{name}": float(low), f"high_{name}": float(high)}
    return result


def run_studies(plan: Plan, studies: int, processes: int, seed: int = 1) -> pd.DataFrame:
    """Many studies of one plan, a row each; the same rows however many processes there are."""
    names = (plan.pool, plan.scenario, plan.n, plan.replicates)
    seeds = [seed_from("study", seed, *names, place) for place in range(studies)]
    if processes == 1:
        return pd.DataFrame([study(plan, each) for each in seeds])
    with ProcessPoolExecutor(processes, initializer=one_thread) as pool:
        return pd.DataFrame(list(pool.map(partial(study, plan), seeds, chunksize=max(1, studies // processes // 8))))


def one_thread() -> None:
    """Two processes with all cores' threads each would wait for one another."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def rejections(found: pd.DataFrame, alpha: float = 0.05) -> list[dict[str, object]]:
    """Per test, the share of studies in which p ≤ alpha, with the standard error of that share."""
    rows = []
    for test, (_, null) in TESTS.items():
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
