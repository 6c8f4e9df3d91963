"""What lies in BIDS folders becomes images and shards; whatever is wrong there is one line, and nothing is written."""

import itertools
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from data_sets import add_scan, change, images, lines_of, people, write_cohort, write_cohorts, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.files import read_facts, read_table
from neurotransfer.manifest.compile import COLUMNS, assign_shards, compile_manifest
from neurotransfer.split.pools import check_pools
from neurotransfer.study.configuration import load_config, merge
from neurotransfer.study.plan import read_study
from runs import REPOSITORY

SHARDS = Path("results/manifest/shards.tsv")


def test_a_study_is_compiled_into_images_and_shards(study):
    config, _ = study
    summary = compile_manifest(config, check_pools)
    table = images()
    assert len(table) == 80 and table["t1w"].map(lambda path: Path(path).is_file()).all()
    assert table.loc["A_01", ["participant_id", "age", "sex", "diagnosis"]].tolist() == ["A_01", 21, 1, "HC"]
    assert table["shard"].value_counts().to_dict() == {
        "A-0001": 8, "A-0002": 8, "A-0003": 4, **{f"B-{at:04d}": 8 for at in range(1, 8)}, "B-0008": 4
    }  # fmt: skip
    for shard, rows in table.groupby("shard"):
        written = read_table(f"results/manifest/shards/{shard}.tsv").set_index("image_id")
        pd.testing.assert_frame_equal(written, rows, check_dtype=False)
    plan = read_study(config)
    assert plan.cohorts_of("ad_hc") == ["B"] and plan.cohorts_of("pretraining") == ["A"]
    assert plan.shards["A-0003"].jobs == ["0000"] and plan.shards["A-0001"].jobs == ["0000", "0001"]
    assert read_facts(SHARDS)["pretraining_shares"] == {"A": 1.0, "B": 0.0}
    text = summary.text()
    assert text.splitlines()[1].split()[:3] == ["A", "20", "20"] and "100 %" in text and "11 shards" in text


def test_compiling_again_touches_no_file(study):
    config, _ = study
    compile_manifest(config, check_pools)
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.tsv")}
    assert compile_manifest(config, check_pools).written == 0
    assert {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.tsv")} == before


def test_images_of_cohorts_outside_the_tasks_need_no_volumes(study):
    """Unless their preprocessing has begun with volumes, a task takes them, or a quality limit needs statistics."""
    config, rows = study
    config["preprocessing"]["fastsurfer"]["volumes_of"] = "all"
    compile_manifest(config, check_pools)
    older = SHARDS.read_bytes()
    config["preprocessing"]["fastsurfer"]["volumes_of"] = "tasks"
    assert read_study(config).without_volumes == set()  # a manifest of an older version

    ledger = Path("results/preprocessed/A-0002/0001.tsv")
    ledger.parent.mkdir(parents=True)
    ledger.touch()
    compile_manifest(config, check_pools)
    assert SHARDS.read_bytes() == older

    ledger.unlink()
    compile_manifest(config, check_pools)
    ledger.touch()  # its preprocessing has begun without volumes
    compile_manifest(config, check_pools)
    assert read_study(config).without_volumes == {"A"}
    limited = merge_of(config, {"quality": {"exclude": {"contrast": {"min": 0.1}}}})
    for other in (limited, merge_of(config, {"preprocessing": {"engine": "builtin"}})):
        assert read_study(other).without_volumes == set()

    write_cohorts([rows[0] | {"roles": "pretraining, ad_hc", "pretraining_share": "0.5"}, rows[1]])
    summary = compile_manifest(config, check_pools)
    assert read_study(config).without_volumes == set()
    assert not ledger.exists()  # its jobs run again even if Snakemake has lost its record of them
    assert sum("regional volumes" in note for note in summary.notes) == 1
    ledger.touch()
    compile_manifest(config, check_pools)
    assert ledger.exists()


@pytest.mark.parametrize(("engine", "has_run"), [("fastsurfer", False), ("builtin", True), ("builtin", False)])
def test_volumes_that_come_later_are_no_news_if_no_job_repeats_without_the_network(study, engine, has_run):
    config, rows = study
    config["preprocessing"]["fastsurfer"]["volumes_of"] = "tasks"
    compile_manifest(config, check_pools)
    assert read_facts(SHARDS)["without_volumes"] == ["A"]
    if has_run:
        Path("results/preprocessed/A-0002").mkdir(parents=True)
        Path("results/preprocessed/A-0002/0001.tsv").touch()
    write_cohorts([rows[0] | {"roles": "pretraining, ad_hc", "pretraining_share": "0.5"}, rows[1]])
    summary = compile_manifest(merge_of(config, {"preprocessing": {"engine": engine}}), check_pools)
    assert not any("network" in note for note in summary.notes)


def merge_of(config: dict, changes: dict) -> dict:
    """A copy of a configuration with changes."""
    found: dict = {}
    merge(found, config)
    merge(found, changes)
    return found


def test_a_growing_study_leaves_its_shards_alone(study):
    config, rows = study
    compile_manifest(config, check_pools)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("results/manifest/shards").iterdir()}
    old = images()["shard"]
    write_cohort(Path("A"), [*people(20), {"participant_id": "sub-00", "age": 50, "sex": "F"}])
    write_cohort(Path("New"), people(9))
    write_cohorts([{"cohort": "New", "path": "New", "roles": "holdout"}, *rows])
    compile_manifest(config, check_pools)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}
    assert after == before
    new = images()["shard"]
    assert new[old.index].to_dict() == old.to_dict()
    assert new["A_00"] == "A-0004", "a new image of a known cohort gets a new shard"
    assert set(new.drop(old.index)) == {"A-0004", "New-0001", "New-0002"}


def test_growth_leaves_shards_alone_with_every_new_column_in_use(study):
    config, rows = study
    for at in range(1, 21):
        Path(f"A/deriv/sub-{at:02d}").mkdir(parents=True)
        name = f"sub-{at:02d}_ses-1_acq-fast_rec-norm_run-1"
        add_scan(Path(f"A/sub-{at:02d}/ses-1/anat/{name}_T1w.nii.gz"))
        Path(f"A/deriv/sub-{at:02d}_1").mkdir()
    write_rows(Path("A/phenotype/neo.tsv"), [row | {"N": "1,5"} for row in people(20)])
    more = {"t1w": "acq-fast, first", "derivatives": "deriv/sub-{participant}[_{session}]", "age_unit": "years"}
    rows = [rows[0] | more | {"neuroticism": "phenotype/neo.tsv:N"}, rows[1]]
    write_cohorts(rows)
    compile_manifest(config, check_pools)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("results/manifest/shards").iterdir()}
    table = images()
    assert table.loc["A_01_ses-1_acq-fast_rec-norm_run-1", ["acquisition", "reconstruction"]].tolist() == [
        "fast", "norm"
    ]  # fmt: skip
    assert (table.loc[table["cohort"] == "A", "neuroticism"] == 1.5).all()
    write_cohort(Path("A"), people(24), [f"sub-{at}/anat/sub-{at}_T1w.nii.gz" for at in (21, 22, 23, 24)])
    write_rows(Path("A/phenotype/neo.tsv"), [row | {"N": "1,5"} for row in people(24)])
    add_scan(Path("A/sub-01/ses-1/anat/sub-01_ses-1_acq-slow_T1w.nii.gz"))
    compile_manifest(config, check_pools)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert len(images()) == len(table) + 4, "the second image of a session is not taken"


def test_an_image_that_is_gone_leaves_the_others_where_they_are(study):
    config, _ = study
    compile_manifest(config, check_pools)
    Path("A/sub-03/anat/sub-03_T1w.nii.gz").unlink()
    for at in range(17, 21):
        Path(f"A/sub-{at}/anat/sub-{at}_T1w.nii.gz").unlink()
    assert "0 images are new, 5 are gone" in compile_manifest(config, check_pools).text()
    assert read_table("results/manifest/shards/A-0001.tsv")["image_id"].tolist() == [
        f"A_0{at}" for at in (1, 2, 4, 5, 6, 7, 8)
    ]
    assert read_table("results/manifest/shards/A-0003.tsv").empty, "an empty shard keeps its file, and so its number"
    assert "A-0003" not in read_study(config).shards
    add_scan(Path("A/sub-20/anat/sub-20_T1w.nii.gz"))
    compile_manifest(config, check_pools)
    assert images()["shard"]["A_20"] == "A-0004"


def test_a_cohort_that_comes_back_has_its_old_shards(study):
    config, rows = study
    write_cohort(Path("C"), people(5))
    with_c = [*rows, {"cohort": "C", "path": "C", "roles": "holdout"}]
    write_cohorts(with_c)
    compile_manifest(config, check_pools)
    before = {path: path.stat().st_mtime_ns for path in Path("results/manifest/shards").iterdir()}
    write_cohorts(rows)
    compile_manifest(config, check_pools)
    assert not [shard for shard in read_study(config).shards if shard.startswith("C")]
    write_cohorts(with_c)
    compile_manifest(config, check_pools)
    assert {path: path.stat().st_mtime_ns for path in Path("results/manifest/shards").iterdir()} == before


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=5), st.integers(1, 5))
def test_an_image_keeps_its_shard_whatever_comes_and_goes(waves, images_per_shard):
    places, numbers, ever = {}, {}, {}
    for wave in waves:
        names = sorted({f"A_{at:02d}" for at in wave})
        table = pd.DataFrame({"image_id": names, "cohort": "A"}, columns=["image_id", "cohort"])
        table = table.reindex(columns=[*table.columns, *(set(COLUMNS) - {"image_id", "cohort", "shard"})])
        assigned = assign_shards(table, places, numbers, images_per_shard)
        assert sorted(assigned["image_id"]) == names
        assert assigned["shard"].value_counts().max() <= 5 or not names
        now = dict(zip(assigned["image_id"], assigned["shard"], strict=True))
        assert all(places[name][0] == now[name] for name in now if name in places)
        for name, shard in now.items():
            assert shard not in ever or name in ever[shard], "a shard never gets an image later"
        for shard in set(now.values()):
            ever.setdefault(shard, {name for name in now if now[name] == shard})
        order = assigned.groupby("shard").cumcount()
        places = {name: (shard, at) for (name, shard), at in zip(now.items(), order, strict=True)}
        numbers["A"] = max([numbers.get("A", 0), *[int(shard[2:]) for shard in now.values()]])


WRONG = []


def spoils(change_something):
    """A change of the study that must be told in one line with the parts that the function returns."""
    WRONG.append(change_something)
    return change_something


@spoils
def no_folder(config, rows):
    os.rename("A", "elsewhere")
    return ["cohorts.tsv: line 2 (A), path: there is no folder A", "mount it, or correct the path"]


@spoils
def no_participants(config, rows):
    Path("A/participants.tsv").unlink()
    return ["A/participants.tsv", "the cohort has no participants.tsv", "write one"]


@spoils
def other_first_column(config, rows):
    change("A/participants.tsv", "participant_id", "subject")
    return ["A/participants.tsv: line 1", "no column 'participant_id' (it has: subject, age"]


@spoils
def age_of_230(config, rows):
    change("A/participants.tsv", "sub-03\t23", "sub-03\t230")
    return ["A/participants.tsv: line 4 (sub-03), column age", "230 is no age (0 to 120 years", "write n/a"]


@spoils
def age_missing_misspelt(config, rows):
    change("A/participants.tsv", "sub-03\t23", "sub-03\tN/A")
    return ["A/participants.tsv: line 4 (sub-03), column age", "'N/A' is no number", "n/a if it is missing"]


@spoils
def unknown_sex(config, rows):
    change("A/participants.tsv", "sub-03\t23\tM", "sub-03\t23\tW")
    return ["line 4 (sub-03), column sex", "'W' is no sex that the cohort's mapping knows", "sex_codes of A"]


@spoils
def unmapped_diagnosis(config, rows):
    write_cohorts([rows[0], rows[1] | {"diagnosis_codes": "1=AD"}])
    change("B/participants.tsv", "sub-03\t23\tM\tHC", "sub-03\t23\tM\t3")
    return ["B/participants.tsv: line 4 (sub-03), column diagnosis", "'3' is a diagnosis", "diagnosis_codes of B"]


@spoils
def diagnosis_missing_misspelt(config, rows):
    change("B/participants.tsv", "sub-03\t23\tM\tHC", "sub-03\t23\tM\tNA")
    return ["line 4 (sub-03), column diagnosis", "'NA' is no diagnosis", "write n/a"]


@spoils
def participant_twice(config, rows):
    change("A/participants.tsv", "sub-04\t24", "sub-03\t24")
    return ["A/participants.tsv: line 5 (sub-03)", "has a row already, in line 4", "keep one row"]


@spoils
def two_diagnoses_in_a_session(config, rows):
    sessions = [{"session_id": "ses-1", "diagnosis": word} for word in ("HC", "AD")]
    write_rows(Path("B/sub-03/sub-03_sessions.tsv"), sessions)
    return ["B/sub-03/sub-03_sessions.tsv: line 3 (ses-1)", "two diagnoses in one session: 'HC' in line 2, 'AD' here"]


@spoils
def a_cohort_in_two_rows(config, rows):
    Path("C").symlink_to("A")
    write_cohorts([*rows, {"cohort": "C", "path": "C", "roles": "holdout"}])
    return ["C/sub-01/anat/sub-01_T1w.nii.gz", "duplicate image: this file is there twice, also as A/sub-01"]


@spoils
def labels_that_end_alike(config, rows):
    write_cohort(Path("A"), [*people(20), {"participant_id": "sub-x.y"}, {"participant_id": "sub-x+y"}])
    return ["A: sub-x.y", "sub-x+y and sub-x.y are both A_x-y", "rename one of them"]


@spoils
def unknown_role(config, rows):
    write_cohorts([rows[0] | {"roles": "pretrainin"}, rows[1]])
    return ["cohorts.tsv: line 2 (A), roles", "no role or task 'pretrainin'", "did you mean 'pretraining'?"]


@spoils
def odd_name(config, rows):
    write_cohorts([rows[0] | {"cohort": "A_1"}, rows[1]])
    return ["cohorts.tsv: line 2 (A_1), cohort", '"A_1"']


@spoils
def name_twice(config, rows):
    write_cohorts([*rows, rows[0] | {"cohort": "a"}])
    return ["cohorts.tsv: line 4 (a)", "the name is taken by line 2 (A)", "rename"]


@spoils
def misspelt_column(config, rows):
    write_cohorts([rows[0] | {"aeg": "age"}, rows[1]])
    return ["cohorts.tsv: line 2 (A), aeg", "there is no such key", "did you mean 'age'?"]


@spoils
def column_that_is_not_there(config, rows):
    write_cohorts([rows[0] | {"age": "ages"}, rows[1]])
    return ["cohorts.tsv: line 2 (A), age", "has a column 'ages'", "did you mean 'age'?"]


@spoils
def no_share_for_both_sides(config, rows):
    write_cohorts([rows[0], rows[1] | {"roles": "pretraining,ad_hc"}])
    return ["cohorts.tsv: line 3 (B), pretraining_share", "write the share that pretrains"]


@spoils
def share_for_one_side(config, rows):
    write_cohorts([rows[0] | {"pretraining_share": 0.5}, rows[1]])
    return ["cohorts.tsv: line 2 (A), pretraining_share", "leave it empty"]


@spoils
def share_that_is_no_number(config, rows):
    write_cohorts([rows[0], rows[1] | {"roles": "pretraining,ad_hc", "pretraining_share": "half"}])
    return ["cohorts.tsv: line 3 (B), pretraining_share", '"half" but must be a number']


@spoils
def height_without_unit(config, rows):
    write_cohorts([rows[0] | {"height": "age", "weight": "age"}, rows[1]])
    return ["cohorts.tsv: line 2 (A), height", "needs 'height_unit' beside it"]


@spoils
def sex_code_that_is_no_class(config, rows):
    write_cohorts([rows[0] | {"sex_codes": "F=0,M=2"}, rows[1]])
    return ["cohorts.tsv: line 2 (A), sex_codes", "M means '2'", "0, 1 or n/a"]


@spoils
def empty_folder(config, rows):
    write_cohort(Path("A2"), people(3), [])
    write_cohorts([rows[0] | {"path": "A2"}, rows[1]])
    return ["A2: it holds no T1-weighted image", "correct the path in cohorts.tsv"]


@spoils
def nobody_known(config, rows):
    write_rows(Path("A/participants.tsv"), people(5, first=60))
    return ["A: none of its 20 T1-weighted images can be used", "participants.tsv has no row sub-01"]


@spoils
def no_pretraining(config, rows):
    write_cohorts([rows[0] | {"roles": "holdout"}, rows[1]])
    return ["cohorts.tsv: roles", "no cohort has the role pretraining", "pretrain.weights"]


@spoils
def no_pool(config, rows):
    write_cohorts([rows[0], rows[1] | {"roles": "holdout"}])
    return ["cohorts.tsv: roles", "no cohort has the role 'ad_hc'", "set tasks.ad_hc to null"]


@spoils
def pool_of_one_class(config, rows):
    config["tasks"]["ad_hc"]["positive"] = ["Alzheimer"]
    return ["tasks.ad_hc.positive: no image of its cohorts has", "there are: HC 30, AD 30"]


@spoils
def pool_whose_controls_all_pretrain(config, rows):
    """The diagnosis is there, so it is not said to be missing: 4 of 4 controls are 0.9 of them, rounded."""
    write_rows(Path("B/participants.tsv"), people(4) + people(30, "AD", 31))
    write_cohorts([rows[0], rows[1] | {"roles": "pretraining, ad_hc", "pretraining_share": "0.9"}])
    for name in range(5, 31):
        shutil.rmtree(f"B/sub-{name:02d}")
    return [
        "tasks.ad_hc: the pool has one class or none",
        "30 images of 30 positive and 0 negative participants",
        "lower the cohorts' pretraining_share",
    ]


@spoils
def pool_that_is_too_small(config, rows):
    config["resampling"]["n"] = [8, 500]
    return ["n = 500", "ad_hc", "choose a smaller n"]


@spoils
def nobody_healthy(config, rows):
    config["split"]["healthy"] = ["well"]
    return ["no healthy participant", "train"]


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_a_mistake_is_told_in_one_line_with_file_row_and_fix(study, spoil):
    parts = spoil(*study)
    lines = lines_of(study[0])
    found = [line for line in lines if all(part in line for part in parts)]
    assert found, lines
    assert all(";" in line for line in lines)


def test_the_mistakes_of_all_cohorts_are_told_at_once(study):
    config, rows = study
    age_of_230(config, rows)
    change("B/participants.tsv", "sub-07\t27\tM", "sub-07\t27\tX")
    lines = lines_of(config)
    assert len(lines) == 2 and "230" in lines[0] and "'X'" in lines[1]


def test_of_many_mistakes_alike_only_the_first_are_listed(study):
    """One line for each wrong value, and ten values of a column."""
    config, rows = study
    write_cohorts([rows[0] | {"sex_codes": "f=0,m=1,W=0"}, rows[1]])
    path = Path("A/participants.tsv")
    path.write_text(path.read_text().replace("\tF\t", "\tfem\t").replace("\tM\t", "\tmasc\t"))
    lines = lines_of(config)
    assert len(lines) == 2 and all("10 times" in line for line in lines)
    numbers = itertools.count()
    path.write_text(re.sub("fem|masc", lambda found: f"{found[0]}{next(numbers)}", path.read_text()))
    lines = lines_of(config)
    assert len(lines) == 11 and "10 more like the last line" in lines[-1]


def test_a_mistake_leaves_the_manifest_of_before(study):
    config, rows = study
    compile_manifest(config, check_pools)
    before = {path: path.read_bytes() for path in Path("results").rglob("*.tsv")}
    age_of_230(config, rows)
    with pytest.raises(InputError):
        compile_manifest(config, check_pools)
    assert {path: path.read_bytes() for path in Path("results").rglob("*.tsv")} == before


def test_the_template_of_the_papers_setting_is_understood(study):
    config, _ = study
    config["tasks"] = load_config(REPOSITORY)["tasks"]
    config["cohorts"] = str(REPOSITORY / "config/cohorts.tsv")
    lines = lines_of(config)
    assert len(lines) == 5 and all("there is no folder /data" in line for line in lines), "its paths are examples"


def test_a_task_whose_label_is_the_cohort_or_the_scanner_is_refused(study):
    """Nothing is written then; with the waiver the study goes on and says so."""
    config, _ = study
    summary = compile_manifest(config, check_pools)
    assert any(line.startswith("ad_hc: positive and negative participants by cohort: B ") for line in summary.pools)
    table = images()
    for path, diagnosis in table.loc[table["diagnosis"].isin(["AD", "HC"]), ["t1w", "diagnosis"]].to_numpy():
        maker = {"AD": "Siemens", "HC": "GE"}[diagnosis]
        Path(path.replace(".nii.gz", ".json")).write_text(f'{{"Manufacturer": "{maker}", "MagneticFieldStrength": 3}}')
    before = SHARDS.read_bytes()
    with pytest.raises(InputError) as caught:
        compile_manifest(config, check_pools)
    (line,) = str(caught.value).splitlines()
    assert "the scanner alone predicts the label" in line and "confounding.waived: [ad_hc]" in line
    assert SHARDS.read_bytes() == before and read_table("results/manifest/scanners.tsv").empty
    config["confounding"]["waived"] = ["ad_hc"]
    waived = compile_manifest(config, check_pools)
    assert "AUC 1.00, waived by confounding.waived" in waived.text() and waived.new_images == 0
    scanners = read_table("results/manifest/scanners.tsv")
    assert set(scanners["manufacturer"]) == {"Siemens", "GE"} and (scanners["field_strength"] == 3).all()
    assert all(table.loc[scanners["image_id"], "cohort"] == "B"), "cohorts in no task are not looked at"
