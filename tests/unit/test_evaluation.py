"""Metrics of pretraining against scikit-learn, with weights as repeated rows, and against the dummy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer import evaluation
from neurotransfer.targets import Target
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
