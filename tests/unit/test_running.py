"""A lock met by a second person: who holds it, and the command that clears it where nobody does."""

import os
import subprocess
import sys

import pytest
from neurotransfer import running
from neurotransfer.files import read_json, write_json


@pytest.fixture
def locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.input.lock").touch()
    return tmp_path


def test_without_a_lock_there_is_nothing_to_explain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    running.note_run()
    assert running.explain_lock([]) is None


def test_a_living_snakemake_is_named(locked):
    running.note_run()
    told = running.explain_lock(["--profile", "slurm"])
    assert f"process {os.getpid()}" in told
    assert "wait for it" in told and "--unlock" not in told


def test_a_killed_one_is_told_from_a_living_and_its_lock_from_others(locked):
    code = "from neurotransfer.running import note_run; note_run()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    told = running.explain_lock(["--profile", "slurm", "--configfile", "my study.yaml"])
    assert "was killed" in told
    assert "`snakemake --profile slurm --configfile 'my study.yaml' --unlock`" in told


def test_a_number_that_another_process_has_now_is_not_taken_for_it(locked):
    running.note_run()
    note = read_json(running.NOTE)
    write_json(running.NOTE, note | {"started": "1"})
    assert "was killed" in running.explain_lock([])


def test_one_on_another_machine_cannot_be_known(locked):
    running.note_run()
    write_json(running.NOTE, read_json(running.NOTE) | {"host": "elsewhere"})
    assert "as far as can be known" in running.explain_lock([])


def test_a_run_that_ends_takes_its_note_away(locked):
    running.note_run()
    running.end_run()
    assert not running.NOTE.exists()
    assert "if none does, clear its lock" in running.explain_lock([])


def test_clearing_the_lock_and_looking_are_not_warned(locked):
    assert running.explain_lock(["--unlock"]) is None
    assert running.explain_lock(["-n"]) is None
