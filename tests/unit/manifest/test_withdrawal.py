"""Who withdraws leaves every table, nobody else moves, and a name that is not known is a mistake."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurotransfer.cache import write
from neurotransfer.errors import InputError
from neurotransfer.files import read_table
from neurotransfer.manifest.compile import compile_manifest
from neurotransfer.manifest.same_people import DEFAULT as SAME_PEOPLE
from neurotransfer.manifest.same_people import read_same_people
from neurotransfer.manifest.withdrawal import (
    DEFAULT,
    Row,
    Withdrawn,
    behind_weights,
    erase,
    participant_of,
    read_withdrawn,
)
from neurotransfer.preprocess import run
from neurotransfer.quality import judge
from neurotransfer.split.pools import check_pools
from neurotransfer.study.configuration import load_config
from neurotransfer.study.plan import read_study
from synthetic_results import draw_figures, make_results, page_of

REPOSITORY = Path(__file__).resolve().parents[3]
SHARDS = Path("results/manifest/shards")
LIST = Path("withdrawn.tsv")
UNKNOWN = "<b>Unknown:</b> whether the weights"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A study of two cohorts (20 and 60 people, shards of 8) in the working directory, compiled once."""
    monkeypatch.chdir(tmp_path)
    config = load_config(REPOSITORY)
    config |= {"cohorts": "cohorts.tsv", "withdrawn": str(LIST)}
    config["tasks"]["scz_bd"] = None
    config["preprocessing"]["engine"] = "builtin"
    config["resampling"] |= {"n": [8], "validation_share": 0.5, "test_share": 0.5}
    config["manifest"] |= {"images_per_shard": 8, "images_per_job": 4}
    for cohort, people in (("A", 20), ("B", 60)):
        rows = ["participant_id\tage\tsex\tdiagnosis"]
        for at in range(1, people + 1):
            add_scan(f"{cohort}/sub-{at:02d}/anat/sub-{at:02d}_T1w.nii.gz")
            rows.append(f"sub-{at:02d}\t{20 + at}\t{'FM'[at % 2]}\t{'AD' if at > 30 else 'HC'}")
        Path(cohort, "participants.tsv").write_text("\n".join(rows) + "\n")
    Path("cohorts.tsv").write_text("cohort\tpath\troles\nA\tA\tpretraining\nB\tB\tholdout, ad_hc\n")
    LIST.write_text("participant_id\timage_id\n")
    compile_manifest(config, check_pools)
    return config


def add_scan(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(b"scan")


def withdraw(*people, images=()):
    lines = [f"{name}\t" for name in people] + [f"\t{image}" for image in images]
    LIST.write_text("# who has left\nparticipant_id\timage_id\n" + "".join(f"{line}\n" for line in lines))


def contents():
    return {path.name: path.read_bytes() for path in SHARDS.iterdir()}


def files_that_name(word: str) -> set[str]:
    paths = [Path(folder, name) for folder, _, names in os.walk("results") for name in names]
    return {path.name for path in paths if word.encode() in path.read_bytes() or word in str(path)}


def test_the_withdrawn_leave_and_nobody_else_moves(config):
    before, rows = contents(), read_table("results/manifest/images.tsv")
    withdraw("A_03", images=["B_10"])
    summary = compile_manifest(config, check_pools)
    after = contents()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"A-0001.tsv", "B-0002.tsv"} == {f"{shard}.tsv" for shard in summary.withdrawn_shards}
    for name, image in (("A-0001.tsv", "A_03"), ("B-0002.tsv", "B_10")):
        old, new = (text[name].decode().splitlines() for text in (before, after))
        assert len(old) == len(new)
        for was, now in zip(old[1:], new[1:], strict=True):
            if was.split("\t")[0] == image:
                known = {cell for cell in now.split("\t") if cell}
                number = f"{image[0]}_withdrawn-{name[2:6]}-{old.index(was) - 1}"
                assert known == {number, image[0], name.removesuffix(".tsv"), "1"}, "all facts are gone"
            else:
                assert now == f"{was}\t"
    left = read_table("results/manifest/images.tsv")
    pd.testing.assert_frame_equal(left, rows[~rows["image_id"].isin(["A_03", "B_10"])].reset_index(drop=True))
    assert files_that_name("A_03") == files_that_name("B_10") == set()
    plan = read_study(config)
    assert plan.shards["A-0001"].images == 8 and plan.shards["A-0001"].withdrawn == 1
    assert plan.shards["A-0001"].jobs == ["0000", "0001"]
    assert "withdrawn: 2 images of 2 people (A 1, B 1); 2 of them had a place until now" in summary.text()


def test_compiling_again_changes_nothing_and_new_people_get_new_shards(config):
    withdraw("A_03")
    compile_manifest(config, check_pools)
    before = contents()
    again = compile_manifest(config, check_pools)
    assert again.written == 0 and again.withdrawn_shards == ()
    add_scan("A/sub-21/anat/sub-21_T1w.nii.gz")
    with Path("A/participants.tsv").open("a") as file:
        file.write("sub-21\t60\tF\tHC\n")
    compile_manifest(config, check_pools)
    after = contents()
    assert {name: after[name] for name in before} == before
    assert b"A_21" in after["A-0004.tsv"]


def test_the_data_may_be_deleted_after_the_withdrawal(config):
    withdraw("A_03")
    compile_manifest(config, check_pools)
    before = contents()
    Path("A/sub-03/anat/sub-03_T1w.nii.gz").unlink()
    assert compile_manifest(config, check_pools).written == 0
    assert contents() == before


def test_who_withdraws_before_getting_a_place_never_gets_one(config):
    add_scan("A/sub-21/anat/sub-21_T1w.nii.gz")
    with Path("A/participants.tsv").open("a") as file:
        file.write("sub-21\t60\tF\tHC\n")
    withdraw("A_21")
    before = contents()
    compile_manifest(config, check_pools)
    assert contents() == before and files_that_name("A_21") == set()
    Path("A/sub-21/anat/sub-21_T1w.nii.gz").unlink()
    compile_manifest(config, check_pools)  # the row in the list is still no mistake


def test_a_whole_shard_may_withdraw_and_keeps_its_file_and_number(config):
    withdraw(*(f"A_{at:02d}" for at in range(1, 9)))
    compile_manifest(config, check_pools)
    plan = read_study(config)
    assert plan.shards["A-0001"].images == plan.shards["A-0001"].withdrawn == 8
    assert list(plan.shards)[:3] == ["A-0001", "A-0002", "A-0003"]


def test_taking_a_row_out_brings_the_image_back_in_a_new_place(config):
    """Its old place has a number, no name."""
    withdraw("A_03", "B_10")
    compile_manifest(config, check_pools)
    emptied = contents()["A-0001.tsv"]
    withdraw("B_10")
    assert compile_manifest(config, check_pools).withdrawn_shards == ()
    assert contents()["A-0001.tsv"] == emptied and b"A_03" in contents()["A-0004.tsv"]


def test_a_name_that_an_older_version_has_kept_is_replaced(config):
    withdraw("A_03")
    compile_manifest(config, check_pools)
    table = SHARDS / "A-0001.tsv"
    table.write_text(table.read_text().replace("A_withdrawn-0001-2", "A_03"))
    assert compile_manifest(config, check_pools).withdrawn_shards == ("A-0001",)
    assert files_that_name("A_03") == set()


def test_a_cohort_that_has_left_the_table_loses_its_withdrawn_too(config):
    old = SHARDS.joinpath("A-0001.tsv").read_text().splitlines()
    Path("C").symlink_to("A")
    Path("cohorts.tsv").write_text("cohort\tpath\troles\nC\tC\tpretraining\nB\tB\tholdout, ad_hc\n")
    withdraw("A_03")
    compile_manifest(config, check_pools)
    new = SHARDS.joinpath("A-0001.tsv").read_text().splitlines()
    changed = [
        line for was, line in zip(old, new, strict=True) if line != f"{was}\t" and not line.endswith("withdrawn")
    ]
    assert [{cell for cell in line.split("\t") if cell} for line in changed] == [
        {"A_withdrawn-0001-2", "A", "A-0001", "1"}
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("participant_id\nA_99\n", r"withdrawn.tsv: line 2: the study has no participant A_99; did you mean A_"),
        ("participant_id\nsub-03\n", r"line 2: the study has no participant sub-03; "),
        ("image_id\nA_3\n", r"line 2: the study has no image A_3; did you mean .*A_03"),
        ("participant\nA_03\n", r"there is no column 'participant'; did you mean 'participant_id'\?"),
        ("date\n2026-01-01\n", r"neither participant_id nor image_id is a column"),
        ("participant_id\tdate\n\t2026-01-01\n", r"line 2: it names neither a participant nor an image"),
        ("participant_id\timage_id\nA_03\tB_10\n", r"line 2: the image B_10 is not of the participant A_03"),
    ],
)
def test_a_mistake_in_the_list_is_a_line_and_changes_nothing(config, text, line):
    before = contents()
    LIST.write_text(text)
    with pytest.raises(InputError, match=line):
        compile_manifest(config, check_pools)
    assert contents() == before


def test_a_list_that_vanishes_is_noticed(config):
    withdraw("A_03")
    compile_manifest(config, check_pools)
    LIST.unlink()
    config["withdrawn"] = str(DEFAULT)
    with pytest.raises(InputError, match="1 image is withdrawn, and the list that says so is gone; put it back"):
        compile_manifest(config, check_pools)


def test_no_list_means_nobody_at_its_usual_place_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_withdrawn(None).rows == read_withdrawn(DEFAULT).rows == ()
    with pytest.raises(InputError, match="there is no such list of withdrawn people; correct the key 'withdrawn'"):
        read_withdrawn("config/withdrawm.tsv")


@pytest.mark.parametrize("read", [read_withdrawn, read_same_people])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "it is no regular file"), (os.mkdir, "it is a folder"),
        (lambda path: os.symlink("nowhere", path), "is a link to nowhere; put the list in its place"),
        (lambda path: path.write_bytes(b"\xff"), "it is not UTF-8 text"),
    ],
    ids=["FIFO", "folder", "broken link", "no text"],
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_never_an_empty_one(tmp_path, monkeypatch, read, make, message):
    """Not even at the usual place, at which it may be missing."""
    monkeypatch.chdir(tmp_path)
    path = DEFAULT if read is read_withdrawn else SAME_PEOPLE
    path.parent.mkdir()
    make(path)
    with pytest.raises(InputError, match=message):
        read(path)


def test_the_template_is_an_empty_list():
    assert read_withdrawn(REPOSITORY / "config/withdrawn.tsv").rows == ()


@given(st.from_regex(r"[A-Za-z0-9]{1,6}_[A-Za-z0-9-]{1,6}", fullmatch=True), st.sampled_from(["", "_ses-1", "_run-2"]))
def test_the_participant_of_an_image_is_known_from_its_name(participant, rest):
    assert participant_of(participant + rest) == participant
    listed = Withdrawn(None, (Row(2, participant, None),))
    assert listed.has(participant + rest) and not listed.has(f"{participant}1{rest}")


def test_preprocessing_deletes_a_folder_and_never_what_its_links_lead_to(tmp_path):
    source = tmp_path / "derivatives/a/mri/orig.mgz"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"precious")
    subjects = tmp_path / "preprocessed/subjects"
    for image in ("A_01", "A_02"):
        (subjects / "A-0001" / image / "mri").mkdir(parents=True)
        (subjects / "A-0001" / image / "mri/orig.mgz").symlink_to(source)
    (subjects / "A-0001/A_02/status.json").write_text('{"state": "ok", "fingerprint": ""}')
    outcomes = tmp_path / "preprocessed/outcomes.log"
    outcomes.write_text("1\tA-0001\tA_01\tok\n2\tA-0001\tA_02\tok\n3\tA-0001\tA_010\tok\n")
    images = pd.DataFrame({"image_id": ["A_01"], "shard": ["A-0001"], "t1w": [None], "withdrawn": [1.0]})
    settings = load_config(REPOSITORY)["preprocessing"] | {"engine": "builtin"}
    ledger = run.preprocess_images(images, settings, subjects)
    assert ledger[["image_id", "status"]].to_numpy().tolist() == [["A_01", "withdrawn"]]
    assert ledger.drop(columns=["image_id", "status"]).isna().all(axis=None)
    assert not (subjects / "A-0001/A_01").exists() and (subjects / "A-0001/A_02/mri/orig.mgz").is_symlink()
    assert source.read_bytes() == b"precious"
    assert outcomes.read_text() == "2\tA-0001\tA_02\tok\n3\tA-0001\tA_010\tok\n"


def test_a_folder_that_is_itself_a_link_is_unlinked(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("precious")
    (tmp_path / "A_01").symlink_to(tmp_path / "real")
    erase(tmp_path / "A_01", tmp_path / "outcomes.log")
    assert not (tmp_path / "A_01").is_symlink() and (tmp_path / "real/file").read_text() == "precious"


def test_the_cache_row_is_zero_and_the_index_has_no_such_image(tmp_path):
    images = pd.DataFrame({"image_id": ["A_01"], "status": ["withdrawn"], "reason": [None]})
    images = images.assign(engine=None, engine_version=None)
    table, statistics = write.write_shard(tmp_path / "s.npy", [tmp_path / "nothing"], images, [4, 4, 4], 4.0)
    assert not statistics and table["checksum"].isna().all()
    assert not any(np.load(tmp_path / f"s.{name}").any() for name in ("npy", "slices.npy", "small.npy"))
    emptied = pd.DataFrame({"image_id": ["A_01"], "cohort": ["A"], "shard": ["A-0001"], "age": [None]})
    assert judge.cached_images(emptied, table).empty


def test_weights_know_whether_people_who_left_are_behind_them():
    assert behind_weights({"A_02", "A_01"}, ["A_01", "A_02", "A_03"], None) == 2
    assert behind_weights({"A_02", "B_01"}, ["A_01"], None) == 0
    assert behind_weights({"A_02", "B_01"}, None, {"A_02"}) == 1
    assert behind_weights({"A_02"}, None, None) is None, "a file without digests can't tell"
    assert behind_weights(set(), None, None) == 0


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Results that a page can be made of, and the folder of their figures."""
    results = make_results(("ad_hc",), (20,), 2, people=8)
    return results, draw_figures(results, tmp_path_factory.mktemp("drawings"))


@pytest.mark.parametrize(
    ("run", "behind", "expected", "never"),
    [
        (
            "given",
            7,
            "<code>weights.safetensors</code> were trained on 7 participants who have withdrawn",
            UNKNOWN,
        ),
        (
            "multitask",
            1,
            "multitask/weights.safetensors</code> were trained on &lt; 5 participants who have withdrawn",
            UNKNOWN,
        ),
        ("given", None, UNKNOWN, "withdrawn from the study since"),
        ("multitask", 0, "&lt; 5 images were withdrawn after preprocessing", "who have withdrawn"),
    ],
)
def test_the_report_flags_weights_by_name_and_counts_the_withdrawn_nowhere(run, behind, expected, never, reported):
    results, drawings = SimpleNamespace(**vars(reported[0])), reported[1]
    results.run = run
    results.config["pretrain"]["weights"] = "/kept/weights.safetensors" if run == "given" else None
    gone = results.ledger.iloc[:3].assign(image_id=["A_01", "A_02", "A_03"], status="withdrawn")
    pages = []
    for ledger in (results.ledger, pd.concat([results.ledger, gone])):
        results.ledger = ledger
        pages.append(" ".join(page_of(results, drawings, seen=set(), withdrawn=behind).split()))
    assert expected in pages[1] and never not in pages[1]
    table = pages[0][pages[0].index("Every image is accounted for") :]
    assert table[: table.index("</table>")] in pages[1], "the accounting is that of a study without them"
