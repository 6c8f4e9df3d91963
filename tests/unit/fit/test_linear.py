"""The linear model against its own definition, solved another way, and what it must not look at."""

import json
import logging
import time

import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError
from neurotransfer.fit.linear import fit_settings, normalised, pipeline, read_etiv, read_volumes, residuals
from scipy import optimize
from scipy.special import expit
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss, roc_auc_score

GRID = [{"c": 10.0**power} for power in range(-4, 5)]  # the paper's study has nine settings
ITERATIONS = 5000


def problem(train=120, others=60, structures=12, seed=0, signal=1.0):
    """Shares of the mask that differ by class in the first structure."""
    generator = np.random.default_rng(seed)
    roles = np.repeat(["train", "validation", "test"], [train, others, others])
    labels = generator.integers(0, 2, len(roles))
    features = generator.lognormal(-4, 0.3, (len(roles), structures))
    features[:, 0] *= np.exp(0.3 * signal * labels)
    return features, labels, roles


def test_probabilities_are_those_of_the_penalised_likelihood_solved_by_scipy():
    features, labels, roles = problem()
    c = 0.3
    train = roles == "train"
    z = (features - features[train].mean(0)) / features[train].std(0)
    signs = 2 * labels[train] - 1

    def objective(w):
        return c * np.logaddexp(0, -signs * (z[train] @ w[1:] + w[0])).sum() + w[1:] @ w[1:] / 2

    best = optimize.minimize(objective, np.zeros(z.shape[1] + 1), method="BFGS", options={"gtol": 1e-8}).x
    expected = expit(z @ best[1:] + best[0])
    records, chosen, scores, _ = fit_settings(features, labels, roles, [{"c": c}], ITERATIONS)
    validation = roles == "validation"
    assert chosen == 0 and records[0]["values"] == {"c": c} and records[0]["status"] == "ok"
    assert scores == pytest.approx(expected[roles == "test"], abs=1e-3)
    assert records[0]["validation_auc"] == roc_auc_score(labels[validation], expected[validation])
    assert records[0]["validation_loss"] == pytest.approx(log_loss(labels[validation], expected[validation]), abs=1e-3)


@pytest.mark.parametrize("c", [0.15, 1.0])
def test_a_lasso_s_coefficients_are_those_of_its_definition(c):
    """Where one is 0 the likelihood's slope along it is at most 1 / c, elsewhere exactly that, against its sign."""
    features, labels, roles = problem()
    train = roles == "train"
    model = pipeline(c, ITERATIONS, "l1").set_params(logisticregression__tol=1e-7).fit(features[train], labels[train])
    z = (features[train] - features[train].mean(0)) / features[train].std(0)
    weights, intercept = model[-1].coef_[0], model[-1].intercept_[0]
    left = labels[train] - expit(z @ weights + intercept)
    slopes = c * left @ z
    assert left.sum() == pytest.approx(0, abs=1e-2)
    assert 0 < (weights == 0).sum() < len(weights) or c > 0.5
    assert slopes[weights != 0] == pytest.approx(np.sign(weights[weights != 0]), abs=1e-3)
    assert (abs(slopes) < 1 + 1e-3).all()
    settings = [{"c": c}, {"c": c, "penalty": "l1"}]
    first, again = (fit_settings(features, labels, roles, settings, ITERATIONS)[0] for _ in range(2))
    assert first == again and first[0]["validation_loss"] != first[1]["validation_loss"]


def test_the_size_of_heads_does_not_matter():
    features, labels, _ = problem()
    masks = np.random.default_rng(1).uniform(1.0e6, 1.8e6, (len(labels), 1))
    volumes = np.hstack([masks, features * masks])
    roles = np.full(len(labels), "train")
    for sizes in (volumes, 3 * volumes):
        assert normalised(sizes, roles) == pytest.approx(features)
    assert (normalised(volumes, roles, "none") == volumes[:, 1:]).all()
    assert normalised(volumes, roles, "etiv", 2 * masks[:, 0]) == pytest.approx(features / 2)


@pytest.mark.parametrize("mask", [0.0, -1.0, np.nan])
def test_an_image_without_a_mask_volume_is_refused(mask):
    with pytest.raises(InputError, match="1 image has no mask volume, the first in row 1"):
        normalised(np.array([[2.0, 1.0], [mask, 1.0]]), np.array(["train", "test"]))


def test_an_image_without_etiv_is_refused_with_what_to_choose_instead():
    with pytest.raises(
        InputError, match=r"models\.linear\.normalise: 1 image has no eTIV, the first in row 0.*residual"
    ):
        normalised(np.ones((2, 2)), np.array(["train", "test"]), "etiv", np.array([np.nan, 1.0]))


def test_residuals_are_those_of_a_regression_on_the_training_rows():
    """Against scikit-learn, column by column, with rows drawn twice, missing values and a column that no row has."""
    generator = np.random.default_rng(0)
    sizes, train = generator.uniform(1.0e6, 1.8e6, 60), np.arange(60) < 40
    values = np.outer(sizes, [0.002, 0.01, 0.0, 1.0]) + generator.normal(0, 100, (60, 4))
    values[3:9, 1], values[:, 3] = np.nan, np.nan
    values[20:25], sizes[20:25] = values[:5], sizes[:5]
    found = residuals(values, sizes, train)
    for column in range(3):
        known = train & ~np.isnan(values[:, column])
        line = LinearRegression().fit(sizes[known, None] - 1.4e6, values[known, column])
        expected = values[:, column] - line.predict(sizes[:, None] - 1.4e6)
        np.testing.assert_allclose(found[:, column], expected, atol=1e-6)
    assert np.isnan(found[:, 3]).all()
    constant = residuals(values[:, :1], np.full(60, 5.0), train)
    np.testing.assert_allclose(constant[:, 0], values[:, 0] - values[train, 0].mean())


def test_residuals_learn_nothing_from_validation_and_test_rows():
    generator = np.random.default_rng(1)
    volumes, roles = generator.uniform(1, 2, (30, 4)), np.array(["train", "validation", "test"] * 10)
    expected = normalised(volumes, roles, "residual")
    wild = volumes.copy()
    wild[roles != "train"] *= 50
    changed = normalised(wild, roles, "residual")
    assert (changed[roles == "train"] == expected[roles == "train"]).all()
    assert not np.allclose(changed[roles == "test"], expected[roles == "test"])


def test_nothing_is_learned_from_validation_and_test_rows():
    """Their volumes may be anything: what is imputed, standardised and fitted stays the training set's."""
    features, labels, roles = problem()
    features[::7, 3] = np.nan
    _, _, scores, _ = fit_settings(features, labels, roles, [{"c": 1.0}], ITERATIONS)
    wild, test = features.copy(), np.flatnonzero(roles == "test")
    wild[test[1:]] *= 50
    wild[roles == "validation"] *= 50
    _, _, changed, _ = fit_settings(wild, labels, roles, [{"c": 1.0}], ITERATIONS)
    assert changed[0] == scores[0]
    assert not np.allclose(changed[1:], scores[1:])


def test_test_labels_choose_nothing():
    features, labels, roles = problem()
    expected = fit_settings(features, labels, roles, GRID, ITERATIONS)
    flipped = np.where(roles == "test", 1 - labels, labels)
    found = fit_settings(features, flipped, roles, GRID, ITERATIONS)
    assert found[:2] == expected[:2]
    assert (found[2] == expected[2]).all()


def test_a_training_row_drawn_twice_counts_twice():
    features, labels, roles = problem(train=40)
    rows = np.r_[np.arange(40), np.arange(10), np.arange(40, len(roles))]
    once = fit_settings(features, labels, roles, [{"c": 1.0}], ITERATIONS)[2]
    twice = fit_settings(features[rows], labels[rows], roles[rows], [{"c": 1.0}], ITERATIONS)[2]
    assert not np.allclose(once, twice, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, 0.0, 0.25])
def test_structures_that_are_missing_or_constant_in_training_change_nothing(value):
    features, labels, roles = problem()
    expected = fit_settings(features, labels, roles, GRID[3:6], ITERATIONS)[2]
    extra = np.where(roles == "train", value, 0.25)[:, None]
    scores = fit_settings(np.hstack([features, extra]), labels, roles, GRID[3:6], ITERATIONS)[2]
    assert np.isfinite(scores).all()
    if value == 0.25:
        assert scores == pytest.approx(expected, abs=1e-6)


def test_a_missing_volume_is_the_training_mean():
    features, labels, roles = problem()
    test = np.flatnonzero(roles == "test")[0]
    gap, filled = features.copy(), features.copy()
    gap[test, 2], filled[test, 2] = np.nan, features[roles == "train", 2].mean()
    scores = [fit_settings(table, labels, roles, [{"c": 1.0}], ITERATIONS)[2][0] for table in (gap, filled)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)


def test_a_signal_is_found_and_noise_is_not():
    aucs = {}
    for signal in (0.0, 3.0):
        found = []
        for seed in range(8):
            features, labels, roles = problem(seed=seed, signal=signal)
            scores = fit_settings(features, labels, roles, GRID[2:5], ITERATIONS)[2]
            found.append(roc_auc_score(labels[roles == "test"], scores))
        aucs[signal] = np.mean(found)
    assert abs(aucs[0.0] - 0.5) < 0.08
    assert aucs[3.0] > 0.9


def test_a_setting_that_does_not_converge_is_logged_and_still_usable(caplog):
    features, labels, roles = problem()
    with caplog.at_level(logging.WARNING, logger="neurotransfer"):
        records, _, scores, _ = fit_settings(features, labels, roles, [{"c": 1e-4}, {"c": 1e4}], 2)
    assert [line for line in caplog.messages if "10000.0" in line and "did not converge in 2 iterations" in line]
    assert [record["status"] for record in records] == ["ok", "ok"]
    assert np.isfinite(scores).all()


def test_nine_settings_at_the_papers_size_take_less_than_two_seconds():
    """FastSurfer lists about 100 structures; n = 500 with 100 validation and test images."""
    penalties = [{"penalty": penalty} for penalty in ("l1", "l2")]
    features, labels, roles = problem(train=500, others=100, structures=100)
    for penalty in penalties:
        start = time.process_time()
        fit_settings(features, labels, roles, [values | penalty for values in GRID], ITERATIONS)
        assert time.process_time() - start < 2


def write_volumes(folder, cohort, ids, matrix):
    np.save(folder / f"{cohort}.volumes.npy", np.asarray(matrix, dtype=np.float32))
    (folder / f"{cohort}.volumes.json").write_text(json.dumps({"seg_ids": ids, "names": list(map(str, ids))}))


def test_structures_of_several_cohorts_are_matched_by_their_id(tmp_path):
    write_volumes(tmp_path, "a", [-1, 4, 17], [[100, 1, 2], [200, 3, 4]])
    write_volumes(tmp_path, "b", [-1, 17, 53, 4], [[300, 20, 7, 10], [400, 40, 8, 30], [500, 60, 9, 50]])
    resample = pd.DataFrame({"cohort": ["b", "a", "b", "a", "b"], "index_row": [2, 0, 0, 1, 2]})
    found = read_volumes(
        resample,
        [tmp_path / "a.volumes.npy", tmp_path / "b.volumes.npy"],
        [tmp_path / "b.volumes.json", tmp_path / "a.volumes.json"],
    )
    nan = np.nan  # 53 is in b's atlas only
    expected = [[500, 50, 60, 9], [100, 1, 2, nan], [300, 10, 20, 7], [200, 3, 4, nan], [500, 50, 60, 9]]
    np.testing.assert_array_equal(found, expected)


def test_some_structures_are_taken_by_name_and_the_mask_always(tmp_path):
    write_volumes(tmp_path, "a", [-1, 4, 17], [[100, 1, 2], [200, 3, 4]])
    write_volumes(tmp_path, "b", [-1, 17, 53, 4], [[300, 20, 7, 10]])
    resample = pd.DataFrame({"cohort": ["b", "a", "a"], "index_row": [0, 0, 1]})
    paths = [[tmp_path / f"{name}.volumes.{end}" for name in "ab"] for end in ("npy", "json")]
    found = read_volumes(resample, *paths, ["53", "17"])
    np.testing.assert_array_equal(found, [[300, 20, 7], [100, 2, np.nan], [200, 4, np.nan]])
    with pytest.raises(InputError, match=r"structures: no cohort has '533'; did you mean '53'\?"):
        read_volumes(resample, *paths, ["533"])


def test_the_etiv_is_no_structure_and_is_read_by_itself(tmp_path):
    write_volumes(tmp_path, "a", [-1, -2, 4, 17], [[100, 140, 1, 2], [200, np.nan, 3, 4]])
    write_volumes(tmp_path, "b", [-1, 4, 17], [[300, 5, 6]])
    resample = pd.DataFrame({"cohort": ["b", "a", "a"], "index_row": [0, 1, 0]})
    paths = [[tmp_path / f"{name}.volumes.{end}" for name in "ab"] for end in ("npy", "json")]
    np.testing.assert_array_equal(read_volumes(resample, *paths), [[300, 5, 6], [200, 3, 4], [100, 1, 2]])
    np.testing.assert_array_equal(read_etiv(resample, *paths), [np.nan, np.nan, 140])
    with pytest.raises(InputError, match="no cohort has '-2'"):
        read_volumes(resample, *paths, ["-2"])


def test_a_table_of_volumes_shorter_than_its_index_is_named(tmp_path):
    write_volumes(tmp_path, "a", [-1, 4], [[100, 1]])
    resample = pd.DataFrame({"cohort": ["a"], "index_row": [1]})
    with pytest.raises(InputError, match=r"a\.volumes\.npy: it has 1 row"):
        read_volumes(resample, [tmp_path / "a.volumes.npy"], [tmp_path / "a.volumes.json"])


@pytest.mark.parametrize(
    ("ids", "rows"), [([-1], [[100], [90]]), ([-1, 4, 5], [[100, 1, np.nan], [90, np.nan, np.nan]])]
)
def test_an_image_without_any_regional_volume_is_not_imputed(tmp_path, ids, rows):
    """FastSurfer leaves the volumes out for cohorts in no task."""
    write_volumes(tmp_path, "a", ids, rows)
    resample = pd.DataFrame({"cohort": ["a", "a"], "index_row": [0, 1]})
    with pytest.raises(InputError, match=r"images? ha(s|ve) no regional volumes.*results/preprocessed/a-\*"):
        read_volumes(resample, [tmp_path / "a.volumes.npy"], [tmp_path / "a.volumes.json"])


def test_a_pickle_in_a_table_of_volumes_is_refused(tmp_path):
    write_volumes(tmp_path, "a", [-1, 4], [[100, 1]])
    np.save(tmp_path / "a.volumes.npy", np.array([[{}, 1]], dtype=object), allow_pickle=True)
    resample = pd.DataFrame({"cohort": ["a"], "index_row": [0]})
    with pytest.raises(ValueError, match="Python objects"):
        read_volumes(resample, [tmp_path / "a.volumes.npy"], [tmp_path / "a.volumes.json"])
