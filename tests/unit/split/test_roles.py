"""No participant is in two sets, and each stratum keeps its share."""

from itertools import combinations

import numpy as np
import pandas as pd
from crowds import crowd, index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.files import read_table, table_text, write_text
from neurotransfer.split.roles import SETS, split_cohort

SETTINGS = {"validation_share": 0.25, "healthy": ["HC"], "age_band": 10}
DIAGNOSES = ["HC", "AD", None]


ages = st.none() | st.floats(3, 97)
person = st.tuples(ages, st.sampled_from([0, 1, None]), st.lists(st.sampled_from(DIAGNOSES), min_size=1, max_size=4))
cohorts = st.lists(person, max_size=40)
roles_of_a_cohort = st.sampled_from([["pretraining"], ["holdout"], ["ad_hc", "holdout"], ["ad_hc", "pretraining"]])
shares = st.floats(0.05, 0.95)


@settings(max_examples=150, deadline=None)
@given(cohorts, roles_of_a_cohort, shares, shares, st.integers(0, 3))
def test_no_participant_is_in_two_sets(people, roles, pretraining_share, validation_share, seed):
    index = index_of(people)
    split = split_cohort(index, roles, pretraining_share, SETTINGS | {"validation_share": validation_share}, seed)
    assert split["image_id"].tolist() == index["image_id"].tolist()
    sets = {role: set(split.loc[split["role"] == role, "participant_id"]) for role in SETS}
    for one, other in combinations(SETS, 2):
        assert not sets[one] & sets[other]
    unused = split["role"] == "unused"
    assert split.loc[unused, "reason"].notna().all() and split.loc[~unused, "reason"].isna().all()
    validation = split[split["role"] == "validation"]
    assert validation["participant_id"].is_unique, "a validation participant has one image"
    patients = set(index.loc[index["diagnosis"] == "AD", "participant_id"])
    assert not patients & (sets["train"] | sets["validation"]), "one ill session is enough not to pretrain"
    if "pretraining" not in roles:
        assert (split["role"] == "test").all()
    elif roles == ["pretraining"]:
        assert (split["role"] != "test").all()
        healthy = set(index["participant_id"]) - patients
        assert len(sets["validation"]) == round(len(healthy) * validation_share)
        assert sets["train"] | sets["validation"] == healthy
    else:
        healthy = set(index["participant_id"]) - patients
        assert patients <= sets["test"]
        assert len(sets["train"] | sets["validation"]) == round(len(healthy) * pretraining_share)
        assert sets["test"] == set(index["participant_id"]) - sets["train"] - sets["validation"]


@settings(max_examples=50, deadline=None)
@given(cohorts, roles_of_a_cohort, st.randoms())
def test_the_order_of_rows_does_not_matter(people, roles, random):
    index = index_of(people)
    order = list(range(len(index)))
    random.shuffle(order)
    split = split_cohort(index, roles, 0.4, SETTINGS, 1).set_index("image_id")
    shuffled = split_cohort(index.iloc[order], roles, 0.4, SETTINGS, 1).set_index("image_id")
    pd.testing.assert_frame_equal(split, shuffled.loc[split.index])


@settings(max_examples=50, deadline=None)
@given(cohorts, shares)
def test_each_stratum_gives_its_share_within_one_participant(people, share):
    index = index_of(people)
    split = split_cohort(index, ["pretraining"], 1.0, SETTINGS | {"validation_share": share}, 5)
    healthy = set(split.loc[split["role"].isin(["train", "validation"]), "participant_id"])
    validates = set(split.loc[split["role"] == "validation", "participant_id"])
    strata = {}
    for name, age, sex in zip(index["participant_id"], index["age"], index["sex"], strict=True):
        if name in healthy:
            strata.setdefault((age // 10 if pd.notna(age) else None, sex if pd.notna(sex) else None), set()).add(name)
    for members in strata.values():
        # the quota is rounded to nine digits before its integer part is taken
        assert abs(len(members & validates) - len(members) * share) < 1 + 1e-6


def test_one_more_participant_changes_few_roles():
    people = crowd(400)
    before = split_cohort(index_of(people), ["pretraining"], 1.0, SETTINGS, 3)
    moved = []
    for extra in range(20):
        after = split_cohort(
            index_of([*people, (4.5 * extra + 5, extra % 2, ["HC"])]), ["pretraining"], 1.0, SETTINGS, 3
        )
        roles = before.groupby("participant_id")["role"].agg(set), after.groupby("participant_id")["role"].agg(set)
        moved.append(int((roles[0] != roles[1].loc[roles[0].index]).sum()))
    assert max(moved) <= 4 and np.mean(moved) < 2.5


def test_another_seed_gives_another_draw():
    index = index_of(crowd(200))
    drawn = [
        set(split_cohort(index, ["pretraining"], 1.0, SETTINGS, seed).query("role == 'validation'")["participant_id"])
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    # of 50 drawn twice from 200, 12.5 are equal by chance
    assert len(drawn[0] & drawn[2]) < 25


def test_an_index_read_from_a_file_gives_the_same_split(tmp_path):
    index = index_of(crowd(60)).astype({"sex": "Int64"})
    write_text(tmp_path / "index.tsv", table_text(index))
    from_file = split_cohort(read_table(tmp_path / "index.tsv"), ["ad_hc", "pretraining"], 0.5, SETTINGS, 1)
    pd.testing.assert_frame_equal(
        from_file, split_cohort(index, ["ad_hc", "pretraining"], 0.5, SETTINGS, 1), check_dtype=False
    )


def test_an_empty_cohort_has_an_empty_split():
    split = split_cohort(index_of([]), ["pretraining"], 1.0, SETTINGS, 1)
    assert split.empty and list(split.columns) == ["image_id", "participant_id", "cohort", "role", "reason"]
