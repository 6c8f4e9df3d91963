"""Every image is in exactly one state, the states sum to the manifest, and asking changes nothing."""

import io
import json
import os
import random
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from neurotransfer.errors import InputError
from neurotransfer.operations import status
from neurotransfer.operations.status import states_of_images, status_of
from neurotransfer.study.plan import MODELS, Shard, Study

LEDGER = "image_id\tstatus\treason\tdetail\tengine\tengine_version\n"
REASONS = {"truncated": "the file ends too early"}


def study_of(shards, n=(18,), replicates=2, tasks=("ad_hc",)) -> Study:
    roles = {shard.cohort: frozenset(["pretraining", *tasks]) for shard in shards}
    names = tuple(f"{replicate:03d}" for replicate in range(1, replicates + 1))
    return Study(
        shards={shard.name: shard for shard in shards}, roles=roles, pretraining_shares={}, n=n,
        tasks={task: {} for task in tasks}, replicates=names, run="multitask",
    )  # fmt: skip


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def plant(folder: Path) -> tuple[Study, dict[str, tuple[str, str | None]]]:
    """A study with an image in each state, however it came there, and the state that each must have."""
    truth = {
        "A_ok": ("ok", None),
        "A_bad": ("failed", "truncated"),
        "A_odd": ("excluded", "mask_volume"),
        "A_nothing": ("failed", None),  # a ledger without a reason
        "A_running_done": ("ok", None),  # its job has no ledger yet, its own status is there
        "A_running_bad": ("failed", "mask_failed"),
        "A_running_now": ("waiting", None),  # a folder without a status
        "A_half": ("waiting", None),  # a status that was cut
        "A_unborn": ("waiting", None),
        "B_again": ("waiting", None),  # marked for another try; quality control's old verdict does not count
        "B_ok": ("ok", None),
    }
    shards = {"A-0001": list(truth)[:4], "A-0002": list(truth)[4:9], "B-0001": list(truth)[9:]}
    rows = [f"{image}\t{shard[0]}\t{shard}\n" for shard, images in shards.items() for image in images]
    write(folder / "manifest/images.tsv", "image_id\tcohort\tshard\n" + "".join(rows))
    ledger = ["A_ok\tok\t\t\tbuiltin\t1", "A_bad\tfailed\ttruncated\tit ends early\tbuiltin\t1"]
    write(folder / "preprocessed/A-0001/0000.tsv", LEDGER + "\n".join(ledger) + "\n")
    ledger = ["A_odd\tok\t\t\tbuiltin\t1", "A_nothing\tfailed\t\t\t\t", "A_left\twithdrawn\t\t\t\t"]
    write(folder / "preprocessed/A-0001/0001.tsv", LEDGER + "\n".join(ledger) + "\n")
    write(folder / "preprocessed/B-0001/0001.tsv", LEDGER + "B_ok\tok\t\t\tbuiltin\t1\n")
    write(folder / "preprocessed/B-0001/0001.tsv.lease", "{}")
    subjects = folder / "preprocessed/subjects"
    write(subjects / "A-0002/A_running_done/status.json", json.dumps({"state": "ok", "reason": None}))
    write(subjects / "A-0002/A_running_bad/status.json", json.dumps({"state": "failed", "reason": "mask_failed"}))
    (subjects / "A-0002/A_running_now").mkdir()
    (subjects / "A-0002/.A_unborn.part").mkdir()
    write(subjects / "A-0002/A_half/status.json", '{"state": "o')
    (subjects / "B-0001/B_again").mkdir(parents=True)
    quality = ["A_ok\tok\t\t", "A_odd\texcluded\tmask_volume\t99", "B_again\texcluded\tholes\t7", "B_ok\tok\t\t"]
    for cohort in "AB":
        mine = [row for row in quality if row.startswith(cohort)]
        write(folder / f"quality/{cohort}.tsv", "image_id\tstatus\treason\tdetail\n" + "\n".join(mine) + "\n")
    shards = [Shard("A-0001", "A", 5, 3, withdrawn=1), Shard("A-0002", "A", 5, 5), Shard("B-0001", "B", 2, 1)]
    return study_of(shards), truth


def plant_failure(folder: Path, rule: str, key: str, cause: str) -> None:
    facts = {"rule": rule, "key": key, "cause": cause, "time": 0.0, "wildcards": key.split("-")}
    write(folder / f"failures/{rule}/{key}.json", json.dumps(facts))


def plant_lease(folder: Path, result: str, host: str = "elsewhere", pid: int = 1, age: float = 0) -> None:
    lease = folder / f"{result}.lease"
    write(lease, json.dumps({"host": host, "pid": pid, "started": None}))
    os.utime(lease, (time.time() - age,) * 2)


def test_every_image_is_in_the_state_that_was_planted(tmp_path):
    _, truth = plant(tmp_path)
    assert {image: (found.state, found.reason) for image, found in states_of_images(tmp_path)} == truth


def test_the_states_sum_to_the_manifest_and_withdrawn_ones_are_apart(tmp_path):
    study, truth = plant(tmp_path)
    found = status_of(study, tmp_path)
    assert found.images == len(truth) == sum(found.count(state=state) for state in status.STATES)
    assert {state: found.count(state=state) for state in status.STATES} == Counter(state for state, _ in truth.values())
    assert found.count("B") == 2 and found.count("B", "waiting") == 1
    assert found.withdrawn == {"A": 1}


def test_the_text_says_cohort_and_reason(tmp_path):
    study, _ = plant(tmp_path)
    plant_failure(tmp_path, "cache", "A-0002", "no space left on the disk")
    lines = status_of(study, tmp_path).text(REASONS).splitlines()
    assert lines[0].split() == ["cohort", "images", "ok", "failed", "excluded", "waiting", "(withdrawn)"]
    assert lines[1].split() == ["A", "9", "2", "3", "1", "3", "1"]
    assert lines[3].split() == ["total", "11", "3", "3", "1", "4", "1"]
    said = next(line for line in lines if "truncated" in line)
    assert said.split() == ["failed", "truncated", "1", "A", "1", *REASONS["truncated"].split()]
    assert any(line.split()[:3] == ["excluded", "mask_volume", "1"] for line in lines)
    assert lines[-1] == "  1 x cache: no space left on the disk"


class Screen(io.StringIO):
    """A terminal, or a pipe."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_shows_one_screen_after_the_other_and_ends_with_the_study(tmp_path, monkeypatch, terminal):
    study, _ = plant(tmp_path)
    plant_failure(tmp_path, "cache", "A-0002", "no space left on the disk")
    found, slept = status_of(study, tmp_path), []
    done = [replace(step, done=step.of) for step in (*found.before, *found.after, *found.fits)]
    progress = iter([found, replace(found, before=tuple(done), after=(), fits=())])
    monkeypatch.setattr(status.time, "sleep", slept.append)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "16")
    screen = Screen(terminal)

    status.watch(lambda: next(progress), REASONS, 7.0, screen)

    assert slept == [7.0]
    shown = screen.getvalue()
    assert "11 images: 3 ok, 3 failed, 1 excluded, 4 waiting" in shown
    if terminal:
        first, second = shown.split(status.CLEAR)[1:]
        assert all(len(text.splitlines()) <= 15 for text in (first, second))
        assert all(len(line) <= 60 for line in shown.replace(status.CLEAR, "").splitlines())
        assert "1 x cache: no space" in first  # above the steps, which a small screen may cut off
    else:
        assert status.CLEAR not in shown
        assert shown.count("images:") == 2 and shown.count("1 x cache: no space left on the disk") == 2


def test_a_watched_study_says_images_per_second_and_the_time_left_to_preprocess(tmp_path, monkeypatch):
    study, _ = plant(tmp_path)
    found = status_of(study, tmp_path)
    done = [replace(step, done=step.of) for step in (*found.before, *found.after, *found.fits)]
    first = Counter({("A", "ok", None): 10, ("A", "waiting", None): 100})
    second = Counter({("A", "ok", None): 28, ("A", "failed", "truncated"): 2, ("A", "waiting", None): 80})
    looks = iter([replace(found, counts=first), replace(found, counts=second, before=tuple(done), after=(), fits=())])
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(status.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(status.time, "sleep", lambda seconds: None)
    screen = Screen(False)
    status.watch(lambda: next(looks), REASONS, 7.0, screen)
    before, after = screen.getvalue().split("110 images: ")[1:]
    assert "images/s" not in before
    assert after.startswith("28 ok, 2 failed, 80 waiting; 2 images/s, 40 s left to preprocess")


def said_of_the_time_left(tmp_path, monkeypatch, looks) -> list[str]:
    """What a watched study says at each look, given as seconds, images that have ended, and images that wait."""
    found = status_of(plant(tmp_path)[0], tmp_path)
    ended = {
        name: tuple(replace(one, done=one.of) for one in getattr(found, name)) for name in ("before", "fits", "after")
    }
    counts = [Counter({("A", "ok", None): done, ("A", "waiting", None): waiting}) for _, done, waiting in looks]
    studies = [replace(found, counts=one) for one in counts]
    progress, clock = iter([*studies[:-1], replace(studies[-1], **ended)]), iter([seconds for seconds, _, _ in looks])
    monkeypatch.setattr(status.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(status.time, "sleep", lambda seconds: None)
    screen = Screen(False)
    status.watch(lambda: next(progress), REASONS, 30.0, screen)
    return [line.partition("; ")[2] for line in screen.getvalue().splitlines() if " images: " in line]


def test_images_that_wait_again_while_a_study_is_watched_give_no_pace_below_zero(tmp_path, monkeypatch):
    """148 failed images are retried between the second and the third look; then two images per second end."""
    looks = [(0.0, 240, 10), (30.0, 250, 0), (60.0, 102, 148), (90.0, 102, 148), (120.0, 162, 88)]
    said = said_of_the_time_left(tmp_path, monkeypatch, looks)
    assert said[:4] == ["", "", "", ""]
    assert said[4] == "1 images/s, 88 s left to preprocess"  # 60 images in the 60 s since then


def test_the_pace_of_images_that_take_long_is_that_of_many_looks(tmp_path, monkeypatch):
    """An image an hour, looked at every minute: 985 images need 41 days, whenever the last one has ended."""
    done = [int(minute / 60 + 0.6) for minute in range(60 * 15)]
    looks = [(60.0 * minute, number, 1000 - number) for minute, number in enumerate(done)]
    said = said_of_the_time_left(tmp_path, monkeypatch, looks)[60 * 11 :]
    assert all(said)
    days = [float(text.split()[2]) for text in said]
    assert min(days) > 36 and max(days) < 42


def test_the_pace_follows_a_change_if_many_images_end(tmp_path, monkeypatch):
    """A hundred looks with 60 images each, then forty with 15 each."""
    done = [60 * at for at in range(100)] + [60 * 99 + 15 * at for at in range(1, 41)]
    looks = [(30.0 * at, number, 10_000 - number) for at, number in enumerate(done)]
    said = said_of_the_time_left(tmp_path, monkeypatch, looks)
    assert said[99].startswith("2 images/s") and said[-1].startswith("0.5 images/s")


def test_later_steps_say_how_many_of_how_many(tmp_path):
    study, _ = plant(tmp_path)
    for name in ("cache/A-0001.tsv", "index/A.tsv", "resamples/ad_hc/n18/001.tsv", "resamples/ad_hc/n18/009.tsv"):
        write(tmp_path / name, "")
    write(tmp_path / "cache/.A-0002.tsv.x.part", "half of it")
    write(tmp_path / "fits/ad_hc/n18/001/linear.json", "{}")
    write(tmp_path / "fits/ad_hc/n18/001/transfer.json.lease", "{}")
    write(tmp_path / "pretrain/multitask/weights.safetensors", "")
    found = status_of(study, tmp_path)
    steps = {step.name: (step.done, step.of) for step in (*found.before, *found.after)}
    assert steps["preprocessing jobs"] == (3, 5)
    assert steps["cached shards"] == (1, 3)
    assert steps["cohorts with an index"] == (1, 2)
    assert steps["pretraining"] == (1, 1) and steps["report"] == (0, 1)
    unfinished = dict.fromkeys(("baseline", "transfer", "covariates"), 0)
    assert found.replicates[0].done == {"resamples": 1, "linear": 1, **unfinished}
    assert found.replicates[0].of == 2


def test_second_seeds_are_one_step(tmp_path):
    study, _ = plant(tmp_path)
    assert "second seeds" not in {step.name for step in status_of(study, tmp_path).fits}
    study = replace(study, second_seeds=("001",))
    write(tmp_path / "second_seeds/ad_hc/n18/001/baseline.json", "{}")
    plant_lease(tmp_path, "second_seeds/ad_hc/n18/001/transfer.json", socket.gethostname(), os.getpid())
    (step,) = [step for step in status_of(study, tmp_path).fits if step.name == "second seeds"]
    assert (step.done, step.of, step.running, step.failed) == (1, 2, 1, 0)


def test_jobs_are_done_running_failed_or_waiting(tmp_path):
    """Per step, and per task, n and model; from the files alone, wherever Snakemake and its jobs run."""
    study = study_of([Shard("A-0001", "A", 5, 1), Shard("A-0002", "A", 5, 5)], replicates=8)
    write(tmp_path / "manifest/images.tsv", "image_id\tcohort\tshard\n")
    fits = "fits/ad_hc/n18"
    for replicate in ("001", "002", "003"):
        write(tmp_path / f"{fits}/{replicate}/transfer.json", "{}")
    plant_failure(tmp_path, "transfer", "ad_hc-18-003", "was there before it was done")
    plant_failure(tmp_path, "transfer", "ad_hc-18-004", "CUDA error 1")
    plant_failure(tmp_path, "transfer", "ad_hc-18-005", "CUDA error 2")
    plant_lease(tmp_path, f"{fits}/005/transfer.json")  # is tried again
    plant_lease(tmp_path, f"{fits}/006/transfer.json", age=10 * status.SILENCE)  # of a job that died
    here = socket.gethostname()
    plant_lease(tmp_path, f"{fits}/007/transfer.json", here, os.getpid())
    plant_lease(tmp_path, f"{fits}/008/transfer.json", here, 2**22 + 1)  # no such process
    plant_lease(tmp_path, "preprocessed/A-0001/0002.tsv")
    plant_failure(tmp_path, "preprocess", "A-0001-0003", "no GPU")
    plant_lease(tmp_path, "cache/A-0002.npy")
    plant_lease(tmp_path, "pretrain/multitask/weights.safetensors")

    found = status_of(study, tmp_path)
    steps = {step.name: step for step in (*found.before, *found.fits, *found.after)}
    counts = {name: (step.done, step.running, step.failed, step.waiting) for name, step in steps.items()}
    assert counts["preprocessing jobs"] == (0, 1, 1, 4)
    assert counts["cached shards"] == (0, 1, 0, 1)
    assert counts["pretraining"] == (0, 1, 0, 0)
    assert counts["transfer fits"] == (3, 2, 1, 2)
    assert counts["baseline fits"] == (0, 0, 0, 8)
    lines = found.text({}).splitlines()
    assert "3 of 8, 2 running, 1 failed" in next(line for line in lines if line.startswith("ad_hc"))
    assert "  2 x transfer: CUDA error 1" in found.text({})  # of one kind, whatever their numbers


def test_the_time_left_follows_from_the_newest_results(tmp_path):
    study = study_of([Shard("A-0001", "A", 5, 5)], n=(18, 36), replicates=100)
    write(tmp_path / "manifest/images.tsv", "image_id\tcohort\tshard\n")
    now = time.time()
    for replicate in range(1, 81):  # one in 1,000 s, and one in 60 s of late
        path = tmp_path / f"fits/ad_hc/n18/{replicate:03d}/baseline.json"
        write(path, "{}")
        os.utime(path, (now - 60 * (80 - replicate) - 940 * max(0, 25 - replicate),) * 2)
    baseline = next(step for step in status_of(study, tmp_path).fits if step.name == "baseline fits")
    assert baseline.seconds == pytest.approx(60 * 120)
    assert "2.0 h left" in status_of(study, tmp_path).text({})


def test_a_pretraining_that_runs_says_how_far_it_is(tmp_path):
    study, _ = plant(tmp_path / "results")
    write(tmp_path / "results/checkpoints/pretrain/multitask/f-000000000012.pt", "")
    said = "epoch 12: loss 0.4; 10.0 images/s, 3.0 h to go"
    write(tmp_path / "logs/pretrain/multitask.log", f"2026-01-01 INFO {said}\nx\n")
    found = status_of(study, tmp_path / "results")
    assert "begun: epoch 12; 10.0 images/s, 3.0 h to go; loss 0.4" in found.text({})


def test_asking_writes_nothing_and_needs_no_permission_to(tmp_path):
    study, _ = plant(tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    status_of(study, tmp_path).text({})
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before
    for path in before:
        path.chmod(0o755)


def test_without_a_manifest_it_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="run neurotransfer manifest"):
        list(states_of_images(tmp_path))


def test_a_table_that_is_being_cut_off_stops_nobody(tmp_path):
    write(tmp_path / "manifest/images.tsv", "image_id\tcohort\tshard\nA_1\tA\tA-0001\nA_2\tA\tA-0001\n")
    write(tmp_path / "preprocessed/A-0001/0000.tsv", LEDGER + 'A_1\tok\t\t"a\tb"\tbuiltin\t1\nA_2\tok')
    assert [found.state for _, found in states_of_images(tmp_path)] == ["ok", "waiting"]


def simulate_results(folder: Path, images: int, per_job: int, tasks: int, replicates: int) -> Study:
    """A study that is half way, of 64 images per shard: ledgers for 90 % of its shards, and all its fits."""
    draw = random.Random(1)
    shards, lines = [], ["image_id\tcohort\tshard\n"]
    for number, first in enumerate(range(0, images, 64)):
        cohort = f"C{number % 45}"
        shard = Shard(f"{cohort}-{number:04d}", cohort, min(64, images - first), per_job)
        names = [f"{cohort}_{first + at:06d}_ses-01" for at in range(shard.images)]
        lines += [f"{name}\t{cohort}\t{shard.name}\n" for name in names]
        shards.append(shard)
        for job in shard.jobs if number % 10 else []:
            mine = names[int(job) * per_job : (int(job) + 1) * per_job]
            rows = ["failed\ttruncated\tit ends early" if draw.random() < 0.02 else "ok\t\t" for _ in mine]
            text = "".join(f"{name}\t{row}\tfastsurfer\t2.4.2\n" for name, row in zip(mine, rows, strict=True))
            write(folder / f"preprocessed/{shard.name}/{job}.tsv", LEDGER + text)
    write(folder / "manifest/images.tsv", "".join(lines))
    study = study_of(
        shards, n=(100, 200, 300, 400, 500), replicates=replicates, tasks=[f"t{at}" for at in range(tasks)]
    )
    for task in study.tasks:
        for n in study.n:
            for replicate in study.replicates:
                write(folder / f"resamples/{task}/n{n}/{replicate}.tsv", "")
                for model in MODELS:
                    write(folder / f"fits/{task}/n{n}/{replicate}/{model}.json", "")
    return study


def test_the_papers_study_is_told_within_five_seconds(tmp_path):
    """114,257 images in jobs of 64, 1,000 resamples, 3,000 fits; seconds of the processor, which other jobs share."""
    study = simulate_results(tmp_path, 114_257, 64, tasks=2, replicates=100)
    found = status_of(study, tmp_path)
    assert found.images == 114_257
    assert sum(row.done["resamples"] for row in found.replicates) == 1000
    assert sum(row.done[model] for row in found.replicates for model in MODELS) == 3000
    seconds = min(_timed(lambda: status_of(study, tmp_path).text({})) for _ in range(2))
    assert seconds < 5, f"{seconds:.1f} s"


def _timed(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
