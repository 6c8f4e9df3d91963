"""The results of the whole workflow against the truth of the simulated study."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.files import read_json, read_table
from scipy import ndimage
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def medians(small_study) -> pd.DataFrame:
    return read_table(small_study / "results/statistics/medians.tsv").set_index(["task", "n", "model"])


@pytest.fixture(scope="module")
def comparisons(small_study) -> pd.DataFrame:
    return read_table(small_study / "results/statistics/comparisons.tsv")


def test_age_error_in_unseen_cohorts_is_clearly_below_the_dummys(small_study):
    metrics = read_table(small_study / "results/pretrain/multitask/metrics.tsv").set_index(
        ["split", "target", "metric"]
    )
    age = metrics.loc[("holdout", "age", "mae")]
    assert age["high"] < 0.85 * age["dummy"]


def test_transfer_beats_baseline_at_the_smallest_n_on_the_strong_task(medians, comparisons):
    """By the replicates' differences: medians of six AUCs of nine test images move with a processor's rounding."""
    n = min(medians.loc["ad_hc"].index.get_level_values("n"))
    assert medians.loc[("ad_hc", n, "transfer"), "median"] > medians.loc[("ad_hc", n, "baseline"), "median"]
    pair = comparisons.set_index(["task", "n", "first", "second"]).loc[("ad_hc", n, "transfer", "baseline")]
    assert min(pair["mean_difference"], pair["median_difference"]) > 0.05


def test_the_control_task_has_no_effect(medians, comparisons):
    control = medians.loc["control"]["median"]
    assert control.between(0.25, 0.75).all()
    assert 0.4 < control.mean() < 0.6
    assert (comparisons.query("task == 'control'")["p_holm"] > 0.05).all()


def test_no_model_beats_the_latent_truth(small_study, medians):
    """A median above the truth's own AUC by three standard errors would mean a leak."""
    truth = read_table(small_study / "truth.tsv")
    aucs = read_table(small_study / "results/statistics/aucs.tsv")
    for (task, n, model), group in aucs.groupby(["task", "n", "model"]):
        labelled = truth[truth["task"] == task]
        bound = roc_auc_score(labelled["label"], labelled["latent_score"])
        error = 1.2533 * group["auc"].std(ddof=1) / np.sqrt(len(group))  # of a median, normal theory
        assert medians.loc[(task, n, model), "median"] <= bound + 3 * max(error, 0.02)


def test_no_participant_is_in_two_sets_anywhere(small_study):
    split = read_table(small_study / "results/split/images.tsv")
    sides = split[split["role"] != "unused"].groupby("participant_id")["role"].nunique()
    assert (sides == 1).all()
    pretrained = set(split.loc[split["role"].isin(["train", "validation"]), "participant_id"])
    for path in (small_study / "results/resamples").rglob("*.tsv"):
        resample = read_table(path)
        assert (resample.groupby("participant_id")["role"].nunique() == 1).all()
        assert not pretrained & set(resample["participant_id"])


def test_one_cohort_is_in_training_and_test_split_by_participant(small_study):
    split = read_table(small_study / "results/split/images.tsv")
    roles = split.groupby("cohort")["role"].unique().map(set)
    assert any({"train", "test"} <= has for has in roles)
    certificate = read_json(small_study / "results/split/certificate.json")
    assert certificate


def test_baseline_and_transfer_have_the_same_settings_and_test_images(small_study):
    for path in (small_study / "results/fits/ad_hc/n18").glob("*/baseline.json"):
        baseline, transfer = read_json(path), read_json(path.with_name("transfer.json"))
        assert [s["values"] for s in baseline["settings"]] == [s["values"] for s in transfer["settings"]]
        assert baseline["test"]["position"] == transfer["test"]["position"]
        assert baseline["test"]["label"] == transfer["test"]["label"]


def test_every_image_is_in_a_ledger(small_study):
    images = read_table(small_study / "results/manifest/images.tsv")
    ledger = pd.concat(read_table(p) for p in (small_study / "results/preprocessed").glob("*-*/*.tsv"))
    assert sorted(images["image_id"]) == sorted(ledger["image_id"])
    assert set(ledger["status"]) == {"ok"}


def test_masks_of_the_simulated_heads_reach_dice_095(small_study):
    """Against the simulation's true mask, in the image's own space."""
    import nibabel
    from nibabel.processing import resample_from_to

    images = read_table(small_study / "results/manifest/images.tsv").iloc[::15]
    scores = []
    for image in images.itertuples():
        found = nibabel.load(small_study / f"results/preprocessed/subjects/{image.shard}/{image.image_id}/mri/mask.mgz")
        name = image.t1w.rpartition("/")[2].replace("_T1w.nii.gz", "_mask.nii.gz")
        true = nibabel.load(next((small_study / "truth/masks").rglob(name)))
        truth = np.asarray(true.dataobj) > 0
        found = np.asarray(resample_from_to(found, true, order=0).dataobj) > 0
        scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert len(scores) > 10
    assert np.mean(scores) >= 0.95
    assert np.min(scores) >= 0.92
    assert ndimage.label(found)[1] == 1
