"""Metrics of pretraining against scikit-learn, with weights as repeated rows, and against the dummy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.pretrain import evaluation
from neurotransfer.pretrain.targets import Target
from sklearn import metrics as reference

AGE = Target("age", "continuous", 1.0, "squared", 50.0, 15.0, 1.0)
SEX = Target("sex", "binary", 1.0, "logistic", 0.4, 1.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 200), st.booleans())
def test_weighting_is_repeating_rows(seed, count, ties):
    generator = np.random.default_rng(seed)
    truth = np.r_[0.0, 1.0, generator.integers(0, 2, count - 2)]
    predicted = generator.random(count).round(1 if ties else 6)
    times = np.r_[1, 1, generator.integers(0, 3, count - 2)]
    rows = np.repeat(np.arange(count), times)
    auc = evaluation.weighted_auc(truth, predicted, times[None].astype(float))[0]
    assert auc == pytest.approx(reference.roc_auc_score(truth[rows], predicted[rows]))
    values = generator.normal(0, 1, count)
    found = evaluation.weighted_metrics(values, predicted, times[None].astype(float), "continuous")
    assert found["mae"][0] == pytest.approx(reference.mean_absolute_error(values[rows], predicted[rows]))
    assert found["rmse"][0] == pytest.approx(reference.root_mean_squared_error(values[rows], predicted[rows]))
    if np.ptp(predicted[rows]) > 0:
        assert found["r"][0] == pytest.approx(np.corrcoef(values[rows], predicted[rows])[0, 1])


def predictions(seed=0, people=150):
    generator = np.random.default_rng(seed)
    ids = np.repeat([f"p{n}" for n in range(people)], 2)
    age = np.repeat(generator.uniform(20, 80, people), 2)
    sex = np.repeat(generator.integers(0, 2, people), 2).astype(float)
    table = {"participant_id": ids, "split": "holdout"}
    parts = [
        pd.DataFrame(table | {"target": "age", "truth": age, "prediction": age + generator.normal(0, 4, len(age))}),
        pd.DataFrame(
            table
            | {"target": "sex", "truth": sex, "prediction": np.clip(sex * 0.3 + generator.random(len(sex)) * 0.7, 0, 1)}
        ),
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_dummy_is_the_training_sets_mean():
    table = predictions()
    found = evaluation.evaluate(table, [AGE, SEX], resamples=50, seed=1).set_index(["target", "metric"])
    age = table[table["target"] == "age"]
    assert found.loc[("age", "mae"), "dummy"] == pytest.approx((age["truth"] - 50).abs().mean())
    assert found.loc[("sex", "auc"), "dummy"] == 0.5
    assert found.loc[("age", "mae"), "observations"] == 300
    assert found.loc[("age", "mae"), "participants"] == 150


def test_the_dummy_of_published_weights_is_the_evaluated_images_own_mean():
    unknown = [Target("age", "continuous", 1.0, "squared", 0.0, 1.0, 1.0)]
    table = predictions()
    ages = table.loc[table["target"] == "age", "truth"]
    targets = evaluation.with_means_of(table, unknown)
    found = evaluation.evaluate(table, targets, resamples=20, seed=1).query("target == 'age' and metric == 'mae'")
    assert targets[0].mean == pytest.approx(ages.mean())
    for _, row in found.iterrows():
        part = table[(table["target"] == "age") & (table["split"] == row["split"])]["truth"]
        assert row["dummy"] == pytest.approx((part - ages.mean()).abs().mean())
    assert evaluation.with_means_of(table[:0], unknown) == unknown


def test_intervals_widen_when_images_belong_to_fewer_people():
    table = predictions()
    table = table[table["target"] == "age"]
    alone = table.assign(participant_id=[f"x{n}" for n in range(len(table))])
    grouped = table.assign(
        participant_id=[f"x{n // 30}" for n in range(len(table))],
        prediction=table["truth"] + np.repeat(np.random.default_rng(2).normal(0, 4, 10), 30),
    )
    width = [
        np.diff(evaluation.evaluate(rows, [AGE], resamples=300, seed=1).iloc[0][["low", "high"]].astype(float))[0]
        for rows in (alone, grouped)
    ]
    assert width[1] > 2 * width[0]


def test_a_target_without_labels_has_no_row():
    found = evaluation.evaluate(predictions()[:300], [AGE, SEX], resamples=20, seed=1)
    assert set(found["target"]) == {"age"}
    assert evaluation.evaluate(predictions()[:0], [AGE], resamples=20, seed=1).empty


def test_a_metric_that_is_not_defined_has_no_row():
    table = predictions()
    one_class = table[(table["target"] == "sex") & (table["truth"] == 1)]
    assert evaluation.evaluate(one_class, [SEX], resamples=20, seed=1)["metric"].tolist() == ["accuracy"]


def test_an_interval_covers_its_value_and_follows_from_its_seed():
    found, again, other = (evaluation.evaluate(predictions(), [AGE, SEX], resamples=200, seed=n) for n in (1, 1, 2))
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()
    pd.testing.assert_frame_equal(found, again)
    assert not found["low"].equals(other["low"])


def grouped(seed=0, people=150):
    """Predictions of two cohorts with their images' ages and sexes; age is pulled towards 50."""
    table = predictions(seed, people)
    table["image_id"] = np.tile([f"i{n}" for n in range(2 * people)], 2)
    table["cohort"] = np.where(table["participant_id"].str[1:].astype(int) % 3 == 0, "north", "south")
    age = table[table["target"] == "age"]
    table.loc[age.index, "prediction"] = 50 + 0.7 * (age["prediction"] - 50)
    images = pd.DataFrame({"image_id": age["image_id"], "age": age["truth"].to_numpy()})
    images["sex"] = table.loc[table["target"] == "sex", "truth"].to_numpy()
    return table, images


def test_metrics_by_group_are_those_of_its_images_alone():
    table, images = grouped()
    found = evaluation.evaluate_groups(table, images, [AGE, SEX], resamples=50, seed=1)
    assert list(found.columns) == evaluation.GROUPS and (found["participants"] >= 10).all()
    keyed = found.set_index(["target", "by", "group", "metric"])
    for target, label in (("age", "mae"), ("sex", "auc")):
        mine = table[(table["target"] == target) & (table["cohort"] == "north")]
        check = {"mae": reference.mean_absolute_error, "auc": reference.roc_auc_score}[label]
        row = keyed.loc[(target, "cohort", "north", label)]
        assert row["value"] == pytest.approx(check(mine["truth"], mine["prediction"]))
        assert row["low"] < row["value"] < row["high"] and row["observations"] == len(mine)
    assert ("sex", "sex", "male", "auc") not in keyed.index  # one class has no AUC
    assert {group for by, group in zip(found["by"], found["group"], strict=True) if by == "sex"} == {"male", "female"}


def test_age_bias_by_age_is_the_mean_error_of_each_band_in_order():
    table, images = grouped()
    found = evaluation.evaluate_groups(table, images, [AGE], resamples=50, seed=1)
    bias = found[(found["by"] == "age band") & (found["metric"] == "bias")]
    assert bias["group"].tolist() == ["20 to 29", "30 to 39", "40 to 49", "50 to 59", "60 to 69", "70 to 79"]
    assert (bias["value"].diff().dropna() < 0).all()  # the young are made older, the old younger
    young = table[(table["target"] == "age") & (table["truth"] < 30)]
    assert bias["value"].iloc[0] == pytest.approx((young["prediction"] - young["truth"]).mean())


def test_small_groups_and_unknown_ages_have_no_row():
    table, images = grouped(people=40)
    rare = table["participant_id"].isin([f"p{n}" for n in range(9)])
    table.loc[rare, "cohort"] = "rare"
    found = evaluation.evaluate_groups(table, images.assign(age=np.nan), [AGE], resamples=20, seed=1)
    assert "rare" not in set(found["group"]) and "age band" not in set(found["by"])
    assert evaluation.evaluate_groups(table[:0], images, [AGE], resamples=20, seed=1).empty


def test_calibrated_probabilities_lie_on_the_line_and_overconfident_ones_do_not():
    generator = np.random.default_rng(5)
    chance = generator.random(4000)
    truth = (generator.random(4000) < chance).astype(float)
    table = pd.DataFrame({"participant_id": [f"p{n}" for n in range(4000)], "split": "holdout", "target": "sex"})
    for predicted, calibrated in ((chance, True), (np.clip(1.6 * (chance - 0.5) + 0.5, 0, 1), False)):
        found = evaluation.calibration(
            table.assign(truth=truth, prediction=predicted), [AGE, SEX], resamples=200, seed=1
        )
        assert list(found.columns) == evaluation.CALIBRATION and found["observations"].sum() == 4000
        inside = (found["low"] <= found["predicted"]) & (found["predicted"] <= found["high"])
        assert inside.mean() >= 0.8 if calibrated else inside.mean() < 0.5
        assert (found["predicted"].diff().dropna() > 0).all()
