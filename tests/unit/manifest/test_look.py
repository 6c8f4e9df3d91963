"""`look` describes a folder before there is a study; `init` writes one that compiles, its guesses as comments."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from data_sets import add_scan, people, write_cohort, write_rows
from neurotransfer.cli import main
from neurotransfer.errors import InputError
from neurotransfer.files import read_table
from neurotransfer.manifest.guesses import Guess
from neurotransfer.manifest.look import look, start_study


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def data_set(name, rows):
    write_cohort(Path(name), rows)
    return Path(name)


def patients(number):
    """As a public depression study has it: a group, a sex that only the sidecar explains, a score of handedness."""
    return [
        {
            "participant_id": f"sub-{at:02d}",
            "AgeAtScan": 20 + at,
            "gender": 1 + at % 2,
            "group": "depr" if at % 2 else "control",
            "hand": 100 - 7 * at,
        }
        for at in range(1, number + 1)
    ]


def guessed(rows, levels=None):
    root = data_set("G", rows)
    if levels:
        (root / "participants.json").write_text(json.dumps({name: {"Levels": has} for name, has in levels.items()}))
    return look(root).guesses


def test_columns_are_guessed_by_name_value_and_sidecar():
    found = guessed(patients(30), {"gender": {"1": "Male", "2": "Female"}})
    assert found["age"].column == "AgeAtScan"
    assert (found["sex"].column, set(found["sex"].codes.split(","))) == ("gender", {"1=1", "2=0"})
    assert found["handedness"] == Guess("hand", "<0=1,>0=0,0=n/a", "a score; negative is left-handed in the usual ones")
    assert set(found["diagnosis"].codes.split(",")) == {"depr=depr", "control=HC"}
    assert "depr 15, control 15" in found["diagnosis"].why


def test_what_nothing_explains_is_not_guessed():
    found = guessed(patients(6))
    assert found["sex"].column == "-" and "which nothing explains" in found["sex"].why
    many = [{"participant_id": f"sub-{at:02d}", "group": f"site {at}", "bmi": "tall"} for at in range(20)]
    assert guessed(many) == {"bmi": Guess("-", why="bmi has tall, which is no bmi")}


def test_words_for_missing_are_guessed_and_never_become_a_diagnosis(capsys):
    rows = [
        {"participant_id": f"sub-{at:02d}", "age": (999, 30)[at % 9 > 0], "group": ("AD", "HC", "NA")[at % 3]}
        for at in range(1, 91)
    ]
    root = data_set("P", rows)
    found = look(root).guesses
    assert found["age"].missing == ("999",) and found["diagnosis"].missing == ("NA",)
    assert main(["init", str(root), "--directory", "study"]) == 0
    assert "age:999, diagnosis:NA" in Path("study/cohorts.tsv").read_text()
    assert main(["manifest", "--directory", "study", "--configfile", "study/my-study.yaml"]) == 0


def test_numbers_as_diagnoses_stay_text_and_two_words_stay_two():
    rows = [{"participant_id": f"sub-{at:02d}", "age": 30, "group": str(at % 2)} for at in range(60)]
    start_study([data_set("P", rows), data_set("Q", people(30))], Path("study"), lambda *_: [20])
    task = yaml.safe_load(Path("study/my-study.yaml").read_text())["tasks"]["p_0"]
    assert (task["positive"], task["negative"]) == (["0"], ["1"])
    assert "0=0,1=1" in Path("study/cohorts.tsv").read_text()
    rows = [{"participant_id": f"sub-{at:02d}", "group": ("a b", "a-b", "control")[at % 3]} for at in range(9)]
    assert guessed(rows)["diagnosis"].codes == "a b=a_b,a-b=a_b_2,control=HC"


@pytest.mark.parametrize("word", ["depr, severe", "a=b", "\x1b[31mred"])
def test_a_word_that_no_code_can_hold_is_named_and_reaches_no_terminal(word):
    root = data_set("P", [{"participant_id": f"sub-{at:02d}", "group": (word, "control")[at % 2]} for at in range(60)])
    text = look(root).text()
    assert "whose comma, = or odd character no code can hold" in text and "\x1b" not in text
    start_study([root], Path("study"), lambda *_: [20])
    assert "\t-" in Path("study/cohorts.tsv").read_text()


@pytest.mark.parametrize(
    ("ages", "column", "unit", "why"),
    [(("young", "old"), "-", "", "which is no age"), (("201", "230"), "age", "months", "months assumed"),
     (("35-40", "89+"), "age", "", "2 values"), (("9000", "12000"), "age", "days", "days assumed")],
)  # fmt: skip
def test_ages_are_guessed_by_their_values(ages, column, unit, why):
    found = guessed([{"participant_id": f"sub-{at:02d}", "age": ages[at % 2]} for at in range(4)])["age"]
    assert (found.column, found.unit) == (column, unit) and why in found.why


def test_a_column_of_a_known_name_with_words_is_switched_off():
    rows = [row | {"BMI": "heavy" if at % 2 else "light"} for at, row in enumerate(patients(60))]
    root = data_set("P", rows)
    assert look(root).guesses["bmi"] == Guess("-", why="BMI has light, heavy, which is no bmi")
    assert main(["init", str(root), "--directory", "study"]) == 0
    assert main(["manifest", "--directory", "study", "--configfile", "study/my-study.yaml"]) == 0


def test_a_folder_that_can_be_no_cohort_is_refused_before_anything_is_written():
    root = data_set("P", people(5))
    (root / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    assert "no raw scans" in look(root).text()
    with pytest.raises(InputError, match="no raw scans"):
        start_study([root], Path("study"), lambda *_: [20])
    (root / "participants.tsv").unlink()
    with pytest.raises(InputError, match="a cohort needs it"):
        start_study([root], Path("study"), lambda *_: [20])
    assert not Path("study").exists()


def test_a_study_without_healthy_people_says_that_nobody_can_pretrain():
    rows = [{"participant_id": f"sub-{at:02d}", "diagnosis": ("AD", "FTD")[at % 2]} for at in range(90)]
    start_study([data_set("P", rows)], Path("study"), lambda *_: [20])
    assert "\tp_ad\t" in Path("study/cohorts.tsv").read_text()
    assert "# pretrain: {weights: FILE}" in Path("study/my-study.yaml").read_text()


def test_a_look_says_what_the_folder_holds():
    root = data_set("A", patients(4))
    add_scan(root / "sub-05/ses-2/anat/sub-05_ses-2_run-1_T1w.nii.gz")
    add_scan(root / "sub-06/anat/sub-06_t1w.nii.gz")
    write_rows(root / "phenotype/neo.tsv", [{"participant_id": "sub-01", "total": 3}])
    text = look(root).text()
    assert "5 T1-weighted images of 5 people" in text and "_run-* 1" in text
    assert "near_miss: 1 (first: " in text and "people without a row in participants.tsv: 2 (first: sub-05)" in text
    assert "phenotype/neo.tsv: participant_id, total" in text
    [line] = [line for line in text.splitlines() if line.startswith("group")]
    assert "depr 2, control 2" in line and line.endswith("diagnosis")
    with pytest.raises(InputError, match="no such folder"):
        look(Path("nowhere"))
    Path("empty").mkdir()
    assert "there is no participants.tsv" in look(Path("empty")).text()


@pytest.mark.parametrize("healthy", [True, False], ids=["with healthy people", "alone"])
def test_what_init_writes_compiles(healthy, capsys):
    rows = patients(60)
    folders = [data_set("clinic", rows)]
    (folders[0] / "participants.json").write_text(json.dumps({"gender": {"Levels": {"1": "Male", "2": "Female"}}}))
    if healthy:
        folders.append(data_set("healthy-1", people(30)))
    assert main(["init", *map(str, folders), "--directory", "study"]) == 0
    table = Path("study/cohorts.tsv").read_text()
    assert "# clinic: diagnosis: group" in table and "# clinic: sex: gender, codes" in table
    here = Path.cwd()
    assert main(["manifest", "--directory", "study", "--configfile", "study/my-study.yaml"]) == 0
    images = read_table(here / "study/results/manifest/images.tsv")
    assert set(images["cohort"]) == ({"clinic", "healthy1"} if healthy else {"clinic"})
    assert images[images["cohort"] == "clinic"][["age", "sex", "handedness"]].notna().mean().min() > 0.9
    assert set(images["diagnosis"].dropna()) == {"HC", "depr"}
    assert main(["init", str(here / folders[0]), "--directory", str(here / "study")]) == 2
    assert "it is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("patients", "controls", "n", "share"), [(51, 21, [50], 0.2), (30, 14, [20], 0.5), (60, 3, None, None)]
)
def test_a_rare_class_gets_sets_that_can_be_drawn_and_one_that_is_too_rare_no_task(patients, controls, n, share):
    """Of 30 patients and 9 controls, which are left of 14, a set of four rarely holds two of each."""
    rows = [
        {"participant_id": f"sub-{at:02d}", "age": 20 + at % 30, "group": "control" if at < controls else "depr"}
        for at in range(patients + controls)
    ]
    assert main(["init", str(data_set("clinic", rows)), "--directory", "study"]) == 0
    written = yaml.safe_load(Path("study/my-study.yaml").read_text())
    assert written.get("resampling") == (n and {"n": n, "validation_share": share, "test_share": share})
    if n:
        assert main(["manifest", "--directory", "study", "--configfile", "study/my-study.yaml"]) == 0


def test_controls_are_counted_whole_if_another_cohort_pretrains():
    folders = [data_set("clinic", patients(60)), data_set("healthy", people(30))]
    counted = []
    for chosen in (folders, folders[:1]):
        start_study(chosen, Path(f"study{len(chosen)}"), lambda *asked: counted.append(asked[:2]) or [20])
    [positive, negative], alone = counted
    assert positive + negative == 60 and alone == (positive, int(0.7 * negative))


def test_images_that_datalad_has_not_fetched_are_named_with_the_command_that_fetches_them_all():
    root = data_set("cloned", people(3))
    for image in root.rglob("*_T1w.nii.gz"):
        image.unlink()
        image.symlink_to("../../.git/annex/objects/Zv/WQ/MD5E-s3--e6.nii.gz/MD5E-s3--e6.nii.gz")
    assert "to fetch them all: cd cloned && datalad get sub-*/anat" in look(root).text()
    with pytest.raises(InputError, match="are not here; fetch them: cd cloned && datalad get"):
        start_study([root], Path("study"), lambda *_: [20])


def test_a_sidecar_that_cannot_be_read_is_named_and_the_rest_is_shown():
    root = data_set("B", patients(4))
    (root / "participants.json").write_bytes(b"{")
    text = look(root).text()
    assert "participants.json: it is not JSON" in text and "age: AgeAtScan" in text


def test_two_folders_of_one_name_and_a_folder_without_images():
    for parent in ("a", "b"):
        data_set(f"{parent}/bids", people(30))
    start_study([Path("a/bids"), Path("b/bids")], Path("study"), lambda *_: [20])
    lines = [line for line in Path("study/cohorts.tsv").read_text().splitlines() if not line.startswith("#")]
    assert [line.split("\t")[0] for line in lines] == ["cohort", "bids", "bids2"]
    Path("none").mkdir()
    with pytest.raises(InputError, match="no T1-weighted image"):
        start_study([Path("none")], Path("other"), lambda *_: [20])
    assert not Path("other").exists()


UNTIDY = ("Patient", "patient ", "PATIENT", "Kontrolle", "kontrolle", "n/a")


def german(number):
    """As a German clinic keeps its table: decimal commas, words in several spellings, accents."""
    return [
        {"participant_id": f"sub-{at:03d}", "Alter (Jahre)": f"{20 + at},5", "Geschlecht": ("w", "männlich")[at % 2],
         "Gruppe": UNTIDY[at % 6], "Händigkeit": ("rechts", "links")[at % 9 == 0], "BDI_Summe": f"{at % 30},25"}
        for at in range(1, number + 1)
    ]  # fmt: skip


def test_a_german_table_is_understood_and_spellings_of_a_word_are_one_diagnosis(capsys):
    root = data_set("Klinik-München", german(90))
    text = look(root).text()
    assert "21.5 to 110.5 (decimal commas)" in text and "0.25 to 29.25 (decimal commas)" in text
    found = look(root).guesses
    assert {name: guess.column for name, guess in found.items()} == {
        "age": "Alter (Jahre)", "sex": "Geschlecht", "handedness": "Händigkeit", "diagnosis": "Gruppe"
    }  # fmt: skip
    codes = dict(pair.split("=") for pair in found["diagnosis"].codes.split(","))
    assert codes["Kontrolle"] == codes["kontrolle"] == "HC"
    assert len({codes[word] for word in ("Patient", "patient", "PATIENT")}) == 1
    assert "capitals make no difference" in found["diagnosis"].why
    assert main(["init", str(root), "--directory", "study"]) == 0
    assert "\nKlinikMunchen\t" in Path("study/cohorts.tsv").read_text()
    assert main(["manifest", "--directory", "study", "--configfile", "study/my-study.yaml"]) == 0
    assert "positive and negative participants by cohort: KlinikMunchen 45 and " in capsys.readouterr().out


@pytest.mark.parametrize("word", ["unhealthy", "abnormal", "atypical", "uncontrolled", "no longer healthy", "ungesund"])
def test_people_who_are_not_healthy_are_not_taken_for_controls(word):
    rows = patients(90)
    for at, row in enumerate(rows):
        row["diagnosis"] = ("healthy", word, "AD")[at % 3]
    guess = look(data_set("P", rows)).guesses["diagnosis"]
    codes = dict(pair.split("=") for pair in guess.codes.split(","))
    assert codes["healthy"] == "HC" and len(set(codes.values())) == 3


@pytest.mark.parametrize("column", ["agent", "age at onset", "age of father", "Alter bei Erkrankung", "edad de inicio"])
def test_an_age_of_something_else_than_the_scan_is_no_age(column):
    rows = [{**row, column: row["age"]} for row in people(20)]
    for row in rows:
        del row["age"]
    assert "age" not in look(data_set("P", rows)).guesses


def test_commas_that_could_mark_off_thousands_are_said_beside_the_guess():
    rows = people(20)
    for at, row in enumerate(rows):
        row["age"] = f"{7 + at},300"
    assert "could be decimal ones or mark off thousands" in look(data_set("P", rows)).guesses["age"].why


@pytest.mark.parametrize(("heights", "unit"), [(("1.7", "1,82"), "m"), (("170", "182,5"), "cm")])
def test_the_unit_of_a_height_goes_by_its_largest_value(heights, unit):
    rows = people(20)
    for at, row in enumerate(rows):
        row |= {"height": heights[at % 2], "weight": str(60 + at)}
    assert main(["init", str(data_set("P", rows)), "--directory", "study"]) == 0
    lines = [line.split("\t") for line in Path("study/cohorts.tsv").read_text().splitlines() if "\t" in line]
    assert dict(zip(*lines, strict=True))["height_unit"] == unit


def test_init_without_a_task_says_what_to_write(capsys):
    assert main(["init", str(data_set("H", people(30))), "--directory", "study"]) == 0
    said = capsys.readouterr().out
    assert "no task was found" in said and "docs/bids.md" in said
    assert said.rstrip().endswith("then: neurotransfer manifest --directory study --configfile study/my-study.yaml")
    assert "#   positive: [Patient]" in Path("study/my-study.yaml").read_text()
    os.chdir("study")
    Path("cohorts.tsv").unlink()
    Path("my-study.yaml").unlink()
    assert main(["init", "../H"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("then: neurotransfer manifest --configfile my-study.yaml")


def test_too_few_people_for_a_task_are_said_with_their_numbers(capsys):
    assert main(["init", str(data_set("H", patients(12)))]) == 0
    said = capsys.readouterr().out
    assert "note: H: its 6 people with depr and 6 with HC are too few for 20 training images" in said
    assert "no task was found" not in said


def test_a_diagnosis_that_no_code_can_hold_lets_nobody_pretrain(capsys):
    rows = patients(90)
    for at, row in enumerate(rows):
        row["group"] = ("HC", "MDD", "MDD, anxiety")[at % 3]
    assert main(["init", str(data_set("P", rows))]) == 0
    assert "note: P: its diagnosis is not read (group has 'MDD, anxiety'" in capsys.readouterr().out
    lines = [line.split("\t") for line in Path("cohorts.tsv").read_text().splitlines() if "\t" in line]
    assert dict(zip(*lines, strict=True))["roles"] == "holdout"


def test_a_folder_that_is_given_twice_is_refused():
    data_set("P", people(10))
    with pytest.raises(InputError, match="it is given twice"):
        start_study([Path("P"), Path("../", Path.cwd().name, "P")], Path("study"), lambda *_: [20])


def test_a_sex_is_found_by_its_words_and_its_codes_are_explained():
    rows = [{"participant_id": f"sub-{at:02d}", "age": 30 + at, "Gendr": ("male", "F", "m")[at % 3]} for at in range(9)]
    assert look(data_set("P", rows)).guesses["sex"].column == "Gendr"
    rows = [{**row, "sex": 1 + at % 2} for at, row in enumerate(people(9))]
    assert "sex_codes, as 1=1,2=0 if 1 is male" in look(data_set("Q", rows)).guesses["sex"].why


def test_a_look_at_no_image_and_at_a_file_says_what_is_expected():
    root = data_set("Empty", people(1))
    shutil.rmtree(root / "sub-01")
    assert "no image was found: a folder sub-LABEL/anat" in look(root).text()
    with pytest.raises(InputError, match="it is a file; give the folder"):
        look(root / "participants.tsv")


@pytest.mark.parametrize("separator", [";", ",", " "])
def test_a_table_that_is_not_separated_by_tabs_is_said_to_be_so(separator, capsys):
    assert main(["init", str(data_set("P", patients(90))), "--directory", "study"]) == 0
    path = Path("study/cohorts.tsv")
    path.write_text(path.read_text().replace("\t", separator))
    assert main(["manifest", "--directory", "study", "--configfile", "study/my-study.yaml"]) == 2
    error = capsys.readouterr().err
    assert "its header has no tab: 'cohort" in error and "separate the columns by tabs" in error
    assert error.count("\n") == 1


def test_a_diagnosis_in_another_spelling_is_named_with_those_that_there_are(capsys):
    assert main(["init", str(data_set("P", patients(90))), "--directory", "study"]) == 0
    path = Path("study/my-study.yaml")
    path.write_text(path.read_text().replace("positive: [depr]", "positive: [Depr]"))
    assert main(["manifest", "--directory", "study", "--configfile", str(path)]) == 2
    assert "tasks.p_depr.positive: no image of its cohorts has the diagnosis 'Depr'; there are: depr 45, HC" in (
        capsys.readouterr().err
    )


def test_a_quote_that_never_ends_is_found_in_the_line_where_it_begins():
    root = data_set("P", patients(20))
    path = root / "participants.tsv"
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace("\t", '\t"', 1)
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 6: not a table"):
        look(root)


def test_a_look_says_what_is_amiss_with_the_rows():
    root = data_set("P", people(12))
    table = root / "participants.tsv"
    text = table.read_text()
    table.write_text(text.replace("sub-0", ""))
    assert "(first: sub-01 (it has sub-1: have its leading zeros been lost?))" in look(root).text()
    table.write_text(text.replace("participant_id", "subject"))
    assert "has no column participant_id; if subject has the labels, rename it" in look(root).text()
    table.write_text(text + text.splitlines()[3] + "\n")
    assert "people with several rows in participants.tsv: 1 (first: sub-03): give each one row" in look(root).text()
    assert "several rows" not in look(data_set("Q", people(12))).text()


def test_lost_leading_zeros_are_said_with_what_is_left_out_and_with_what_then_fails(capsys):
    rows = patients(90)
    root = data_set("P", rows)
    table = root / "participants.tsv"
    table.write_text(table.read_text().replace("sub-0", ""))
    assert main(["init", str(root), "--directory", "study"]) == 0
    file = Path("study/my-study.yaml")
    assert main(["manifest", "--directory", "study", "--configfile", str(file)]) == 0
    said = capsys.readouterr().out
    note = "P: 9 images left out: participants.tsv writes the labels otherwise, such as: "
    note += "participants.tsv has no row sub-01"
    assert f"note: {note} (it has sub-1: have its leading zeros been lost?)" in said
    assert "each file that is left out, and why: results/manifest/excluded.tsv" in said
    os.chdir("..")
    file.write_text(re.sub(r"n: \[.*?\]", "n: [500]", file.read_text()))
    assert main(["manifest", "--directory", "study", "--configfile", str(file)]) == 2
    error = capsys.readouterr().err
    assert "too small for n = 500" in error and note in error


def test_a_forgotten_configfile_is_hinted_at(capsys):
    assert main(["init", str(data_set("P", patients(90))), "--directory", "study"]) == 0
    assert main(["manifest", "--directory", "study"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].endswith("was this one meant: --configfile my-study.yaml")
    Path("my-study.yaml").rename("../mine.yaml")
    assert main(["manifest"]) == 2
    assert "was this one meant" not in capsys.readouterr().err
    Path("simulated.json").write_text("{}")
    assert main(["manifest"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("config/demo.yaml")
    os.chdir("..")  # `manifest` went into the study
    assert main(["manifest", "--directory", "study", "--configfile", "mine.yaml"]) == 0
    assert "--configfile" not in capsys.readouterr().err
