"""Faults on a real cluster: the same command gives the same results, and repeats no finished job."""

import os
import signal
import time

from neurotransfer.operations import plan
from results import FITS, bytes_of, forget, holder_of
from runs import planned_jobs


def test_the_study_has_at_most_22_jobs_of_the_real_rules(undisturbed):
    """Each job leaves a log."""
    logs = [
        path.relative_to(undisturbed / "logs").with_suffix("").parts[0] for path in undisturbed.glob("logs/**/*.log")
    ]
    assert len(logs) <= 22
    assert {"preprocess", "pretrain", "linear", "baseline", "transfer", "aggregate", "report"} <= set(logs)


def test_the_number_of_files_is_the_planned_one(undisturbed):
    """Files of a shard and of a replicate; Slurm's two logs are missing, because the study ran without Slurm."""
    results = undisturbed / "results"
    assert len(list((results / "cache").iterdir())) == plan.CACHE_FILES
    made = {"resample": "results/resamples", "fits": "results/fits", "logs": "logs", "benchmarks": "results/benchmarks"}
    counted = {name: len(list(undisturbed.glob(f"{folder}/**/n18/**/001*"))) for name, folder in made.items()}
    counted["fits"] = len(list((results / "fits").rglob("*.json")))
    counted["logs"] += 2
    assert counted == plan.REPLICATE_FILES


def test_scancel_of_a_running_fit_and_of_a_group(cluster, start, undisturbed, study):
    """The fit is repeated automatically; missing jobs of the group are repeated by the same command."""
    fit, resample = f"{FITS}/001/baseline.json", "results/resamples/ad_hc/n18/001.tsv"
    group = [resample, f"{FITS}/001/linear.json", f"{FITS}/001/covariates.json"]
    forget(study, fit, *group)
    untouched = (study / f"{FITS}/001/transfer.json").stat().st_mtime_ns

    run = start(study, fit, *group)
    linear = run.wait_for(lambda: run.job_of("linear"), "submission of the group")
    run.wait_for(lambda: cluster.state(linear) == "RUNNING", "start of the group")
    cluster.ask("scancel", linear)
    assert run.wait() == 1
    assert run.job_of("baseline", "001") is None  # it needs the resample

    made = {path: (study / path).stat().st_mtime_ns for path in group if (study / path).exists()}
    again = start(study, fit, *group)
    again.wait_for(lambda: (study / f"{fit}.lease").exists(), "start of the fit")
    first = again.job_of("baseline", "001")
    cluster.ask("scancel", first)
    assert again.wait() == 0, again.text
    assert again.job_of("baseline", "001") != first
    assert bytes_of(study, fit, *group) == bytes_of(undisturbed, fit, *group)
    assert all((study / path).stat().st_mtime_ns == stamp for path, stamp in made.items())
    assert (study / f"{FITS}/001/transfer.json").stat().st_mtime_ns == untouched


def test_a_node_that_dies_with_a_job_on_it(cluster, start, undisturbed, study):
    """The job starts again on another node; the failed node returns and is used again."""
    fit = f"{FITS}/001/baseline.json"
    forget(study, fit)
    run = start(study, fit)
    run.wait_for(lambda: (study / f"{fit}.lease").exists(), "start of the fit")
    job = run.job_of("baseline", "001")
    node = cluster.ask("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
    cluster.kill_node(node)
    run.wait_for(lambda: cluster.state(job) == "PENDING", "notice that the node is dead")
    cluster.start_node(node)

    assert run.wait() == 0, run.text
    assert (study / fit).read_bytes() == (undisturbed / fit).read_bytes()
    cluster.wait_idle(120)


def test_the_time_limit_is_reached_in_pretraining(cluster, start, undisturbed, study):
    """A checkpoint is written at SIGTERM; the next attempt continues from it and gives the same bytes."""
    weights = "results/pretrain/multitask/weights.safetensors"
    forget(study, weights)
    checkpoints = study / "results/checkpoints/pretrain/multitask"
    log = study / "logs/pretrain/multitask.log"
    run = start(study, weights)
    run.wait_for(lambda: checkpoints.exists() and any(checkpoints.glob("*.pt")), "a checkpoint")
    os.kill(holder_of(study / weights), signal.SIGSTOP)  # it may be too fast; Slurm resumes it for SIGTERM
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 1))
    cluster.ask("scontrol", "update", f"JobId={run.job_of('pretrain')}", f"EndTime={soon}")
    cause = study / "results/failures/pretrain/all.json"
    run.wait_for(cause.exists, "end of the first attempt")
    stopped = cause.read_text()

    assert run.wait() == 0, run.text
    assert "stopped by SIGTERM: cancelled, or its time limit was reached" in stopped
    assert "TIMEOUT" in run.text
    assert "an earlier attempt failed: stopped by SIGTERM" in log.read_text()
    assert "resumed from" in log.read_text()
    assert (study / weights).read_bytes() == (undisturbed / weights).read_bytes()
    assert not cause.exists()


def test_kill_9_of_snakemake_while_a_job_runs(cluster, start, undisturbed, study):
    """The error names the command that clears the stale lock; the next run waits for the running job."""
    fit = f"{FITS}/001/baseline.json"
    forget(study, fit)
    killed = start(study, fit)
    killed.wait_for(lambda: (study / f"{fit}.lease").exists(), "start of the fit")
    holder = holder_of(study / fit)
    os.kill(holder, signal.SIGSTOP)  # pause it, so it still runs when its successor starts
    killed.kill()

    refused = start(study, fit)
    assert refused.wait() == 1
    assert "was killed; clear its lock with `snakemake" in refused.text
    assert start(study, options=["--unlock"]).wait() == 0
    again = start(study, fit)
    log = study / "logs/baseline/ad_hc/n18/001.log"
    meeting = "is making this file; waiting for it to end"
    again.wait_for(lambda: log.exists() and meeting in log.read_text(), "meeting of the two")
    os.kill(holder, signal.SIGCONT)
    assert again.wait() == 0, again.text

    assert (study / fit).read_bytes() == (undisturbed / fit).read_bytes()
    assert "the process that held the lease has finished it" in log.read_text()
    assert not (study / f"{fit}.lease").exists()
    assert planned_jobs(study, fit, overlays=again.overlays) == set()
