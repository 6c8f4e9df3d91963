"""Cohort and scanner among the covariates."""

import numpy as np
import pandas as pd
from neurotransfer.fit.covariates import in_words, sites_of
from neurotransfer.fit.linear import fit_settings
from neurotransfer.manifest.scanners import COLUMNS, read_scanners
from sklearn.metrics import roc_auc_score

IMAGES = pd.DataFrame({"image_id": ["a1", "b1", "a2", "b2"], "cohort": ["A", "B", "A", "B"]}, index=[4, 4, 2, 0])
SCANNERS = pd.DataFrame([["a2", "Siemens", "Prisma", 3.0], ["b1", "GE", None, 1.5]], columns=COLUMNS)


def test_sites_are_indicators_of_cohort_and_scanner():
    cohorts = [[1, 0], [0, 1], [1, 0], [0, 1]]
    np.testing.assert_array_equal(sites_of(IMAGES, read_scanners(None)), cohorts)
    scanners = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]  # GE 1.5 T, Siemens Prisma 3 T, not stated
    np.testing.assert_array_equal(sites_of(IMAGES, SCANNERS), np.hstack([cohorts, scanners]))


def test_a_label_that_is_the_site_is_predicted_and_a_site_unseen_in_training_changes_no_score():
    generator = np.random.default_rng(0)
    roles = np.repeat(["train", "validation", "test"], 60)
    cohorts = generator.choice(["A", "B"], 180)
    labels = (cohorts == "A") ^ (generator.random(180) < 0.1)
    own = generator.normal(size=(180, 1))

    def scores_with(names):
        sites = sites_of(pd.DataFrame({"image_id": "i", "cohort": names}), read_scanners(None))
        return fit_settings(np.hstack([own, sites]), labels.astype(int), roles, [{"c": 1.0}], 1000)[2]

    expected = scores_with(cohorts)
    assert roc_auc_score(labels[roles == "test"], expected) > 0.8
    other = cohorts.copy()
    other[-1] = "C"
    np.testing.assert_allclose(scores_with(other)[:-1], expected[:-1], atol=1e-9)


def test_the_arm_is_named_after_what_it_has():
    assert in_words({"max_iterations": 9}) == in_words({"site": False}) == "age, sex and mask volume"
    assert in_words({"site": True}).endswith("mask volume, cohort and scanner")
