"""The certificate states the facts; a planted leak, or a file that changes later, gives one clear line."""

import copy
import hashlib
import hmac
import json
import re
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from browsers import chromium, visit
from crowds import crowd, index_of
from neurotransfer.errors import InputError
from neurotransfer.files import digest_of_file, write_json, write_table
from neurotransfer.report.certificate_page import certificate_html, check_page
from neurotransfer.split.certificate import (
    certify,
    check_behind_weights,
    check_certified,
    check_resamples_certified,
    check_sources,
    check_waivers,
    duplicates_in_words,
)
from neurotransfer.split.duplicates import COLUMNS, HEAD, SCAN
from neurotransfer.split.resampling import labelled, write_resample
from neurotransfer.split.roles import SETS, join_splits, split_cohort

SETTINGS = {"validation_share": 0.25, "healthy": ["HC"], "age_band": 10}
ROLES = {"P": ["pretraining"], "A": ["ad_hc", "pretraining"], "H": ["ad_hc", "holdout"]}
SHARES = {"P": 1.0, "A": 0.4, "H": 0.0}
NOBODY = pd.DataFrame(columns=COLUMNS)
SUMMARY = {
    "images": 200, "images_compared": 199, "pairs_compared": 19701, "least_similarity": 4.0, "pairs_found": 3,
    "pairs_listed": 3, "scans": 1, "heads": 2,
    "settings": {"same_head": 4.0, "chance_pairs": 1, "same_scan": 0.99, "same_pose": 0.3},
}  # fmt: skip


@pytest.fixture
def study():
    """Splits and indices of three cohorts: one pretrains, one is in both training and test, one is held out."""
    indices = [
        index_of(crowd(80, 1), "P"),
        index_of([*crowd(40, 2), *[(70.0, 1, ["HC", "AD"])] * 10], "A"),
        index_of(crowd(30, 3), "H"),
    ]
    splits = [
        split_cohort(i, ROLES[cohort], SHARES[cohort], SETTINGS, 1) for cohort, i in zip(ROLES, indices, strict=True)
    ]
    return splits, indices


KEY = b"k" * 32
CONFIG = {"tasks": {}, "confounding": {"shown_from": 0.6, "waived": ["ad_hc"], "refused_from": 0.9}}


def image_with(study, role, cohort=None):
    """(number of the cohort, row) of the first image with that role."""
    splits, _ = study
    numbers = [list(ROLES).index(cohort)] if cohort else range(len(splits))
    return next((number, splits[number].index[splits[number]["role"] == role][0])
                for number in numbers if (splits[number]["role"] == role).any())  # fmt: skip


def pair_of(study, one, other, kind=SCAN):
    """A row of pairs.tsv about two images, given as (number of the cohort, row)."""
    columns = ["image_id", "participant_id", "cohort"]
    names = [study[1][number].loc[row, columns].tolist() for number, row in (one, other)]
    return pd.DataFrame([[*names[0], *names[1], 9.0, 0.9999, 0.01, kind]], columns=COLUMNS)


def test_the_certificate_states_counts_overlaps_and_digests(study):
    splits, indices = study
    proof = certify(splits, indices, ROLES, NOBODY, key=KEY)
    images = join_splits(splits, indices)
    json.dumps(proof, allow_nan=False)
    assert {tuple(pair["sets"]) for pair in proof["overlaps"]} == set(combinations(SETS, 2))
    for pair in proof["overlaps"]:
        assert {name: pair[name] for name in pair if name != "sets"} == dict.fromkeys(
            ("participants", "identical_scans", "waived_scans", "similar_heads"), 0
        )
    for role in SETS:
        rows = images[images["role"] == role]
        people = sorted(set(rows["participant_id"]))
        assert proof["counts"][role]["images"] == len(rows)
        assert proof["counts"][role]["participants"] == len(people)
        assert proof["counts"][role]["age"]["mean"] == pytest.approx(rows["age"].mean(), abs=1e-3)
        sexes = rows.drop_duplicates("participant_id")["sex"]
        assert proof["counts"][role]["female_share"] == pytest.approx((sexes == 0).mean(), abs=1e-4)
        text = "\n".join(["participants of a set", *people]).encode()
        assert proof["keyed_digests"][role] == hmac.new(KEY, text, "sha256").hexdigest()
    assert sum(has[role]["images"] for has in proof["cohorts"].values() for role in has) == len(images)
    assert proof["shared_cohorts"] == ["A"]
    assert proof["engines"] == {role: [["builtin", "1"]] for role in SETS}


def test_a_participant_in_two_sets_fails_the_certificate(study):
    splits, indices = study
    person = splits[0].loc[splits[0]["role"] == "train", "participant_id"].value_counts().index[0]
    rows = splits[0].index[splits[0]["participant_id"] == person]
    assert len(rows) == 2
    splits[0].loc[rows[0], "role"] = "test"
    with pytest.raises(InputError, match=rf"{person}: the participant is in (train and in test|test and in train)"):
        certify(splits, indices, ROLES, NOBODY)


@pytest.mark.parametrize("role", ["validation", "test"])
@pytest.mark.parametrize("how", ["bytes", "likeness"])
def test_one_scan_under_two_names_across_sets_fails_the_certificate_unless_waived_by_name(study, role, how):
    splits, indices = study
    one, other = image_with(study, "train"), image_with(study, role)
    pairs = pair_of(study, one, other)
    people = pairs[["participant_1", "participant_2"]].iloc[0].tolist()
    scans = pairs[["image_2", "image_1"]].iloc[0].tolist()
    if how == "bytes":  # found from the cached bytes, without the comparison of heads
        indices[other[0]].loc[other[1], "checksum"] = indices[one[0]].loc[one[1], "checksum"]
        pairs = NOBODY
    with pytest.raises(InputError, match=rf"it is the same scan as \S+, in train and in {role}; .*waived_duplicates"):
        certify(splits, indices, ROLES, pairs)
    with pytest.raises(InputError, match="the same scan"):
        certify(splits, indices, ROLES, pairs, waived=[[people[0], "H_002"]])
    for waived in (people, scans):
        proof = certify(splits, indices, ROLES, pairs, waived=[waived])
        found = next(pair for pair in proof["overlaps"] if pair["sets"] == ["train", role])
        assert (found["identical_scans"], found["waived_scans"]) == (0, 1)
        assert "1 pairs of scans that look identical were waived by name" in proof["statement"]


def test_one_scan_under_two_names_in_one_pool_fails_and_elsewhere_within_a_set_is_counted(study):
    splits, indices = study
    pool = pair_of(study, image_with(study, "test", "A"), image_with(study, "test", "H"))
    with pytest.raises(InputError, match="both are in the pool of ad_hc, so a resample may train on one"):
        certify(splits, indices, ROLES, pool)
    rows = splits[0].index[splits[0]["role"] == "train"]
    proof = certify(splits, indices, ROLES, pair_of(study, (0, rows[0]), (0, rows[-1])))
    assert proof["within"]["train"]["identical_scans"] == 1


def test_one_head_in_two_scans_is_counted_without_an_error(study):
    pairs = pair_of(study, image_with(study, "train"), image_with(study, "test"), HEAD)
    proof = certify(*study, ROLES, pairs)
    assert [pair["similar_heads"] for pair in proof["overlaps"] if pair["sets"] == ["train", "test"]] == [1]


def test_waivers_of_unknown_names_are_mistakes(study):
    manifest = pd.concat(study[1])
    check_waivers([["P_001", "H_002"], ["P_001_ses-0", "A_002_ses-0"]], manifest)
    with pytest.raises(InputError) as error:
        check_waivers([["P_001", "H_999"], ["P_001", "A_002_ses-0"]], manifest)
    first, second = str(error.value).splitlines()
    assert "split.waived_duplicates[0]: there is no participant or image 'H_999'" in first
    assert "split.waived_duplicates[1]: it names a participant and an image" in second


def test_two_images_of_a_validation_participant_fail_the_certificate(study):
    splits, indices = study
    further = splits[0]["reason"] == "validation_takes_one_image"
    assert further.any()
    splits[0].loc[further, "role"] = "validation"
    with pytest.raises(InputError, match="validates with 2 images instead of one"):
        certify(splits, indices, ROLES, NOBODY)


def test_a_cohort_that_pretrains_without_the_role_fails_the_certificate(study):
    splits, indices = study
    splits[2]["role"] = "train"
    with pytest.raises(InputError, match=r"cohorts/H\.tsv: its images pretrain without the role"):
        certify(splits, indices, ROLES, NOBODY)


def test_a_set_from_another_engine_fails_the_certificate_unless_accepted(study):
    splits, indices = study
    indices[2]["engine_version"] = "2"
    with pytest.raises(InputError, match=r"test has images of builtin 2, training of builtin 1; .*accept_other"):
        certify(splits, indices, ROLES, NOBODY)
    assert certify(splits, indices, ROLES, NOBODY, one_engine=False)["engines"]["test"] == [
        ["builtin", "1"], ["builtin", "2"]
    ]  # fmt: skip


def test_a_split_of_another_index_is_refused(study):
    splits, indices = study
    short = [copy.deepcopy(index) for index in indices]
    short[1] = short[1].iloc[1:]
    with pytest.raises(InputError, match=r"cohorts/A\.tsv: its images are not those of the cohort's index"):
        certify(splits, short, ROLES, NOBODY)


def test_a_split_that_was_edited_and_an_index_that_renames_people_are_refused(study):
    splits, indices = study
    manifest = pd.concat(indices)[["image_id", "participant_id", "cohort"]]
    drawing = (ROLES, SHARES, SETTINGS, 1)
    check_sources(splits, indices, manifest, *drawing)
    edited = [split.copy() for split in splits]
    person = edited[0].loc[edited[0]["role"] == "train", "participant_id"].iloc[0]
    edited[0].loc[edited[0]["participant_id"] == person, "role"] = "unused"  # a whole participant: no leak
    with pytest.raises(InputError, match=r"^results/split/cohorts/P\.tsv: role: its roles are not those that"):
        check_sources(edited, indices, manifest, *drawing)
    renamed = [index.replace({"participant_id": {"H_003": "H_004"}}) for index in indices]
    own = [split_cohort(i, ROLES[c], SHARES[c], SETTINGS, 1) for c, i in zip(ROLES, renamed, strict=True)]
    with pytest.raises(InputError, match=r"^results/index/H\.tsv: .* images have another participant than"):
        check_sources(own, renamed, manifest, *drawing)


def test_a_file_that_changed_after_it_was_certified_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_table(index_of(crowd(9), name), f"results/index/{name}.tsv")
    files = {"results/index/a.tsv": digest_of_file("results/index/a.tsv")}
    write_json("certificate.json", {"files": files})
    check_certified("certificate.json", ["results/index/a.tsv"])
    with pytest.raises(InputError, match=r"^results/index/b\.tsv: certificate\.json does not cover this file"):
        check_certified("certificate.json", ["results/index/a.tsv", "results/index/b.tsv"])
    table = Path("results/index/a.tsv")
    table.write_text(table.read_text().replace("a_001", "a_002"))
    with pytest.raises(InputError, match=r"^results/index/a\.tsv: it differs from the file .* certified .*; delete"):
        check_certified("certificate.json", ["results/index/a.tsv"])


def test_resamples_of_people_who_pretrain_or_with_changed_rows_are_refused(study, tmp_path):
    splits, indices = study
    test = pd.concat(
        [index[split["role"] == "test"] for index, split in zip(indices, splits, strict=True)], ignore_index=True
    )
    train = pd.concat(
        [index[split["role"] == "train"] for index, split in zip(indices, splits, strict=True)], ignore_index=True
    )
    task = {"positive": ["AD"], "negative": ["HC"]}
    pool = labelled(test, task, "by_session").assign(role="train", index_row=0)
    write_resample(pool.iloc[[0, 0, 3, 5]], tmp_path / "good.tsv", {"n": 4})
    check_resamples_certified([tmp_path / "good.tsv"], indices, splits)
    planted = labelled(train, task, "by_session").assign(role="test", index_row=0)
    write_resample(pd.concat([pool.iloc[:3], planted.iloc[:1]]), tmp_path / "seen.tsv", {"n": 4})
    write_resample(pool.iloc[:3].assign(participant_id="H_001"), tmp_path / "renamed.tsv", {"n": 3})
    text = (tmp_path / "good.tsv").read_text()
    (tmp_path / "edited.tsv").write_text(text.replace("\ttrain\t", "\ttest\t", 1))
    with pytest.raises(InputError) as error:
        check_resamples_certified(
            [tmp_path / f"{name}.tsv" for name in ("seen", "renamed", "good", "edited")], indices, splits
        )
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert re.search(r"seen\.tsv: 1 of its rows are not certified images of test participants", lines[0])
    assert "renamed.tsv: 3 of its rows" in lines[1] or "renamed.tsv: 2 of its rows" in lines[1]
    assert "edited.tsv: its rows have changed since they were drawn" in lines[2]


def test_weights_of_other_people_than_those_certified_are_refused(study):
    splits, _ = study
    used = pd.concat(splits)
    behind = used[used["role"].isin(["train", "validation"])][["participant_id", "role"]].drop_duplicates()
    assert check_behind_weights(behind, splits, "participants.tsv") == 0
    gone = pd.concat([behind, pd.DataFrame({"participant_id": ["P_900"], "role": ["train"]})])
    assert check_behind_weights(gone, splits, "participants.tsv") == 1, "a withdrawal is counted, and is no leak"
    moved = behind.assign(
        role=behind["role"].where(behind["participant_id"] != behind["participant_id"].iloc[0], "test")
    )
    with pytest.raises(InputError, match=r"^participants\.tsv: role: 1 participant behind the weights has another"):
        check_behind_weights(moved, splits, "participants.tsv")
    with pytest.raises(InputError, match="2 participants who now pretrain are not"):
        check_behind_weights(behind.iloc[2:], splits, "participants.tsv")


def certificate_page(study, **changes):
    pairs = pair_of(study, image_with(study, "train"), image_with(study, "test"), HEAD)
    proof = certify(*study, ROLES, pairs, key=KEY) | {
        "duplicates": SUMMARY | changes,
        "files": {"results/index/P.tsv": "0" * 64},
    }
    return certificate_html(proof, 'A study <script>alert("1")</script>', 5, CONFIG), proof


def test_the_page_shows_the_certificate_names_nobody_and_loads_nothing(study):
    text, proof = certificate_page(study)
    for name in pd.concat(study[1])[["image_id", "participant_id"]].to_numpy().ravel():
        assert name not in text
    assert "<script" not in text and "url(" not in text and "@import" not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    plain = " ".join(re.sub(r"<[^>]+>", " ", text.partition("</style>")[2]).split())
    assert proof["statement"] in plain and duplicates_in_words(SUMMARY, 0, 5) in plain
    shared = {role: has["participants"] for role, has in proof["cohorts"]["A"].items()}
    assert shared["validation"] < 5, "it would follow from the number of those who train"
    others = f"{shared['test']} others are not used in pretraining"
    assert f"A ({shared['train']} participants train, how many validate is not shown; {others})" in plain
    shown = "hidden" in re.findall(r"<td>(\w+)", text.partition('id="cohorts"')[2])
    assert ("“hidden” because" in plain) == shown and "The AUC is of a logistic regression" not in plain
    assert "training and test 0 0 0 1" in plain
    assert len(proof["keyed_digests"]) == 3 and all(digest in plain for digest in proof["keyed_digests"].values())


def test_the_page_has_no_plain_digest_of_people_and_no_age_of_a_person(study):
    """Not even that of an older certificate, whose ages and digests were exact."""
    splits, indices = study
    proof = certify(splits, indices, ROLES, NOBODY)
    assert proof["keyed_digests"] == {}, "a study without its key gets a certificate"
    images = join_splits(splits, indices)
    old = {}
    for role in SETS:
        people = sorted(set(images.loc[images["role"] == role, "participant_id"]))
        old[role] = hashlib.sha256("\n".join(people).encode()).hexdigest()
    text = certificate_html(proof | {"duplicates": SUMMARY, "files": {}, "digests": old}, "old", 5, CONFIG)
    assert not any(digest in text for digest in old.values()) and "there was no study key" in text
    for age in images["age"].dropna():
        assert not re.search(rf"\b{age:.1f} to|to {age:.1f}\b", text)


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (r"(\d+) to (\d+)\)</td>", r"\1.3 to \2.0)</td>"),
        (r">HMAC-SHA256 of each set's", ">SHA-256 of each set's"),
    ],
)
def test_a_page_of_an_earlier_version_is_named_with_the_command_that_makes_it_again(study, tmp_path, now, before):
    page = tmp_path / "certificate.html"
    check_page(page)  # there is none yet
    text, _ = certificate_page(study)
    page.write_text(text, encoding="utf-8")
    check_page(page)
    page.write_text(re.sub(now, before, text), encoding="utf-8")
    with pytest.raises(InputError, match=r"do not mail it; run snakemake --forcerun certificate") as refused:
        check_page(page)
    assert str(page) in str(refused.value) and "\n" not in str(refused.value)


def test_the_page_shows_no_cell_of_fewer_people_than_the_smallest(study):
    proof = certify(*study, ROLES, NOBODY) | {"duplicates": SUMMARY, "files": {}}
    text = re.sub(r"<style>.*?</style>", "", certificate_html(proof, "study", 1000, CONFIG), flags=re.S)
    rows = re.findall(r"<tr>.*?</tr>", text, flags=re.S)
    cells = [cell for row in rows if "<td>" in row for cell in re.findall(r"<td>(.*?)</td>", row, flags=re.S)]
    assert "&lt; 1000" in cells and not any(re.search(r"[1-9]", cell.replace("&lt; 1000", "")) for cell in cells)
    assert "fewer than 1000 in train" in text


def test_the_page_says_that_a_label_is_the_cohort_and_hides_small_cells(study):
    rows = [("A", 40, 3), ("B", 0, 31)]
    sites = [{"site": name, "positive": one, "negative": other} for name, one, other in rows]
    found = {"confounding": {"ad_hc": {"cohort": {"auc": 0.96, "sites": sites}}}}
    proof = certify(*study, ROLES, NOBODY) | {"duplicates": SUMMARY, "files": {}} | found
    text = certificate_html(proof, "study", 5, CONFIG)
    assert "cross-validated AUC of 0.960" in text and "Waived:" in text
    assert re.search(r'<th scope="row">A</th><td>hidden</td><td>&lt; 5</td>', text)
    assert re.search(r'<th scope="row">B</th><td>0</td><td>hidden</td>', text)


def test_the_number_of_pairs_does_not_tell_that_of_images():
    """n images have n (n - 1) / 2 pairs, and a rounded number of pairs would confine n; so would the threshold."""
    all_compared = SUMMARY | {"images_compared": 200, "pairs_compared": 19_900}
    assert duplicates_in_words(all_compared, 0, 5).startswith("Among 19,900 pairs of images, 1 of two")
    assert duplicates_in_words(all_compared, 0, 5, is_hidden=True).startswith("Among all pairs of images, 1 of two")
    assert "19," not in (few := duplicates_in_words(SUMMARY, 0, 5)) and "Fewer than 5 images could not be" in few
    many = duplicates_in_words(SUMMARY | {"images_compared": 190, "pairs_compared": 17_955}, 0, 5)
    assert many.startswith("Among 17,955 pairs") and many.endswith("10 images could not be compared.")


def test_a_threshold_that_depends_on_the_number_of_images_is_not_said_if_that_is_hidden(study):
    proof = certify(*study, ROLES, NOBODY) | {"duplicates": SUMMARY | {"least_similarity": 4.3}, "files": {}}
    assert "at least 4.3 standard deviations above" in certificate_html(proof, "study", 5, CONFIG)
    sizes = {"train": 40, "validation": 10, "test": 20, "unused": 1}
    proof |= {"cohorts": {"P": {role: {"images": size, "participants": size} for role, size in sizes.items()}}}
    text = certificate_html(proof | {"shared_cohorts": []}, "study", 5, CONFIG)
    assert "Among all pairs" in text and "4.3 standard" not in text
    assert "at least 4.0 standard deviations above that of different people, or more in a large study" in text


def test_the_page_says_if_there_were_too_few_images_to_compare(study):
    text, _ = certificate_page(study, least_similarity=None, scans=0, heads=0)
    assert "Too few images to look for one person under two names" in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page_without_an_error(study, tmp_path, width):
    page = tmp_path / "certificate.html"
    page.write_text(certificate_page(study)[0])
    with chromium(tmp_path / "profile") as browser:
        visit(browser, page, width=width)
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        hidden = "return [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1)"
        assert browser.execute_script(hidden) == []  # what proves the split needs no sideways scrolling
        browser.save_screenshot(str(tmp_path / "page.png"))
