"""Other faults during a run of weeks, each on the real cluster: `make test-slurm-all`."""

import os
import signal
import subprocess
import time

import pytest
from results import FITS, bytes_of, forget, holder_of
from runs import neurotransfer, planned_jobs

pytestmark = pytest.mark.long
FIT, OTHER = f"{FITS}/001/baseline.json", f"{FITS}/001/transfer.json"


def test_a_controller_that_is_unreachable_for_a_minute(cluster, start, undisturbed, study):
    """Running jobs finish, submissions wait, and no retry is used."""
    forget(study, FIT, OTHER)
    run = start(study, FIT, OTHER, options=["--jobs", "1"])  # the second is submitted after the first has ended
    run.wait_for(lambda: (study / f"{FIT}.lease").exists() or (study / f"{OTHER}.lease").exists(), "start of a fit")
    cluster.kill_controller()
    time.sleep(60)  # the duration of the fault
    cluster.start_controller()
    assert run.wait() == 0, run.text
    assert "Trying to restart" not in run.text
    assert bytes_of(study, FIT, OTHER) == bytes_of(undisturbed, FIT, OTHER)


def test_a_controller_that_restarts(cluster, start, undisturbed, study):
    forget(study, FIT)
    run = start(study, FIT)
    run.wait_for(lambda: (study / f"{FIT}.lease").exists(), "start of the fit")
    cluster.kill_controller()
    cluster.start_controller()
    assert run.wait() == 0, run.text
    assert "Trying to restart" not in run.text
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)


def test_a_job_that_needs_more_memory_than_requested(cluster, start, undisturbed, study):
    """It is tried again with more, and the lack of memory is reported."""
    forget(study, FIT)
    run = start(study, FIT, options=["--set-resources", "baseline:mem_mb=300*attempt", "--retries", "5"])
    run.wait_for(lambda: "Trying to restart" in run.text, "second attempt")
    failures = neurotransfer("failures", "--directory", study).stdout
    assert run.wait() == 0, run.text
    assert "it used more memory than it asked for; the next attempt asks for more" in failures, failures
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)
    log = (study / "logs/baseline/ad_hc/n18/001.log").read_text()
    assert "mem_mb 300," not in log and "mem_mb" in log
    assert neurotransfer("failures", "--directory", study).stdout.startswith("no job has failed")


def test_a_partition_whose_limit_is_a_minute(cluster, start, undisturbed, study):
    """Slurm ends pretraining at the time limit; the next attempt continues from the checkpoint."""
    weights = "results/pretrain/multitask/weights.safetensors"
    forget(study, weights)
    checkpoints, log = study / "results/checkpoints/pretrain/multitask", study / "logs/pretrain/multitask.log"
    run = start(study, weights, options=["--set-resources", "pretrain:slurm_partition=short", "pretrain:runtime=1"])
    run.wait_for(lambda: checkpoints.exists() and any(checkpoints.glob("*.pt")), "a checkpoint")
    os.kill(holder_of(study / weights), signal.SIGSTOP)  # pause it: a slow job; Slurm resumes it to send SIGTERM
    assert run.wait() == 0, run.text
    assert "TIMEOUT" in run.text
    assert "an earlier attempt failed: stopped by SIGTERM" in log.read_text() and "resumed from" in log.read_text()
    assert bytes_of(study, weights) == bytes_of(undisturbed, weights)


def test_a_fit_that_requests_its_gpu_by_gres(cluster, start, undisturbed, study):
    """As in the profile, for clusters without --gpus."""
    forget(study, FIT)
    resources = ["baseline:slurm_partition=gpu", "baseline:gres=gpu:1", "baseline:gpu=0"]
    run = start(study, FIT, options=["--set-resources", *resources])
    job = run.wait_for(lambda: run.job_of("baseline", "001"), "submission of the fit")
    assert "gres:gpu:1" in cluster.ask("scontrol", "show", "job", job)
    assert run.wait() == 0, run.text
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_snakemake_is_asked_to_stop(cluster, start, undisturbed, study, number):
    """The same command works afterwards, at most after an unlock, and no job runs twice at once."""
    forget(study, FIT)
    run = start(study, FIT)
    run.wait_for(lambda: (study / f"{FIT}.lease").exists(), "start of the fit")
    os.kill(run.process.pid, number)
    run.wait()
    again = start(study, FIT)
    if again.wait() != 0:
        assert "clear its lock" in again.text
        assert start(study, options=["--unlock"]).wait() == 0
        again = start(study, FIT)
        assert again.wait() == 0, again.text
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)


def test_a_replicate_that_fails_each_time(cluster, start, undisturbed, study):
    """The run ends after its retries, independent jobs are finished, and a preliminary page can be made."""
    forget(study, FIT, OTHER)
    (study / "results/statistics/comparisons.tsv").unlink()
    run = start(study, options=["--set-resources", "baseline:mem_mb=60"])  # less than the start of Snakemake needs
    assert run.wait() == 1
    assert run.text.count("Trying to restart") == 2  # the profile's retries
    assert bytes_of(study, OTHER) == bytes_of(undisturbed, OTHER)
    options = ("--directory", study, "--configfile", *run.overlays)
    failures = neurotransfer("failures", *options).stdout
    assert f"snakemake {FIT}" in failures, failures
    page = neurotransfer("preview", *options, "--output", study / "preview.html")
    assert page.returncode == 0, page.stderr
    text = (study / "preview.html").read_text()
    assert "Preliminary" in text and "1 of 3 fits are missing" in text
    again = start(study)
    assert again.wait() == 0, again.text
    assert again.text.count("rule baseline") == 1 and "rule transfer" not in again.text
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of one memory page over a folder until the test releases it; root only."""
    mounted = []

    def over(folder, size: str):
        probe = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if probe.returncode:
            pytest.skip("only root may mount here")
        mounted.append(folder)

    def release():
        while mounted:
            subprocess.run(["umount", mounted.pop()], check=True)

    over.release = release
    yield over
    release()


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (FIT, "baseline/ad_hc-18-001"),
        ("results/cache/memory-0001.npy", "cache/memory-0001"),
        ("results/statistics/aucs.tsv", "aggregate/all"),
    ],
    ids=["fit", "shard", "aggregation"],
)
def test_a_full_disk(cluster, start, undisturbed, study, small_disk, target, key):
    """One line names the cause, no partial file stays, and with free space the same command gives the same bytes."""
    forget(study, target)
    folder = (study / target).parent
    kept = {path.name for path in folder.iterdir() if path.is_file()}
    small_disk(folder, "4k")
    (folder / "filler").write_bytes(b"x" * 4096)
    run = start(study, target, options=["--retries", "0", "--rerun-triggers", "params"])
    assert run.wait() == 1
    left = {path.name for path in folder.iterdir()} - {"filler"}
    cause = (study / f"results/failures/{key}.json").read_text()
    small_disk.release()
    assert "no space left on the disk; free some" in cause
    assert not {name for name in left if name.endswith((".part", ".npy", ".json", ".tsv"))}
    assert {path.name for path in folder.iterdir() if path.is_file()} == kept
    again = start(study, target, options=["--rerun-triggers", "params"])
    assert again.wait() == 0, again.text
    assert bytes_of(study, target) == bytes_of(undisturbed, target)


def on_every_node(cluster, lines: str) -> None:
    """Shell lines that each node runs after each task, in the study's folder."""
    (cluster.folder / "epilog").write_text(f"#!/bin/bash\n{lines}\n")


@pytest.fixture
def epilog(cluster):
    yield lambda lines: on_every_node(cluster, lines)
    on_every_node(cluster, "")


@pytest.mark.parametrize("shift", ["2 hours ago", "2 hours"], ids=["slow", "fast"])
def test_a_node_with_a_wrong_clock(cluster, start, undisturbed, study, epilog, shift):
    """Files with times in the past or the future cause no rerun."""
    linear = f"{FITS}/001/linear.json"
    forget(study, FIT, linear)
    epilog(f"find {study}/results/fits -newermt '5 minutes ago' -name '*.json' -exec touch -d '{shift}' {{}} +")
    run = start(study, FIT, linear)
    assert run.wait() == 0, run.text
    assert planned_jobs(study, FIT, linear, overlays=run.overlays) == set()
    assert bytes_of(study, FIT, linear) == bytes_of(undisturbed, FIT, linear)


def test_files_that_arrive_late(cluster, start, undisturbed, study, epilog):
    """Snakemake waits up to latency-wait for a finished job's file, and repeats nothing."""
    forget(study, FIT)
    away = study / "late.json"
    epilog(
        f"[ -f {study / FIT} ] && [ ! -f {study}/once ] && touch {study}/once && mv {study / FIT} {away} && "
        f"(setsid sh -c 'sleep 8; mv {away} {study / FIT}' >/dev/null 2>&1 &)"
    )
    run = start(study, FIT)
    assert run.wait() == 0, run.text
    assert (study / "once").exists()
    assert "Trying to restart" not in run.text
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)


def test_two_users_start_the_same_study(cluster, start, undisturbed, study):
    """The second run is refused with the process of the first."""
    forget(study, FIT)
    first = start(study, FIT)
    job = first.wait_for(lambda: first.job_of("baseline", "001"), "submission of the fit")
    second = start(study, FIT)
    assert second.wait() == 1
    assert f"(process {first.process.pid} on " in second.text
    assert "runs this study; wait for it, or end it with" in second.text
    assert cluster.state(job) in ("PENDING", "RUNNING", "COMPLETING", "")
    assert first.wait() == 0, first.text
    assert bytes_of(study, FIT) == bytes_of(undisturbed, FIT)
