"""The list of people with several participant ids: read, checked against the study, compiled, and added to."""

from pathlib import Path

import pytest
from neurotransfer import cli
from neurotransfer.errors import InputError, InputErrors
from neurotransfer.files import read_facts, write_text
from neurotransfer.manifest.compile import compile_manifest
from neurotransfer.manifest.same_people import DEFAULT, add_groups, found_pairs, read_same_people
from neurotransfer.split.pools import check_pools
from neurotransfer.study import layout
from neurotransfer.study.configuration import load_config
from neurotransfer.study.plan import read_study
from neurotransfer.study.same_people import DRAWN, NOBODY, TESTS

REPOSITORY = Path(__file__).resolve().parents[3]
LIST = Path(DEFAULT)
PAIRS = "image_1\timage_2\tparticipant_1\tparticipant_2\tkind\n"
OVERLAY = """
cohorts: cohorts.tsv
tasks: {scz_bd: null}
preprocessing: {engine: builtin}
resampling: {n: [8], validation_share: 0.5, test_share: 0.5, replicates: 2}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A study of two cohorts in the working directory, compiled without a list."""
    monkeypatch.chdir(tmp_path)
    for cohort, people in (("A", 12), ("B", 40)):
        rows = ["participant_id\tage\tsex\tdiagnosis"]
        for at in range(1, people + 1):
            scan = Path(f"{cohort}/sub-{at:02d}/anat/sub-{at:02d}_T1w.nii.gz")
            scan.parent.mkdir(parents=True)
            scan.write_bytes(b"scan")
            rows.append(f"sub-{at:02d}\t{20 + at}\t{'FM'[at % 2]}\t{'AD' if at > 20 else 'HC'}")
        Path(cohort, "participants.tsv").write_text("\n".join(rows) + "\n")
    Path("cohorts.tsv").write_text("cohort\tpath\troles\nA\tA\tpretraining\nB\tB\tholdout, ad_hc\n")
    Path("study.yaml").write_text(OVERLAY)
    config = load_config(REPOSITORY, ["study.yaml"])
    compile_manifest(config, check_pools)
    return config


def contents():
    return {str(path): path.read_bytes() for path in Path("results/manifest").rglob("*.tsv")}


def compile_with(config, text):
    write_text(LIST, text)
    return compile_manifest(config, check_pools)


def test_a_study_without_the_list_is_what_it_was(config):
    before = contents()
    assert read_study(config).people == NOBODY and not Path(layout.SAME_PEOPLE).exists()
    assert "same_people" not in str(read_facts(layout.SHARDS))
    for value in (None, str(DEFAULT)):
        compile_manifest(config | {"same_people": value}, check_pools)
        assert contents() == before
    older = {name: value for name, value in config.items() if name != "same_people"}
    compile_manifest(older, check_pools)
    assert contents() == before and read_study(older).people == NOBODY


def test_the_manifest_has_the_people_joins_chains_and_changes_no_other_table(config):
    before = contents()
    summary = compile_with(config, "# one person each\nA_01\tB_02\n\nB_02\tB_03\r\nB_05\tB_06\n")
    people = read_study(config).people
    assert people.groups == (("A_01", "B_02", "B_03"), ("B_05", "B_06")) and people.parts == (TESTS, DRAWN)
    after = contents()
    assert {name for name in after if after[name] != before.get(name)} == {layout.SHARDS, layout.SAME_PEOPLE}
    assert "note: one person under several names: 2 people with 5 participant ids" in summary.text()
    assert "A_01" not in summary.text() and summary.images["participant_id"].nunique() == 52 - 3
    LIST.write_text("A_01\tB_02\n")
    with pytest.raises(InputError, match=r"same_people.tsv has changed since it was compiled; run neurotransfer manif"):
        read_study(config)
    LIST.unlink()
    compile_manifest(config, check_pools)
    assert contents() == before


def test_a_withdrawn_name_leaves_the_person_and_a_note_asks_for_the_others(config):
    compile_with(config, "A_01\tB_02\nB_05\tB_06\nB_07\tB_08\tB_09\n")
    write_text("config/withdrawn.tsv", "participant_id\nA_01\nB_05\nB_06\nB_07\n")
    text = compile_manifest(config, check_pools).text()
    people = read_study(config).people
    assert people.groups == (("B_08", "B_09"),)
    table = Path(layout.SAME_PEOPLE).read_text()
    assert not any(name in table + text for name in ("A_01", "B_05", "B_06", "B_07"))
    assert [f"same_people.tsv, line {line}: a name of this person" in text for line in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A_01\tB_99\n", r"config/same_people.tsv: line 1: the study has no participant B_99; did you mean B_"),
        ("A_01\n", r"config/same_people.tsv: line 1: it has only one name; write all participant ids of one person"),
        ("A_01\tA_01\n", r"line 1: it has only one name"),
        ("\t".join(f"C_{at}" for at in range(20)), r"line 1: 20 of its names are not in the study, the first is C_0"),
        (b"A_01\t\xff\n", r"it is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(config, text, message):
    before = contents()
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((InputError, InputErrors), match=message) as found:
        compile_manifest(config, check_pools)
    assert "\n" not in str(found.value) and contents() == before


def test_only_the_usual_file_may_be_missing():
    assert read_same_people(None) == read_same_people("config/same_people.tsv") == []
    with pytest.raises(InputError, match="no such list of people with several participant ids; correct the key"):
        read_same_people("config/sane_people.tsv")


def test_found_pairs_move_to_the_list_with_one_command(config, capsys):
    here = ["--configfile", "study.yaml"]
    assert cli.main(["same-people", *here, "--add", "A_01", "B_02"]) == 2
    assert "pairs.tsv: the heads have not been compared yet; run snakemake" in capsys.readouterr().err
    rows = ["A_01_run-1\tB_02_run-1\tA_01\tB_02\tsame_head", "B_05_run-1\tB_06_run-1\tB_05\tB_06\tsame_head"]
    write_text(layout.PAIRS, PAIRS + "\n".join(rows) + "\n")
    assert cli.main(["same-people", *here, "--add", "A_01", "B_05"]) == 2
    assert "pairs.tsv: A_01: it is in no pair with another of these names" in capsys.readouterr().err
    assert not LIST.exists()
    assert cli.main(["same-people", *here, "--add", "A_01", "B_02", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "the next run of snakemake does: split 1, certificate 1, pretrain 1, evaluate 1" in shown
    assert "resample" not in shown and "transfer 2" in shown and not LIST.exists()
    assert cli.main(["same-people", *here, "--add", "B_05_run-1", "B_06_run-1"]) == 0
    shown = capsys.readouterr().out
    assert "does: certificate 1, resample 2, linear 2" in shown and "pretrain" not in shown
    assert cli.main(["same-people", *here, "--add", "B_06", "B_05"]) == 0
    assert "it has these people already" in capsys.readouterr().out
    assert [group.names for group in read_same_people(LIST)] == [("B_05", "B_06")]
    assert cli.main(["manifest", *here]) == 0 and read_study(config).people.groups == (("B_05", "B_06"),)
    assert cli.main(["same-people", *here]) == 0
    assert "same_people.tsv: 1 person with 2 participant ids" in capsys.readouterr().out


def test_a_last_line_without_an_end_is_kept(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("A_01\tA_02")
    add_groups(path, [("A_03", "A_04")])
    assert [group.names for group in read_same_people(path)] == [("A_01", "A_02"), ("A_03", "A_04")]
    write_text(tmp_path / "pairs.tsv", PAIRS + "A_01_s\tA_02_s\tA_01\tA_02\tsame_scan\n")
    assert found_pairs(["A_01", "A_02_s"], tmp_path / "pairs.tsv") == [("A_01", "A_02")]
