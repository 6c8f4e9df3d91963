"""Simulated studies with random starts, and the page on error rates that is made of them."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.statistics.inference import NULLS, PRIMARY
from neurotransfer.validation.simulated_pools import TOP, Population, draw_pool, replicate
from neurotransfer.validation.type_one import SCENARIOS, Plan, type_one_rows
from neurotransfer.validation.type_one_page import broken_promises, type_one_markdown

SMALL = Population(80, 100, separations=(1.5, 1.5))


def test_random_starts_change_the_scores_of_noisy_learners_more():
    generator = np.random.default_rng(0)
    alike = []
    for noise in (0.0, 2.0):
        options = {"same_features": True, "noise": noise, "second_seeds": 40}
        found = replicate(draw_pool(SMALL, generator), 40, 50, generator, **options)
        assert found.second.shape == (2, 40 * 8)
        pairs = zip(found.scores[0, : 40 * 8].reshape(40, 8), found.second[0].reshape(40, 8), strict=True)
        alike.append(np.mean([np.corrcoef(first, second)[0, 1] for first, second in pairs]))
    assert 1 > alike[0] > alike[1] + 0.1


@pytest.fixture(scope="module")
def table():
    plans = [Plan("small", SMALL, scenario, 40, replicates=10, draws=39, permutations=99) for scenario in SCENARIOS]
    return pd.concat([type_one_rows(plan, 4, 1) for plan in plans], ignore_index=True)


def test_every_test_has_a_row_in_every_scenario_and_the_page_has_all_shares(table):
    assert set(zip(table["scenario"], table["test"], strict=True)) == {(s, test) for s in SCENARIOS for test in NULLS}
    page = type_one_markdown(table)
    assert all(f"{row.rejected:.3f}" in page for row in table.itertuples())


def test_a_broken_promise_of_size_or_power_is_named(table):
    fine = {
        ("this pool", "sign_flip"): 0.05,
        ("the population", "population"): 0.05,
        ("a difference", "sign_flip"): 0.9,
    }
    fine |= {("a difference", "population"): 0.5}

    def with_shares(**changed):
        shares = table.assign(studies=4000, error=0.003)
        for (scenario, test), share in (fine | changed.get("changed", {})).items():
            shares.loc[(shares["scenario"] == scenario) & (shares["test"] == test), "rejected"] = share
        return broken_promises(shares)

    assert with_shares() == []
    for test in PRIMARY:
        (line,) = with_shares(changed={(NULLS[test], test): 0.08})
        assert "small, n = 40" in line and "rejects 0.080" in line
    (line,) = with_shares(changed={("a difference", "population"): 0.3})
    assert "finds 0.300 of the differences" in line


def test_the_papers_pool_has_the_papers_size():
    assert (TOP.participants, TOP.images) == (861, 1037)
