"""Curves by n against scikit-learn's isotonic regression and curves whose crossings are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.statistics.learning_curves import (
    monotone,
    percentile_interval,
    size_from_which,
    size_that_reaches,
    worth_in_scans,
)
from sklearn.isotonic import IsotonicRegression

SIZES = [100, 200, 300, 400, 500]
aucs = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@settings(max_examples=100, deadline=None)
@given(aucs)
def test_monotone_is_scikit_learns_isotonic_regression(values):
    expected = IsotonicRegression().fit_transform(np.arange(len(values)), values)
    assert monotone(values) == pytest.approx(expected, abs=1e-9)


def test_many_curves_are_made_monotone_one_by_one():
    curves = np.random.default_rng(0).random((3, 4, 6))
    found = monotone(curves)
    assert (np.diff(found) >= -1e-12).all()
    for place in np.ndindex(3, 4):
        np.testing.assert_array_equal(found[place], monotone(curves[place]))


def test_the_size_between_two_is_on_a_line_over_the_logarithm():
    curve = np.array([0.5, 0.6, 0.7, 0.7, 0.8])
    assert size_that_reaches(SIZES, curve, np.array(0.55)) == pytest.approx(np.sqrt(100 * 200))
    assert size_that_reaches(SIZES, curve, np.array(0.7)) == pytest.approx(300)  # the first that reaches it
    assert size_that_reaches(SIZES, curve, np.array(0.4)) == 100
    assert size_that_reaches(SIZES, curve, np.array(0.81)) == np.inf


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.floats(0, 1))
def test_the_curve_has_the_level_at_the_size_that_reaches_it(values, level):
    curve = monotone(values)
    size = float(size_that_reaches(SIZES, curve, np.array(level)))
    if size == np.inf:
        assert curve[-1] < level
    else:
        there = np.interp(np.log(size), np.log(SIZES), curve)
        assert there >= level - 1e-6 and (size == 100 or there == pytest.approx(level, abs=1e-6))


def test_a_crossing_is_the_last_one():
    linear = np.array([0.95, 0.90, 0.93, 0.90, 0.90])
    transfer = np.array([0.86, 0.92, 0.92, 0.93, 0.94])
    assert size_from_which(SIZES, transfer, linear) == pytest.approx(np.exp(np.log(300) + np.log(4 / 3) / 4))
    assert size_from_which(SIZES, linear + 0.5, transfer) == 100
    assert size_from_which(SIZES, linear, transfer) == np.inf
    assert size_from_which(SIZES, transfer, transfer) == 100


def test_pretraining_that_halves_what_is_needed_is_worth_as_many_scans():
    """AUC grows with log n; pretraining acts like four times the scans."""
    sizes = [50, 100, 200, 400, 800]
    auc = lambda n: 0.4 + 0.08 * np.log(np.asarray(n) / 25)  # noqa: E731
    levels, needed = worth_in_scans(sizes, auc(4 * np.array(sizes)), auc(sizes))
    assert levels == pytest.approx(auc(4 * np.array(sizes)))
    assert needed[:3] == pytest.approx([200, 400, 800])
    assert (needed[3:] == np.inf).all()


def test_models_that_are_equal_need_the_same_n():
    curve = np.array([0.6, 0.7, 0.75, 0.8, 0.9])
    assert worth_in_scans(SIZES, curve, curve)[1] == pytest.approx(SIZES)


def test_intervals_of_partly_infinite_draws_end_in_values_that_were_drawn():
    assert percentile_interval(np.r_[np.full(90, 200.0), np.full(10, np.inf)]) == (200.0, np.inf)
    assert percentile_interval(np.full(5, np.inf)) == (np.inf, np.inf)
    values = np.arange(1, 1001.0)
    assert percentile_interval(values) == pytest.approx((25, 975), abs=1)
