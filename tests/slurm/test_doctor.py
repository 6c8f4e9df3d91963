"""`neurotransfer doctor` beside a real Slurm."""

import re
import subprocess
import sys

from runs import REPOSITORY


def test_it_asks_the_cluster_for_its_partitions(cluster, tmp_path):
    """The profile's partitions exist, and Slurm counts their GPUs; what a job finds on a node is not asked."""
    line = [sys.executable, "-m", "neurotransfer.cli", "doctor", "--directory", str(tmp_path), "--profile", "slurm"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, cwd=REPOSITORY, env=cluster.environment)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [re.split(r"  +", line, maxsplit=2) for line in done.stdout.splitlines()]
    rows = {line[1]: f"{line[0]} {line[2]}" for line in lines if len(line) == 3}
    assert rows["Slurm"].startswith("ok") and "cpu (" in rows["Slurm"] and "gpu (" in rows["Slurm"]
    assert rows["profile"].startswith("ok")
    assert "GPUs of Slurm" not in rows
    assert "accounting" in rows
