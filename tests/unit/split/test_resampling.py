"""Resamples: no participant in two sets, the paper's way of drawing, and pools that are too small."""

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.split.pools import feasible_sizes
from neurotransfer.split.resampling import (
    check_disjoint,
    check_not_pretrained,
    check_task,
    draw,
    failing_share,
    invalid_share,
    labelled,
    pool_of_task,
    sizes,
)
from scipy import stats

# such small sets often lack a class, so draws are repeated
SMALL = {"validation_share": 0.4, "test_share": 0.4, "min_per_class": 1, "max_redraws": 100}
SETTINGS = {"validation_share": 0.2, "test_share": 0.2, "min_per_class": 2, "max_redraws": 100}
TASK = {"positive": ["AD"], "negative": ["HC", "control"]}


def pool_from(images_by_participant, labels_by_participant):
    """A pool in which participant k has images_by_participant[k] images, all with label labels_by_participant[k]."""
    people = np.repeat(np.arange(len(images_by_participant)), images_by_participant)
    return pd.DataFrame(
        {
            "image_id": [f"i{image:04d}" for image in range(len(people))],
            "participant_id": [f"p{person:04d}" for person in people],
            "label": np.asarray(labels_by_participant, dtype=int)[people],
        }
    )


def random_pool(participants, positive_share, seed, most_images=3):
    generator = np.random.default_rng(seed)
    labels = generator.random(participants) < positive_share
    return pool_from(generator.integers(1, most_images + 1, participants), labels)


@st.composite
def pools_and_plans(draws):
    """Random pools, some with people who convert, and the sizes to draw from them."""
    participants = draws(st.integers(6, 60))
    pool = random_pool(participants, draws(st.sampled_from([0.2, 0.5, 0.8])), draws(st.integers(0, 9999)), 4)
    if draws(st.booleans()):  # diagnoses are per session, so some participants have images of both labels
        flipped = np.random.default_rng(0).random(len(pool)) < 0.2
        pool["label"] = np.where(flipped, 1 - pool["label"], pool["label"])
    plan = SETTINGS | {"validation_share": draws(st.sampled_from([0.2, 0.4])), "max_redraws": 20}
    plan["min_per_class"] = draws(st.integers(1, 3))
    return pool, draws(st.integers(10, 60)), plan, draws(st.integers(0, 2**63 - 1))


@given(pools_and_plans())
@settings(max_examples=150, deadline=None)
def test_no_participant_is_in_two_sets_and_sizes_and_classes_are_as_promised(case):
    pool, n, plan, seed = case
    try:
        resample, redraws = draw(pool, n, plan, seed)
    except InputError:
        assume(False)
    people = {role: set(rows["participant_id"]) for role, rows in resample.groupby("role")}
    assert not people["train"] & people["validation"]
    assert not people["train"] & people["test"]
    assert not people["validation"] & people["test"]
    counts = resample["role"].value_counts()
    assert (counts["train"], counts["validation"], counts["test"]) == sizes(n, plan)
    assert resample.groupby(["role", "label"]).size().unstack(fill_value=0).min().min() >= plan["min_per_class"]
    for role in ("validation", "test"):
        assert resample.loc[resample["role"] == role, "image_id"].is_unique
    known = pool.set_index("image_id")
    assert (known.loc[resample["image_id"], "label"].to_numpy() == resample["label"]).all()
    assert (known.loc[resample["image_id"], "participant_id"].to_numpy() == resample["participant_id"]).all()
    assert 0 <= redraws <= plan["max_redraws"]


@given(pools_and_plans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_draw_depends_on_its_seed_and_not_on_the_order_of_rows(case, order):
    pool, n, plan, seed = case
    try:
        first, redraws = draw(pool, n, plan, seed)
    except InputError:
        assume(False)
    again, redraws_again = draw(pool.sample(frac=1, random_state=order), n, plan, seed)
    pd.testing.assert_frame_equal(first, again)
    assert redraws == redraws_again


def test_other_seeds_draw_other_resamples():
    pool = random_pool(60, 0.5, 0)
    assert len({tuple(draw(pool, 20, SETTINGS, seed)[0]["image_id"]) for seed in range(20)}) == 20


def test_the_number_of_duplicates_is_that_of_drawing_with_replacement():
    """n draws from N images give N (1 - (1 - 1/N)^n) distinct images: about 397 of TOP's 1,037 for n = 500."""
    pool = pool_from([2] * 176 + [1] * 685, [0, 1] * 430 + [0])
    assert len(pool) == 1037 and pool["participant_id"].nunique() == 861
    distinct = []
    for seed in range(40):
        train = draw(pool, 500, SETTINGS, seed)[0].query("role == 'train'")
        assert len(train) == 500
        distinct.append(train["image_id"].nunique())
    expected = 1037 * (1 - (1 - 1 / 1037) ** 500)
    assert round(expected) == 397
    assert abs(np.mean(distinct) - expected) < 4 * np.std(distinct, ddof=1) / np.sqrt(len(distinct))


def test_each_image_trains_equally_often():
    pool = pool_from([5] * 4 + [1] * 40, [0, 1] * 22)
    drawn = pd.concat(draw(pool, 20, SETTINGS, seed)[0].query("role == 'train'") for seed in range(300))
    counts = drawn["image_id"].value_counts().reindex(pool["image_id"], fill_value=0)
    assert stats.chisquare(counts).pvalue > 1e-3


def naive_draw_is_valid(pool, counts, min_per_class, dice):
    """The paper's description, with sets and lists instead of arrays."""
    images = list(zip(pool["participant_id"], pool["label"], strict=True))
    sets = [[dice.choice(images) for _ in range(counts[0])]]
    for count in counts[1:]:
        drawn = {person for rows in sets for person, _ in rows}
        free = [image for image in images if image[0] not in drawn]
        if len(free) < count:
            return False
        sets.append(dice.sample(free, count))
    return all(sum(label == wanted for _, label in rows) >= min_per_class for rows in sets for wanted in (0, 1))


@pytest.mark.parametrize(
    "pool, n, plan",
    [
        (random_pool(40, 0.2, 1), 15, SMALL),  # a class is missing
        (random_pool(24, 0.5, 2), 25, SETTINGS),  # participants run out
        (random_pool(30, 0.3, 3), 20, SETTINGS),
    ],
)
def test_the_share_of_invalid_draws_is_that_of_a_naive_simulation(pool, n, plan):
    dice = random.Random(5)
    naive = np.mean([not naive_draw_is_valid(pool, sizes(n, plan), plan["min_per_class"], dice) for _ in range(1500)])
    found = invalid_share(pool, n, plan, 0, draws=1500)
    assert 0.05 < naive < 0.995  # otherwise the comparison tests nothing
    assert abs(found - naive) < 4 * np.sqrt(2 * naive * (1 - naive) / 1500)


def test_the_number_of_redraws_agrees_with_the_share_of_invalid_draws():
    """The number of failures before the first success is geometric: p / (1 - p) on average."""
    pool, n = random_pool(40, 0.2, 1), 15
    p = invalid_share(pool, n, SMALL, 0, draws=4000)
    redraws = np.array([draw(pool, n, SMALL, seed)[1] for seed in range(300)])
    expected = p / (1 - p)
    assert expected > 0.5
    assert abs(redraws.mean() - expected) < 4 * redraws.std(ddof=1) / np.sqrt(len(redraws))


def test_the_failing_share_is_that_of_whole_resamples():
    pool, n, plan = random_pool(30, 0.3, 3), 20, SETTINGS | {"max_redraws": 2}

    def fails(seed):
        try:
            draw(pool, n, plan, seed)
        except InputError:
            return True
        return False

    brute = np.mean([fails(seed) for seed in range(400)])
    assert 0.02 < brute < 0.98
    assert abs(failing_share(pool, n, plan, 0, 2000) - brute) < 4 * np.sqrt(brute * (1 - brute) / 400) + 0.02


def test_a_pool_too_small_for_its_sets_is_refused_with_its_contents():
    pool = pool_from([1] * 10, [0, 1] * 5)
    with pytest.raises(InputError, match=r"101 draws in a row .* 10 images of 5 positive and 5 negative participants"):
        draw(pool, 100, SETTINGS, 0)
    with pytest.raises(InputError, match="pool is empty"):
        draw(pool.iloc[:0], 100, SETTINGS, 0)


def test_a_task_with_too_small_a_pool_is_named_before_any_job():
    pool = pool_from([1] * 60, [0, 1] * 30)
    check_task("ad_hc", pool, [20], SETTINGS, 0)
    with pytest.raises(InputError) as refused:
        check_task("ad_hc", pool, [20, 500], SETTINGS, 0)
    line = str(refused.value)
    for part in ("task ad_hc", "n = 500", "60 images of 30 positive and 30 negative participants", "smaller n"):
        assert part in line
    assert "\n" not in line and "n = 20" not in line


@pytest.mark.parametrize("labels", [[1] * 30, [0] * 30, []])
def test_a_pool_of_one_class_or_none_is_refused(labels):
    pool = pool_from([1] * len(labels), labels)
    assert invalid_share(pool, 10, SETTINGS, 0) == 1.0
    with pytest.raises(InputError, match=r"tasks.ad_hc: the pool has one class or none.*compare the task's diagnoses"):
        check_task("ad_hc", pool, [10], SETTINGS, 0)


def test_a_task_is_infeasible_only_if_resamples_fail_after_their_redraws():
    """If single draws fail often, a resample succeeds with 100 redraws and fails without any."""
    pool, n = random_pool(40, 0.2, 1), 15
    assert invalid_share(pool, n, SMALL, 0) > 0.2
    check_task("t", pool, [n], SMALL, 0)
    with pytest.raises(InputError):
        check_task("t", pool, [n], SMALL | {"max_redraws": 0}, 0)


def test_sizes_are_found_by_numbers_of_people_and_there_are_none_if_test_sets_need_another_cohort():
    """The sets of n = 10 have 2 images, fewer than 2 of each class; those of n = 1000 have 200, and there are 60."""
    for options, expected in (({}, [40]), ({"by": "participant"}, [40]), ({"by": "cohort"}, [])):
        assert feasible_sizes(30, 30, [10, 40, 1000], SETTINGS | options, 0) == expected


def index_of(cohort, rows):
    """An index: image, participant and diagnosis, in that order."""
    table = pd.DataFrame(rows, columns=["image_id", "participant_id", "diagnosis"])
    return table.assign(cohort=cohort, shard=f"{cohort}-0001", row=range(len(table)), checksum="c")


def split_of(index, roles):
    return index[["image_id", "participant_id", "cohort"]].assign(role=roles)


def test_a_pool_holds_the_unseen_images_with_the_tasks_diagnoses():
    a = index_of("a", [("a3", "pa3", "AD"), ("a1", "pa1", "HC"), ("a2", "pa2", "MCI"), ("a4", "pa4", "AD")])
    b = index_of("b", [("b2", "pb2", "control"), ("b1", "pb1", None), ("b3", "pb3", "AD")])
    splits = [split_of(b, ["test"] * 3), split_of(a, ["test", "test", "test", "train"])]
    pool = pool_of_task([a, b], splits, TASK, "by_session")
    assert pool["image_id"].tolist() == ["a1", "a3", "b2", "b3"]
    assert pool["label"].tolist() == [0, 1, 0, 1]
    assert pool["index_row"].tolist() == [1, 0, 0, 2]
    for role in ("train", "validation", "unused"):
        assert pool_of_task([a, b], [split_of(a, role), split_of(b, role)], TASK, "by_session").empty


def test_people_who_convert_stay_by_session_or_are_left_out():
    images = index_of(
        "a", [("a1", "p", "HC"), ("a2", "p", "AD"), ("a3", "q", "AD"), ("a4", "r", "MCI"), ("a5", "r", "AD")]
    )
    by_session = labelled(images, TASK, "by_session")
    assert dict(zip(by_session["image_id"], by_session["label"], strict=True)) == {"a1": 0, "a2": 1, "a3": 1, "a5": 1}
    assert labelled(images, TASK, "exclude")["image_id"].tolist() == ["a3", "a5"]


def test_an_image_without_a_role_stops_the_draw():
    a = index_of("a", [("a1", "p", "HC"), ("a2", "q", "AD")])
    with pytest.raises(InputError, match="1 image of a has no role"):
        pool_of_task([a], [split_of(a.iloc[:1], "test")], TASK, "by_session")


def test_a_participant_in_two_sets_is_noticed():
    table = pd.DataFrame({"participant_id": ["p", "p", "q"], "role": ["train", "train", "test"]})
    check_disjoint(table)
    with pytest.raises(InputError, match=r"^x\.tsv: 1 participant is in two sets"):
        check_disjoint(table.assign(role=["train", "test", "test"]), "x.tsv")


@pytest.mark.parametrize("role", ["train", "validation"])
def test_a_participant_of_the_pretraining_is_noticed_from_any_image(role):
    resample = pd.DataFrame({"image_id": ["a1"], "participant_id": ["p"], "role": ["test"]})
    split = pd.DataFrame({"image_id": ["a1", "a2"], "participant_id": ["p", "p"], "role": ["test", "unused"]})
    check_not_pretrained(resample, [split])
    with pytest.raises(InputError, match="1 participant also trains or validates the pretraining"):
        check_not_pretrained(resample, [split, split.iloc[1:].assign(role=role)])


@st.composite
def pools_with_cohorts(draws):
    pool, n, plan, seed = draws(pools_and_plans())
    generator = np.random.default_rng(draws(st.integers(0, 99)))
    cohort = dict(
        zip(pool["participant_id"].unique(), generator.integers(0, draws(st.integers(1, 5)), 100), strict=False)
    )
    return pool.assign(cohort=pool["participant_id"].map(cohort).map("c{}".format)), n, plan, seed


# many pools at random are refused: of a few cohorts, none may suit
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pools_with_cohorts(), st.sampled_from(["all", "one"]), st.booleans())
def test_no_cohort_is_tested_that_trains_or_validates(drawn, per_participant, stratify):
    pool, n, plan, seed = drawn
    plan |= {"by": "cohort", "per_participant": per_participant, "stratify": stratify}
    try:
        resample, _ = draw(pool, n, plan, seed)
    except InputError:
        assume(False)
    cohorts = {role: set(part["cohort"]) for role, part in resample.groupby("role")}
    assert not cohorts["test"] & (cohorts["train"] | cohorts["validation"])
    check_disjoint(resample)
    assert resample["role"].value_counts().to_dict() == dict(
        zip(("train", "validation", "test"), sizes(n, plan), strict=True)
    )
    assert (
        resample.groupby("role")["label"].apply(lambda part: min(part.sum(), (1 - part).sum())).min()
        >= plan["min_per_class"]
    )


def test_a_pool_of_one_cohort_is_refused_if_cohorts_are_left_out():
    pool = random_pool(300, 0.5, 0).assign(cohort="A")
    with pytest.raises(InputError, match="the latter of other cohorts"):
        check_task("ad_hc", pool, [20], SETTINGS | {"by": "cohort"}, 0, draws=50)
    check_task("ad_hc", pool, [20], SETTINGS, 0, draws=50)


def test_one_image_of_each_participant_takes_part_and_each_may():
    pool = random_pool(80, 0.5, 3, most_images=4)
    seen = set()
    for seed in range(60):
        resample, _ = draw(pool, 40, SETTINGS | {"per_participant": "one"}, seed)
        assert resample.groupby("participant_id")["image_id"].nunique().max() == 1
        seen |= set(resample["image_id"])
    assert len(seen) > 0.95 * len(pool)


def test_stratified_sets_have_the_pools_share_of_positive_images():
    pool = random_pool(400, 0.3, 4)
    share = pool["label"].mean()
    for n in (50, 100):
        resample, redraws = draw(pool, n, SETTINGS | {"stratify": True}, 1)
        positive = resample.groupby("role")["label"].sum()
        assert redraws == 0 and positive.to_dict() == {
            role: round(count * share)
            for role, count in zip(("train", "validation", "test"), sizes(n, SETTINGS), strict=True)
        }


def test_the_papers_draw_is_that_of_before_there_were_options():
    """n rows with replacement, then rows of other people, from one generator."""
    pool = random_pool(120, 0.5, 5).sort_values("image_id", ignore_index=True)
    resample, redraws = draw(pool, 50, SETTINGS | {"by": "participant", "per_participant": "all", "stratify": False}, 9)
    generator, people = np.random.default_rng(9), pool["participant_id"].to_numpy()
    rows = [generator.integers(len(pool), size=50)]
    for count in (10, 10):
        gone = {people[row] for part in rows for row in part}
        rows.append(
            generator.choice([row for row in range(len(pool)) if people[row] not in gone], count, replace=False)
        )
    assert redraws == 0 and resample["image_id"].tolist() == pool["image_id"].iloc[np.concatenate(rows)].tolist()
