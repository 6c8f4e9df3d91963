"""Which files of a data set become images: names, links, formats, rules for several of a session, existing outputs."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from data_sets import (
    add_scan,
    excluded,
    images,
    lines_of,
    people,
    read_one,
    refused,
    write_cohort,
    write_cohorts,
    write_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.files import read_table
from neurotransfer.manifest.bids import Scan, printable, safe
from neurotransfer.manifest.compile import compile_manifest
from neurotransfer.manifest.image_choice import choose_scans, fits, rule_mistake
from neurotransfer.manifest.path_patterns import fill_in, pattern_mistake
from neurotransfer.split.pools import check_pools
from neurotransfer.study.plan import read_study


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def scan(entities):
    labels = dict(part.split("-", 1) for part in entities.split("_") if part)
    return Scan("", entities, labels, f"/x/sub-1{entities}_T1w.nii.gz", (0, hash(entities)))


def taken(entities, rule):
    return [found.entities for found in choose_scans([scan(text) for text in entities], rule)[0]]


def test_sessions_runs_and_acquisitions_are_told_apart():
    sub = Path("A/sub-01")
    write_cohort(Path("A"), people(1))
    for name in ("ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz", "ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz"):
        add_scan(sub / name)
    add_scan(sub / "ses-pre.op/anat/sub-01_ses-pre.op_acq-mprage_rec-norm_T1w.nii")
    for other in (
        "ses-1/anat/sub-01_ses-1_T2w.nii.gz",
        "ses-1/anat/._sub-01_ses-1_T1w.nii.gz",
        "ses-1/anat/sub-01_ses-1_mod-T1w_defacemask.nii.gz",
        "ses-1/func/sub-01_ses-1_T1w.nii",
    ):
        add_scan(sub / other)
    table, left_out, _ = read_one(t1w="all")
    assert not left_out
    assert set(table.index) == {
        "A_01", "A_01_ses-1_run-1", "A_01_ses-1_run-2", "A_01_ses-pre-op_acq-mprage_rec-norm"
    }  # fmt: skip
    about = table[["session", "run", "acquisition", "reconstruction"]].fillna("")
    assert about.loc["A_01_ses-1_run-2"].tolist() == ["1", "2", "", ""]
    assert about.loc["A_01_ses-pre-op_acq-mprage_rec-norm"].tolist() == ["pre.op", "", "mprage", "norm"]
    assert table.index.str.fullmatch(r"[A-Za-z0-9_-]+").all()


def test_several_images_of_a_session_follow_the_cohorts_rule():
    write_cohort(Path("A"), people(2))
    for name in ("run-10", "run-2", "acq-mprage"):
        add_scan(Path(f"A/sub-01/ses-1/anat/sub-01_ses-1_{name}_T1w.nii.gz"))
    for rule, expected in {
        "": {"A_01_ses-1_acq-mprage"},
        "last": {"A_01_ses-1_run-10"},
        "run-2": {"A_01_ses-1_run-2"},
        "acq-fast, run-2": {"A_01_ses-1_run-2"},
        "acq-fast, last": {"A_01_ses-1_run-10"},
        "all": {f"A_01_ses-1_{name}" for name in ("run-10", "run-2", "acq-mprage")},
    }.items():
        table, left_out, _ = read_one(t1w=rule)
        other = {"A_01", "A_02"} if "run-2" not in rule else set()
        assert set(table.index) == expected | other, rule
        assert len(table) + len(left_out) == 5, "whatever is not taken is listed"
        if "last" in rule:
            reason, detail = left_out["sub-01_ses-1_run-2_T1w.nii.gz"]
            assert reason == "not_chosen" and "sub-01_ses-1_run-10_T1w.nii.gz" in detail and rule in detail
        if rule == "run-2":
            assert left_out["sub-02_T1w.nii.gz"] == ("no_fit", "no image of the session fits the rule 'run-2'")


@pytest.mark.parametrize("rule", ["best", "first, acq-x", "all, first", "acq-", "acq-x_run", "", "ACQ-x"])
def test_a_rule_that_cannot_be_followed_is_refused(rule):
    assert rule_mistake(tuple(word.strip() for word in rule.split(",")))


def test_a_wrong_rule_is_one_line():
    write_cohort(Path("A"), people(1))
    assert refused(t1w="acq-mprage; first")[0].startswith(
        "cohorts.tsv: line 2 (A), t1w: 'acq-mprage; first' is neither"
    )


ENTITIES = st.lists(
    st.sampled_from(["acq-a", "acq-b", "rec-defaced", "run-1", "run-2", "run-10", "ce-gad"]), max_size=3
)
WORDS = st.sampled_from(["acq-a", "run-2", "acq-b_run-10", "defaced", "ce-gad", "last", "first", "all"])


@given(
    st.lists(ENTITIES.map(lambda parts: "".join(f"_{part}" for part in parts)), unique=True),
    st.lists(WORDS, min_size=1),
)
def test_a_rule_takes_at_most_one_image_and_accounts_for_each(entities, rule):
    scans = [scan(text) for text in entities]
    chosen, left_out = choose_scans(scans, rule)
    assert sorted([found.path for found in chosen] + [row.file for row in left_out]) == sorted(s.path for s in scans)
    plain = [s for s in scans if "ce" not in s.labels or any("ce-" in word for word in rule)]
    if "all" in rule:
        assert {s.path for s in chosen} == {s.path for s in plain}
        return
    assert len(chosen) == any(fits(s, word) for s in plain for word in rule)
    again, _ = choose_scans(scans[::-1], rule)
    assert again == chosen, "the order of the files does not matter"


def test_numbers_are_ordered_as_numbers_and_the_plain_image_comes_first():
    names = ["_run-10", "_run-9", "_acq-x_run-1", ""]
    assert taken(names, ["first"]) == [""] and taken(names, ["last"]) == ["_run-10"]


@pytest.mark.parametrize(
    ("name", "entities"),
    [
        ("sub-01_desc-defaced_T1w.nii.gz", "_desc-defaced"),
        ("sub-01_acq-defaced_T1w.nii.gz", "_acq-defaced"),
        ("sub-01_acq-mprageDefaced_T1w.nii.gz", "_acq-mprageDefaced"),
        ("sub-01_rec-defaced_T1w.nii.gz", "_rec-defaced"),
        ("sub-01_T1w_defaced.nii.gz", "_desc-defaced"),
    ],
)
def test_a_defaced_image_is_like_any_other_and_can_be_preferred(name, entities):
    write_cohort(Path("A"), people(2), ["sub-02/anat/sub-02_T1w.nii.gz"])
    add_scan(Path("A/sub-01/anat") / name)
    assert f"A_01{entities}" in read_one()[0].index, "it is taken where there is no other"
    add_scan(Path("A/sub-01/anat/sub-01_T1w.nii.gz"))
    assert set(read_one()[0].index) == {"A_01", "A_02"}
    assert set(read_one(t1w="defaced, first")[0].index) == {f"A_01{entities}", "A_02"}


def test_of_two_formats_the_compressed_one_is_taken():
    write_cohort(Path("A"), people(2))
    add_scan(Path("A/sub-01/anat/sub-01_T1w.nii"))
    table, left_out, _ = read_one(t1w="all")
    assert table.loc["A_01", "t1w"].endswith("sub-01_T1w.nii.gz") and len(table) == 2
    assert left_out == {"sub-01_T1w.nii": ("two_formats", "sub-01_T1w.nii.gz is the same image and is taken")}


def test_images_with_contrast_agent_or_phase_are_left_out():
    write_cohort(Path("A"), people(1))
    for name in ("ce-gadolinium", "part-phase", "part-mag", "chunk-2"):
        add_scan(Path(f"A/sub-01/anat/sub-01_{name}_T1w.nii.gz"))
    table, left_out, _ = read_one(t1w="all")
    assert set(table.index) == {"A_01", "A_01_part-mag"}
    assert {name: reason for name, (reason, _) in left_out.items()} == {
        "sub-01_ce-gadolinium_T1w.nii.gz": "contrast_agent",
        "sub-01_part-phase_T1w.nii.gz": "not_magnitude",
        "sub-01_chunk-2_T1w.nii.gz": "chunk",
    }
    assert set(read_one(t1w="ce-gadolinium")[0].index) == {"A_01_ce-gadolinium"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t1w.nii.gz", "rename it"), ("T1w.NII.GZ", "rename it"), ("T1w.mgz", "convert it"), ("T1w.hdr", "convert it"),
        ("UNIT1.nii.gz", "MP2RAGE"), ("T1.nii.gz", "name it _T1w"), ("MPRAGE.nii", "name it _T1w"),
        ("T1w.nii.gz.part", "give it a name"), ("T1w (1).nii.gz", "give it a name"), ("T1w.dcm", "give it a name"),
        ("T1w_Defaced.nii.gz", "give it a name"), ("T1w_brain.nii.gz", "a program has made it"),
        ("inv-1_MP2RAGE.nii.gz", "no T1-weighted image"),
    ],
)  # fmt: skip
def test_names_that_come_near_are_listed_with_what_to_do(name, said):
    write_cohort(Path("A"), people(2), [])
    add_scan(Path("A/sub-01/anat/sub-01_T1w.nii.gz"))
    add_scan(Path(f"A/sub-02/anat/sub-02_{name}"))
    add_scan(Path("A/sub-01/anat/sub-01_UNIT1.nii.gz"))  # beside a scan
    table, left_out, _ = read_one()
    assert list(table.index) == ["A_01"]
    assert list(left_out) == [f"sub-02_{name}"]
    reason, detail = left_out[f"sub-02_{name}"]
    assert reason == "near_miss" and said in detail


@pytest.mark.parametrize(
    ("path", "file", "said"),
    [
        ("sub-02/sub-02_T1w.nii.gz", "sub-02_T1w.nii.gz", "move it into the folder anat"),
        ("sub-02/Anat/sub-02_T1w.nii.gz", "Anat", "name the folder anat"),
        ("sub-02/session1/anat/sub-02_T1w.nii.gz", "session1", "ses-<label>"),
        ("sub-02/ses-1/sub-02_ses-1_T1w.nii.gz", "sub-02_ses-1_T1w.nii.gz", "move it into the folder anat"),
        ("Sub-02/anat/Sub-02_T1w.nii.gz", "Sub-02", "sub-<label>"),
        ("02/anat/02_T1w.nii.gz", "02", "sub-<label>"),
    ],
)
def test_a_scan_in_a_place_that_comes_near_is_named(path, file, said):
    write_cohort(Path("A"), people(2), ["sub-01/anat/sub-01_T1w.nii.gz"])
    add_scan(Path("A") / path)
    table, left_out, _ = read_one()
    assert list(table.index) == ["A_01"]
    reason, detail = left_out[file]
    assert reason == "near_miss" and said in detail


def test_a_folder_above_the_data_set_says_where_it_is_and_a_table_in_another_form_is_named():
    write_cohort(Path("A/rawdata"), people(2))
    write_rows(Path("A/participants.csv"), people(1))
    assert "there is 'participants.csv'" in refused()[0]
    Path("A/participants.csv").rename("A/participants.tsv")
    assert "its folder rawdata holds sub- folders" in refused()[0]


def test_what_a_program_made_of_a_scan_is_taken_only_if_it_is_named():
    write_cohort(Path("A"), people(1), [])
    for entities in ("desc-preproc", "space-MNI152", "desc-defaced", "acq-x"):
        add_scan(Path(f"A/sub-01/anat/sub-01_{entities}_T1w.nii.gz"))
    table, left_out, _ = read_one(t1w="all")
    assert sorted(table.index) == ["A_01_acq-x", "A_01_desc-defaced"]
    assert [reason for reason, _ in left_out.values()] == ["processed", "processed"]
    assert list(read_one(t1w="desc-preproc")[0].index) == ["A_01_desc-preproc"]


def test_a_derivative_data_set_is_refused_unless_its_images_are_named():
    write_cohort(Path("A"), people(1), [])
    add_scan(Path("A/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"))
    about = Path("A/dataset_description.json")
    about.write_text('{"Name": "x", "DatasetType": "derivative"}')
    lines = refused()
    assert "derivative data set" in lines[0] and "desc-preproc" in lines[0]
    assert len(read_one(t1w="desc-preproc")[0]) == 1
    for text in ("[]", "{", '{"DatasetType": "raw"}', '{"DatasetType": ["x"]}'):
        about.write_text(text)
        assert "derivative data set" not in refused()[0]


def test_whatever_is_left_out_is_listed_with_its_reason(study):
    config, _ = study
    Path("A/sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"")
    Path("A/sub-02/anat/sub-02_T1w.nii.gz").unlink()
    Path("A/sub-02/anat/sub-02_T1w.nii.gz").symlink_to("nowhere.nii.gz")
    add_scan(Path("A/sub-77/anat/sub-77_T1w.nii.gz"))
    add_scan(Path("A/sub-03/anat/sub-04_T1w.nii.gz"))
    Path("A/sub-05/anat/sub-05_acq-x_T1w.nii.gz").mkdir()
    Path("A/sub-06/anat/sub-06_acq-x_T1w.nii.gz").symlink_to("sub-06_acq-x_T1w.nii.gz")
    Path("A/sub-88").symlink_to("nowhere")
    Path("A/sub-99").symlink_to("sub-99")
    summary = compile_manifest(config, check_pools)
    assert excluded() == {
        "A/sub-01/anat/sub-01_T1w.nii.gz": "empty_file",
        "A/sub-02/anat/sub-02_T1w.nii.gz": "broken_link",
        "A/sub-77/anat/sub-77_T1w.nii.gz": "no_participants_row",
        "A/sub-03/anat/sub-04_T1w.nii.gz": "name_disagrees",
        "A/sub-05/anat/sub-05_acq-x_T1w.nii.gz": "not_a_file",
        "A/sub-06/anat/sub-06_acq-x_T1w.nii.gz": "unreadable",
        "A/sub-88": "broken_link",
        "A/sub-99": "unreadable",
    }
    assert read_table("results/manifest/excluded.tsv")["detail"].notna().all()
    assert "A_01" not in images().index and len(images()) == 78
    assert "2 broken_link" in summary.text().splitlines()[1]


def test_content_that_datalad_has_not_fetched_is_left_out_with_the_command_that_fetches_it():
    write_cohort(Path("it's A"), people(4))
    anat = "it's A/sub-0{0}/anat/sub-0{0}_T1w.nii.gz"
    for at, link in ((1, "../../.git/annex/objects/Xx/MD5E-s9--0/MD5E-s9--0.nii.gz"), (2, None), (3, None)):
        path = Path(anat.format(at))
        path.unlink()
        if link:
            path.symlink_to(link)
    Path(anat.format(2)).write_text("/annex/objects/MD5E-s12345--0123456789abcdef0123456789abcdef.nii.gz\n")
    Path(anat.format(3)).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    table, left_out, _ = read_one("it's A")
    assert set(table.index) == {"A_04"} and {reason for reason, _ in left_out.values()} == {"not_fetched"}
    for at, program in ((1, "datalad get"), (2, "datalad get"), (3, "git lfs pull --include")):
        command = left_out[f"sub-0{at}_T1w.nii.gz"][1].partition("to have it here: ")[2]
        words = subprocess.run(
            ["bash", "-c", command.replace(program, "pwd && printf '%s\\n'")], capture_output=True, text=True
        ).stdout.splitlines()
        assert Path(words[0]) == Path(anat.format(at)).parent.resolve() and words[1] == f"./sub-0{at}_T1w.nii.gz"
        assert program in command


def test_links_to_fetched_content_are_followed():
    write_cohort(Path("A"), people(2), ["sub-02/anat/sub-02_T1w.nii.gz"])
    objects = Path("A/.git/annex/objects/key")
    add_scan(objects)
    Path("A/sub-01/anat").mkdir(parents=True)
    Path("A/sub-01/anat/sub-01_T1w.nii.gz").symlink_to("../../.git/annex/objects/key")
    assert set(read_one()[0].index) == {"A_01", "A_02"}


def test_odd_names_end_as_safe_ids():
    names = ["sub-Jörg Müller's", "sub-a;rm -rf", "sub-$(touch x)", "sub--dash", 'sub-"q"']
    write_cohort(Path("- odd 'säge' \"q\""), [{"participant_id": name, "age": 40} for name in names[:-1]])
    table, _, _ = read_one("- odd 'säge' \"q\"".replace('"', '""').join('""'))
    assert set(table.index) == {"A_J-rg-M-ller-s", "A_a-rm--rf", "A_--touch-x-", "A_-dash"}
    assert all(Path(path).is_file() for path in table["t1w"]) and (table["age"] == 40).all()
    assert not Path("x").exists()


def test_labels_in_composed_and_decomposed_unicode_are_the_same_person():
    write_cohort(Path("A"), [{"participant_id": "sub-J\u00f6", "age": 40}], [])
    for spelling in ("Jo\u0308", "J\u00f6"):
        add_scan(Path(f"A/sub-{spelling}/anat/sub-{spelling}_T1w.nii.gz"))
    assert "are both A_J-" in refused()[0], "two folders of one person would be two people"
    Path("A/sub-J\u00f6/anat/sub-J\u00f6_T1w.nii.gz").unlink()
    Path("A/sub-J\u00f6/anat").rmdir()
    Path("A/sub-J\u00f6").rmdir()
    assert read_one()[0].index.tolist() == ["A_J-"]


def test_labels_that_try_to_leave_their_folder_are_left_out(study):
    config, _ = study
    secret = Path("secret/anat/sub-.._T1w.nii.gz")
    add_scan(secret)
    add_scan(Path("A/sub-../anat/sub-.._T1w.nii.gz"))
    add_scan(Path("A/sub-01/ses-../anat/sub-01_ses-.._T1w.nii.gz"))
    add_scan(Path("A/sub-02/anat/sub-02_acq-.._T1w.nii.gz"))
    text = Path("A/participants.tsv").read_text()
    Path("A/participants.tsv").write_text(text + "sub-../../secret\t40\tF\tHC\n..\t41\tF\tHC\n/etc/passwd\t42\tF\tHC\n")
    write_rows(Path("A/sub-03/sub-03_sessions.tsv"), [{"session_id": "../../../secret", "age": 3}])
    compile_manifest(config, check_pools)
    assert {Path(file).name: reason for file, reason in excluded().items()} == {
        "sub-..": "odd_name",
        "ses-..": "odd_name",
        "sub-02_acq-.._T1w.nii.gz": "odd_name",
    }
    assert not images()["t1w"].str.contains("secret|\\.\\.").any() and len(images()) == 80
    assert set(read_study(config).cohorts) == {"A", "B"}


@pytest.mark.parametrize(
    "name", ["sub-01_acq-a\tb_T1w.nii.gz", "sub-01_acq-a\nb_T1w.nii.gz", "sub-01_acq-\udcff_T1w.nii"]
)
def test_a_name_that_no_line_of_a_table_can_hold_is_left_out(study, name):
    config, _ = study
    try:
        Path("A/sub-01/anat", name).write_bytes(b"scan")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    compile_manifest(config, check_pools)
    assert list(excluded().values()) == ["odd_name"] and len(images()) == 80
    assert len(Path("results/manifest/excluded.tsv").read_text().splitlines()) == 2


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20))
def test_any_label_ends_as_a_safe_id_and_one_line(tmp_path_factory, label):
    """Names of folders as a file system takes them: quotes, control characters, any script."""
    folder = tmp_path_factory.mktemp("odd")
    os.chdir(folder)
    name = f"sub-{label}"
    if len(os.fsencode(f"{name}_T1w.nii.gz")) > 255:
        return
    write_cohort(Path("A"), people(1))
    add_scan(Path("A") / name / "anat" / f"{name}_T1w.nii.gz")
    table, left_out, _ = read_one()
    assert len(table) + len(left_out) == (1 if label == "01" else 2), "it is an image, or it is listed"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", image) for image in table.index)
    assert re.fullmatch(r"[A-Za-z0-9-]*", safe(label))
    assert len(printable(name).splitlines()) == 1 and "\t" not in printable(name)
    assert all(len(detail.splitlines()) == 1 for _, detail in left_out.values())


def test_zeros_that_a_spreadsheet_has_cut_off_are_hinted_at():
    write_cohort(Path("A"), [{"participant_id": 1, "age": 3}, {"participant_id": "sub-02", "age": 4}], [])
    for at in ("01", "02"):
        add_scan(Path(f"A/sub-{at}/anat/sub-{at}_T1w.nii.gz"))
    _, left_out, notes = read_one()
    assert "it has sub-1: have its leading zeros been lost?" in left_out["sub-01_T1w.nii.gz"][1]
    assert notes == ["A: 1 person of participants.tsv has no T1-weighted image"]


def test_existing_outputs_are_found_by_the_cohorts_pattern(study):
    config, rows = study
    add_scan(Path("A/sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz"))
    for name in ("sub-01", "sub-01_ses-1", "sub-02"):
        Path(f"A/derivatives/fs/{name}").mkdir(parents=True)
    pattern = "derivatives/fs/sub-{participant}[_ses-{session}]"
    write_cohorts([rows[0] | {"derivatives": pattern}, rows[1]])
    summary = compile_manifest(config, check_pools)
    table = images()
    assert table.loc["A_01_ses-1_run-2", "derivatives"] == "A/derivatives/fs/sub-01_ses-1"
    assert table.loc["A_02", "derivatives"] == "A/derivatives/fs/sub-02"
    assert table.loc[table["cohort"] == "B", "derivatives"].isna().all()
    assert "note: A: 18 of 21 folders of derivatives are not there" in summary.text()
    shard = read_table("results/manifest/shards/A-0001.tsv").set_index("image_id")
    assert shard.loc["A_02", "derivatives"] == "A/derivatives/fs/sub-02"


def test_a_pattern_that_cannot_be_meant_is_refused():
    write_cohort(Path("A"), people(2))
    add_scan(Path("A/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"))
    Path("deriv/sub-01").mkdir(parents=True)
    Path("deriv/sub-02").mkdir(parents=True)
    here = Path("deriv").resolve()
    assert "has no session" in refused(derivatives=f"{here}/sub-{{participant}}_ses-{{session}}")[0]
    assert "A_01 and A_01_ses-1 would both be" in refused(derivatives=f"{here}/sub-{{participant}}")[0]
    assert "not one of its 3 folders is there" in refused(derivatives=f"{here}/{{image_id}}")[0]
    assert "{subject} is no placeholder" in refused(derivatives=f"{here}/{{subject}}")[0]
    assert "every image would have the same folder" in refused(derivatives=str(here))[0]
    assert "a bracket has no partner" in refused(derivatives=f"{here}/{{participant}}[_ses-{{session}}")[0]


def test_the_engine_derivatives_needs_a_pattern_of_each_cohort(study):
    config, _ = study
    config["preprocessing"]["engine"] = "derivatives"
    lines = lines_of(config)
    assert len(lines) == 2 and lines[0].startswith("cohorts.tsv: line 2 (A), derivatives: the engine is derivatives")


LABELS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)


@given(
    LABELS, LABELS, st.sampled_from(["/d/sub-{participant}[_ses-{session}]", "d/{participant}/{session}", "../{run}"])
)
def test_a_filled_pattern_never_leaves_the_folder_of_its_last_part(participant, session, pattern):
    assert pattern_mistake(pattern) is None
    labels = {"participant": participant, "session": session, "run": participant, "image_id": "A_1"}
    try:
        path = fill_in(pattern, labels)
    except ValueError:
        return
    assert path.count("/") == pattern.count("/")
    root = os.path.normpath(pattern.partition("{")[0].rpartition("/")[0] or ".")
    assert os.path.normpath(path).startswith(root) and os.path.normpath(path) != os.path.normpath(os.path.dirname(root))
