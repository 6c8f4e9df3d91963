"""Nobody derives a number of few people from all that a study publishes, by equations or by bounds."""

import math
import re
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from neurotransfer.report import certificate_page, figure1
from neurotransfer.report.counts import hidden_in_report
from neurotransfer.report.pretraining_tables import calibration_groups, metric_groups, shown_groups, sizes_hidden
from neurotransfer.report.trust_tables import accounting, cohort_rows, failure_rows, version_rows
from scipy.optimize import linprog

SMALLEST = 5
ROLES = ("train", "validation", "test", "unused")
EMPTY = {"age": {"min": None, "mean": None, "max": None}, "female_share": None}


def random_study(seed, *, repeated=0.0):
    """Images, ledger and excluded files of few cohorts, whose cells often are of few people.

    A share of the people has a second scan, which is unused if the first one validates.
    """
    generator = np.random.default_rng(seed)
    cohorts = [f"C{at}" for at in range(generator.integers(1, 6))]
    fates = [(role, None) for role in ROLES[:3]] + [("unused", "patient"), ("unused", "second_scan")]
    fates += [("failed", "killed"), ("failed", "truncated"), ("excluded", "noise"), ("left_out", "no_row")]
    fates += [("left_out", "broken_link")]
    rows = []
    for cohort in cohorts:
        start = generator.integers(2, 6) * 10
        for fate, reason in fates:
            large = fate in ROLES[:3] and generator.random() < 0.6
            for _ in range(
                generator.integers(10, 60) if large else generator.integers(0, 9) * generator.integers(0, 2)
            ):
                age = np.nan if generator.random() < 0.03 else start + generator.gamma(2, 4)
                rows.append((cohort, fate, reason, age))
    table = pd.DataFrame(rows, columns=["cohort", "fate", "reason", "age"])
    return with_people(table, generator.random(len(table)) < repeated)


def with_people(table, repeated):
    """The study with names, the second scans of some, and what each scan counts: its person in the cohort, only in its
    role, or nobody."""
    table["person"] = table["image_id"] = [f"{cohort}_{at:04d}" for at, cohort in enumerate(table["cohort"])]
    table["kind"] = "first"
    more = table[repeated & table["fate"].isin(ROLES)].copy()
    beside = more["fate"] == "validation"
    more["image_id"] += "_ses-02"
    more["kind"] = np.where(beside, "beside", "again")
    more.loc[beside, "reason"] = "validation_takes_one_image"
    more.loc[beside, "fate"] = "unused"
    return pd.concat([table, more], ignore_index=True)


def study_like_the_demo():
    """Cohorts of which few people validate; one of them has a second scan, which is the only unused one."""
    sizes = {name: {"train": 29, "validation": 5} for name in ("alpha", "beta", "delta")}
    sizes |= {"coin": {"test": 124}, "epsilon": {"test": 18}, "gamma": {"train": 26, "validation": 4}}
    sizes |= {"memory": {"train": 13, "validation": 2, "test": 130}}
    twice = {("gamma", "train"): 5, ("gamma", "validation"): 1, ("memory", "train"): 2, ("memory", "test"): 20}
    rows, repeated = [], []
    for cohort, mine in sizes.items():
        for fate, size in mine.items():
            rows += [(cohort, fate, None, 20.0 + 60 * at / size) for at in range(size)]
            repeated += [at < twice.get((cohort, fate), 0) for at in range(size)]
    return with_people(pd.DataFrame(rows, columns=["cohort", "fate", "reason", "age"]), np.array(repeated))


def tables_of(study):
    used = study[study["fate"].isin(ROLES)]
    images = used.assign(role=used["fate"], participant_id=used["person"], sex=1.0)
    ledger = study[study["fate"] != "left_out"]
    ledger = ledger.assign(status=ledger["fate"].where(~ledger["fate"].isin(ROLES), "ok"), engine="builtin")
    ledger["engine_version"] = "4"
    excluded = study[study["fate"] == "left_out"]
    files = ["sub-" + name.replace("_", "x") + "_T1w.nii" for name in excluded["image_id"]]
    return images, ledger, excluded.assign(file=files, detail="")


def certificate_of(images):
    def counts(part):
        return {"images": len(part), "participants": part["participant_id"].nunique(), **EMPTY}

    cohorts = list(dict.fromkeys(images["cohort"]))
    by_role = {role: counts(images[images["role"] == role]) for role in ROLES}
    return {
        "counts": by_role,
        "cohorts": {
            cohort: {role: counts(images[(images["cohort"] == cohort) & (images["role"] == role)]) for role in ROLES}
            for cohort in cohorts
        },
        "shared_cohorts": cohorts,
        "engines": {},
        "duplicates": {
            **dict.fromkeys(("scans", "heads", "pairs_found", "pairs_listed"), 0),
            **dict.fromkeys(("images", "images_compared"), len(images)),
            "pairs_compared": math.comb(len(images), 2),
            "least_similarity": 4.0,
        },
        "waived_scans": 0,
    }


def chosen_by(study):
    """Where the images of some cohort, fate and reason are, as a function of these."""

    def of(**fixed):
        chosen = pd.Series(True, index=study.index)
        for name, values in fixed.items():
            chosen &= study[name].isin(values if isinstance(values, (list, tuple)) else [values])
        return chosen

    return of


def published(study):
    """(images that are counted, number or text) of each number in certificate, report and Figure 1."""
    tables = tables_of(study)
    hidden = hidden_in_report(*tables, SMALLEST)
    yield from in_cohorts(chosen_by(study), tables, hidden)
    yield from in_account(chosen_by(study), tables, hidden)
    yield from in_certificate(chosen_by(study), tables[0])
    yield from in_figure1(chosen_by(study), study, tables[0])


def in_cohorts(of, tables, hidden):
    lost = ("failed", "excluded")
    for row in cohort_rows(*tables, SMALLEST, hidden):
        yield of(cohort=row["cohort"]), row["found"]
        yield of(cohort=row["cohort"], fate=ROLES, kind="first"), row["participants"]
        yield of(cohort=row["cohort"], fate=lost), row["failed"]
        yield of(cohort=row["cohort"], fate="left_out"), row["left_out"]
        for role in ROLES:
            yield of(cohort=row["cohort"], fate=role), row[role]
    for row in failure_rows(tables[1], {}, SMALLEST, hidden):
        mine = of(fate=lost, reason=row["reason"].replace(" ", "_"))
        yield mine, row["images"]
        for part in row["cohorts"].split(", "):
            cohort, _, count = part.partition(" ")
            yield mine & of(cohort=cohort), int(count) if count.isdigit() else count


def in_account(of, tables, hidden):
    names = {
        "T1-weighted images found": of(),
        "in the manifest": ~of(fate="left_out"),
        "preprocessed and cached": of(fate=ROLES),
        "pretraining: training": of(fate="train"),
        "pretraining: validation": of(fate="validation"),
        "never pretrained on": of(fate="test"),
    }
    kinds = {"left out of the manifest": "left_out", "failed": "failed", "left out by quality control": "excluded"}
    kinds["unused"] = "unused"
    images, ledger, excluded = tables
    for row in accounting(ledger, excluded, images, SMALLEST, hidden)["rows"]:
        kind, _, reason = row["text"].partition(": ")
        chosen = names.get(row["text"])
        yield of(fate=kinds[kind], reason=reason.replace(" ", "_")) if chosen is None else chosen, row["images"]
    for _, text in version_rows(ledger, {}, SMALLEST, all_shown=("usable",) not in hidden):
        if found := re.search(r"\((\S+|< \d+) images\)", text):
            yield of(fate=ROLES), int(found[1]) if found[1].isdigit() else found[1]


def in_certificate(of, images):
    with mock.patch.object(certificate_page.pages, "render") as render:
        certificate_page.certificate_html(certificate_of(images), "study", SMALLEST, {"confounding": {}, "tasks": {}})
    shown = render.call_args.args[0]
    people = ("first", "beside")
    for role, known in shown["samples"].items():
        yield of(fate=role), known["images"]
        yield of(fate=role, kind=people), known["participants"]
    if pairs := re.match(r"Among ([\d,]+) pairs", shown["duplicates"]):
        yield of(fate=ROLES), round((1 + math.sqrt(1 + 8 * int(pairs[1].replace(",", "")))) / 2)
    said = re.findall(r"(\d+|hidden number|fewer than \d+) in (train|validation|test)\b", shown["statement"])
    assert len(said) == 3
    for count, role in said:
        yield of(fate=role, kind=people), int(count) if count.isdigit() else count
    for cohort, mine in shown["cohorts"].items():
        for role, (count, persons) in mine.items():
            yield of(cohort=cohort, fate=role), count
            yield of(cohort=cohort, fate=role, kind=people), persons
    for cohort, pretrain, others, train in shown["shared"]:
        yield of(cohort=cohort, fate=("train", "validation"), kind=people), pretrain
        if train is not None:
            yield of(cohort=cohort, fate="train", kind=people), train
        yield of(cohort=cohort, fate="test", kind=people), others


def in_figure1(of, study, images):
    metrics = pd.DataFrame(columns=["split", "target", "metric", "value", "low", "high", "dummy", "participants"])
    nothing = pd.DataFrame(columns=["split", "target", "truth", "prediction", "participant_id"])
    drawn = figure1.figure1_data(images, None, metrics, nothing, SMALLEST)
    for row in drawn[drawn["panel"] == "ages"].itertuples():
        inside = (study["age"] >= row.x) & (study["age"] < row.x + 5)
        yield of(fate=row.group) & inside, int(row.value)
    for row in drawn[(drawn["panel"] == "cohorts") & (drawn["quantity"] == "images")].itertuples():
        fates = ("train", "validation") if row.group == "train" else row.group
        yield of(cohort=row.item, fate=fates), int(row.value)
    axes_of_ages, axes_of_cohorts, _ = figure1.figure1(images, None, metrics, nothing, SMALLEST).axes
    for name, axes_texts in (
        ("cohort", axes_of_cohorts.get_yticklabels()),
        ("fate", axes_of_ages.get_legend().get_texts() if axes_of_ages.get_legend() else []),
    ):
        for text in axes_texts:
            label, count = re.fullmatch(r"(\w+) \((.*)\)", text.get_text()).groups()
            yield of(**{"fate": ROLES, name: label}), int(count) if count.isdigit() else count


def attack(study, *, bounds=False):
    """The numbers of few people that follow: from what is shown, by linear equations, and from bounds of counts."""
    bins = np.floor(study["age"] / 5).fillna(-1)
    keys = list(zip(study["cohort"], study["fate"], study["reason"].fillna(""), bins, study["kind"], strict=True))
    groups = sorted(set(keys))
    place = {key: at for at, key in enumerate(groups)}
    where = np.array([place[key] for key in keys])
    sizes = np.bincount(where, minlength=len(groups)).astype(float)

    def row_of(chosen):
        counts = np.bincount(where[chosen.to_numpy()], minlength=len(groups))
        assert ((counts == 0) | (counts == sizes)).all()
        return (counts > 0).astype(float)

    numbers = [(chosen, value) for chosen, value in published(study) if chosen.any()]
    rows = [(row_of(chosen), value) for chosen, value in numbers]
    for row, value in rows:
        assert isinstance(value, str) or value == row @ sizes, "the attack reads the tables wrongly"
    is_few = [(row_of(chosen), study.loc[chosen, "person"].nunique() < SMALLEST) for chosen, _ in numbers]
    plain = sum(few and not isinstance(value, str) for (_, few), (_, value) in zip(is_few, rows, strict=True))
    known = np.array([row for row, value in rows if not isinstance(value, str)])
    few = [row for row, is_small in is_few if is_small] + list(
        np.eye(len(groups))[
            [size < SMALLEST and group[4] != "again" for size, group in zip(sizes, groups, strict=True)]
        ]
    )
    targets = np.unique(np.array(few).reshape(-1, len(groups)), axis=0)
    if not len(known) or not len(targets):
        return plain, 0, 0, len(targets)
    span = np.linalg.svd(known, full_matrices=False)
    basis = span.Vh[span.S > 1e-9]
    rest = np.linalg.norm(targets - targets @ basis.T @ basis, axis=1)
    solved = rest < 1e-6
    words = [(row, value) for row, value in rows if isinstance(value, str)]
    upper = [row for row, value in words if ("<" in value or "fewer" in value) and row @ sizes < SMALLEST]
    lower = [-row for row, _ in words]
    limits = [SMALLEST - 1.0] * len(upper) + [-1.0 if "<" in value or "fewer" in value else -5.0 for _, value in words]
    more = {"A_ub": np.array(upper + lower), "b_ub": limits} if words else {}
    bounded = 0
    for target in targets[~solved] if bounds else []:
        ends = [
            linprog(sign * target, A_eq=known, b_eq=known @ sizes, bounds=(0, None), method="highs", **more)
            for sign in (1, -1)
        ]
        if any(end.status != 0 for end in ends):
            continue
        low, high = (abs(end.fun) for end in ends)
        bounded += np.floor(high + 1e-6) - np.ceil(low - 1e-6) < 1
    return plain, int(solved.sum()), int(bounded), len(targets)


@pytest.mark.parametrize("repeated", [0, 0.2])
@pytest.mark.parametrize("seed", range(8))
def test_no_count_of_few_people_follows_by_equations(seed, repeated):
    plain, solved, _, targets = attack(random_study(seed, repeated=repeated))
    assert (plain, solved) == (0, 0) and targets


@pytest.mark.parametrize("repeated", [0, 0.2])
def test_no_count_of_few_people_has_one_possible_value(repeated):
    assert attack(random_study(6, repeated=repeated), bounds=True)[:3] == (0, 0, 0)


def test_second_scans_and_the_number_of_pairs_tell_no_count_of_few_people():
    """Of a cohort's people and its people who train, those who validate would follow; of all pairs, all images."""
    study = study_like_the_demo()
    assert attack(study, bounds=True)[:3] == (0, 0, 0)
    tables = tables_of(study)
    rows = {row["cohort"]: row for row in cohort_rows(*tables, SMALLEST)}
    assert rows["gamma"]["participants"] == "hidden" and rows["gamma"]["train"] == 31
    assert {name: row["found"] for name, row in rows.items()} == {
        **dict.fromkeys(("alpha", "beta", "delta"), 34),
        **{"coin": 124, "epsilon": 18, "gamma": "hidden", "memory": "hidden"},
    }


def test_the_attack_finds_a_total_that_tells():
    """Without rules for sums, a count that is "< 5" follows from the others and a total."""
    with (
        mock.patch("neurotransfer.report.disclosure._Table._follows", return_value=False),
        mock.patch("neurotransfer.report.disclosure._Table._has_few_between", return_value=False),
        mock.patch("neurotransfer.report.disclosure._Table.hide_what_bounds_tell"),
    ):
        assert attack(random_study(0))[1]


def groups_of(generator):
    """Validation images of random cohorts, sexes and ages, some unknown, with the tables of their metrics."""
    count = generator.integers(30, 90)
    names = [f"A_{at:03d}" for at in range(count)]
    images = pd.DataFrame({"image_id": names, "participant_id": names, "role": "validation"})
    images["cohort"] = generator.choice(["A", "B", "C"], count, p=[0.6, 0.33, 0.07])
    images["age"] = generator.choice([24.0, 35.0, 47.0, np.nan], count, p=[0.5, 0.35, 0.1, 0.05])
    images["sex"] = generator.choice([0.0, 1.0, np.nan], count, p=[0.85, 0.1, 0.05])
    images["bmi"] = 25.0
    rows, metrics = [], []
    about = {"cohort": images["cohort"], "sex": images["sex"].map({0.0: "female", 1.0: "male"})}
    about["age band"] = (images["age"] // 10 * 10).map(lambda low: f"{low:.0f} to {low + 9:.0f}", na_action="ignore")
    for target in ("bmi", "sex"):
        known = images[images[target].notna()]
        name = "auc" if target == "sex" else "mae"
        facts = {"split": "validation", "target": target, "metric": name, "value": 0.7, "low": 0.6, "high": 0.8}
        metrics.append(facts | {"dummy": 0.5, "observations": len(known), "participants": len(known)})
        for by, label in about.items():
            for group, mine in known.groupby(label[known.index]):
                if len(mine) >= 10:
                    sizes = {"observations": len(mine), "participants": len(mine)}
                    rows.append(facts | {"by": by, "group": group} | sizes)
    return images, about, pd.DataFrame(metrics), pd.DataFrame(rows)


@pytest.mark.parametrize("seed", range(40))
def test_no_group_of_few_people_follows_from_metrics_by_group(seed):
    """All people of a target are known, so those in no group that is shown are, too; an AUC is of enough people."""
    images, about, metrics, groups = groups_of(np.random.default_rng(seed))
    kept = shown_groups(groups, metrics, images, SMALLEST)
    for (target, _), mine in kept.groupby(["target", "by"]):
        rest = images[target].notna().sum() - mine["observations"].sum()
        assert rest == 0 or rest >= SMALLEST
    for row in kept[kept["target"] == "sex"].itertuples():
        classes = images.loc[(about[row.by] == row.group) & images["sex"].notna(), "sex"].value_counts()
        assert classes.min() >= SMALLEST
    assert len(kept) <= len(groups)
    unknown = int(images["sex"].isna().sum())
    told = ("validation", "sex") not in sizes_hidden(images, SMALLEST, ())
    assert told == (unknown == 0 or unknown >= SMALLEST)


def test_a_share_tells_no_count_of_few_people():
    metrics = pd.DataFrame(
        [("validation", "sex", "accuracy", 32 / 34, 0.8, 1.0, 0.5, 34, 34)],
        columns=["split", "target", "metric", "value", "low", "high", "dummy", "observations", "participants"],
    )
    published = pd.DataFrame(columns=["quantity", "task", "split", "metric", "value"])
    [group] = metric_groups(metrics, published, SMALLEST)
    assert group["rows"][0]["validation"]["value"] == "> 0.853", "two people were wrong"
    bins = pd.DataFrame({"target": ["sex"], "split": ["validation"], "predicted": [0.1], "observed": [2 / 30]})
    bins = bins.assign(low=0.0, high=0.2, observations=30, participants=30)
    [calibrated] = calibration_groups(bins, SMALLEST)
    assert calibrated["rows"][0]["observed"] == "< 0.167" and calibrated["rows"][0]["interval"] == "–"
