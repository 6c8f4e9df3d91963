"""Who may read a study: one umask for every process, and a word on what is open already."""

import os
import stat
import subprocess
import sys

import pytest
from neurotransfer import cli
from neurotransfer.study.access import OWNER, close_records, left_open, set_umask


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("key", "file", "folder"), [("owner", 0o600, 0o700), ("group", 0o640, 0o750)])
def test_files_folders_and_programs_get_what_the_key_says(tmp_path, key, file, folder):
    set_umask({"readable_by": key})
    (tmp_path / "results").mkdir()
    program = (
        "from pathlib import Path; from neurotransfer.files import write_json; write_json('results/logs/a.json', 1)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert mode_of(tmp_path / "results") == mode_of(tmp_path / "results/logs") == folder
    assert mode_of(tmp_path / "results/logs/a.json") == file


def test_a_configuration_without_a_known_key_leaves_files_to_their_owner():
    assert set_umask({}) == set_umask({"readable_by": "all"}) == OWNER


def test_what_an_older_run_left_open_is_named_with_the_command_that_closes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    for name in ("results", "logs", "rehearsal"):
        (tmp_path / name).mkdir(mode=0o755)
    found = left_open(OWNER)
    assert "everybody on this machine may enter results, logs, rehearsal of" in found
    subprocess.run(found.rpartition(": ")[2], shell=True, check=True)
    assert left_open(OWNER) is None
    (tmp_path / "results").chmod(0o750)
    assert "the group may enter results" in left_open(OWNER) and left_open(0o027) is None
    tmp_path.chmod(0o700)
    assert left_open(OWNER) is None  # nobody else enters the study's folder


def test_snakemakes_records_are_closed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)  # the log begins before the Snakefile is read
    (tmp_path / ".snakemake/log").mkdir(parents=True)
    (tmp_path / ".snakemake/log/1.snakemake.log").write_text("rule preprocess of A_01")
    (tmp_path / "elsewhere").write_text("of somebody else")
    (tmp_path / ".snakemake/log/2.snakemake.log").symlink_to(tmp_path / "elsewhere")
    os.umask(before)
    close_records(OWNER)
    assert mode_of(tmp_path / ".snakemake") == mode_of(tmp_path / ".snakemake/log") == 0o700
    assert mode_of(tmp_path / ".snakemake/log/1.snakemake.log") == 0o600
    assert mode_of(tmp_path / "elsewhere") == 0o644, "a link leads elsewhere"


def test_the_console_command_gives_its_caller_the_umask_back(tmp_path, capsys):
    assert cli.main(["plan", "-d", str(tmp_path / "nowhere")]) == 2
    assert os.umask(0o022) == 0o022
