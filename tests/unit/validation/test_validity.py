"""Simulated studies have their properties, planted leaks are found, and broken promises are named."""

import numpy as np
import pandas as pd
from neurotransfer.validation import validity
from neurotransfer.validation.simulated_pools import Population, draw_pool, replicate
from threadpoolctl import threadpool_limits


def test_a_pools_replicates_share_no_participant_between_training_and_test():
    population = Population(60, 90)
    generator = np.random.default_rng(0)
    found = replicate(draw_pool(population, generator), 40, 12, generator, same_features=True)
    assert found.scores.shape == (2, 12 * 8) and (found.counts.sum(1) == 40).all()
    assert not found.counts[found.replicates, found.people].any()


def test_planted_leaks_are_found_and_honest_studies_have_none():
    found = validity.leaks(2)
    assert len(found) == 4 and len({leak.what for leak in found}) == 4
    for leak in found:
        assert leak.caught and not leak.false_alarm


def test_a_scaler_fitted_on_the_test_set_changes_the_test_auc():
    with threadpool_limits(1):
        alike, scanner = (validity._scaled_on_all(12, 1, scanner=scanner) for scanner in (False, True))
    assert abs(alike.moved) < 3 * alike.error and abs(alike.moved) > 0
    assert scanner.moved > 2 * scanner.error and scanner.moved > 0.02


def test_a_broken_promise_is_named():
    intervals = pd.DataFrame({"starts": ["noisy"], "n": [50], "interval": ["population"], "covered": [0.90]})
    tests = pd.DataFrame(
        {"starts": ["noisy"], "n": [50], "scenario": ["this pool"], "test": ["sign_flip"], "rejected": [0.2]}
    )
    leak = validity.Leak("a leak", 0.5, 0.6, 0.1, 0.01, "a guard", False, False)
    broken = validity.broken_claims(intervals, tests.assign(studies=1000), [leak])
    assert len(broken) == 3 and "covers in 0.900" in broken[0] and "does not find it" in broken[2]
    fine = [intervals.assign(covered=0.95), tests.assign(rejected=0.05, studies=1000), []]
    assert validity.broken_claims(*fine) == []
