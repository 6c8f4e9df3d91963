"""Rehearsals on a real Slurm: what the scheduler does to jobs is named with its words, before the study begins."""

import subprocess
import sys

from runs import REPOSITORY

OVERLAYS = [REPOSITORY / "config/demo.yaml", REPOSITORY / "tests/slurm/study.yaml"]
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20"]


def rehearse(cluster, study, *options):
    """The console command's run through the profile for Slurm, with these options of Snakemake."""
    line = [sys.executable, "-m", "neurotransfer.cli", "rehearse", "--directory", study, "--profile", "slurm"]
    line += ["--configfile", *OVERLAYS, "--minutes", "3", "--", *QUICK, *options]
    return subprocess.run(
        list(map(str, line)), capture_output=True, text=True, timeout=400, cwd=REPOSITORY, env=cluster.environment
    )


def test_a_partition_that_does_not_exist(cluster, study):
    """No job is accepted."""
    done = rehearse(cluster, study, "--default-resources", "slurm_partition=nowhere")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Snakemake could not start or send a job" in done.stdout, done.stdout + done.stderr
    assert "nowhere" in done.stdout or "invalid partition" in done.stdout.lower()
    assert "sinfo" in done.stdout


def test_a_memory_limit_that_is_too_small(cluster, study):
    """Slurm kills the job."""
    done = rehearse(cluster, study, "--set-resources", "preprocess:mem_mb=200")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "preprocess failed" in done.stdout, done.stdout + done.stderr
    assert "it used more memory than it asked for" in done.stdout
