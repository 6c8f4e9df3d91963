"""The sentences claim no more than the tests show."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.report.verdicts import answer, listed, smallest_adjusted_p, verdicts
from neurotransfer.statistics.aggregation import compare
from scipy.stats import permutation_test

TASKS = {"one": {"title": "First task"}, "two": {"title": "Second task"}}
SIZES = (20, 40)


def comparisons_of(cells) -> pd.DataFrame:
    """A comparison per task, n and other model, from (difference, p, Holm's p)."""
    keys = [(task, n, other) for task in TASKS for n in SIZES for other in ("baseline", "linear")]
    rows = []
    for (task, n, other), (difference, p, p_holm) in zip(keys, cells, strict=True):
        row = {"task": task, "n": n, "first": "transfer", "second": other, "mean_difference": difference}
        row |= {"median_difference": difference, "p_two_sided": p, "p_holm": p_holm, "exact": 1, "permutations": 4096}
        rows.append(row)
    return pd.DataFrame(rows)


def medians_of(replicates: int) -> pd.DataFrame:
    return pd.DataFrame({"replicates": [replicates]})


def sentences_of(cells, replicates=12) -> list[str]:
    return answer(comparisons_of(cells), medians_of(replicates), TASKS, alpha=0.05, statistic="mean")


SURE, HINT, NOTHING = (0.1, 0.001, 0.01), (0.1, 0.03, 0.2), (0.1, 0.4, 1.0)
WORSE = (-0.1, 0.001, 0.01)


def test_three_sentences_name_where_transfer_was_better_and_worse():
    first, second, third = sentences_of([SURE, NOTHING, SURE, WORSE, NOTHING, NOTHING, HINT, NOTHING])
    assert "better than the same network trained from scratch in 2 of 4 cases (“First task” at every n)" in first
    assert "not distinguishable in the other 2" in first
    assert first.endswith("only the unadjusted test would call it better for “Second task” at n = 40.")
    assert "worse than the linear model on regional volumes in 1 of 4 cases (“First task” at n = 40)" in second
    assert "better" not in second
    assert "does not mean equal" in third and "not for the populations" in third


def test_without_a_significant_test_models_are_called_not_distinguishable():
    for sentence in sentences_of([NOTHING] * 8)[:2]:
        assert "not distinguishable from" in sentence and "any of 4 cases" in sentence
        assert "better" not in sentence and "worse" not in sentence


cell = st.tuples(
    st.floats(-0.5, 0.5), st.floats(0, 1).map(lambda p: round(p, 3)), st.floats(0, 1).map(lambda p: round(p, 3))
).map(lambda c: (c[0], min(c[1], c[2]), max(c[1], c[2])))


@settings(max_examples=60, deadline=None)
@given(st.lists(cell, min_size=8, max_size=8))
def test_the_sentences_claim_only_what_the_adjusted_tests_show(cells):
    table = comparisons_of(cells)
    for sentence, other in zip(sentences_of(cells), ("baseline", "linear"), strict=False):
        rows = table[table["second"] == other]
        sure = rows[(rows["p_holm"] < 0.05) & (rows["mean_difference"] != 0)]
        claim = sentence.partition(";")[0]  # the rest is marked as unadjusted
        assert ("better" in claim) == bool((sure["mean_difference"] > 0).any())
        assert ("worse" in claim) == bool((sure["mean_difference"] < 0).any())
        assert ("not distinguishable" in claim) == (len(sure) < len(rows))


def test_a_verdict_follows_the_statistic_that_was_tested():
    row = {"task": "one", "n": 20, "first": "transfer", "second": "linear", "mean_difference": 0.1}
    row |= {"median_difference": -0.1, "p_two_sided": 0.01, "p_holm": 0.02}
    assert verdicts(pd.DataFrame([row]), alpha=0.05, statistic="mean")[0].text == "better"
    assert verdicts(pd.DataFrame([row]), alpha=0.05, statistic="median")[0].text == "worse"
    assert verdicts(pd.DataFrame([row]), alpha=0.015, statistic="mean")[0].text == "better, unadjusted only"


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("replicates", [1, 3, 6, 9])
def test_the_smallest_possible_p_is_that_of_differences_of_one_sign(replicates, statistic):
    gaps = np.arange(1, replicates + 1) / 100
    function = {"mean": np.mean, "median": np.median}[statistic]
    exact = 1.0
    if replicates > 1:  # scipy needs two pairs
        samples = (gaps, np.zeros(replicates))
        exact = permutation_test(samples, lambda x, y: function(x - y), permutation_type="samples").pvalue
    aucs = [
        {
            "task": task,
            "n": 20,
            "model": model,
            "replicate": f"{r:03d}",
            "auc": 0.5 + (gap if model == "transfer" else 0),
        }
        for task in TASKS
        for model in ("linear", "baseline", "transfer")
        for r, gap in enumerate(gaps)
    ]
    table = compare(pd.DataFrame(aucs), statistic=statistic, permutations=10000, bootstrap=10, seed=0)
    least = smallest_adjusted_p(table, replicates, statistic)
    assert least == pytest.approx(min(1, exact * len(table)))
    assert table["p_holm"].min() >= least - 1e-12


def test_too_few_replicates_for_any_finding_are_named():
    third = sentences_of([HINT] * 8, replicates=5)[-1]
    assert "With 5 replicates and 8 comparisons no adjusted p below 0.5 is possible" in third
    assert "more replicates would be needed" in third


def test_lists_read_as_in_a_sentence():
    assert [listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_verdicts_count_the_tests_about_the_population_that_agree():
    table = comparisons_of([SURE, HINT, WORSE, NOTHING] * 2)
    for test in ("corrected_t", "participants", "population"):
        table[f"holm_{test}"] = 0.5
    table.loc[0, ["holm_participants", "holm_population"]] = 0.01
    table.loc[[1, 3], ["holm_corrected_t", "holm_participants", "holm_population"]] = 0.01
    found = verdicts(table, alpha=0.05, statistic="mean")
    assert found[0].survives == ("participants", "population")
    assert found[0].population == "in the population by 2 of 3 tests"
    assert found[2].survives == () and found[2].population == "in the population by 0 of 3 tests"
    for row in (1, 3):
        assert found[row].survives == () and found[row].population == ""
    third = answer(table, medians_of(12), TASKS, alpha=0.05, statistic="mean")[-1]
    assert "of the 4 verdicts about transfer, 1 also holds there" in third and "none by the corrected t-test" in third


def test_a_test_of_means_with_the_other_sign_does_not_agree_with_a_verdict_of_medians():
    row = {"task": "one", "n": 20, "first": "transfer", "second": "linear", "mean_difference": -0.1}
    row |= {"median_difference": 0.1, "p_two_sided": 0.01, "p_holm": 0.02, "holm_population": 0.001}
    row |= {"holm_corrected_t": 0.001, "holm_participants": 0.001}
    assert verdicts(pd.DataFrame([row]), alpha=0.05, statistic="median")[0].survives == ()
