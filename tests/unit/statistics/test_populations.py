"""The bootstrap over participants against scikit-learn, repeated rows, DeLong's variance and known populations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.statistics.populations import (
    Draws,
    SecondSeeds,
    bootstrap_test,
    draw_participants,
    expected_value,
    overlap,
    pairs_in_order,
    seed_variance,
)
from scipy import stats
from sklearn.metrics import roc_auc_score


def study(seed, replicates=4, images=24, people=30, models=2, decimals=8, shift=1.0):
    """Scores of test images; each replicate tests some of the people, of whom some have two images."""
    generator = np.random.default_rng(seed)
    participants = generator.integers(0, people, (replicates, images))
    labels = np.tile([0, 1], (replicates, images // 2))
    scores = (shift * labels + generator.normal(size=(models, replicates, images))).round(decimals)
    rows = np.repeat(np.arange(replicates), images)
    return scores.reshape(models, -1), labels.ravel(), participants.ravel(), rows


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 8]))
def test_aucs_within_replicates_are_scikit_learns(seed, decimals):
    scores, labels, participants, replicates = study(seed, decimals=decimals)
    found = draw_participants(scores, labels, participants, replicates, people=30, draws=1, seed=0)
    for model in range(2):
        for replicate in range(4):
            rows = replicates == replicate
            expected = roc_auc_score(labels[rows], scores[model][rows])
            assert found.aucs[model, replicate] == pytest.approx(expected, abs=1e-6)


def test_a_participant_who_is_drawn_twice_counts_as_two_with_all_their_images():
    scores, labels, participants, replicates = study(3, decimals=1)
    found = draw_participants(scores, labels, participants, replicates, people=30, draws=40, seed=5)
    times = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=40)
    for draw in range(40):
        for replicate in range(4):
            rows = np.flatnonzero(replicates == replicate)
            rows = np.repeat(rows, times[draw, participants[rows]])
            if len(set(labels[rows])) < 2:
                assert np.isnan(found.drawn[:, draw, replicate]).all()
                continue
            for model in range(2):
                expected = roc_auc_score(labels[rows], scores[model][rows])
                assert found.drawn[model, draw, replicate] == pytest.approx(expected, abs=1e-5)


def delong(labels, first, second):
    """Variance of the difference of two AUCs on the same people (DeLong et al., 1988), one image each."""
    positive, negative = ((labels == label) for label in (1, 0))
    wins = [pairs_in_order(score[positive], score[negative]) for score in (first, second)]
    of_positive, of_negative = ([win.mean(axis) for win in wins] for axis in (1, 0))
    contrast = np.array([1, -1])
    parts = (np.cov(of_positive) / positive.sum(), np.cov(of_negative) / negative.sum())
    return float(contrast @ sum(parts) @ contrast)


def test_with_one_replicate_of_people_with_one_image_it_is_delongs_test():
    """Stratified draws would agree exactly; at 300 people the random share of cases adds little."""
    generator = np.random.default_rng(8)
    labels = np.arange(300) % 2
    shared = labels + generator.normal(size=300)
    scores = np.array([shared + generator.normal(0, spread, 300) for spread in (0.5, 1.0)])
    found = draw_participants(scores, labels, np.arange(300), np.zeros(300, int), people=300, draws=4000, seed=1)
    test = bootstrap_test(found, 0, 1)
    error = np.sqrt(delong(labels, *scores))
    assert test.error == pytest.approx(error, rel=0.05)
    assert test.value == pytest.approx(roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1]))
    assert test.two_sided == pytest.approx(2 * stats.norm.sf(abs(test.value) / error), abs=0.03)
    assert (test.low, test.high) == pytest.approx((test.value - 1.96 * error, test.value + 1.96 * error), abs=0.006)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(-5, 5), st.floats(0.1, 3))
def test_invariances(seed, constant, factor):
    scores, labels, participants, replicates = study(seed, decimals=2)
    options = {"people": 30, "draws": 50, "seed": 1}
    found = bootstrap_test(draw_participants(scores, labels, participants, replicates, **options), 0, 1)
    swapped = bootstrap_test(draw_participants(scores[::-1], labels, participants, replicates, **options), 0, 1)
    assert swapped.value == pytest.approx(-found.value, abs=1e-6)
    assert (swapped.greater, swapped.less, swapped.two_sided) == (found.less, found.greater, found.two_sided)
    monotone = np.array([scores[0] + constant, np.exp(factor * scores[1])])
    assert bootstrap_test(draw_participants(monotone, labels, participants, replicates, **options), 0, 1) == found
    turned = np.random.default_rng(seed).permutation(labels.size)  # the order of rows does not matter
    shuffled = draw_participants(scores[:, turned], labels[turned], participants[turned], replicates[turned], **options)
    assert bootstrap_test(shuffled, 0, 1).two_sided == found.two_sided


def test_equal_models_are_not_told_apart_and_a_p_is_never_zero():
    scores, labels, participants, replicates = study(1)
    options = {"people": 30, "draws": 99, "seed": 1}
    same = draw_participants(scores[[0, 0]], labels, participants, replicates, **options)
    assert bootstrap_test(same, 0, 1).two_sided == 1.0
    perfect = np.array([labels, -labels], dtype=float)
    found = bootstrap_test(draw_participants(perfect, labels, participants, replicates, **options), 0, 1)
    assert (found.value, found.greater, found.less) == (1.0, 1 / 100, 1.0)


def test_draws_follow_from_their_seed_whatever_fits_in_memory(monkeypatch):
    arguments, options = study(2), {"people": 30, "draws": 64, "seed": 4}
    whole = draw_participants(*arguments, **options)
    monkeypatch.setattr("neurotransfer.statistics.populations.WEIGHTS_AT_ONCE", 30 * 7)
    pieces = draw_participants(*arguments, **options)
    np.testing.assert_array_equal(whole.drawn, pieces.drawn)


def test_a_test_set_of_one_class_is_refused():
    scores, labels, participants, replicates = study(2)
    labels[replicates == 2] = 1
    with pytest.raises(ValueError, match="replicate 2 has one class"):
        draw_participants(scores, labels, participants, replicates, people=30, draws=2, seed=1)


def test_overlap_is_the_correlation_of_sums_over_shared_participants():
    generator = np.random.default_rng(0)
    counts = generator.multinomial(40, np.full(60, 1 / 60), size=200)
    assert overlap(counts) == pytest.approx(40 / (60 + 39), rel=0.03)  # n / (N + n - 1) in expectation
    worth = generator.normal(size=(4000, 60))  # what each participant adds, over many pools
    sums = worth @ counts[:2].T
    assert overlap(counts[:2]) == pytest.approx(np.corrcoef(sums.T)[0, 1], abs=0.06)
    assert overlap(np.eye(5)) == 0.0 and overlap(np.ones((5, 3))) == 1.0 and overlap(counts[:1]) == 0.0


def test_the_error_of_an_expected_value_has_its_three_parts():
    generator = np.random.default_rng(4)
    replicates, draws = 400, 4000
    pool = generator.normal(0, 0.02, (draws, 1))
    within = generator.normal(0, 0.05, (draws, replicates))
    fits = generator.normal(0, 0.03, replicates)
    aucs = 0.7 + fits + generator.normal(0, np.hypot(0.05, 0.02), replicates)
    found = expected_value(aucs, 0.7 + pool + within, 0.25)
    fits_again = 0.03**2 / 0.75
    expected = np.sqrt(0.02**2 + 0.05**2 / replicates + 0.25 * fits_again + 0.03**2 / replicates)
    assert found.error == pytest.approx(expected, rel=0.1)
    assert found.high - found.value == pytest.approx(1.966 * found.error, rel=0.001)
    apart = expected_value(aucs - 0.7, pool + within, 0.25)
    assert apart.two_sided == pytest.approx(2 * stats.t(399).sf(abs(apart.value) / apart.error))
    assert apart.greater + apart.less == pytest.approx(1)


def test_second_seeds_show_the_variance_of_random_starts_apart_from_that_of_test_sets():
    generator = np.random.default_rng(6)
    replicates, draws = 20_000, 40
    fits = generator.normal(0, 0.02, replicates)
    starts = generator.normal(0, 0.03, (2, replicates))
    people = generator.normal(0, 0.02, (draws + 1, replicates))  # whom a test set has, the same for both seeds
    own = generator.normal(0, 0.04, (2, draws + 1, replicates))  # a network ranks them in its own way
    values = 0.7 + fits + starts[:, None] + people + own
    second = SecondSeeds(np.arange(replicates), values[1, 0], values[1, 1:])
    assert seed_variance(values[0, 0], values[0, 1:], second) == pytest.approx(0.03**2, rel=0.1)
    found = expected_value(values[0, 0], values[0, 1:], 0.5, second=second)
    without = expected_value(values[0, 0], values[0, 1:], 0.5)
    assert found.error == pytest.approx(np.sqrt(0.02**2 + np.var(values[0, 0]) / replicates), rel=0.1)
    assert without.error == pytest.approx(np.hypot(0.02, 0.03), rel=0.1)


def test_few_second_seeds_leave_few_degrees_of_freedom_and_equal_ones_change_nothing():
    generator = np.random.default_rng(7)
    aucs, drawn = generator.normal(0.7, 0.05, 30), generator.normal(0.7, 0.03, (50, 30))
    at = np.arange(4)
    same = SecondSeeds(at, aucs[:4], drawn[:, :4])  # of a model without a random start
    assert expected_value(aucs, drawn, 0.3, second=same) == expected_value(aucs, drawn, 0.3)
    other = SecondSeeds(at, aucs[:4] + generator.normal(0, 0.01, 4), drawn[:, :4])
    found = expected_value(aucs, drawn, 0.3, second=other)
    assert (found.high - found.value) / found.error == pytest.approx(stats.t(4).ppf(0.975))


@pytest.mark.parametrize("count", [1, 3])
def test_where_nothing_varies_there_is_no_interval_and_no_evidence(count):
    found = expected_value(np.full(count, 0.7), np.full((5, count), 0.7), 0.0)
    assert found.value == pytest.approx(0.7) and np.isnan(found.low) and found.two_sided == 1.0


def test_draws_without_both_classes_are_left_out_of_the_average():
    drawn = np.array([[[0.5, np.nan], [np.nan, np.nan]]], dtype=np.float32)
    averages = Draws(np.array([[0.5, 0.6]]), drawn).averages()
    assert averages[0, 0] == 0.5 and np.isnan(averages[0, 1])
