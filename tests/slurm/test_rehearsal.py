"""A rehearsal on a real Slurm: jobs that Slurm does not accept are named with its words, before the study begins."""

import subprocess
import sys

from runs import REPOSITORY

OVERLAYS = [REPOSITORY / "config/demo.yaml", REPOSITORY / "tests/slurm/study.yaml"]
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20"]


def test_a_partition_that_does_not_exist(cluster, study):
    line = [sys.executable, "-m", "neurotransfer.cli", "rehearse", "--directory", study, "--profile", "slurm"]
    options = [*QUICK, "--default-resources", "slurm_partition=nowhere"]
    line += ["--configfile", *OVERLAYS, "--minutes", "3", "--", *options]
    done = subprocess.run(
        list(map(str, line)), capture_output=True, text=True, timeout=400, cwd=REPOSITORY, env=cluster.environment
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Snakemake could not start or send a job" in done.stdout, done.stdout + done.stderr
    assert "nowhere" in done.stdout or "invalid partition" in done.stdout.lower()
    assert "sinfo" in done.stdout
