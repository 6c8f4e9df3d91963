"""What tables say of a person at a scan: codes, decimal marks, units, ages by days, phenotype files, and odd tables."""

import json
import math
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from data_sets import add_scan, change, people, read_one, refused, write_cohort, write_rows
from hypothesis import given
from hypothesis import strategies as st
from neurotransfer.manifest.ages import UNITS, birth_day, uncapped, unit_named
from neurotransfer.manifest.bids_tables import day_of
from neurotransfer.manifest.decimal_commas import comma_problem


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_ages(*ages, **more):
    rows = [{"participant_id": f"sub-{at:02d}", "age": age, **more} for at, age in enumerate(ages, 1)]
    write_cohort(Path("A"), rows)


def ages(**columns):
    return read_one(**columns)[0]["age"].tolist()


def write_visits(days, label="01", age=None, scans=True):
    """A person's sessions with their days in scans.tsv, and ages in sessions.tsv where they are given."""
    for session, day in days.items():
        name = f"sub-{label}_ses-{session}"
        add_scan(Path(f"A/sub-{label}/ses-{session}/anat/{name}_T1w.nii.gz"))
        if day:
            rows = [{"filename": f"anat/{name}_T1w.nii.gz", "acq_time": day}]
            write_rows(Path(f"A/sub-{label}/ses-{session}/{name}_scans.tsv"), rows)
    if age:
        rows = [{"session_id": f"ses-{session}", "age": text} for session, text in age.items()]
        write_rows(Path(f"A/sub-{label}/sub-{label}_sessions.tsv"), rows)


def test_age_and_diagnosis_are_those_of_the_session():
    write_cohort(Path("A"), people(1), [])
    write_visits({"1": None, "2": None, "3": None})
    rows = [
        {"session_id": "ses-1", "age": 70.5, "diagnosis": "HC"},
        {"session_id": "2", "age": 72.25, "diagnosis": "AD"},
    ]
    write_rows(Path("A/sub-01/sub-01_sessions.tsv"), rows)
    table, _, _ = read_one()
    assert table.loc[["A_01_ses-1", "A_01_ses-2"], "age"].tolist() == [70.5, 72.25]
    assert table.loc[["A_01_ses-1", "A_01_ses-2"], "diagnosis"].tolist() == ["HC", "AD"]
    assert math.isnan(table.loc["A_01_ses-3", "age"]), "the age of another session would be wrong"
    assert table.loc["A_01_ses-3", "diagnosis"] == "HC", "participants.tsv speaks where the session does not"
    assert (table["sex"] == 1).all()


@pytest.mark.parametrize(
    ("imaged", "listed"),
    [
        *(("M048", "M48"), ("01", "1"), ("a", "A"), ("1", "001")),
        *(("01", "SES-01"), ("01", "session1"), ("01", "1.0"), ("m06", "M-6"), ("01", "0\uff11")),
    ],
)
def test_a_session_label_that_differs_in_padding_case_or_prefix_is_a_mistake(imaged, listed):
    write_cohort(Path("A"), people(1), [])
    write_visits({imaged: None, "100": None})
    rows = [{"session_id": f"ses-{session}", "age": 64, "diagnosis": "AD"} for session in (listed, "100")]
    write_rows(Path("A/sub-01/sub-01_sessions.tsv"), rows)
    [line] = refused()
    assert f"sub-01, session {listed}" in line and f"write ses-{imaged} in the table" in line


def test_an_imaged_session_without_a_row_is_noted():
    write_cohort(Path("A"), people(1), [])
    write_visits({"1": None, "2": None, "10": None}, age={"1": 70})
    rows = [{"session_id": f"ses-{session}", "age": 70} for session in ("1", "20")]
    write_rows(Path("A/sub-01/sub-01_sessions.tsv"), rows)
    _, _, notes = read_one()
    [note] = [note for note in notes if note.startswith("A: 2 imaged sessions have no row in sessions.tsv")]
    assert note.endswith("(first: sub-01, ses-10; nearest: ses-20)")


@pytest.mark.parametrize("label", ["", "n/a"])
def test_a_row_of_no_session_is_a_mistake(label):
    """Its age and diagnosis would reach no image, in silence."""
    write_cohort(Path("A"), people(1), [])
    write_visits({"1": None})
    write_rows(Path("A/sub-01/sub-01_sessions.tsv"), [{"session_id": label, "age": 70, "diagnosis": "AD"}])
    assert "line 2: the row says of no session" in refused()[0]


def test_a_phenotype_session_in_another_padding_is_a_mistake():
    write_cohort(Path("A"), people(1), [])
    write_visits({"01": None, "02": None})
    rows = [{"participant_id": "sub-01", "session_id": session, "neuroticism": 3} for session in ("1", "02")]
    write_rows(Path("A/phenotype/neo.tsv"), rows)
    assert "write ses-01 in the table" in refused()[0]


def test_one_age_for_several_sessions_is_noted():
    write_cohort(Path("A"), people(1))
    add_scan(Path("A/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"))
    table, _, notes = read_one()
    assert table["age"].tolist() == [21, 21]
    assert notes[0].startswith("A: 2 images of people with several sessions have the one age of participants.tsv")


def test_columns_and_codes_follow_the_cohort_table():
    first = {"participant_id": "01", "Age_MRI": 30, "gender": 2, "hand": "both", "size": 180, "kg": 81}
    second = {"participant_id": "02", "Age_MRI": 31, "gender": "1.0", "hand": "L", "size": "n/a", "kg": 70}
    rows = [first | {"gf": 5, "N": -1.5, "dx": 1}, second | {"gf": "", "dx": 9}]
    write_cohort(Path("A"), rows, [f"sub-{at}/anat/sub-{at}_T1w.nii.gz" for at in ("01", "02")])
    mapping = {
        **{"age": "Age_MRI", "sex": "gender", "sex_codes": "1=1, 2=0"},
        **{"handedness": "hand", "handedness_codes": "R=0,L=1,both=n/a", "height": "size", "height_unit": "cm"},
        **{"weight": "kg", "fluid_intelligence": "gf", "neuroticism": "N", "diagnosis": "dx"},
        **{"diagnosis_codes": "1=MCI,9=n/a"},
    }
    table, _, _ = read_one(**mapping)
    one, two = table.loc["A_01"], table.loc["A_02"]
    assert one[["age", "sex", "fluid_intelligence", "neuroticism"]].tolist() == [30, 0, 5, -1.5]
    assert one["bmi"] == pytest.approx(25.0) and one["diagnosis"] == "MCI" and pd.isna(one["handedness"])
    assert two[["sex", "handedness"]].tolist() == [1, 1]
    assert two[["bmi", "fluid_intelligence", "neuroticism", "diagnosis"]].isna().all()


def test_tables_of_windows_are_read():
    write_cohort(Path("A"), people(5))
    path = Path("A/participants.tsv")
    text = path.read_text().replace("sub-", "").replace("\tage\t", "\tAge\t")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert ages() == [21, 22, 23, 24, 25]


def test_of_a_wide_table_only_the_columns_in_use_are_kept():
    write_cohort(Path("A"), [row | {f"item{at}": at for at in range(300)} for row in people(3)])
    assert ages() == [21, 22, 23]
    lines = refused(bmi="item3x")
    assert "did you mean 'item3'?" in lines[0], "the others are still known by name"


def test_a_column_with_decimal_commas_is_read():
    write_ages("23,5", "24,125", "25", "n/a")
    table, _, notes = read_one()
    assert table["age"].tolist()[:3] == [23.5, 24.125, 25] and math.isnan(table["age"].iloc[3])
    assert notes == ["A: 2 numbers have a decimal comma"]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (["23,512", "24,125"], "could be decimal ones or mark off thousands"),
        (["23,5", "24.5"], "a point and with a comma"),
        (["1.234,5"], "a point and with a comma"),
        (["1,234,567", "23,5"], "mark off thousands"),
    ],
)
def test_a_column_whose_commas_are_not_clear_is_refused(column, problem):
    write_cohort(Path("A"), [row | {"N": text} for row, text in zip(people(len(column)), column, strict=True)])
    lines = refused(neuroticism="N")
    assert all("A/participants.tsv: line" in line and "column N" in line for line in lines)
    assert problem in lines[0] or "is no number" in lines[0]
    assert problem in comma_problem(column)


def test_sessions_share_their_decision_and_participants_have_their_own():
    write_cohort(Path("A"), people(2), [])
    write_visits({"1": None, "2": None}, "01", age={"1": "70,125", "2": "71,250"})
    write_visits({"1": None, "2": None}, "02", age={"1": "70,5", "2": "71,25"})
    assert ages() == [70.125, 71.25, 70.5, 71.25], "one file alone would not be clear"


@given(st.lists(st.decimals(0, 99999, places=3), min_size=1, max_size=20), st.booleans())
def test_commas_are_read_only_where_no_other_reading_fits(numbers, thousands):
    """A column written by a program, with decimal commas or with thousands marked off, is never read as the other."""
    if thousands:
        texts = [f"{int(number):,}" for number in numbers]
        assert comma_problem(texts) or not any("," in text for text in texts)
        return
    texts = [str(number).replace(".", ",") for number in numbers]
    if comma_problem(texts) is not None:
        assert all(1 <= len(text.partition(",")[0]) <= 3 for text in texts), "it could be thousands"


def test_ages_in_other_units():
    write_ages("240", "246")
    assert ages(age_unit="months") == [20, 20.5]
    assert "if the column has months, say so as age_unit" in refused()[0]
    Path("A/participants.json").write_text(json.dumps({"age": {"Description": "at scan", "Units": "Months"}}))
    table, _, notes = read_one()
    assert table["age"].tolist() == [20, 20.5] and notes == [
        "A: ages of participants are in months, by participants.json"
    ]
    Path("A/participants.json").write_text('\ufeff{"age": {"Units": "year(s)"}}')
    assert len(refused()) == 2
    Path("A/participants.json").write_text('{"age": {"Units": "decades"}}')
    assert "participants.json: age, Units: 'decades' is no unit of an age" in refused()[0]
    Path("A/participants.json").write_text("{")
    assert "participants.json: it is not JSON" in "".join(refused()) and ages(age_unit="months") == [20, 20.5]


def test_units_of_sessions_are_their_own_or_those_of_participants():
    write_cohort(Path("A"), [{"participant_id": "sub-01", "age": 240}], [])
    write_visits({"1": None, "2": None}, age={"1": 240, "2": 252})
    Path("A/participants.json").write_text('{"age": {"Units": "months"}}')
    assert ages() == [20, 21]
    Path("A/sessions.json").write_text('{"age": {"Units": "weeks"}}')
    assert ages() == pytest.approx([240 * 7 / 365.2425, 252 * 7 / 365.2425])


@pytest.mark.parametrize("word", ["years", "Year", "yr", "yrs", "y", "months", "mo", "weeks", "days", "Day(s)"])
def test_words_for_units(word):
    assert unit_named(word) == UNITS[word.lower().replace("(s)", "").removesuffix("s")]
    assert unit_named(f"{word}ish") is None


def test_ages_with_an_upper_bound_are_kept_and_noted():
    write_ages("89+", "> 89", ">=90", "≥ 90", "88")
    table, _, notes = read_one()
    assert table["age"].tolist() == [89, 89, 90, 90, 88]
    assert notes == ["A: 4 values of age have an upper bound, as 89+, and are taken as that number"]
    assert uncapped("89+") == "89" and uncapped("20-25") == "20-25"
    change("A/participants.tsv", "89+", "90-85")
    assert "'90-85' is no number" in refused()[0]


def test_the_time_between_scans_makes_ages_of_one():
    """Dates may be shifted, as anonymised ones are: only their differences count."""
    write_cohort(Path("A"), [{"participant_id": f"sub-0{at}", "age": 70} for at in (1, 2, 3)], [])
    write_visits({"a": "1877-03-01T09:00:00", "b": "1879-03-01T23:59:59.000000", "c": None}, "01")
    write_visits({"a": "1900-01-01", "b": "1901-01-01"}, "02", age={"a": 71, "b": "n/a"})
    write_visits({"a": "1930-01-01"}, "03")
    table, _, notes = read_one()
    two_years = 730 / 365.2425
    assert table["age"].tolist() == pytest.approx([70, 70 + two_years, 70, 71, 71 + 365 / 365.2425, 70])
    assert notes == [
        "A: 1 image of a person with several sessions has the one age of participants.tsv; ages per session belong "
        "into sub-*/sub-*_sessions.tsv, or days into scans.tsv",
        "A: 3 ages are those of another session, or of participants.tsv, plus the time between the scans",
    ]


def test_the_first_day_is_that_of_any_scan_of_the_person():
    write_cohort(Path("A"), [{"participant_id": "sub-01", "age": 10}], [])
    write_visits({"b": "2001-01-01", "c": "2002-01-01"})
    Path("A/sub-01/ses-a").mkdir()
    rows = [{"filename": "func/sub-01_ses-a_task-rest_bold.nii.gz", "acq_time": "2000-01-01T10:00:00"}]
    write_rows(Path("A/sub-01/ses-a/sub-01_ses-a_scans.tsv"), rows)
    assert ages() == pytest.approx([10 + 366 / 365.2425, 10 + 731 / 365.2425])


def test_a_session_that_comes_later_changes_no_age():
    write_cohort(Path("A"), [{"participant_id": "sub-01", "age": 10}], [])
    write_visits({"b": "2001-01-01"})
    (Path("A/sub-01/ses-a")).mkdir()
    rows = [{"filename": "func/sub-01_ses-a_task-rest_bold.nii.gz", "acq_time": "2000-01-01T10:00:00"}]
    write_rows(Path("A/sub-01/ses-a/sub-01_ses-a_scans.tsv"), rows)
    alone = ages()
    write_visits({"c": "2002-01-01"})
    assert ages()[:1] == alone == pytest.approx([10 + 366 / 365.2425])


def test_days_of_sessions_tables_and_of_a_table_beside_the_sessions():
    write_cohort(Path("A"), [{"participant_id": f"sub-0{at}", "age": 10} for at in (1, 2)], [])
    write_visits({"1": None, "2": None}, "01")
    rows = [{"session_id": f"ses-{at}", "acq_time": f"200{at}-01-01T00:00:00"} for at in (1, 2)]
    write_rows(Path("A/sub-01/sub-01_sessions.tsv"), rows)
    write_visits({"1": None, "2": None}, "02")
    rows = [
        {"filename": f"ses-{at}/anat/sub-02_ses-{at}_T1w.nii.gz", "acq_time": f"200{at}-01-01T00:00:00"}
        for at in (1, 2)
    ]
    write_rows(Path("A/sub-02/sub-02_scans.tsv"), rows)
    assert ages() == pytest.approx([10, 10 + 365 / 365.2425] * 2)


def test_a_day_of_birth_and_the_day_of_the_scan_make_an_age():
    rows = [
        {"participant_id": f"sub-0{at}", "age": 1, "dob": born} for at, born in enumerate(("1950-06-15", "1950"), 1)
    ]
    write_cohort(Path("A"), rows, [])
    for label in ("01", "02"):
        write_visits({"1": "2000-06-15T08:00:00"}, label)
    table, _, notes = read_one(birth_date="dob")
    assert table["age"].tolist() == pytest.approx([50.0, 50 - 17 / 365.2425], abs=0.003)
    assert notes == ["A: 2 ages are the time between birth_date and the day of the scan"]
    assert ages() == [1, 1], "a column of that kind is not used unasked"
    change("A/participants.tsv", "1950-06-15", "1850-06-15")
    assert "1850-06-15 and a scan on 2000-06-15 make an age of 150" in refused(birth_date="dob")[0]
    change("A/participants.tsv", "1850-06-15", "15.6.1950")
    assert "'15.6.1950' is no date; write it as 1950-06-15" in refused(birth_date="dob")[0]


def test_times_that_are_no_dates_say_nothing():
    write_cohort(Path("A"), [{"participant_id": "sub-01", "age": 70}], [])
    write_visits({"a": "13:45:43.070000", "b": "n/a"})
    table, _, notes = read_one()
    assert table["age"].tolist() == [70, 70]
    assert "A: 1 acquisition times of scans.tsv are no dates, and say nothing" in notes
    assert day_of("2001-02-30") is None and day_of("2001-02-28T10:00:00Z") == date(2001, 2, 28)
    assert birth_day("1950-06") == date(1950, 6, 15) and birth_day("06/1950") is None


def test_days_that_make_an_impossible_age_are_refused():
    write_cohort(Path("A"), [{"participant_id": "sub-01", "age": 70}], [])
    write_visits({"a": "1900-01-01", "b": "2000-01-01"})
    assert "by the days of its scans sub-01 would be 170 years old" in refused()[0]


@pytest.mark.parametrize("shift", [0, 1, 17, 36_000])
def test_shifting_all_days_of_a_person_changes_no_age(shift):
    write_cohort(Path("A"), [{"participant_id": "sub-01", "age": 70}], [])
    days = [date(1901, 1, 1) + timedelta(days=shift + after) for after in (0, 400, 1000)]
    write_visits({str(at): day.isoformat() for at, day in enumerate(days, 1)})
    assert ages() == pytest.approx([70, 70 + 400 / 365.2425, 70 + 1000 / 365.2425])


def write_phenotype(name, rows):
    write_rows(Path(f"A/phenotype/{name}.tsv"), rows)


def test_a_column_of_a_phenotype_file_is_read_by_its_name():
    write_cohort(Path("A"), people(3))
    write_phenotype("neo", [{"participant_id": f"sub-0{at}", "total": 10 * at} for at in (1, 2)])
    write_phenotype("other", [{"participant_id": "sub-01", "total": 5}])
    assert read_one(neuroticism="phenotype/neo.tsv:total")[0]["neuroticism"].tolist()[:2] == [10, 20]
    assert (
        "stands in several phenotype files (phenotype/neo.tsv, phenotype/other.tsv)" in refused(neuroticism="total")[0]
    )
    assert "phenotype/neo.tsv has no column 'sum'" in refused(neuroticism="phenotype/neo.tsv:sum")[0]
    assert "A/phenotype/no.tsv: there is no such phenotype file" in refused(neuroticism="phenotype/no.tsv:total")[0]
    for outside in ("../B/participants.tsv:age", "/etc/x.tsv:age", "phenotype/../../x.tsv:age"):
        assert "leads out of the data set" in refused(neuroticism=outside)[0]


def test_phenotype_files_are_searched_for_what_participants_lack_but_an_age():
    write_cohort(Path("A"), [{"participant_id": "sub-01", "sex": "F"}])
    write_phenotype("vitals", [{"participant_id": "01", "bmi": "22,5", "age": 50, "sex": "M"}])
    table, _, notes = read_one()
    assert table.loc["A_01", ["bmi", "sex"]].tolist() == [22.5, 0] and pd.isna(table.loc["A_01", "age"])
    assert "A: bmi is the column 'bmi' of phenotype/vitals.tsv" in notes
    assert read_one(age="phenotype/vitals.tsv:age")[0]["age"].tolist() == [50], "where it is asked for, it is taken"
    write_phenotype("more", [{"participant_id": "01", "bmi": 23}])
    table, _, notes = read_one()
    assert pd.isna(table.loc["A_01", "bmi"])
    assert any("stands in phenotype/more.tsv, phenotype/vitals.tsv" in note for note in notes)


def test_a_phenotype_row_of_a_session_is_that_sessions():
    write_cohort(Path("A"), people(1), [])
    write_visits({"1": None, "2": None, "3": None})
    rows = [{"participant_id": "sub-01", "session_id": f"ses-{at}", "score": at} for at in (1, 2)]
    write_phenotype("g", rows)
    scores = read_one(fluid_intelligence="phenotype/g.tsv:score")[0]["fluid_intelligence"]
    assert scores.tolist()[:2] == [1, 2] and math.isnan(scores.iloc[2])
    write_phenotype("g", [*rows, rows[0]])
    assert "participant and session has a row already, in line 2" in refused(fluid_intelligence="score")[0]


# --- columns, words and codes that a cohort writes in its own way -------------------------------------


def test_columns_that_nothing_names_are_listed_and_loudest_if_patients_would_pretrain():
    """51 patients in a column `group` pretrained as healthy people, in silence."""
    rows = [
        {"participant_id": f"sub-{at:02d}", "age": 30 + at, "gender": "F", "group": "depr" if at < 3 else "control"}
        for at in range(1, 7)
    ]
    write_cohort(Path("A"), rows)
    _, _, notes = read_one(roles="pretraining")
    assert notes[0].startswith("ATTENTION: A pretrains, and nobody in it has a diagnosis")
    assert "group (control 4, depr 2)" in notes[0]
    assert "gender (F 6)" in notes[1] and "nothing names" in notes[1]
    _, _, notes = read_one(roles="pretraining", diagnosis="group", diagnosis_codes="control=HC,depr=MDD", sex="gender")
    assert not any("nothing names" in note or "ATTENTION" in note for note in notes)
    _, _, notes = read_one(roles="holdout", ignored="group, gender")
    assert not any("nothing names" in note for note in notes)


def test_many_columns_are_listed_briefly():
    rows = [{"participant_id": "sub-01", "age": 30} | {f"score_{at}": at for at in range(500)} | {"group": "x"}]
    write_cohort(Path("A"), rows)
    _, _, notes = read_one(roles="holdout")
    [note] = [note for note in notes if "nothing names" in note]
    assert "group (x 1)" in note and "and 489 more" in note and len(note) < 700


def test_a_column_is_switched_off():
    write_cohort(Path("A"), [{"participant_id": f"sub-{at:02d}", "age": 30, "handedness": 97} for at in (1, 2)])
    assert "no handedness" in refused()[0]
    table, _, _ = read_one(handedness="-")
    assert table["handedness"].isna().all() and table["age"].eq(30).all()


def test_words_for_missing_hold_for_their_column():
    rows = [("999", "-9"), ("NaN", "2"), ("41", "NaN")]
    rows = [{"participant_id": f"sub-{at:02d}", "age": age, "neuroticism": n} for at, (age, n) in enumerate(rows, 1)]
    write_cohort(Path("A"), rows)
    table, _, _ = read_one(missing="NaN, age:999, neuroticism:-9")
    assert table["age"].tolist()[2] == 41 and table["age"].isna().tolist() == [True, True, False]
    assert table["neuroticism"].isna().tolist() == [True, False, True]
    assert any("'999'" in line or "999 is no age" in line for line in refused(missing="NaN, neuroticism:-9"))


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("35-40", 37.5),
        ("35 – 40", 37.5),
        ("30 years", 30),
        ("031Y", 31),
        ("18 months", 1.5),
        ("52w", 52 * 7 / 365.2425),
    ],
)
def test_ranges_and_ages_with_their_unit_are_read_and_counted(text, years):
    write_ages(text, 50)
    table, _, notes = read_one()
    assert table["age"].tolist() == [pytest.approx(years), 50]
    assert any("1 ages" in note for note in notes)


@pytest.mark.parametrize("text", ["40-35", "3 apples", "200-300", "30-", "400 years"])
def test_what_only_looks_like_an_age_is_refused(text):
    write_ages(text)
    assert text in refused()[0]


def test_ages_stand_in_a_column_per_session():
    rows = [{"participant_id": "sub-01", "AgeMRI_W1": 60.5, "AgeMRI_W2": 64, "AgeMRI_W3": "n/a"}]
    write_cohort(Path("A"), rows, [])
    write_visits({"W1": None, "W2": None, "W3": None})
    table, _, _ = read_one(age="W1=AgeMRI_W1,W2=AgeMRI_W2,W3=AgeMRI_W3")
    assert table["age"].tolist()[:2] == [60.5, 64] and math.isnan(table["age"].tolist()[2])
    assert "W2=AgeMRI_W2" in refused(age="W1=AgeMRI_W1,w02=AgeMRI_W2")[0]  # the images are in ses-W2
    assert "W1 stands there twice" in refused(age="W1=AgeMRI_W1,W1=AgeMRI_W2")[0]
    assert "a session or its column is missing" in refused(age="W1=,W2=AgeMRI_W2")[0]
    _, _, notes = read_one(age="W1=AgeMRI_W1")
    assert any("no age of sessions that are imaged: ses-W2 (1), ses-W3 (1)" in note for note in notes)
    [line] = refused(age="W1=AgeMRI_V1,W2=AgeMRI_W2")
    assert "no column 'AgeMRI_V1'" in line and "did you mean 'AgeMRI_W1'" in line


def test_a_score_of_handedness_is_coded_by_limits():
    rows = [{"participant_id": f"sub-{at:02d}", "handedness": score} for at, score in enumerate((-100, 0, 3.5, 97), 1)]
    write_cohort(Path("A"), rows)
    table, _, _ = read_one(handedness_codes="<0=1,>0=0,0=n/a")
    assert table["handedness"].tolist()[0] == 1 and table["handedness"].tolist()[2:] == [0, 0]
    assert math.isnan(table["handedness"].astype(float).tolist()[1])
    [line] = refused(handedness_codes="<40=1,>-40=0")
    assert "<40 and >-40 both hold for 0" in line


def test_scores_without_limits_are_one_line_and_scores_with_commas_are_read():
    rows = [{"participant_id": f"sub-{at:02d}", "handedness": f"{4 * at - 50},5"} for at in range(1, 31)]
    write_cohort(Path("A"), rows)
    [line] = refused()
    assert "the number -46,5 is no handedness" in line and "30 such cells" in line
    assert read_one(handedness_codes="<0=1,>0=0")[0]["handedness"].tolist() == [1] * 12 + [0] * 18


def test_a_value_with_two_meanings_is_refused():
    write_cohort(Path("A"), people(1))
    assert "1 stands there twice" in refused(diagnosis_codes="1=HC,2=AD,1=MCI")[0]


@pytest.mark.parametrize(
    ("column", "values"),
    [("MDD", ("1", "0")), ("disorder", ("x", "y")), ("label2", ("PD", "healthy controls")), ("grupo", ("1", "2")),
     ("gruppe", ("1", "2")), ("enfermedad", ("si", "no")), ("rol", ("a", "controles")), ("type", ("b", "témoin"))],
)  # fmt: skip
def test_patients_are_loudest_whatever_their_column_is_called(column, values):
    write_cohort(Path("A"), [{"participant_id": f"sub-{at:02d}", column: text} for at, text in enumerate(values)])
    assert read_one(roles="pretraining")[2][0].startswith("ATTENTION: A pretrains")


@pytest.mark.parametrize(
    ("words", "note"),
    [(("n/a", "n/a"), "ATTENTION: A pretrains, and the column of its diagnosis holds nothing"),
     (("n/a", "AD"), "A: 1 of 2 images has no diagnosis, and counts as healthy")],
)  # fmt: skip
def test_a_missing_diagnosis_that_counts_as_healthy_is_said(words, note):
    write_cohort(Path("A"), [{"participant_id": f"sub-{at:02d}", "diagnosis": text} for at, text in enumerate(words)])
    assert any(said.startswith(note) for said in read_one(roles="pretraining")[2])
    assert not any("healthy" in said for said in read_one(roles="holdout")[2])


def test_a_wrong_value_is_one_line_however_often_it_occurs():
    rows = [
        {"participant_id": f"sub-{at:02d}", "age": 30, "diagnosis": "depr" if at % 2 else "ctrl"} for at in range(60)
    ]
    write_cohort(Path("A"), rows)
    lines = refused(diagnosis_codes="x=HC")
    assert len(lines) == 2
    assert "'ctrl'" in lines[0] and "30 times" in lines[0] and "it knows: x" in lines[0]
    assert "'depr'" in lines[1] and "line 3" in lines[1]
