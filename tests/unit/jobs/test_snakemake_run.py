"""Snakemake's many lines in one of progress."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
from neurotransfer.errors import ImageError
from neurotransfer.jobs.job import set_up_logging
from neurotransfer.jobs.snakemake_run import INTERRUPTED, Progress, run_snakemake
from neurotransfer.preprocess import run
from neurotransfer.preprocess.engines import Made
from neurotransfer.pretrain import progress as pretraining

TABLE = """Job stats:
job             count
------------  -------
preprocess          2
pretrain            1
baseline_001        2
total               5

"""


def begun(name: str, number: int) -> str:
    """What Snakemake says when a job begins."""
    return f"rule {name}:\n    input: a.tsv\n    jobid: {number}\n"


def heard(progress: Progress, text: str) -> Progress:
    for line in text.splitlines():
        progress.hear(line)
    return progress


def test_the_line_says_what_is_worked_on_and_what_is_learnt():
    progress = heard(Progress(), f"{TABLE}{begun('preprocess', 32)}{begun('preprocess', 33)}")
    heard(progress, "2026-11-27 05:18:13,301 INFO 23 of 36: gamma_GA017_ses-02 ok (correlation 0.98), 1 s")
    heard(progress, "Finished jobid: 32 (Rule: preprocess)\n1 of 5 steps (20%) done")
    assert progress.line(10) == "   1 of 5 jobs done ( 20 %) after   10 s: preprocess"
    heard(progress, "Finished jobid: 33 (Rule: preprocess)\n2 of 5 steps (40%) done")
    heard(progress, begun("pretrain", 34) + begun("baseline_001", 35))
    heard(
        progress,
        "2026-11-27 05:21:04,140 INFO epoch 4: loss 0.612, age_mae 12.119, sex_auc 0.236; 69 images/s, 105 s to go",
    )
    assert progress.line(20).endswith("after   20 s: pretrain (epoch 4, error of age 12.1 years), baseline")


@pytest.fixture
def log(tmp_path):
    """A job's log, as `Progress` gets its lines."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    set_up_logging(tmp_path / "job.log")
    yield tmp_path / "job.log"
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    for handler in set(before) - set(root.handlers):
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def test_images_are_counted_from_what_preprocessing_logs(log, tmp_path, monkeypatch):
    """Two that are processed, of which one with a note, and one that fails."""

    def make(scan, folder, *, alone):
        if scan.image_id == "bad":
            raise ImageError("flat", "8 voxels; all ok otherwise")
        return Made("it fits (ok)") if scan.image_id == "noted" else None

    engine = mock.Mock(at_once=1, run=make, facts=lambda _: {}, made_by=lambda _: ("builtin", "1"))
    monkeypatch.setattr(run, "open_engine", lambda *_: engine)
    monkeypatch.setattr(run, "check_file", lambda _: None)
    images = pd.DataFrame({"image_id": ["good", "noted", "bad"], "shard": "s-0001", "t1w": "a.nii"})
    run.preprocess_images(images, {"engine": "builtin"}, tmp_path / "subjects")
    progress = heard(Progress({"preprocess": 20}, images=3), f"{TABLE}{begun('preprocess', 1)}")
    for done, line in enumerate(log.read_text().splitlines()):  # the first line says how many are left
        progress.hear(line)
        assert progress.work.images_done == done, line
    assert done == 3 and progress.line(9).endswith(": preprocess (image 3 of 3 of a job)")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(13.0, "117 s"), (100.0, "15 min"), (1000.0, "2.5 h"), (23_040.0, "2.4 days")],
)
def test_the_epoch_and_the_time_left_are_those_that_pretraining_logs(log, monkeypatch, seconds, said):
    """After the first of ten epochs, and in the middle of the second."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(pretraining, "time", SimpleNamespace(monotonic=lambda: clock.now))
    source = pretraining.Progress(images=100, epochs=10, epoch=0)
    clock.now = seconds
    source.tell(0, 10, 100, loss=0.7)
    history = {"epoch": 0, "train_loss": 0.6, "validation_loss": 0.5, "validation_age_mae": 12.119}
    source.conclude(history | {"validation_sex_auc": 0.7, "dead_features": 1})
    last = log.read_text().splitlines()[-1]
    assert last.endswith(f"{said} to go")
    progress = heard(Progress(), f"{TABLE}{begun('pretrain', 1)}{last}")
    assert progress.line(9).endswith(": pretrain (epoch 0, error of age 12.1 years)")
    assert progress.work.said["pretrain"][0] == pytest.approx(9 * seconds, rel=0.05)
    clock.now = 1.5 * seconds + 2 * pretraining.NEWS_SECONDS
    source.tell(1, 5, 50, loss=0.4)
    last = log.read_text().splitlines()[-1]
    assert "epoch 1, step 5" in last
    heard(progress, last)
    assert progress.work.said["pretrain"][0] == pytest.approx(clock.now / 150 * 850, rel=0.05)


ERROR = """RuleException:
CalledProcessError in file "Snakefile", line 10:
Command 'set -euo pipefail;  exit 1' returned non-zero exit status 1.
[Sat Nov 28 08:02:58 2026]
Error in rule pretrain:
    message: None
    jobid: 3
    output: weights
    log: pretrain.log (check log file(s) for error details)
    shell:
        exit 1
        (command exited with non-zero exit code)
Trying to restart job 3.
"""  # of Snakemake 9.27 with --keep-going


def test_a_job_that_has_failed_is_not_worked_on_until_it_begins_again():
    progress = heard(Progress(), f"{TABLE}{begun('baseline_001', 4)}{begun('pretrain', 3)}")
    heard(progress, "12:00:00 INFO epoch 4: age_mae 12.119; 69 images/s, 105 s to go")
    heard(progress, ERROR)
    assert progress.line(9).endswith("after    9 s: baseline")
    heard(progress, begun("pretrain", 3))
    assert progress.line(9).endswith(": baseline, pretrain")


COSTS = {"preprocess": 20, "pretrain": 60, "baseline": 30, "report": 4}
SIZES = (72, 72, 72, 30, 20, 10, 4)  # images of the jobs of preprocessing, of which the largest come first


def left_by_time(slower: float) -> list[tuple[float, float, str]]:
    """A study's run on two cores in replay: seconds, the true time left and the line, every 20 seconds.

    Every job takes `slower` times as long as its cost, and one of preprocessing in proportion to its images.
    """
    mean = sum(SIZES) / len(SIZES)
    jobs = [("preprocess", 20 * size / mean, size) for size in SIZES]
    jobs += [("pretrain", 60.0, 0), *[("baseline_001", 30.0, 0)] * 8]
    counts = Counter(name for name, _, _ in jobs) + Counter(report=1)
    events: list[tuple[float, str]] = []
    cores = [5.0, 5.0]  # when each is free again
    for number, (name, cost, images) in enumerate(jobs):
        begin = min(cores)
        end = cores[cores.index(begin)] = begin + slower * cost
        events += [
            (begin, f"localrule {name}:\n    jobid: {number}"),
            (end, f"Finished jobid: {number} (Rule: {name})\n{number + 1} of {len(jobs) + 1} steps (1%) done"),
        ]
        for at in range(images):
            when = begin + (end - begin) * (at + 1) / images
            events.append((when, f"12:00:00 INFO {at + 1} of {images}: a_{at} ok (it fits), 1 s"))
        if name == "pretrain":
            for at in range(1, 10):
                to_go = f"69.0 images/s, {(end - begin) * (1 - at / 10):.0f} s to go"
                events.append((begin + (end - begin) * at / 10, f"12:00:00 INFO epoch {at}: loss 0.6; {to_go}"))
    finish = max(cores) + slower * 4
    progress = Progress(COSTS, images=mean)
    table = [f"{name} {count}" for name, count in counts.items()]
    heard(progress, "\n".join(["Provided cores: 2", "Job stats:", *table, f"total {len(jobs) + 1}"]))
    lines, clock = [], 20.0
    for when, text in sorted(events, key=lambda event: event[0]):
        while clock < when:
            lines.append((clock, finish - clock, progress.line(clock)))
            clock += 20.0
        for line in text.splitlines():
            progress.hear(line, when)
    return lines


@pytest.mark.parametrize("slower", [0.6, 1.0, 3.0])
def test_the_time_left_is_right_to_a_third_after_the_first_minute(slower):
    """Also if the machine is faster or slower than an ordinary one, and the largest jobs come first."""
    said = 0
    for seconds, left, line in left_by_time(slower):
        if found := re.search(r"about (\d+) s to go", line):
            said += 1
            assert seconds < 60 or left < 20 or float(found[1]) == pytest.approx(left, rel=0.3), (seconds, left, line)
        else:
            assert seconds < 60, line
    assert said > 5


def test_no_time_left_is_said_before_some_work_is_done():
    assert "to go" not in left_by_time(3.0)[0][2]


def test_in_a_terminal_a_line_is_made_each_second_while_jobs_say_nothing():
    code = "import time; print('1 of 9 steps (11%) done', flush=True); time.sleep(3.5)"
    progress, asked = Progress(), []
    progress.line = lambda seconds, width: asked.append(seconds) or ""
    with mock.patch.object(sys, "stdout", mock.Mock(isatty=lambda: True, write=len)):
        run_snakemake([sys.executable, "-c", code], "test", progress=progress)
    assert len(asked) >= 3


STUBBORN = """
import os, signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])  # a job that goes on, and holds the pipe
print("child", os.getpid())
print("1 of 2 steps (50%) done", flush=True)
time.sleep(600)
"""
INTERRUPTED_RUN = """
import signal, sys
from neurotransfer.jobs.snakemake_run import run_snakemake
signal.signal(signal.SIGINT, signal.default_int_handler)
ended = run_snakemake([sys.executable, "-c", sys.argv[1]], "test")
print(ended.lines[0], flush=True)
sys.exit(ended.status)
"""


def test_a_second_ctrl_c_kills_snakemake_and_ends_quietly():
    """Also if Snakemake and a job of it end at no Ctrl-C, and however often it is pressed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-c", INTERRUPTED_RUN, STUBBORN]
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            assert "1 of 2 jobs" in process.stdout.readline()
            for _ in range(60):
                os.killpg(process.pid, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                    break
            status = process.poll()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        out = process.stdout.read()
    found = re.fullmatch(r"\ntest: stopped; the same command goes on from here\nchild (\d+)\n", out)
    assert status == INTERRUPTED and found, out
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[1]), 0)


def test_a_byte_that_is_not_utf_8_ends_nothing():
    code = "import os, time; os.write(1, b'M\\xfcller\\n'); time.sleep(1); print('1 of 1 steps', flush=True)"
    ended = run_snakemake([sys.executable, "-c", code], "test")
    assert ended.status == 0 and ended.lines == ("M\N{REPLACEMENT CHARACTER}ller", "1 of 1 steps")


def test_a_rule_is_shown_in_words():
    progress = Progress(words={"baseline": "networks from scratch"})
    heard(progress, f"{TABLE}{begun('baseline_001', 3)}{begun('pretrain', 4)}1 of 5 steps (20%) done")
    assert progress.line(3).endswith(": networks from scratch, pretrain")
    assert progress.line(3, 60) == "1 of 5 jobs, 3 s: networks from scratch, pretrain"  # in a narrow terminal


def test_jobs_of_a_run_that_goes_on_count_from_there():
    rest = TABLE.replace("preprocess          2\n", "").replace("total               5", "total               3")
    progress = heard(Progress(COSTS), rest)
    assert progress.line(1).startswith("   0 of 0 jobs")
    heard(progress, begun("pretrain", 7))
    progress.hear("Finished jobid: 7 (Rule: pretrain)", 60)
    progress.hear("1 of 3 steps (33%) done", 60)
    assert progress.line(60) == "   1 of 3 jobs done ( 33 %) after   60 s, about 60 s to go"  # two fits of 30 s
