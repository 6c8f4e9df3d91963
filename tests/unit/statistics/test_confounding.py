"""What confounding alone gives is computed on the same resamples, and agrees with scikit-learn and scipy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.statistics.confounding import (
    SITE,
    confounding,
    describe_sets,
    gains,
    site_scores,
    strata_of,
    stratified_auc,
)
from scipy import stats
from sklearn.metrics import roc_auc_score


def pairs_by_hand(labels, scores, strata):
    """Every pair of a positive and a negative of the same stratum, one by one."""
    values = [
        float(scores[one] > scores[other]) + 0.5 * float(scores[one] == scores[other])
        for one in np.flatnonzero(labels == 1)
        for other in np.flatnonzero(labels == 0)
        if strata[one] is not None and strata[one] == strata[other]
    ]
    return np.mean(values) if values else np.nan


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.sampled_from(["A", "B", "C", None])), min_size=2))
def test_the_stratified_auc_is_that_of_all_pairs_within_strata(rows):
    columns = zip(zip(*rows, strict=True), (int, float, object), strict=True)
    labels, scores, strata = (np.array(column, dtype=kind) for column, kind in columns)
    assert stratified_auc(labels, scores, strata)[0] == pytest.approx(
        pairs_by_hand(labels, scores, strata), nan_ok=True
    )


def test_it_is_the_mean_of_scikit_learns_aucs_weighted_by_pairs():
    generator = np.random.default_rng(0)
    labels, strata = generator.integers(0, 2, 300), generator.integers(0, 4, 300)
    scores = generator.normal(labels + strata, 1)
    aucs, pairs = [], []
    for stratum in range(4):
        mine = strata == stratum
        aucs.append(roc_auc_score(labels[mine], scores[mine]))
        pairs.append(labels[mine].sum() * (1 - labels[mine]).sum())
    auc, share = stratified_auc(labels, scores, strata)
    assert auc == pytest.approx(np.average(aucs, weights=pairs))
    assert share == pytest.approx(sum(pairs) / (labels.sum() * (1 - labels).sum()))


def test_a_score_that_is_the_site_has_no_auc_within_it():
    generator = np.random.default_rng(1)
    site = generator.integers(0, 2, 400)
    labels = (generator.random(400) < 0.1 + 0.8 * site).astype(int)
    assert roc_auc_score(labels, site) > 0.85 and stratified_auc(labels, site, site)[0] == 0.5


def study_of(replicates=12, share=0.9):
    """Resamples of a task whose label is mostly the cohort, a model that learnt the cohort and one that learnt noise.

    Everyone has two scans.
    """
    generator = np.random.default_rng(2)
    people = 400
    cohort = generator.integers(0, 2, people)
    label = np.where(generator.random(people) < share, cohort, 1 - cohort)
    images = pd.DataFrame({"image_id": [f"i{at:03d}" for at in range(people)], "label": label})
    images["participant_id"] = [f"p{at // 2:03d}" for at in range(people)]
    images["cohort"], images["age"] = np.where(cohort == 1, "A", "B"), generator.uniform(50, 80, people)
    images["sex"], images["mask_volume_mm3"] = generator.integers(0, 2, people), generator.normal(1.4e6, 1e5, people)
    resamples, scores = {}, []
    for replicate in range(replicates):
        order = generator.permutation(people)
        roles = ("train", order[:100]), ("validation", order[100:140]), ("test", order[140:180])
        table = pd.concat([images.iloc[rows].assign(role=role) for role, rows in roles], ignore_index=True)
        key = {"task": "ad_hc", "n": 100, "replicate": f"{replicate:03d}"}
        resamples[tuple(key.values())] = table
        test = table[table["role"] == "test"]
        part = pd.DataFrame({"position": test.index, "person": range(40), "label": test["label"]}).assign(**key)
        part["baseline"] = (test["cohort"] == "A").astype(float)
        part["linear"] = generator.normal(0, 1, 40)
        scores.append(part)
    return images, resamples, pd.concat(scores, ignore_index=True)


def test_the_site_alone_and_aucs_within_it():
    images, resamples, scores = study_of()
    strata = {"ad_hc": strata_of(images.set_index("image_id"), 10)}
    shuffled = scores.sample(frac=1, random_state=0)
    site, measures, differences = confounding(shuffled, resamples, strata, bootstrap=200, seed=1)
    values = measures.set_index(["model", "strata"])["median"]
    assert list(dict.fromkeys(measures["strata"])) == ["all", "cohort", "age band", "sex", "size"]
    by_replicate = scores.groupby("replicate").apply(lambda part: roc_auc_score(part["label"], part["baseline"]))
    found = site.set_index("replicate")["auc"].sort_index()
    np.testing.assert_allclose(found, by_replicate.sort_index())  # the baseline's score is the cohort itself
    assert values[SITE, "all"] == pytest.approx(by_replicate.median()) and values[SITE, "all"] > 0.8
    assert values["baseline", "cohort"] == 0.5 and values["baseline", "age band"] > 0.8
    assert abs(values["linear", "cohort"] - 0.5) < 0.1
    assert set(differences["first"] + differences["second"]) == {"linearbaseline"}  # the models that are compared
    found = differences.set_index("strata")
    within = []
    for replicate, part in scores.groupby("replicate"):
        tested = resamples["ad_hc", 100, replicate].iloc[part["position"]]
        columns = (part["label"], part["linear"], tested["cohort"])
        within.append(pairs_by_hand(*(column.to_numpy() for column in columns)) - 0.5)  # of the baseline
    assert found.loc["cohort", "mean_difference"] == pytest.approx(np.mean(within))
    assert found.loc["cohort", "replicates"] == 12
    low, high = stats.bootstrap([within], np.mean, method="percentile", rng=0).confidence_interval
    np.testing.assert_allclose(found.loc["cohort", ["low", "high"]].to_numpy(float), [low, high], atol=0.01)
    assert found.loc["age band", "high"] < -0.2  # of the cohort, which is not held there
    again = confounding(scores, resamples, strata, bootstrap=200, seed=1)[1].set_index(["model", "strata"])["median"]
    pd.testing.assert_series_equal(values.sort_index(), again.sort_index())


def test_the_scanner_adds_to_the_site_and_an_unseen_one_does_not_stop_it():
    images, resamples, _ = study_of()
    images["scanner"] = np.where(images["label"] == 1, "new", "old")
    images.loc[images.index[-3:], "scanner"] = "seen by nobody else"
    table = next(iter(resamples.values()))
    test = table[table["role"] == "test"]
    scores = site_scores(table, strata_of(images.set_index("image_id"), 10))
    assert len(scores) == 40 and roc_auc_score(test["label"], scores) > 0.9


def test_strata_of_unknown_age_or_volume_are_missing_and_sizes_are_thirds():
    images = pd.DataFrame({"cohort": "A", "age": [59.9, 60.0, np.nan], "sex": [0, 1, 1]})
    images["mask_volume_mm3"] = [1.0e6, 1.2e6, 1.4e6]
    found = strata_of(images, 10)
    assert found["age band"].tolist()[:2] == ["5", "6"] and pd.isna(found["age band"][2])
    assert found["size"].tolist() == ["0", "1", "2"]
    spread = pd.DataFrame({"cohort": "A", "age": 1.0, "sex": 0, "mask_volume_mm3": np.arange(300.0)})
    assert strata_of(spread, 10)["size"].value_counts().tolist() == [100, 100, 100]


def test_the_gain_over_covariates_is_the_paired_test_of_scipy():
    generator = np.random.default_rng(3)
    aucs = [
        {"task": "ad_hc", "n": 100, "replicate": f"{at:03d}", "model": model, "auc": level + generator.normal(0, 0.05)}
        for at in range(9)
        for model, level in (("linear", 0.8), ("baseline", 0.72), ("covariates", 0.7))
    ]
    table = pd.DataFrame(aucs)
    found = gains(table, ["linear", "baseline"], statistic="mean", permutations=10_000, bootstrap=200, seed=1)
    wide = table.pivot(index="replicate", columns="model", values="auc")
    exact = {"permutation_type": "samples", "n_resamples": np.inf}
    gaps = [wide[model] - wide["covariates"] for model in ("linear", "baseline")]
    expected = [stats.permutation_test((gap,), np.mean, **exact).pvalue for gap in gaps]
    np.testing.assert_allclose(found["p_two_sided"], expected)
    assert found["p_holm"].tolist() == sorted([min(1, 2 * expected[0]), max(2 * expected[0], expected[1])])


def test_sets_are_described_as_they_are_drawn():
    """People with many scans are drawn into training more often, so fewer of them are left to test on."""
    images = pd.DataFrame({"age": [60.0, 70, 80, 65], "sex": [0, 1, 1, 0]}, index=["a1", "a2", "b1", "c1"])
    rows = [("a1", "a", "train", 1), ("a1", "a", "train", 1), ("a2", "a", "train", 1)]
    rows += [("b1", "b", "test", 0), ("c1", "c", "validation", 0)]
    resample = pd.DataFrame(rows, columns=["image_id", "participant_id", "role", "label"])
    found = describe_sets({("ad_hc", 3, "001"): resample}, {"ad_hc": images}).set_index("role")
    train = found.loc["train"]
    assert train[["images", "participants", "positive_share", "scans_per_person"]].tolist() == [3, 1, 1.0, 2.0]
    assert train["age_mean"] == pytest.approx((60 + 60 + 70) / 3) and train["female_share"] == pytest.approx(2 / 3)
    assert train["age_sd"] == pytest.approx(np.std([60, 60, 70]))
    assert found.loc["test", "positive_share"] == 0.0
