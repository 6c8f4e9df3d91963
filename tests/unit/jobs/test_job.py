"""What every job does around its work: the cause of a failure, and leases that no two processes hold."""

import errno
import gc
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from neurotransfer.errors import InputError
from neurotransfer.jobs import job


@pytest.fixture
def rule(tmp_path, monkeypatch):
    """Snakemake's object in a script, as far as `job` reads it."""
    monkeypatch.chdir(tmp_path)
    names = {"rule": "linear", "wildcards": ["ad_hc", "18", "001"], "log": ["logs/linear.log"]}
    return SimpleNamespace(**names, resources={"mem_mb": 2000}, threads=1, input=[], output=[], params={})


@pytest.mark.parametrize(
    ("kind", "number", "words"),
    [(FileNotFoundError, errno.ENOENT, "a/b.tsv: there is no such file or folder; correct the path"),
     (FileExistsError, errno.EEXIST, "a/b.tsv: it is there already, and is no folder"),
     (NotADirectoryError, errno.ENOTDIR, "a/b.tsv: a part of this path is no folder"),
     (OSError, errno.ENAMETOOLONG, "the name is too long")],
)  # fmt: skip
def test_a_wrong_path_is_said_without_a_number(kind, number, words):
    said = job.explain(kind(number, os.strerror(number), "a/b.tsv"))
    assert words in said and "Errno" not in said


def test_what_stands_in_the_way_is_called_no_folder_only_if_it_is_none(tmp_path):
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path / "file", "it is there already, and is no folder"),
        (tmp_path, "it is there already"),
    ):
        with pytest.raises(FileExistsError) as refused:
            path.mkdir()
        assert job.explain(refused.value).startswith(f"{path}: {words}; correct the path")


def test_a_failure_leaves_its_cause_and_success_removes_it(rule, tmp_path):
    with pytest.raises(SystemExit) as stopped, job.job(rule):
        raise InputError("a.tsv", "row 3", "age 230", "correct it")
    assert stopped.value.code == 1
    path = tmp_path / "results/failures/linear/ad_hc-18-001.json"
    failure = json.loads(path.read_text())
    last = (tmp_path / "logs/linear.log").read_text().splitlines()[-1]
    assert failure["cause"] in last
    assert "a.tsv" in last and "row 3" in last and "correct it" in last
    with job.job(rule):
        pass
    assert not path.exists()


def test_a_job_goes_through_its_objects_rarely(rule):
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        job._collect_garbage_rarely.cache_clear()
        with job.job(rule):
            assert gc.get_threshold()[0] >= 10 * 700
    finally:
        gc.set_threshold(*before)


def test_a_jobs_objects_are_not_gone_through_at_its_end():
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))"  # runs last
    code += "; from neurotransfer.jobs import job; job._collect_garbage_rarely()"
    code += "; atexit.register(lambda: print(gc.get_freeze_count()))"  # runs first
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert after > before + 1000


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "full", "results/x"), "results/x: no space left on the disk; free some"),
        (OSError(errno.EROFS, "ro", "results/x"), "results/x: it cannot be written; fix its permissions"),
        (MemoryError(), "out of memory; give the job more"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_a_cause_is_one_line_that_says_what_to_do(error, words):
    assert words in job.explain(error)
    assert "\n" not in job.explain(error)


def test_what_cannot_be_read_is_not_called_unwritable(tmp_path, monkeypatch):
    (tmp_path / "a.tsv").touch()
    error = PermissionError(errno.EACCES, "denied", str(tmp_path / "a.tsv"))
    for readable, said in ((False, "a.tsv: it cannot be read"), (True, "a.tsv: it cannot be written")):
        monkeypatch.setattr(os, "access", lambda path, mode, readable=readable: readable)
        assert said in job.explain(error)


@pytest.mark.parametrize(
    "content",
    [
        b"null",
        b"[]",
        b'{"pid": 1}',
        b'{"host": "x", "pid": -1}',
        b'{"host": "x", "pid": 1, "slurm_job": "--help"}',
        b"",
    ],
)
def test_a_lease_that_names_no_process_is_of_a_dead_one(tmp_path, monkeypatch, content):
    (tmp_path / "out.lease").write_bytes(content)
    monkeypatch.setattr(job, "_age", lambda path: 10.0)
    with job.held(tmp_path / "out") as done:
        assert not done and json.loads((tmp_path / "out.lease").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "out.lease").exists()


def test_a_lease_waits_for_its_living_holder(tmp_path):
    order, first = [], threading.Event()

    def holder():
        with job.held(tmp_path / "out"):
            first.set()
            time.sleep(0.5)
            order.append("first")

    thread = threading.Thread(target=holder)
    thread.start()
    first.wait()
    with job.held(tmp_path / "out"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert not (tmp_path / "out.lease").exists()


def test_the_lease_of_a_process_that_was_killed_is_taken_over(tmp_path):
    code = f"import sys, time; sys.path[:0] = {sys.path!r}\nfrom neurotransfer.jobs import job\n"
    code += f"with job.held({str(tmp_path / 'out')!r}):\n    print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    assert (tmp_path / "out.lease").exists()
    began = time.monotonic()
    with job.held(tmp_path / "out"):
        assert json.loads((tmp_path / "out.lease").read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 5


def test_a_lease_of_another_machine_counts_as_dead_after_its_silence(tmp_path):
    path = tmp_path / "out.lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "slurm_job": None}))
    assert job.is_held(tmp_path / "out")
    os.utime(path, (0, time.time() - job.SILENCE - 1))
    assert not job.is_held(tmp_path / "out")


def test_a_job_whose_work_was_done_while_it_waited_ends_at_once(rule, tmp_path):
    """Snakemake was killed, its job was not, and the same command has sent another one."""
    rule.output = [str(tmp_path / "out")]
    first, go = threading.Event(), threading.Event()

    def predecessor():
        with job.held(tmp_path / "out", job._work_of(rule)):
            first.set()
            go.wait()
            (tmp_path / "out").write_text("once")

    thread = threading.Thread(target=predecessor)
    thread.start()
    first.wait()
    threading.Timer(0.5, go.set).start()
    worked = []
    with pytest.raises(SystemExit) as ended, job.job(rule, lease=tmp_path / "out"):
        worked.append(True)
    thread.join()
    assert not ended.value.code and not worked
    assert (tmp_path / "out").read_text() == "once"


def test_a_job_with_other_parameters_than_the_one_it_waited_for_does_its_own_work(rule, tmp_path):
    with job.held(tmp_path / "out", "other work"):
        threading.Timer(0.3, lambda: (tmp_path / "out.lease").unlink()).start()
        with job.held(tmp_path / "out", "mine") as done:
            assert not done


def test_the_twin_that_slurm_started_again_waits_for_silence_and_not_for_its_own_job(tmp_path, monkeypatch):
    """After a node was lost the job has the same id, and squeue says that it runs: that is this one."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(job, "_slurm_job_runs", lambda job: True)
    path = tmp_path / "out.lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "slurm_job": "7", "token": "a"}))
    assert job.is_held(tmp_path / "out")
    os.utime(path, (0, time.time() - job.SILENCE - 1))
    assert not job.is_held(tmp_path / "out")


def test_a_holder_whose_lease_was_taken_over_stops(tmp_path):
    """A node that was cut off comes back, and finds that another one does its work."""
    code = f"import sys, time; sys.path[:0] = {sys.path!r}\nfrom neurotransfer.jobs import job\njob.HEARTBEAT = 0.1\n"
    code += f"with job.held({str(tmp_path / 'out')!r}):\n    print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    (tmp_path / "out.lease").write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "b"}))
    assert process.wait(20) != 0
    assert json.loads((tmp_path / "out.lease").read_text())["token"] == "b"


def test_a_wrong_clock_makes_no_living_lease_look_dead(tmp_path, monkeypatch):
    path = tmp_path / "out.lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "slurm_job": None, "token": "a"}))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    assert job.is_held(tmp_path / "out")


def test_a_dead_lease_is_removed_but_not_the_one_made_in_its_place(tmp_path):
    path = tmp_path / "out.lease"
    path.write_text(json.dumps({"host": "here", "pid": 2, "token": "new"}))
    job._remove(path, {"host": "here", "pid": 1, "token": "old"})
    assert json.loads(path.read_text())["token"] == "new"
    assert [name.name for name in tmp_path.iterdir()] == ["out.lease"]


def test_sigterm_is_explained():
    assert "its time limit was reached" in job.explain(SystemExit(143))
