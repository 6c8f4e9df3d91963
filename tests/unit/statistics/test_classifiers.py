"""Calibration, thresholds and subgroups agree with scikit-learn, and with probabilities that are known to be true."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.report import classifier_tables
from neurotransfer.statistics import classifiers
from neurotransfer.statistics.classifiers import (
    calibration_line,
    figures_of_replicate,
    probabilities,
    shares_recognised,
    thresholds,
)
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression


def true_probabilities(count, seed=0, spread=1.5):
    """Probabilities, and labels that come true as often as they say."""
    generator = np.random.default_rng(seed)
    p = expit(generator.normal(-0.5, spread, count))
    return p, (generator.random(count) < p).astype(int)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, 0.4), (2.0, -0.7)])
def test_the_calibration_slope_is_scikit_learns_and_the_true_one(slope, shift):
    p, labels = true_probabilities(20_000)
    predicted = expit(logit(p) / slope + shift)  # too extreme predictions have a slope below 1
    weights = np.random.default_rng(1).integers(0, 3, len(p)).astype(float)
    for w in (None, weights):
        found, _ = calibration_line(labels, predicted, w)
        reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(predicted)[:, None], labels, w)
        assert found == pytest.approx(reference.coef_[0, 0], abs=1e-4) and found == pytest.approx(slope, abs=0.08)


def test_the_intercept_is_that_with_the_slope_at_one():
    """At it the mean prediction, moved by the intercept on the logit scale, is the observed share."""
    p, labels = true_probabilities(20_000)
    for shift in (-0.8, 0.0, 0.5):
        predicted = expit(logit(p) - shift)
        _, intercept = calibration_line(labels, predicted)
        assert intercept == pytest.approx(shift, abs=0.06)
        assert expit(logit(predicted) + intercept).mean() == pytest.approx(labels.mean(), abs=1e-8)


def test_there_is_no_line_if_predictions_separate_the_classes_or_one_is_missing():
    assert np.isnan(calibration_line(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))[0])
    assert np.isnan(calibration_line(np.ones(4), np.full(4, 0.5))).all()
    certain = calibration_line(np.array([0, 1, 1, 0]), np.array([0.0, 1.0, 0.4, 0.6]))
    assert np.isfinite(certain).all(), "probabilities of exactly 0 and 1 have a logit"


def test_the_thresholds_are_the_best_of_all_cuts():
    generator = np.random.default_rng(2)
    for count in (12, 25, 60):
        labels = np.append(generator.integers(0, 2, count - 2), [0, 1])
        scores = np.round(generator.normal(labels, 1), 1)
        balanced, specific = thresholds(labels, scores)
        cuts = np.append(np.unique(scores), np.inf)
        value = [metrics.balanced_accuracy_score(labels, scores >= cut) for cut in cuts]
        assert metrics.balanced_accuracy_score(labels, scores >= balanced) == pytest.approx(max(value))
        kept = [cut for cut in cuts if metrics.recall_score(labels, scores >= cut, pos_label=0) >= 0.9]
        best = max(metrics.recall_score(labels, scores >= cut) for cut in kept)
        assert metrics.recall_score(labels, scores >= specific) == pytest.approx(best)
        assert metrics.recall_score(labels, scores >= specific, pos_label=0) >= 0.9


def test_sensitivity_and_specificity_of_normal_scores_are_known():
    """Two normal distributions one and a half apart: at a specificity of 0.9 the sensitivity is known."""
    generator = np.random.default_rng(3)
    labels = np.repeat([0, 1], 20_000)
    validation, test = (norm.cdf(generator.normal(1.5 * labels, 1)) for _ in range(2))
    found = figures_of_replicate(labels, test, thresholds(labels, validation))
    assert found["specificity"] == pytest.approx(0.9, abs=0.01)
    assert found["sensitivity"] == pytest.approx(norm.sf(norm.ppf(0.9) - 1.5), abs=0.015)
    assert found["balanced accuracy"] == pytest.approx(norm.cdf(0.75), abs=0.01)


def test_without_validation_scores_there_are_no_thresholds():
    p, labels = true_probabilities(50)
    found = figures_of_replicate(labels, p, None)
    assert set(found) == {"Brier score", "PR-AUC", "share of positive images"}
    assert found["Brier score"] == pytest.approx(np.mean((p - labels) ** 2))
    precision, recall, _ = metrics.precision_recall_curve(labels, p)
    assert found["PR-AUC"] == pytest.approx(-np.sum(np.diff(recall) * precision[:-1]))


def test_scores_of_networks_are_logits_and_others_are_probabilities():
    scores = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(probabilities("transfer", scores), 1 / (1 + np.exp(-scores)))
    np.testing.assert_allclose(probabilities("linear", expit(scores)), expit(scores))


def predictions_of(replicates=6, size=120, people=400, seed=4):
    """Test scores: of the linear model true probabilities, of the baseline their logits, twice too large."""
    generator = np.random.default_rng(seed)
    person_p = expit(generator.normal(0, 1.5, people))
    person_label = (generator.random(people) < person_p).astype(int)
    parts = []
    for replicate in range(replicates):
        drawn = generator.choice(people, size, replace=False)
        part = pd.DataFrame({"task": "ad_hc", "n": 100, "replicate": f"{replicate:03d}", "position": range(size)})
        part["person"], part["label"], part["linear"] = drawn, person_label[drawn], person_p[drawn]
        parts.append(part.assign(baseline=2 * logit(person_p[drawn])))
    return pd.concat(parts, ignore_index=True)


def test_the_table_of_figures_has_means_over_replicates_and_intervals_around_them():
    table = predictions_of()
    kept = table[table["replicate"] != "000"]
    validation = {
        ("ad_hc", 100, replicate, "linear"): {"label": part["label"].tolist(), "score": part["linear"].tolist()}
        for replicate, part in kept.groupby("replicate")
    }
    found = classifiers.classifier_figures(table, validation, bootstrap=100, seed=1).set_index(["model", "metric"])
    brier = [metrics.brier_score_loss(part["label"], part["linear"]) for _, part in table.groupby("replicate")]
    row = found.loc["linear", "Brier score"]
    assert row["value"] == pytest.approx(np.mean(brier)) and row["low"] < row["value"] < row["high"]
    assert found.loc[("linear", "sensitivity"), "replicates"] == 5, "one fit kept no validation scores"
    assert ("baseline", "sensitivity") not in found.index
    for model, slope in (("linear", 1.0), ("baseline", 0.5)):
        row = found.loc[model, "calibration slope"]
        assert row["low"] < slope < row["high"] and row["value"] == pytest.approx(slope, abs=0.3)


def test_the_calibration_curve_is_scikit_learns_and_hides_bins_of_few_people():
    table = predictions_of()
    table["linear"] *= 1 - 1e-6 * np.random.default_rng(5).random(len(table))  # no two are equal, at an edge of a bin
    found = classifiers.calibration_curves(table, 5, bootstrap=60, seed=1)
    linear = found[found["model"] == "linear"]
    observed, predicted = calibration_curve(table["label"], table["linear"], n_bins=10, strategy="quantile")
    np.testing.assert_allclose(linear["predicted"], predicted)
    np.testing.assert_allclose(linear["observed"], observed)
    assert linear["observations"].sum() == len(table) and (linear["n"] == 100).all()
    assert classifiers.calibration_curves(table, 10_000, bootstrap=60, seed=1).empty


def test_aucs_of_subgroups_are_scikit_learns_and_small_ones_are_left_out():
    table = predictions_of()
    sex = np.where(table["person"] % 2 == 0, "female", "male").astype(object)
    sex[(table["person"] < 3).to_numpy()] = "few"
    groups = pd.DataFrame({"sex": sex})
    found = classifiers.subgroup_aucs(table, groups, {"ad_hc": 400}, 5, bootstrap=100, seed=1)
    assert set(found["group"]) == {"female", "male"} and set(found["model"]) == {"linear", "baseline"}
    part = table[sex == "female"]
    aucs = [metrics.roc_auc_score(rows["label"], rows["linear"]) for _, rows in part.groupby("replicate")]
    row = found[(found["group"] == "female") & (found["model"] == "linear")].iloc[0]
    assert row["value"] == pytest.approx(np.mean(aucs), abs=1e-6) and row["low"] < row["value"] < row["high"]
    assert row["participants"] == part["person"].nunique()
    assert row["positive_participants"] == part.loc[part["label"] == 1, "person"].nunique()
    fewest = found[found["group"] == "male"]
    assert fewest[["participants", "positive_participants"]].isna().all(axis=None), "those of the few would follow"
    shown = classifier_tables.subgroup_rows(found, {"ad_hc": {"title": "AD"}})[0]["rows"]
    assert {row["participants"] for row in shown if row["group"] == "male"} == {"hidden"}
    whole = classifiers.subgroup_aucs(table, groups.replace("few", np.nan), {"ad_hc": 400}, 5, bootstrap=10, seed=1)
    assert whole["participants"].dtype == int


def test_subgroups_are_those_of_the_tested_images():
    images = pd.DataFrame({"age": [59.9, 60.0, np.nan], "sex": [0, 1, np.nan]}, index=["a", "b", "c"])
    resamples = {
        ("ad_hc", 3, "001"): pd.DataFrame({"image_id": ["c", "b", "a"]}),
        ("ad_hc", 3, "002"): pd.DataFrame({"image_id": ["a", "c", "b"]}),
    }
    rows = [("002", 0), ("001", 1), ("001", 0), ("002", 2)]
    table = pd.DataFrame(rows, columns=["replicate", "position"]).assign(task="ad_hc", n=3)
    found = classifiers.subgroups_of(table, resamples, images, 10)
    assert found["age"].tolist()[:2] == ["50 to 60 years", "60 to 70 years"] and pd.isna(found["age"][2])
    assert found["sex"].tolist()[:2] == ["female", "male"] and found["sex"][3] == "male"


@pytest.mark.parametrize("seed", range(20))
def test_shares_of_recognised_images_are_exactly_those_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat([0, 1], random.integers(1, 40, 2)))
    called = random.random(len(labels)) < random.random()
    found = shares_recognised(labels, called)
    assert found == tuple(metrics.recall_score(labels, called, pos_label=label) for label in (1, 0))
    assert np.mean(found) == metrics.balanced_accuracy_score(labels, called)
