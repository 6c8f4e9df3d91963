"""Faults in the middle of a run: failures name their cause, other jobs continue, and a rerun gives the same results."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from neurotransfer.operations.failures import failures_of
from runs import OVERLAYS, REPOSITORY, command, planned_jobs, snakemake

CORES = ("--cores", os.cpu_count() or 1)


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of a study's results by name."""
    files = (path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_failing_replicate_stops_no_other_and_the_next_run_repeats_only_it(study):
    task, bad = "ad_hc", "003"
    resample = study / f"results/resamples/{task}/n18/{bad}.tsv"
    whole, times = resample.read_bytes(), resample.stat()
    before = contents(study, f"results/fits/{task}/n18/*/linear.json")
    resample.write_bytes(whole[: len(whole) // 2])
    os.utime(resample, ns=(times.st_atime_ns, times.st_mtime_ns))
    for path in (study / f"results/fits/{task}/n18").glob("*/linear.json"):
        path.unlink()

    done = snakemake(study, *CORES, "--keep-going", "--until", "linear")

    assert done.returncode != 0
    made = contents(study, f"results/fits/{task}/n18/*/linear.json")
    assert set(before) - set(made) == {f"results/fits/{task}/n18/{bad}/linear.json"}
    assert all(before[name] == content for name, content in made.items())
    last = (study / f"logs/linear/{task}/n18/{bad}.log").read_text().splitlines()[-1]
    failure = json.loads((study / f"results/failures/linear/{task}-18-{bad}.json").read_text())
    assert failure["cause"] and failure["cause"] in last

    resample.write_bytes(whole)
    os.utime(resample, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert planned_jobs(study, "--until", "linear") == {f"linear task={task}, n=18, replicate={bad}"}
    assert snakemake(study, *CORES, "--until", "linear").returncode == 0
    assert contents(study, f"results/fits/{task}/n18/*/linear.json") == before
    assert not (study / f"results/failures/linear/{task}-18-{bad}.json").exists()


def test_replicates_that_share_a_job_fail_alone_and_finished_fits_are_kept(study, tmp_path):
    """The finished study goes on with three replicates in each job."""
    shared = tmp_path / "shared.yaml"
    shared.write_text("models: {replicates_per_job: 3}")
    overlays, task, bad = [*OVERLAYS, shared], "ad_hc", "003"
    resample = study / f"results/resamples/{task}/n18/{bad}.tsv"
    whole, times = resample.read_bytes(), resample.stat()
    before = contents(study, f"results/fits/{task}/n18/*/*.json")
    resample.write_bytes(whole[: len(whole) // 2])
    os.utime(resample, ns=(times.st_atime_ns, times.st_mtime_ns))
    models = ("linear", "transfer")
    for replicate, model in (("002", "linear"), (bad, "linear"), (bad, "transfer")):
        (study / f"results/fits/{task}/n18/{replicate}/{model}.json").unlink()
    rules = [f"{model}_001" for model in models]

    done = snakemake(study, *CORES, "--keep-going", "--keep-incomplete", "--until", *rules, overlays=overlays)

    assert done.returncode != 0
    lost = {f"results/fits/{task}/n18/{bad}/{model}.json" for model in models}
    made = contents(study, f"results/fits/{task}/n18/*/*.json")
    assert set(before) - set(made) == lost
    assert all(before[name] == content for name, content in made.items())
    for model in models:
        said = (study / f"logs/{model}/{task}/n18/001-003.log").read_text()
        assert "replicate 001: finished before, kept" in said and f"replicate {bad}: failed" in said, said
        assert json.loads((study / f"results/failures/{model}/{task}-18-{bad}.json").read_text())["cause"]

    resample.write_bytes(whole)
    os.utime(resample, ns=(times.st_atime_ns, times.st_mtime_ns))
    targets = {failure.target for failure in failures_of(study)}
    assert targets == lost
    again = snakemake(study, *CORES, *sorted(targets), overlays=overlays)
    assert again.returncode == 0, again.stdout
    assert contents(study, f"results/fits/{task}/n18/*/*.json") == before
    assert failures_of(study) == []


def test_second_seeds_that_share_a_job_keep_those_of_todays_fits(study, tmp_path):
    shared = tmp_path / "shared.yaml"
    shared.write_text("{resampling: {second_seeds: 0.5}, models: {replicates_per_job: 4}}")  # three, of six replicates
    overlays, folder = [*OVERLAYS, shared], study / "results/second_seeds/ad_hc/n18"
    target, options = "results/second_seeds/ad_hc/n18/002/transfer.json", (*CORES, "--rerun-triggers", "mtime")
    assert snakemake(study, target, *options, overlays=overlays).returncode == 0
    made = {path: path.read_bytes() for path in folder.glob("*/transfer.json")}
    assert {path.parent.name for path in made} == {"001", "002", "003"}
    (study / target).unlink()
    assert snakemake(study, target, *options, overlays=overlays).returncode == 0
    assert {path: path.read_bytes() for path in folder.glob("*/transfer.json")} == made
    said = (study / "logs/second_seed/ad_hc/n18/001-003/transfer.log").read_text()
    assert said.count("finished before, kept") == 2 and "replicate 002: done in" in said


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)


def test_after_kill_9_in_pretraining_and_in_the_fits_the_results_are_the_same(small_study, study):
    """Snakemake and all its jobs are killed twice; the same command continues and gives the same bytes."""
    shutil.rmtree(study / "results/pretrain")
    shutil.rmtree(study / "results/fits/control")  # one task's fits are enough for this test
    checkpoints = study / "results/checkpoints/pretrain/multitask"
    fits = study / "results/fits/control"
    targets = [f"results/fits/control/n18/{replicate}/{model}.json"
               for replicate in ("001", "002", "003") for model in ("baseline", "transfer")]  # fmt: skip

    def killed_when(condition, what: str) -> None:
        line = command(study, *targets, *CORES, "--nolock", "--rerun-incomplete")
        process = subprocess.Popen(
            line, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_for(condition, 240, what)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    killed_when(lambda: checkpoints.exists() and any(checkpoints.iterdir()), "a checkpoint")
    assert not (study / "results/pretrain/multitask/weights.safetensors").exists()
    killed_when(lambda: len(list(fits.rglob("*.json"))) >= 2, "the second fit")

    done = snakemake(study, *targets, *CORES, "--nolock", "--rerun-incomplete")

    assert done.returncode == 0, done.stdout
    log = (study / "logs/pretrain/multitask.log").read_text()
    assert "resum" in log.lower() or "weights" in log
    for name in ("weights.safetensors", "history.tsv"):
        path = f"results/pretrain/multitask/{name}"
        assert (study / path).read_bytes() == (small_study / path).read_bytes()
    for target in targets:
        assert (study / target).read_bytes() == (small_study / target).read_bytes()
    assert not list(study.glob("results/**/*.part")) or all(".part" not in p.name for p in fits.rglob("*"))
