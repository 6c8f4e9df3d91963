"""What can be mailed: it names nobody, and shows no cell, bar or mark of few people."""

import base64
import gzip
import io
import itertools
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.report import figure1
from neurotransfer.report.cells import age_bins, age_spread, sample, shown, shown_grid, shown_row
from neurotransfer.report.counts import counts_by_role, hidden_in_certificate, hidden_in_report
from neurotransfer.report.public import Private, check_public, check_public_files, private_names
from neurotransfer.report.style import save_figure
from neurotransfer.report.trust_tables import (
    accounting,
    cohort_rows,
    configuration_lines,
    failure_rows,
    version_rows,
)
from synthetic_results import draw_figures, make_results, page_of

PRIVATE = Private(
    frozenset({"A_01", "A_01_ses-2", "sub-AL001", "AL001"}), ("/home/alice", "/mnt/mri"), frozenset({"alice", "root"})
)
HARMLESS = "A 01, A_011 and BA_01 at /home/alicia; the root of 5; malice; mount /mnt/mri2; A_0"


def data_url(content: bytes, kind: str = "text/plain") -> str:
    return f'<a href="data:{kind};base64,{base64.b64encode(content).decode()}">x</a>'


@pytest.fixture(scope="module")
def results():
    return make_results(replicates=3, people=24)


@pytest.mark.parametrize(
    "text",
    [
        "of A_01.",
        "x_A_01_ses-2_T1w",
        "files/sub-AL001_T1w.nii.gz",
        "[AL001, B]",
        "<p>key: /home/alice/study.key</p>",
        "&#47;mnt&#47;mri/x",
        "by alice",
        "alice@example.org",
        "/home/root/x",
        data_url(b"age\tA_01\n"),
        data_url(gzip.compress(b"age\tA_01\n", mtime=0), "application/gzip"),
        data_url(data_url(b"A_01").encode(), "text/html"),
    ],
)
def test_a_name_a_path_or_a_user_is_found_wherever_it_stands(text):
    with pytest.raises(InputError, match="it can be mailed, and would contain"):
        check_public("page.html", f"<p>{HARMLESS}</p> {text}", PRIVATE)


def test_words_and_numbers_that_only_look_like_names_are_no_leak():
    check_public("page.html", HARMLESS + data_url(b"0.0101\t63.2"), PRIVATE)
    check_public("figure.svg", '<g id="A_01"><use xlink:href="#A_01"/></g>', PRIVATE)  # matplotlib numbers its parts


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_name_between_any_two_texts_is_found(before, after):
    border = re.compile(r"\w")
    if border.match(before[-1:] or " ") or border.match(after[:1] or " "):
        before, after = f"{before} ", f" {after}"
    with pytest.raises(InputError):
        check_public("page", f"{before}A_01_ses-2{after}", PRIVATE)


def test_files_in_a_zip_file_are_checked(tmp_path):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("report/data/raw.tsv", "A_01")
    (tmp_path / "report.zip").write_bytes(whole.getvalue())
    with pytest.raises(InputError, match=r"report\.zip: report/data/raw\.tsv"):
        check_public_files([tmp_path / "report.zip"], PRIVATE)


def test_the_names_of_a_study_are_those_of_its_tables_and_its_configuration(tmp_path):
    (tmp_path / "results/manifest").mkdir(parents=True)
    (tmp_path / "results/manifest/images.tsv").write_text(
        "# {}\nimage_id\tparticipant_id\tt1w\nA_01\tA_01\t/nas/a/x/sub-MR0042/anat/sub-MR0042_T1w.nii.gz\n"
    )
    (tmp_path / "results/manifest/excluded.tsv").write_text("cohort\tfile\nA\tdata/sub-77/anat/sub-77_T1w.nii\n")
    (tmp_path / "withdrawn.tsv").write_text("participant_id\nA_09\n")
    (tmp_path / "cohorts.tsv").write_text("cohort\tpath\nA\t/nas/a/x\n")
    config = {"withdrawn": "withdrawn.tsv", "cohorts": "cohorts.tsv", "pretrain": {"participants_key": "/home/eve/k"}}
    found = private_names(config, tmp_path)
    assert {"A_01", "A_09", "sub-MR0042", "MR0042", "sub-77"} <= found.names and "77" not in found.names
    assert {"/nas/a", "/home/eve"} <= set(found.paths) and "eve" in found.users


def test_the_report_of_a_study_passes_and_one_that_names_somebody_does_not(results, tmp_path):
    names = {*results.images["image_id"], *results.images["participant_id"]}
    private = Private(frozenset(names), ("/home/alice",), frozenset({"alice"}))
    results.config["split"]["waived_duplicates"] = [sorted(names)[:2]]
    results.config["pretrain"]["participants_key"] = "/home/alice/keys/study.key"
    results.config["preprocessing"]["fastsurfer"]["image"] = "/home/alice/fastsurfer.sif"
    drawings = draw_figures(results, tmp_path)
    page = page_of(results, drawings)
    check_public("report.html", page, private)
    check_public_files(drawings.iterdir(), private)
    lines = [line["text"].strip() for line in configuration_lines(results.config, results.defaults)]
    assert "waived_duplicates: 1 pairs, not shown" in lines and "image: …/fastsurfer.sif" in lines
    results.config["study"] = f"without {sorted(names)[5]}"
    with pytest.raises(InputError, match=sorted(names)[5]):
        check_public("report.html", page_of(results, drawings), private)


def drawing(svg) -> tuple[str, list[float]]:
    """An SVG file without its numbers and the ids made of them, and the numbers.

    matplotlib's layout rounds differently from call to call, which moves a panel by a millionth of a point.
    """
    text = re.sub(r"\b[a-z]+[0-9a-f]{10}\b", "id", svg.read_text(encoding="utf-8"))
    number = r"-?\d+\.\d+|\b\d+\b"
    return re.sub(number, "0", text), [float(found) for found in re.findall(number, text)]


def test_figure_1_holds_no_age_and_no_prediction_of_a_person(results, tmp_path):
    """Its table, and the numbers in its SVG file: a small change of one age moves nothing."""
    tables = (results.images, results.history, results.metrics, results.predictions)
    moved = results.images.assign(age=results.images["age"] + 0.001)  # no age comes near the end of a bin
    assert (np.floor(moved["age"] / 5) == np.floor(results.images["age"] / 5)).all()
    ages = results.predictions["target"] == "age"
    told = results.predictions.assign(truth=results.predictions["truth"] + 0.001 * ages)
    for name, given_tables in (("a", tables), ("b", (moved, results.history, results.metrics, told))):
        data = figure1.figure1_data(*given_tables, 5)
        save_figure(figure1.figure1(*given_tables, 5), data, tmp_path / name)
    (a_text, a_numbers), (b_text, b_numbers) = (drawing(tmp_path / f"{name}.svg") for name in "ab")
    assert a_text == b_text
    np.testing.assert_allclose(a_numbers, b_numbers, rtol=0, atol=1e-5)  # 0.001 years are more than 0.0001 points
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    private = {round(value, 6) for value in (*results.images["age"], *results.predictions.loc[ages, "prediction"])}
    cells = pd.read_csv(tmp_path / "a.tsv", sep="\t")[["x", "value", "low", "high"]].to_numpy().ravel()
    assert not private & {round(value, 6) for value in cells[np.isfinite(cells)]}
    counted = pd.read_csv(tmp_path / "a.tsv", sep="\t")
    assert counted.loc[counted["quantity"].str.startswith("images"), "value"].min() >= 5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 110), st.integers(0, 20)), max_size=60), st.integers(1, 8))
def test_every_bin_of_ages_has_enough_people_and_no_age_is_lost(rows, smallest):
    ages, people = (
        pd.Series([age for age, _ in rows], dtype=float),
        pd.Series([f"p{one}" for _, one in rows], dtype=str),
    )
    bins = age_bins(ages, people, smallest)
    for low, high in bins:
        assert people[(ages >= low) & (ages < high)].nunique() >= smallest and low % 5 == high % 5 == 0
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(bins))
    if bins:
        assert sum(((ages >= low) & (ages < high)).sum() for low, high in bins) == len(ages)
        spread = age_spread(ages, people, smallest)
        assert list(spread.values()) == sorted(spread.values())
    else:
        assert people.nunique() < smallest or not len(rows)


def test_a_single_hidden_cell_of_a_row_hides_another():
    counts = {"train": 40, "validation": 9, "test": 2, "unused": 0}
    assert shown_row(counts, counts, 5) == {"train": 40, "validation": "hidden", "test": "< 5", "unused": 0}
    two = {"train": 40, "validation": 3, "test": 2}
    assert shown_row(two, two, 5) == {"train": 40, "validation": "< 5", "test": "< 5"}
    assert shown(12, 4, 5) == "< 5" and shown(12, 5, 5) == 12 and shown(0, 0, 5) == 0


def test_a_set_shows_ages_in_bins_and_nothing_of_few_people():
    known = {"participants": 30, "images": 40, "age": {"min": 18.37, "mean": 44.1, "max": 85.0}, "female_share": 0.5}
    assert sample(known, 5) == known | {"age": {"min": 15.0, "mean": 44.1, "max": 90.0}}
    assert sample(known | {"female_share": 29 / 30}, 5)["female_share"] is None, "one man"
    few = sample(known | {"participants": 4}, 5)
    assert few["participants"] == few["images"] == "< 5" and few["age"]["mean"] is few["female_share"] is None


def test_tables_of_cohorts_and_failures_show_no_small_count(results):
    rows = cohort_rows(results.images, results.ledger, results.excluded, 5)
    assert all(row["failed"] in (0, "< 5") and row["left_out"] in (0, "< 5") for row in rows)
    assert {row["failed"] for row in rows} == {0, "< 5"}
    failed = failure_rows(results.ledger, {}, 5, hidden_in_report(results.images, results.ledger, results.excluded, 5))
    assert [(row["images"], row["cohorts"]) for row in failed] == [("< 5", "mood < 5"), ("< 5", "north < 5")]


def test_a_count_that_stands_alone_between_two_totals_hides_them():
    """Of 72 images one failed: the 71 that are cached are shown, and how many there were before is not."""
    names = [f"A_{at:03d}" for at in range(72)]
    status = ["failed"] + ["ok"] * 71
    ledger = pd.DataFrame({"image_id": names, "cohort": "A", "status": status, "reason": ["killed"] + [None] * 71})
    ledger["engine"], ledger["engine_version"] = "builtin", "4"
    roles = ["train"] * 50 + ["test"] * 21
    images = pd.DataFrame({"image_id": names[1:], "participant_id": names[1:], "cohort": "A", "role": roles})
    excluded = pd.DataFrame(columns=["cohort", "file", "reason", "detail"])
    [cohort] = cohort_rows(images.assign(reason=None), ledger, excluded, 5)
    assert cohort["failed"] == "< 5" and cohort["found"] == "hidden" and cohort["train"] == 50
    rows = accounting(ledger, excluded, images.assign(reason=None), 5)["rows"]
    found = {row["text"]: row["images"] for row in rows}
    assert found["failed: killed"] == "< 5" and found["preprocessed and cached"] == 71
    assert found["T1-weighted images found"] == found["in the manifest"] == "hidden"
    assert ("engine builtin", "4 (71 images)") in version_rows(ledger, {}, 5)


@given(st.lists(st.lists(st.integers(0, 12), min_size=3, max_size=3), min_size=1, max_size=4))
def test_no_number_of_few_people_follows_from_a_table_and_its_sums(rows):
    """A hidden cell that stands alone in its row or column would follow from the sum, and so would a small sum."""
    table = {str(at): dict(zip("abc", row, strict=True)) for at, row in enumerate(rows)}
    cells, without_sum = shown_grid(table, table, 5)
    places = [(row, name) for row in table for name in "abc"]
    known = [[at == place for at in places] for place in places if not isinstance(cells[place[0]][place[1]], str)]
    known += [[at[0] == row for at in places] for row in table if row not in without_sum]
    known += [[at[1] == name for at in places] for name in "abc" if sum(table[row][name] for row in table) >= 5]
    span = np.linalg.svd(np.array(known, float).reshape(-1, len(places)), full_matrices=False)
    basis = span.Vh[span.S > 1e-9]
    for place, (row, name) in enumerate(places):
        if 0 < table[row][name] < 5:
            assert cells[row][name] == "< 5" and (basis[:, place] ** 2).sum() < 1 - 1e-9


def test_a_small_count_does_not_follow_from_the_others_and_their_sum():
    """Of 15 and 2 failed images the second follows from the first, if the sum of both follows from two totals."""
    names = [f"A_{at:03d}" for at in range(60)]
    status = pd.Series(["failed"] * 17 + ["ok"] * 43)
    reason = pd.Series(["truncated"] * 15 + ["killed"] * 2 + [None] * 43)
    cohort = ["A"] * 12 + ["B"] * 3 + ["A"] * 45
    ledger = pd.DataFrame({"image_id": names, "cohort": cohort, "status": status, "reason": reason})
    roles = ["train"] * 33 + ["test"] * 7 + ["validation"] * 3
    images = pd.DataFrame({"image_id": names[17:], "role": roles, "reason": None, "cohort": "A"})
    images["participant_id"] = images["image_id"]
    excluded = pd.DataFrame(columns=["cohort", "file", "reason", "detail"])
    found = {row["text"]: row["images"] for row in accounting(ledger, excluded, images, 5)["rows"]}
    assert found["failed: killed"] == found["pretraining: validation"] == "< 5"
    assert found["pretraining: training"] == 33 and found["never pretrained on"] == 7
    assert found["preprocessed and cached"] == "hidden", "it would tell the 3 that validate"
    assert found["in the manifest"] == 60 and found["failed: truncated"] == 15, "the rest of 5 is killed or validates"
    [truncated, _] = failure_rows(ledger, {}, 5, hidden_in_report(images, ledger, excluded, 5))
    assert truncated["cohorts"] == "A hidden, B < 5"


def test_a_small_count_does_not_follow_from_two_tables(results):
    """Cohorts by role are in the certificate, the report and Figure 1; failures in the account and by reason."""
    people = {"A": {"train": 40, "validation": 3, "test": 9}, "B": {"train": 30, "validation": 8, "test": 20}}
    rows = [(cohort, role, at) for cohort, mine in people.items() for role in mine for at in range(mine[role])]
    names = [f"{cohort}_{role}{at}" for cohort, role, at in rows]
    images = pd.DataFrame({"image_id": names, "participant_id": names, "cohort": [row[0] for row in rows]})
    images = images.assign(role=[row[1] for row in rows], age=50.0)
    ledger = images[["image_id", "cohort"]].assign(status="ok", reason=None)
    excluded = pd.DataFrame(columns=["cohort", "file", "reason", "detail"])
    hidden = hidden_in_certificate(counts_by_role(images), 5)
    assert {("cohort", "A", "validation"), ("cohort", "A", "train"), ("cohort", "B", "train")} <= hidden
    for row in cohort_rows(images, ledger, excluded, 5):
        for role in people["A"]:
            assert isinstance(row[role], str) == (("cohort", row["cohort"], role) in hidden)
    table = figure1.figure1_data(images, None, results.metrics, results.predictions, 5)
    shown = table[(table["panel"] == "cohorts") & (table["quantity"] == "images")].set_index(["item", "group"])["value"]
    assert ("B", "test") in shown.index and shown.get(("A", "train"), 43) == 43


def test_a_bin_of_few_people_does_not_follow_from_the_sum_of_its_role():
    ages = [22.0] * 30 + [27.0] * 9 + [33.0] * 2
    names = [f"A_{at}" for at in range(len(ages))]
    images = pd.DataFrame({"image_id": names, "participant_id": names, "role": "train", "age": ages, "cohort": "A"})
    assert figure1.binned_ages(images, 5)["x"].tolist() == [20.0]
