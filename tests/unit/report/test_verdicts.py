"""The sentences claim no more than the tests show."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.report.verdicts import answer, listed, smallest_adjusted_p, verdicts
from neurotransfer.statistics.aggregation import compare
from neurotransfer.statistics.inference import PRIMARY
from scipy.stats import permutation_test

TASKS = {"one": {"title": "First task"}, "two": {"title": "Second task"}}
SIZES = (20, 40)


def comparisons_of(cells, population=None) -> pd.DataFrame:
    """A comparison per task, n and other model, from (difference, p, Holm's p) and the population's (p, Holm's p)."""
    keys = [(task, n, other) for task in TASKS for n in SIZES for other in ("baseline", "linear")]
    rows = []
    population = population or [(0.5, 1.0)] * len(keys)
    for (task, n, other), (difference, p, p_holm), (wide, wide_holm) in zip(keys, cells, population, strict=True):
        row = {"task": task, "n": n, "first": "transfer", "second": other, "mean_difference": difference}
        row |= {"median_difference": difference, "p_two_sided": p, "p_holm": p_holm, "exact": 1, "permutations": 4096}
        row |= {"p_population": wide, "holm_population": wide_holm}
        rows.append(row)
    return pd.DataFrame(rows)


def medians_of(replicates: int) -> pd.DataFrame:
    return pd.DataFrame({"replicates": [replicates]})


def sentences_of(cells, replicates=12, population=None) -> list[str]:
    return answer(comparisons_of(cells, population), medians_of(replicates), TASKS, alpha=0.05, statistic="mean")


SURE, HINT, NOTHING = (0.1, 0.001, 0.01), (0.1, 0.03, 0.2), (0.1, 0.4, 1.0)
WORSE = (-0.1, 0.001, 0.01)


def test_sentences_name_where_transfer_was_better_and_worse_and_in_what():
    cells = [SURE, NOTHING, SURE, WORSE, NOTHING, NOTHING, HINT, NOTHING]
    wide = [(0.5, 1.0)] * 6 + [(0.001, 0.02), (0.5, 1.0)]
    pool, population, against_linear, _, limit = sentences_of(cells, population=wide)
    assert pool.startswith("In this pool of images, the pretrained network was better than the same network trained")
    assert "in 2 of 4 cases (“First task” at every n)" in pool and "not distinguishable in the other 2" in pool
    assert pool.endswith("only the unadjusted test would call it better for “Second task” at n = 40.")
    assert population.startswith("In the population that it comes from, the pretrained network was better than")
    assert "in 1 of 4 cases (“Second task” at n = 40)" in population
    assert "worse than the linear model on regional volumes in 1 of 4 cases (“First task” at n = 40)" in against_linear
    assert "better" not in against_linear
    assert "does not mean equal" in limit and "Holm's adjustment over the 8 comparisons" in limit


def test_without_a_significant_test_models_are_called_not_distinguishable():
    for sentence in sentences_of([NOTHING] * 8)[:4]:
        assert "not distinguishable from" in sentence and "any of 4 cases" in sentence
        assert "better" not in sentence and "worse" not in sentence


cell = st.tuples(
    st.floats(-0.5, 0.5), st.floats(0, 1).map(lambda p: round(p, 3)), st.floats(0, 1).map(lambda p: round(p, 3))
).map(lambda c: (c[0], min(c[1], c[2]), max(c[1], c[2])))


@settings(max_examples=60, deadline=None)
@given(st.lists(cell, min_size=8, max_size=8))
def test_the_sentences_claim_only_what_the_adjusted_tests_show(cells):
    table = comparisons_of(cells)
    for sentence, other in zip(sentences_of(cells)[:4:2], ("baseline", "linear"), strict=True):
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
    assert "With 5 replicates and 8 comparisons no adjusted p below 0.5 is possible in this pool" in third
    assert "more replicates are needed" in third


def test_lists_read_as_in_a_sentence():
    assert [listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_each_question_has_a_verdict_by_its_own_test():
    wide = [(0.001, 0.01), (0.03, 0.3)] * 4
    table = comparisons_of([NOTHING, SURE] * 4, wide).assign(p_participants=0.0, holm_participants=0.0)
    table["p_corrected_t"] = 0.9
    found = {test: verdicts(table, alpha=0.05, statistic="mean", test=test) for test in PRIMARY}
    assert [verdict.text for verdict in found["sign_flip"]] == ["not distinguishable", "better"] * 4
    assert [verdict.text for verdict in found["population"]] == ["better", "better, unadjusted only"] * 4


def test_the_test_about_the_population_is_of_the_mean_whatever_the_other_one_tests():
    row = {"task": "one", "n": 20, "first": "transfer", "second": "linear", "mean_difference": -0.1}
    row |= {"median_difference": 0.1, "p_two_sided": 0.01, "p_holm": 0.02, "p_population": 0.001}
    table = pd.DataFrame([row | {"holm_population": 0.001}])
    texts = [verdicts(table, alpha=0.05, statistic="median", test=test)[0].text for test in PRIMARY]
    assert texts == ["better", "worse"]
