"""A person with several participant ids is one person in split, resamples, certificate and weights."""

import functools

import numpy as np
import pandas as pd
import pytest
from crowds import crowd, index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.files import write_table
from neurotransfer.pretrain.job import participants_of, training_rows
from neurotransfer.pretrain.study_key import digests_of, seen_by
from neurotransfer.split.certificate import certify, check_resamples_certified, check_sources, duplicates_in_words
from neurotransfer.split.duplicates import COLUMNS, HEAD, SCAN
from neurotransfer.split.resampling import draw, pool_of_task, write_resample
from neurotransfer.split.roles import SETS, split_cohort
from neurotransfer.study import layout
from neurotransfer.study.same_people import COLUMNS as LISTED
from neurotransfer.study.same_people import DRAWN, NOBODY, TESTS, TRAINS, joined, people_of, read_people, rows_of

SETTINGS = {"validation_share": 0.25, "healthy": ["HC"], "age_band": 10}
ROLES = {"P": ["pretraining"], "Q": ["pretraining"], "A": ["ad_hc", "pretraining"], "H": ["ad_hc", "holdout"]}
SHARES = {"P": 1.0, "Q": 1.0, "A": 0.4, "H": 0.0}
TASK = {"positive": ["AD"], "negative": ["HC"], "seed": 1}
DRAW = {"validation_share": 0.5, "test_share": 0.5, "min_per_class": 2, "max_redraws": 50}
KEY = b"k" * 32


@functools.cache
def indices():
    """Two cohorts that only pretrain, one on both sides, one held out; the last two have patients."""
    patients = [(70.0, 1, ["AD", "AD"])] * 20
    people = {"P": crowd(80, 1), "Q": crowd(40, 4), "A": [*crowd(60, 2), *patients], "H": [*crowd(30, 3), *patients]}
    return {cohort: index_of(members, cohort) for cohort, members in people.items()}


def splits_of(tables, people=NOBODY):
    return {c: split_cohort(tables[c], ROLES[c], SHARES[c], SETTINGS, 1, people) for c in tables}


def roles_of(splits, people):
    """The sets of each person, over all names and cohorts."""
    table = people.named(pd.concat(splits.values()))
    return table[table["role"].isin(SETS)].groupby("participant_id")["role"].agg(set)


def same(*groups):
    return people_of(joined(groups), ROLES)


names = st.builds(lambda cohort, number: f"{cohort}_{number:03d}", st.sampled_from(list(ROLES)), st.integers(0, 29))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(names, min_size=2, max_size=4, unique=True), min_size=1, max_size=12))
def test_no_person_is_in_two_sets_whatever_the_names(groups):
    tables, people = indices(), same(*groups)
    splits = splits_of(tables, people)
    assert roles_of(splits, people).map(len).max() == 1
    proof = certify(list(splits.values()), list(tables.values()), ROLES, pd.DataFrame(columns=COLUMNS), people=people)
    everyone = people.named(pd.concat(splits.values()))
    for role in SETS:
        counted = everyone.loc[everyone["role"] == role, "participant_id"].nunique()
        assert proof["counts"][role]["participants"] == counted
    assert proof["same_people"] == {"people": len(people), "names": sum(map(len, people.groups)), "pairs": 0}


def test_a_person_of_two_cohorts_tests_if_one_of_them_may_test_and_else_trains():
    tables = indices()
    before = splits_of(tables)
    validates = before["Q"].loc[before["Q"]["role"] == "validation", "participant_id"].iloc[0]
    people = same(["P_001", "H_002"], ["P_003", "A_004"], ["P_005", validates])
    assert dict(zip(people.groups, people.parts, strict=True)) == {
        ("A_004", "P_003"): TESTS, ("H_002", "P_001"): TESTS, ("P_005", validates): TRAINS,
    }  # fmt: skip
    after = splits_of(tables, people)
    table = pd.concat(after.values()).set_index("participant_id")
    assert set(table.loc[["P_001", "P_003"], "role"]) == {"unused"}
    assert set(table.loc[["P_001", "P_003"], "reason"]) == {"tests_under_another_name"}
    assert set(table.loc[["H_002", "A_004"], "role"]) == {"test"}
    assert set(table.loc[["P_005", validates], "role"]) == {"train"}


def test_two_names_in_one_cohort_are_drawn_as_one_participant():
    tables = indices()
    for number in range(0, 60, 12):
        people = same([f"P_{number:03d}", f"P_{number + 1:03d}"])
        assert people.parts == (DRAWN,)
        split = splits_of(tables, people)["P"].set_index("participant_id")
        both = split.loc[list(people.groups[0])]
        assert len(set(both["role"]) & set(SETS)) == 1
        assert (both["role"] == "validation").sum() <= 1, "a validation person has one image"


def test_a_split_changes_only_in_cohorts_of_such_people_that_pretrain():
    tables, people = indices(), same(["A_004", "H_002"])
    before, after = splits_of(tables), splits_of(tables, people)
    for cohort in ("P", "Q", "H"):
        pd.testing.assert_frame_equal(before[cohort], after[cohort])
        assert cohort == "H" or people.for_split(cohort).digest is None
    assert people.for_split("A").digest and not NOBODY.for_split("A").digest


def test_an_old_split_in_which_a_person_crosses_is_refused():
    tables = indices()
    splits = splits_of(tables)
    trains = splits["P"].loc[splits["P"]["role"] == "train", "participant_id"].iloc[0]
    people, none = same([trains, "H_002"]), pd.DataFrame(columns=COLUMNS)
    certify(list(splits.values()), list(tables.values()), ROLES, none)
    with pytest.raises(InputError, match=r"H_002: the participant is in (train and in test|test and in train)"):
        certify(list(splits.values()), list(tables.values()), ROLES, none, people=people)
    manifest = pd.concat(tables.values())
    with pytest.raises(InputError, match=r"P.tsv: role: its roles are not those that the configuration draws"):
        check_sources(
            list(splits.values()), list(tables.values()), manifest, ROLES, SHARES, SETTINGS, 1, people
        )  # fmt: skip


def pair(one, other, kind):
    sides = [(f"{name}_ses-0", name, name[0]) for name in (one, other)]
    return pd.DataFrame([[*sides[0], *sides[1], 9.0, 0.9999, 0.01, kind]], columns=COLUMNS)


def test_a_pair_that_is_one_person_is_no_leak_and_needs_no_waiver():
    tables = indices()
    pairs = pd.concat([pair("A_061", "H_031", SCAN), pair("A_062", "H_032", HEAD)])
    people = same(["A_061", "H_031"], ["A_062", "H_032"], ["A_063", "H_033"])
    splits = splits_of(tables, people)
    given_ = (list(splits.values()), list(tables.values()), ROLES)
    with pytest.raises(InputError, match="a resample may train on one and test on the other"):
        certify(*given_, pairs)
    proof = certify(*given_, pairs, people=people, waived=[["A_061", "H_031"]])
    assert proof["same_people"] == {"people": 3, "names": 6, "pairs": 2}
    assert proof["waived_scans"] == 0 and proof["pools"]["ad_hc"]["similar_heads"] == 0
    assert "who count once: 3" in proof["statement"] and "same_people" not in certify(*given_, pairs[:0])
    summary = {"least_similarity": 4.0, "pairs_compared": 9, "scans": 1, "heads": 1, "pairs_found": 2}
    summary |= {"pairs_listed": 2, "images": 2, "images_compared": 2}
    assert "Of these pairs, 2 are of people listed with both names" in duplicates_in_words(summary, 2)
    third = pd.concat([pairs, pair("A_063", "H_034", SCAN)])
    with pytest.raises(InputError, match="it is the same scan"):
        certify(*given_, third, people=people)
    assert certify(*given_, third, people=people, waived=[["H_033", "H_034"]])["waived_scans"] == 1


def pool_with(people):
    tables = {cohort: table for cohort, table in indices().items() if "ad_hc" in ROLES[cohort]}
    splits = splits_of(tables, people)
    named = [[people.named(table) for table in part.values()] for part in (tables, splits)]
    return tables, splits, pool_of_task(*named, TASK, "by_session")


def test_a_person_is_in_one_set_of_each_resample(tmp_path):
    people = same(*([f"A_{number:03d}", f"H_{number - 30:03d}"] for number in range(60, 80))).among(["A", "H"])
    tables, splits, pool = pool_with(people)
    assert pool["participant_id"].str.startswith("H_").any(), "the others keep their names"
    both = people.names(["A_061"])
    of_images = pd.concat(tables.values()).set_index("image_id")["participant_id"]
    crossed = 0
    for seed in range(5):
        resample, _ = draw(pool, 24, DRAW, seed)
        person = resample["image_id"].map(of_images).map(people.first)
        assert resample.assign(person=person).groupby("person")["role"].nunique().max() == 1
        unnamed, _ = draw(pool.assign(participant_id=pool["image_id"].map(of_images)), 24, DRAW, seed)
        person = unnamed["image_id"].map(of_images).map(people.first)
        crossed += unnamed.assign(person=person).groupby("person")["role"].nunique().max() > 1
    assert crossed, "without the list, people cross"
    path = tmp_path / "resample.tsv"
    write_resample(resample, path, {"task": "ad_hc", "n": 24, "replicate": "001", "redraws": 0, "fingerprint": ""})
    check_resamples_certified([path], list(tables.values()), list(splits.values()), people)
    if set(resample["participant_id"]) & {name for group in people.groups for name in group}:
        with pytest.raises(InputError, match="not certified images"):
            check_resamples_certified([path], list(tables.values()), list(splits.values()))
    assert both == {"A_061", "H_031"}


def test_a_person_with_both_labels_is_left_out_if_converters_are():
    people = same(["A_001", "H_031"])  # healthy under one name, a patient under the other
    tables, splits, _ = pool_with(people)
    named = [[people.named(table) for table in part.values()] for part in (tables, splits)]
    pool = pool_of_task(*named, TASK, "exclude")
    assert "A_001" not in set(pool["participant_id"]) and not pool["image_id"].str.startswith("H_031").any()
    unnamed = pool_of_task(list(tables.values()), list(splits.values()), TASK, "exclude")
    assert unnamed["image_id"].str.startswith("H_031").any()


def test_every_name_of_a_person_behind_weights_is_seen():
    people = same(["P_001", "P_002", "Q_001"])
    tables = indices()
    splits = splits_of(tables, people)
    used = training_rows(*(pd.concat([part["P"], part["Q"]]) for part in (tables, splits)))
    trained = participants_of(used)["participant_id"]
    facts = {"participants": digests_of(trained[trained != "Q_001"], KEY, people)}
    assert seen_by(facts, ["Q_001", "H_001"], KEY) == {"Q_001"}, "the digests have every name"
    of_another_study = {"participants": digests_of(["P_001"], KEY)}
    assert seen_by(of_another_study, ["Q_001", "H_001"], KEY) == set()
    assert seen_by(of_another_study, ["Q_001", "H_001"], KEY, people) == {"Q_001"}
    assert digests_of(["P_003"], KEY) == digests_of(["P_003"], KEY, people)


def test_the_table_of_the_manifest_gives_back_the_people(tmp_path):
    people = same(["P_001", "H_002"], ["P_003", "P_004"], ["H_002", "A_001"])
    path = tmp_path / "same_people.tsv"
    write_table(pd.DataFrame(rows_of(people), columns=list(LISTED)), path)
    assert read_people(path) == people and len(people) == 2
    assert read_people(tmp_path / "none.tsv") == NOBODY and NOBODY.digest is None
    assert people.among(["H", "A"]).groups == (("A_001", "H_002"),) and not people.among(["H"])
    path.write_text(path.read_text().replace(TESTS, "elsewhere"))
    with pytest.raises(InputError, match="no manifest's table"):
        read_people(path)


def test_digests_differ_by_people_names_and_parts_only():
    people = same(["P_001", "H_002"], ["P_003", "P_004"])
    assert people.digest == same(["P_004", "P_003"], ["H_002", "P_001"]).digest
    others = (same(["P_001", "H_002"]), same(["P_001", "H_002"], ["P_003", "P_005"]))
    moved = people_of(people.groups, ROLES | {"H": ["pretraining"]})
    assert len({people.digest, *(other.digest for other in others), moved.digest}) == 4
    assert np.all([name not in people.digest for group in people.groups for name in group])
    assert layout.SAME_PEOPLE.endswith("manifest/same_people.tsv")
