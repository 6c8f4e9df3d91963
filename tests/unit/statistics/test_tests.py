"""Paired tests, adjustment and intervals against scipy, exact enumeration and a null whose truth is known."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.statistics import tests
from neurotransfer.statistics.tests import bootstrap_interval, corrected_t_test, holm, sign_flip_test, superiority
from scipy import stats

ALTERNATIVES = {"two-sided": "two_sided", "greater": "greater", "less": "less"}
thousandths = st.integers(300, 1000)  # AUCs in thousandths: many ties, and sums that are exact


def run(first, second, statistic="mean", permutations=10_000, seed=0):
    return sign_flip_test(first, second, statistic=statistic, permutations=permutations, seed=seed)


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("count", [2, 5, 6, 9])
def test_exact_p_values_are_scipys(statistic, count):
    generator = np.random.default_rng(count)
    first, second = generator.uniform(0.5, 1.0, (2, count)).round(3)
    found = run(first, second, statistic)
    function = {"mean": np.mean, "median": np.median}[statistic]
    for alternative, name in ALTERNATIVES.items():
        theirs = stats.permutation_test(
            (first, second),
            lambda x, y, axis: function(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
            alternative=alternative,
        )
        assert found.statistic == pytest.approx(theirs.statistic)
        assert getattr(found, name) == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.exact and found.permutations == 2**count


@given(st.lists(st.tuples(thousandths, thousandths), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_exact_p_values_are_those_of_an_enumeration_in_whole_numbers(pairs):
    differences = [a - b for a, b in pairs]
    sums = [sum(sign * d for sign, d in zip(signs, differences, strict=True))
            for signs in product((1, -1), repeat=len(differences))]  # fmt: skip
    greater = sum(total >= sum(differences) for total in sums) / len(sums)
    less = sum(total <= sum(differences) for total in sums) / len(sums)
    found = run([a / 1000 for a, _ in pairs], [b / 1000 for _, b in pairs])
    assert (found.greater, found.less) == (greater, less)
    assert found.two_sided == min(1.0, 2 * min(greater, less))


def test_six_replicates_can_just_reach_significance():
    first = np.array([0.7, 0.72, 0.8, 0.9, 0.66, 0.71])
    found = run(first, first - [0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert found.two_sided == 2 / 64 == 0.03125
    assert (found.greater, found.less) == (1 / 64, 1.0)
    assert run(first[:5], first[:5] - 0.01).two_sided == 2 / 32


@pytest.mark.parametrize("count", range(2, 13))
def test_the_median_needs_ten_replicates_where_the_mean_needs_six(count):
    """Flipping any of the smaller half of the differences leaves the median where it is."""
    differences = np.arange(1, count + 1) ** 2 / 1000
    assert run(0.6 + differences, [0.6] * count, "mean").two_sided == 2 / 2**count
    assert run(0.6 + differences, [0.6] * count, "median").two_sided == 2.0 ** -(count // 2)


def test_equal_models_have_p_one():
    assert run([0.5, 0.6], [0.5, 0.6]).two_sided == 1.0
    assert run([0.5] * 30, [0.5] * 30).two_sided == 1.0


@pytest.mark.parametrize("statistic", ["mean", "median"])
@given(pairs=st.lists(st.tuples(thousandths, thousandths), min_size=2, max_size=9), shift=st.integers(-300, 300))
@settings(max_examples=40, deadline=None)
def test_invariances(statistic, pairs, shift):
    first, second = np.array(pairs).T / 1000
    found = run(first, second, statistic)
    swapped = run(second, first, statistic)
    assert swapped.statistic == pytest.approx(-found.statistic, abs=1e-12)
    assert (swapped.greater, swapped.less, swapped.two_sided) == (found.less, found.greater, found.two_sided)
    for other in (
        run(first + shift / 1000, second + shift / 1000, statistic),  # both better by the same
        run(first[::-1], second[::-1], statistic),  # replicates in another order
        run(3 * first, 3 * second, statistic),  # another unit
    ):
        assert (other.greater, other.less, other.two_sided) == (found.greater, found.less, found.two_sided)


def test_monte_carlo_comes_near_the_exact_p():
    generator = np.random.default_rng(3)
    second = generator.uniform(0.5, 0.9, 12)
    first = second + generator.normal(0.02, 0.05, 12)
    exact, drawn = run(first, second, permutations=4096), run(first, second, permutations=4095)
    assert exact.exact and not drawn.exact and drawn.permutations == 4095
    for name in ("greater", "less"):
        p = getattr(exact, name)
        assert abs(getattr(drawn, name) - p) < 4 * np.sqrt(p * (1 - p) / 4095) + 1 / 4096


def test_a_monte_carlo_p_is_never_zero_and_counts_the_observed_pattern():
    found = run(np.linspace(0.8, 0.9, 40), np.linspace(0.5, 0.6, 40), permutations=999)
    assert (found.greater, found.two_sided, found.less) == (1 / 1000, 2 / 1000, 1.0)


def test_monte_carlo_follows_from_its_seed():
    generator = np.random.default_rng(4)
    first, second = generator.uniform(0.5, 0.9, (2, 30))
    assert run(first, second, seed=1) == run(first, second, seed=1)
    assert run(first, second, seed=1) != run(first, second, seed=2)


def test_thousands_of_replicates_are_done_in_pieces_of_bounded_size(monkeypatch):
    generator = np.random.default_rng(5)
    first, second = generator.uniform(0.5, 0.9, (2, 40))
    monkeypatch.setattr(tests, "CHUNK", 1000)
    assert list(tests._chunks(60, 40)) == [25, 25, 10]
    assert list(tests._chunks(2, 5000)) == [1, 1]
    pieces = run(first, second, permutations=5000)
    assert pieces.permutations == 5000
    reference = stats.permutation_test(
        (first - second,), np.mean, permutation_type="samples", n_resamples=5000, rng=np.random.default_rng(6)
    )
    assert abs(pieces.two_sided - reference.pvalue) < 8 * np.sqrt(0.25 / 5000)


@pytest.mark.parametrize("wrong", [[0.5, np.nan], [0.5, np.inf], [0.5], [], [[0.5, 0.6]]])
def test_values_that_are_missing_or_unpaired_are_refused(wrong):
    for first, second in ((wrong, [0.5, 0.6]), ([0.5, 0.6], wrong)):
        with pytest.raises(ValueError):
            run(first, second)


@pytest.mark.parametrize("statistic, replicates", [("mean", 8), ("mean", 25), ("median", 12), ("median", 25)])
def test_the_type_one_error_is_nominal_where_pairs_are_exchangeable(statistic, replicates):
    """500 studies: each replicate has its own level, shared by both models, whose errors are alike."""
    generator = np.random.default_rng(replicates)
    level = generator.uniform(0.5, 0.9, (500, 1, replicates))
    aucs = level + 0.03 * generator.standard_t(4, (500, 2, replicates))
    tests = [run(*pair, statistic, permutations=499, seed=study) for study, pair in enumerate(aucs)]
    error = np.sqrt(0.05 * 0.95 / 500)
    for name in ("two_sided", "greater", "less"):
        rejected = np.mean([getattr(test, name) <= 0.05 for test in tests])
        # sign patterns that leave the median in its place are ties, which make the test stricter
        lower = 0.05 - 4 * error if statistic == "mean" else 0.01
        assert lower < rejected < 0.05 + 4 * error


def test_a_true_difference_is_found():
    generator = np.random.default_rng(8)
    found = 0
    for study in range(60):
        second = generator.uniform(0.6, 0.8, 25)
        found += run(second + generator.normal(0.03, 0.03, 25), second, permutations=499, seed=study).two_sided <= 0.05
    assert found > 54


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(hundredths):
    """A hypothesis is rejected where each intersection that it is part of is (Marcus et al., 1976)."""
    p = [value / 100 for value in hundredths]
    at = range(len(p))
    families = [family for size in range(1, len(p) + 1) for family in combinations(at, size)]
    closed = [max(min(1.0, len(f) * min(p[k] for k in f)) for f in families if i in f) for i in at]
    assert holm(p) == pytest.approx(closed, abs=1e-12)


def test_the_interval_is_scipys_percentile_interval():
    values = np.random.default_rng(9).beta(8, 3, 60)
    for name, function in (("mean", np.mean), ("median", np.median)):
        found = bootstrap_interval(values, statistic=name, resamples=8000, seed=0)
        theirs = stats.bootstrap(
            (values,), function, n_resamples=8000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        assert found == pytest.approx(tuple(theirs), abs=0.004)
        assert found[0] < function(values) < found[1]


def test_the_interval_of_three_values_is_that_of_all_its_resamples():
    values = np.array([0.2, 0.5, 0.9])
    means = [np.mean(values[list(rows)]) for rows in product(range(3), repeat=3)]
    found = bootstrap_interval(values, statistic="mean", resamples=40_000, seed=0, level=0.8)
    assert found == pytest.approx(np.quantile(np.repeat(means, 40), (0.1, 0.9)), abs=1e-9)


def test_an_interval_of_the_median_covers_it_about_as_often_as_it_says():
    generator = np.random.default_rng(10)
    hits = 0
    for study in range(300):
        low, high = bootstrap_interval(generator.normal(0.7, 0.1, 50), statistic="median", resamples=400, seed=study)
        hits += low <= 0.7 <= high
    assert 0.90 < hits / 300 <= 0.99


def test_an_interval_follows_from_its_seed_and_refuses_what_is_missing():
    values = np.linspace(0.5, 0.9, 20)
    options = {"statistic": "median", "resamples": 200}
    assert bootstrap_interval(values, seed=1, **options) == bootstrap_interval(values, seed=1, **options)
    with pytest.raises(ValueError):
        bootstrap_interval([0.5, np.nan], seed=1, **options)


def test_the_monte_carlo_error_of_p_is_that_of_repeated_draws():
    generator = np.random.default_rng(11)
    second = generator.uniform(0.5, 0.9, 30)
    first = second + generator.normal(0.01, 0.05, 30)
    found = [run(first, second, permutations=999, seed=seed) for seed in range(120)]
    assert found[0].error == pytest.approx(np.std([test.two_sided for test in found]), rel=0.25)
    assert run(first[:8], second[:8], permutations=999).error == 0.0


@given(st.integers(0, 10**6), st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_without_a_test_set_the_corrected_test_is_the_paired_t_test(seed, count):
    generator = np.random.default_rng(seed)
    first, second = generator.uniform(0.5, 1, (2, count))
    found = corrected_t_test(first, second, train=100, test=1e-9)
    for alternative, name in ALTERNATIVES.items():
        assert getattr(found, name) == pytest.approx(stats.ttest_rel(first, second, alternative=alternative).pvalue)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_correction_widens_the_error_by_the_papers_factor():
    """At n/5 test images and 100 replicates: sqrt(1/100 + 1/5) against sqrt(1/100)."""
    generator = np.random.default_rng(2)
    first, second = generator.uniform(0.5, 1, (2, 100))
    plain, corrected = (corrected_t_test(first, second, train=500, test=size).error for size in (1e-9, 100))
    assert corrected / plain == pytest.approx(np.sqrt(21))


def test_the_corrected_test_holds_where_replicates_are_correlated_as_it_assumes():
    generator = np.random.default_rng(12)
    correlation = (100 / 500) / (1 + 100 / 500)  # test / (test + train), Nadeau and Bengio's
    shared = np.sqrt(correlation) * generator.normal(size=(1500, 1))
    values = shared + np.sqrt(1 - correlation) * generator.normal(size=(1500, 60))
    p = [corrected_t_test(row, np.zeros(60), train=500, test=100).two_sided for row in values]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 1500))


def test_differences_without_spread_are_no_evidence():
    for first in ([0.6], [0.6, 0.6, 0.6]):
        found = corrected_t_test(first, [0.5] * len(first), train=10, test=2)
        assert (found.two_sided, np.isnan(found.low)) == (1.0, True)
    with pytest.raises(ValueError, match="must be positive"):
        corrected_t_test([0.5, 0.6], [0.6, 0.5], train=10, test=0)


@given(st.lists(st.tuples(thousandths, thousandths), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_chance_to_beat_the_other_is_the_share_of_won_replicates_with_wilsons_interval(pairs):
    first, second = np.array(pairs).T
    share, low, high = superiority(first / 1000, second / 1000)
    assert share + superiority(second / 1000, first / 1000)[0] == pytest.approx(1)
    assert 0 <= low <= share <= high <= 1
    if not (first == second).any():
        won = stats.binomtest(int((first > second).sum()), len(first))
        interval = won.proportion_ci(method="wilson")
        assert (share, low, high) == pytest.approx((won.statistic, interval.low, interval.high), abs=1e-9)
