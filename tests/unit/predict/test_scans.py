"""Which scans a folder, a list or one file means, and their names."""

from pathlib import Path

import pytest
from data_sets import add_scan
from neurotransfer.errors import InputError
from neurotransfer.predict.scans import find_scans


@pytest.fixture
def bids(tmp_path):
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-a.1/anat/sub-02_ses-a.1_run-2_T1w.nii"):
        add_scan(tmp_path / name)
    add_scan(tmp_path / "sub-02/ses-a.1/anat/sub-02_ses-a.1_ce-gd_T1w.nii")
    (tmp_path / "sub-03/anat").mkdir(parents=True)
    (tmp_path / "sub-03/anat/sub-03_T1w.nii.gz").touch()
    return tmp_path


def test_a_bids_folder_needs_no_tables_and_every_file_is_accounted_for(bids):
    scans, left_out = find_scans(bids)
    assert scans["image_id"].tolist() == ["sub-01", "sub-02_ses-a-1_run-2"]
    assert all(Path(path).is_file() for path in scans["t1w"])
    assert sorted(reason for _, reason, _ in left_out) == ["contrast_agent", "empty_file"]


def test_two_labels_that_would_become_one_name_are_refused(bids):
    add_scan(bids / "sub-02/ses-a-1/anat/sub-02_ses-a-1_run-2_T1w.nii")
    with pytest.raises(InputError, match="are both sub-02_ses-a-1_run-2 once other characters are replaced"):
        find_scans(bids)


def test_existing_outputs_are_named_by_a_pattern(bids):
    scans, _ = find_scans(bids, "fs/sub-{participant}[_ses-{session}]")
    assert scans["derivatives"].tolist() == [str(bids / "fs/sub-01"), str(bids / "fs/sub-02_ses-a.1")]
    with pytest.raises(InputError, match=r"sub-01_T1w.* can't be filled in: it has no session; put the part"):
        find_scans(bids, "fs/{participant}_{session}")
    with pytest.raises(InputError, match=r"\{subject\} is no placeholder"):
        find_scans(bids, "fs/{subject}")


@pytest.mark.parametrize(
    ("text", "names", "left_out"),
    [
        ("a/T1.nii.gz\r\n# a note\n\nb/T1.nii\n/c/d.mgz\n", ["T1", "b_T1", "d"], []),
        ("x.nii\nx.nii\n", ["x"], ["twice"]),
        ("t1w\timage_id\nx.nii\tone\ny.nii\t\n\tthree\n", ["one", "y"], ["missing"]),
        ("derivatives\nfs/S1\nfs/S2\n", ["S1", "S2"], []),
        ("x\x07.nii\ny.nii", ["y"], ["odd_name"]),
        (f"(1).nii\n(2).nii\n{'z' * 250}.nii", ["1-", "2-", "z" * 200], []),
    ],
)
def test_a_list_names_files_relative_to_itself(tmp_path, text, names, left_out):
    (tmp_path / "list.txt").write_text(text)
    scans, others = find_scans(tmp_path / "list.txt")
    assert scans["image_id"].tolist() == names
    assert [reason for _, reason, _ in others] == left_out
    assert all(Path(path).is_absolute() for path in scans["t1w"])
    if "derivatives" in text:
        assert scans["derivatives"].tolist() == [str(tmp_path / "fs/S1"), str(tmp_path / "fs/S2")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no T1-weighted image"),
        ("# Title\n\nA text, and no list.\nx.nii\n", "line 3 is no path of an image; give a BIDS folder"),
        ("path\tage\nx.nii\t3\n", "a table without a column t1w or derivatives"),
        ("t1w\timage_id\nx.nii\t-a\n", "row 1, image_id: '-a' can't name files"),
        ("t1w\timage_id\nx.nii\ta/b\n", "row 1, image_id: 'a/b' can't name files"),
        ("t1w\timage_id\nx.nii\ta\ny.nii\ta\n", "a names two scans"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, text, message):
    (tmp_path / "list.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_scans(tmp_path / "list.tsv")


def test_one_file_a_binary_list_and_nothing(tmp_path):
    add_scan(tmp_path / "scan 1.nii.gz")
    assert find_scans(tmp_path / "scan 1.nii.gz")[0]["image_id"].tolist() == ["scan-1"]
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        find_scans(tmp_path / "list")
    with pytest.raises(InputError, match="no such folder or file; correct --images"):
        find_scans(tmp_path / "nothing")
