"""A lock met by a second person: who holds it, and the command that clears it where nobody does."""

import os
import subprocess
import sys

import pytest
from neurotransfer.files import read_json, write_json
from neurotransfer.jobs import lock_note


@pytest.fixture
def locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.input.lock").touch()
    return tmp_path


def test_without_a_lock_there_is_nothing_to_explain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock_note.note_run()
    assert lock_note.explain_lock([]) is None


def test_a_living_snakemake_is_named(locked):
    lock_note.note_run()
    told = lock_note.explain_lock(["--profile", "slurm"])
    assert f"process {os.getpid()}" in told
    assert "wait for it" in told and "--unlock" not in told


def test_a_killed_one_is_told_from_a_living_and_its_lock_from_others(locked):
    code = "from neurotransfer.jobs.lock_note import note_run; note_run()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    told = lock_note.explain_lock(["--profile", "slurm", "--configfile", "my study.yaml"])
    assert "was killed" in told
    assert "`snakemake --profile slurm --configfile 'my study.yaml' --unlock`" in told


def test_a_number_that_another_process_has_now_is_not_taken_for_it(locked):
    lock_note.note_run()
    note = read_json(lock_note.NOTE)
    write_json(lock_note.NOTE, note | {"started": "1"})
    assert "was killed" in lock_note.explain_lock([])


def test_one_on_another_machine_cannot_be_known(locked):
    lock_note.note_run()
    write_json(lock_note.NOTE, read_json(lock_note.NOTE) | {"host": "elsewhere"})
    assert "as far as can be known" in lock_note.explain_lock([])


def test_a_run_that_ends_takes_its_note_away(locked):
    lock_note.note_run()
    lock_note.end_run()
    assert not lock_note.NOTE.exists()
    assert "if none does, clear its lock" in lock_note.explain_lock([])


def test_clearing_the_lock_and_looking_are_not_warned(locked):
    assert lock_note.explain_lock(["--unlock"]) is None
    assert lock_note.explain_lock(["-n"]) is None
