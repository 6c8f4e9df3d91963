"""What the search over settings did, against enumeration and a search whose truth is known."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.statistics.settings_search import best_of, search_table, winners


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_the_expected_best_of_k_is_the_mean_over_all_choices_of_k(values):
    expected = [np.mean([max(some) for some in combinations(values, k)]) for k in range(1, len(values) + 1)]
    assert best_of(np.array(values)) == pytest.approx(expected, abs=1e-9)


def tables(validation, test, status=None):
    """AUCs and settings of fits with these validation AUCs, [replicates, settings]."""
    aucs, tried = [], []
    for replicate, row in enumerate(validation):
        chosen = int(np.argmax(row))
        key = {"task": "t", "n": 50, "replicate": f"{replicate:03d}", "model": "linear"}
        aucs.append(key | {"auc": test[replicate], "validation_auc": row[chosen], "setting": chosen})
        for place, value in enumerate(row):
            state = "ok" if status is None else status[replicate][place]
            tried.append(
                key | {"setting": place, "values": f'{{"c": {place}}}', "status": state, "validation_auc": value}
                | {"chosen": int(place == chosen)}
            )  # fmt: skip
    return pd.DataFrame(aucs), pd.DataFrame(tried)


def test_choosing_the_best_of_nine_equal_settings_flatters_by_what_it_gained():
    generator = np.random.default_rng(0)
    validation = generator.normal(0.7, 0.05, (400, 9))
    aucs, tried = tables(validation, generator.normal(0.7, 0.05, 400))
    row = search_table(aucs, tried, bootstrap=200, seed=1).iloc[0]
    assert (row["fits"], row["settings"], row["tied"]) == (400, 9, 0.0)
    expected_best = 1.485 * 0.05  # of nine standard normal values
    assert row["optimism"] == pytest.approx(expected_best, abs=0.01)
    assert row["optimism_low"] < expected_best < row["optimism_high"]
    assert row["all_settings"] - row["one_setting"] == pytest.approx(expected_best, abs=0.005)
    assert row["enough"] == 8


def test_where_all_settings_do_the_same_one_is_enough_and_all_are_tied():
    aucs, tried = tables(np.full((5, 3), 0.8), np.full(5, 0.8))
    row = search_table(aucs, tried, bootstrap=20, seed=1).iloc[0]
    assert (row["enough"], row["tied"], row["optimism"]) == (1, 1.0, 0.0)


def test_settings_that_diverge_are_counted_and_never_best():
    validation = np.array([[0.6, np.nan, 0.7], [0.7, 0.6, np.nan]])
    status = [["ok", "diverged", "ok"], ["ok", "ok", "diverged"]]
    aucs, tried = tables(np.nan_to_num(validation), [0.6, 0.6], status)
    won = winners(tried)
    assert won["chosen"].tolist() == [1, 0, 1] and won["diverged"].tolist() == [0, 1, 1]
    assert won["share"].tolist() == [0.5, 0.0, 0.5]
    assert search_table(aucs, tried, bootstrap=20, seed=1)["all_settings"].iloc[0] == pytest.approx(0.7)
