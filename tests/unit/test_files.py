"""Files between stages: what is written with one type is read with it, and no name or file of others does harm."""

import os
import stat
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.files import (
    TEXT_COLUMNS,
    read_dicts,
    read_facts,
    read_json,
    read_table,
    remove_within,
    restrict,
    table_text,
    write_json,
    write_table,
)
from neurotransfer.study.plan import read_study

TEXT = pd.DataFrame({"image_id": ["a", "b"], "visit": ["01", "02"]})


def test_a_text_column_that_is_not_declared_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match="'visit' holds text"):
        write_table(TEXT, tmp_path / "table.tsv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["object", "str", "category"])
def test_text_of_every_dtype_is_found(kind):
    with pytest.raises(TypeError, match="'visit' holds text"):
        table_text(TEXT.astype({"visit": kind}))
    assert table_text(TEXT[["image_id"]].astype(kind)) == "image_id\na\nb\n"


def test_text_among_numbers_is_found():
    with pytest.raises(TypeError, match="'visit' holds text"):
        table_text(TEXT.assign(visit=[1, "02"]))


@pytest.mark.parametrize("values", [[1, 2], [1.0, None], [True, False], ["01", 2]])
def test_a_declared_column_holds_nothing_but_text(values):
    with pytest.raises(TypeError, match="'session' is in files"):
        table_text(pd.DataFrame({"session": values}))


@given(st.lists(st.one_of(st.none(), st.text("0123456789.-eNA", min_size=1)), min_size=1))
def test_text_that_looks_like_numbers_is_read_as_it_was_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("table") / "table.tsv"
    columns = ["session", "participant_id"]
    write_table(pd.DataFrame({name: pd.Series(values, dtype=object) for name in columns}), path)
    for name in columns:
        assert read_table(path)[name].astype(object).where(lambda cells: cells.notna(), None).tolist() == values


def test_numbers_and_missing_values_need_no_declaration(tmp_path):
    table = pd.DataFrame(
        {"age": [60.1, np.nan], "row": [0, 1], "used": [True, False], "volume": [None, None], "session": [None, None]}
    )
    write_table(table, tmp_path / "table.tsv", {"unit": "years"})
    found = read_table(tmp_path / "table.tsv")
    pd.testing.assert_frame_equal(found[["age", "row", "used"]], table[["age", "row", "used"]])
    assert found["volume"].isna().all() and found["session"].isna().all()
    assert not {"age", "row", "used", "volume"} & TEXT_COLUMNS


def test_threads_that_write_leave_no_file_open_to_all(tmp_path):
    """A function that asks for the umask by setting it to 0 for a moment opens what other threads make meanwhile."""
    before, done = os.umask(0o077), threading.Event()

    def write():
        while not done.is_set():
            write_json(tmp_path / "status.json", {"a": 1})

    threads = [threading.Thread(target=write) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        modes = set()
        for at in range(2_000):
            os.close(os.open(tmp_path / str(at), os.O_CREAT | os.O_WRONLY, 0o666))
            modes.add(stat.S_IMODE((tmp_path / str(at)).stat().st_mode))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        os.umask(before)
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "status.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "/etc", "", "a\0b", "a\n", None, 1.0, "-rf", "x" * 300])
def test_a_name_of_a_table_leads_nowhere_else(tmp_path, name):
    (tmp_path / "study").mkdir()
    (tmp_path / "x").write_text("a thesis")
    for names in ((name,), ("shard", name), (name, "image")):
        with pytest.raises(InputError, match="may lead out of this folder"):
            remove_within(tmp_path / "study", *names)
    assert (tmp_path / "x").read_text() == "a thesis"


def test_only_links_are_removed_and_never_what_they_lead_to(tmp_path):
    elsewhere, study = tmp_path / "elsewhere", tmp_path / "study"
    (elsewhere / "image").mkdir(parents=True)
    study.mkdir()
    (study / "shard").symlink_to(elsewhere)
    with pytest.raises(InputError, match="it is a link"):
        remove_within(study, "shard", "image")
    remove_within(study, "shard")
    assert (elsewhere / "image").is_dir() and not (study / "shard").is_symlink()
    (study / "a" / "b").mkdir(parents=True)
    remove_within(study, "a")
    remove_within(study, "a")  # it need not be there
    assert not (study / "a").exists()


def test_copies_lose_the_permissions_that_new_files_do_not_get(tmp_path):
    before = os.umask(0o077)
    try:
        (tmp_path / "image" / "mri").mkdir(parents=True)
        (tmp_path / "outside").write_text("")
        for path in (tmp_path / "image" / "mri" / "orig.mgz", tmp_path / "image" / "log", tmp_path / "outside"):
            path.touch()
            path.chmod(0o664)
        (tmp_path / "image" / "link").symlink_to(tmp_path / "outside")
        (tmp_path / "image").chmod(0o755)
        restrict(tmp_path / "image")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "image").rglob("*.mgz")} == {0o600}
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o664
    assert sorted(path.name for path in (tmp_path / "image").iterdir()) == ["link", "log", "mri"]


@pytest.mark.parametrize("read", [read_table, read_facts, read_json, lambda path: list(read_dicts(path, "image_id"))])
@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"# {", b"# []\n", b'"', b"a\tb\n1\n", b'"' + b"x" * 200_000])
def test_a_file_of_the_study_that_others_replaced_is_one_line(tmp_path, read, content):
    path = tmp_path / "a.tsv"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        assert "a.tsv" in str(error) and len(str(error).splitlines()) == 1
    else:
        assert content is not None


@pytest.mark.parametrize(
    "row", ["../x-1\tx\t1\t1", "A-1\tB\t1\t1", "A-1\tA\t-1\t1", "A-1\tA\t1\t0", "A-1\tA\t99999999\t1"]
)
def test_a_row_that_names_no_shard_is_refused(tmp_path, row):
    facts = '# {"cohorts_sha256": "", "pretraining_shares": {}, "roles": {}}\n'
    (tmp_path / "shards.tsv").write_text(f"{facts}shard\tcohort\timages\timages_per_job\n{row}\n")
    with pytest.raises(InputError, match=r"names no shard.*run neurotransfer manifest"):
        read_study({"tasks": {}}, tmp_path / "shards.tsv", stale_too=True)


@pytest.mark.parametrize("content", ["null", "[[[[", "image_id\n", "# {}\na\tb\n1\t2\n"])
def test_a_table_without_a_needed_column_is_one_line(tmp_path, content):
    (tmp_path / "images.tsv").write_text(content)
    with pytest.raises(InputError, match=r"images.tsv: it has no column (image|participant)_id; restore"):
        read_table(tmp_path / "images.tsv", "image_id", "participant_id")
