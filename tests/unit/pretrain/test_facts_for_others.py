"""What a file of weights says for people elsewhere: the age bias, and who has trained it, in safe counts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.pretrain.age_bias import corrected_age, fit_age_bias
from neurotransfer.pretrain.training_people import FEWEST, people_by_age
from scipy.stats import linregress


def test_corrected_ages_have_no_bias_by_age():
    generator = np.random.default_rng(1)
    age = generator.uniform(20, 80, 500)
    predicted = 0.6 * age + 21 + generator.normal(0, 4, 500)
    age[:50] = np.nan
    bias = fit_age_bias(age, predicted)
    line = linregress(age[50:], predicted[50:])
    assert bias == pytest.approx({"slope": line.slope, "intercept": line.intercept, "images": 450})
    again = linregress(age[50:], corrected_age(predicted, bias)[50:])
    assert again.slope == pytest.approx(1) and again.intercept == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("age", "predicted"),
    [
        (np.linspace(20, 80, 9), np.linspace(20, 80, 9)),  # few
        (np.linspace(20, 80, 99), np.full(99, 50.0)),  # the network predicts the mean
        (np.full(99, 50.0), np.linspace(20, 80, 99)),
        (np.full(99, np.nan), np.linspace(20, 80, 99)),
    ],
)
def test_no_bias_is_fitted_if_it_would_only_enlarge_noise(age, predicted):
    assert fit_age_bias(age, predicted) is None
    assert np.isnan(corrected_age(predicted, None)).all()


person = st.tuples(st.sampled_from("ABC"), st.none() | st.floats(0, 99), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(person, min_size=1, max_size=60))
def test_no_cell_is_small_and_nothing_can_be_found_by_subtraction(people):
    rows = [(f"p{at}", cohort, age) for at, (cohort, age, count) in enumerate(people) for _ in range(count)]
    cells = people_by_age(pd.DataFrame(rows, columns=["participant_id", "cohort", "age"]).astype({"age": float}))
    assert bool(cells) == (len(people) >= FEWEST)
    assert all(cell["participants"] >= FEWEST for cell in cells)
    if cells:
        assert sum(cell["participants"] for cell in cells) == len(people)
        assert sum(cell["images"] for cell in cells) == len(rows)


def test_bands_are_joined_with_their_neighbours():
    ages = [25.0] * 6 + [37.0] * 2 + [45.0] * 7 + [np.nan] * 2
    images = pd.DataFrame({"participant_id": range(17), "cohort": "A", "age": ages})
    assert [(cell["ages"], cell["participants"]) for cell in people_by_age(images)] == [
        ("20 to 29", 6), ("30 to 49 or unknown", 11),
    ]  # fmt: skip
