"""A label that is the site is found and refused, and one that has nothing to do with it is not."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError
from neurotransfer.manifest.scanners import COLUMNS
from neurotransfer.split.confounding import check_confounding, confounding_of, confounding_of_tasks, in_words, site_auc

SETTINGS = {"shown_from": 0.6, "refused_from": 0.9, "waived": []}


def pool_of(shares, people=100, seed=0):
    """A pool in which each cohort has its own share of positive people; everyone has two scans."""
    generator = np.random.default_rng(seed)
    parts = []
    for cohort, share in shares.items():
        label = (generator.random(people) < share).astype(int)
        names = [f"{cohort}_{person:03d}" for person in range(people)]
        parts.append(pd.DataFrame({"participant_id": names, "label": label, "cohort": cohort}))
    once = pd.concat(parts, ignore_index=True)
    pool = pd.concat([once, once], ignore_index=True)
    return pool.assign(image_id=[f"{name}_{at}" for at, name in enumerate(pool["participant_id"])])


def expected_auc(shares):
    """The AUC of the cohort by enumeration: P(positive's share > negative's) + half of the ties."""
    positive, negative = (np.array([abs(label - share) for share in shares]) for label in (0, 1))
    positive, negative = positive / positive.sum(), negative / negative.sum()
    order = np.sign(np.subtract.outer(np.array(shares), np.array(shares))) / 2 + 0.5
    return float(positive @ order @ negative)


@pytest.mark.parametrize("shares", [(0.2, 0.8), (0.1, 0.5, 0.9), (0.5, 0.5)])
def test_the_auc_of_the_site_is_that_of_the_shares_it_has(shares):
    pool = pool_of(dict(zip("ABC", shares, strict=False)), people=600)
    found = site_auc(*(pool[name].to_numpy() for name in ("label", "cohort", "participant_id")))
    assert found == pytest.approx(expected_auc(shares), abs=0.04)


def test_many_sites_without_a_relation_to_the_label_do_not_seem_to_predict_it():
    aucs = []
    for seed in range(8):
        pool = pool_of({f"c{at:02d}": 0.5 for at in range(20)}, people=10, seed=seed)
        aucs.append(site_auc(*(pool[name].to_numpy() for name in ("label", "cohort", "participant_id"))))
    assert abs(np.mean(aucs) - 0.5) < 0.05


def test_one_site_predicts_nothing_and_one_participant_of_a_class_is_too_few():
    pool = pool_of({"A": 0.5})
    assert confounding_of(pool)["cohort"]["auc"] == 0.5
    alone = pd.concat([pool_of({"A": 0.0}), pool_of({"B": 1.0}, people=1)])
    assert confounding_of(alone)["cohort"]["auc"] is None


def test_people_are_counted_once_and_images_each():
    pool = pool_of({"A": 1.0, "B": 0.0}, people=7)
    assert confounding_of(pool)["cohort"]["sites"] == [
        {"site": "A", "positive": 7, "positive_images": 14, "negative": 0, "negative_images": 0},
        {"site": "B", "positive": 0, "positive_images": 0, "negative": 7, "negative_images": 14},
    ]


def test_a_label_that_is_the_cohort_is_refused_in_one_line_that_names_the_key():
    found = confounding_of(pool_of({"A": 1.0, "B": 0.0}))
    (error,) = check_confounding("ad_hc", found, SETTINGS)
    assert "AUC of 1.00" in str(error) and "confounding.waived: [ad_hc]" in str(error)
    assert "\n" not in str(error)
    assert check_confounding("ad_hc", found, SETTINGS | {"waived": ["ad_hc"]}) == []
    assert "waived by" in in_words("ad_hc", found, SETTINGS | {"waived": ["ad_hc"]})[-1]


def test_a_label_that_is_the_scanner_within_one_cohort_is_refused():
    pool = pool_of({"A": 0.5})
    pool["scanner"] = np.where(pool["label"] == 1, "Siemens 3 T", "not stated")
    (error,) = check_confounding("ad_hc", confounding_of(pool), SETTINGS)
    assert "the scanner alone" in str(error)


def test_a_balanced_label_is_accepted_and_its_auc_is_not_said():
    found = confounding_of(pool_of({"A": 0.5, "B": 0.5}))
    assert check_confounding("ad_hc", found, SETTINGS) == [] and len(in_words("ad_hc", found, SETTINGS)) == 1


def test_the_certificate_looks_at_the_images_of_the_pool_alone():
    """Of a cohort that also pretrains, the images that pretrain are in no pool."""
    pool = pool_of({"A": 0.5, "B": 0.5})
    pool["diagnosis"] = pool["label"].map({1: "AD", 0: "HC"})
    indices = [part.drop(columns="label").reset_index(drop=True) for _, part in pool.groupby("cohort")]
    splits = [index[["image_id"]].assign(role="test") for index in indices]
    config = {"tasks": {"ad_hc": {"positive": ["AD"], "negative": ["HC"]}, "off": None}, "confounding": SETTINGS}
    config["manifest"] = {"converters": "by_session"}
    arguments = ({"A": ["ad_hc"], "B": ["ad_hc"]}, pd.DataFrame(columns=COLUMNS), config)
    assert list(confounding_of_tasks(indices, splits, *arguments)) == ["ad_hc"]
    for index, split, word in zip(indices, splits, ("AD", "HC"), strict=True):
        split.loc[index["diagnosis"] != word, "role"] = "train"
    with pytest.raises(InputError, match="the cohort alone"):
        confounding_of_tasks(indices, splits, *arguments)
