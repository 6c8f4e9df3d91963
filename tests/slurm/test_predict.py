"""`neurotransfer predict` on a real Slurm: the steps of a few scans as jobs."""

import subprocess
import sys

import pandas as pd
from neurotransfer.files import read_table

OWN = "pretrain: {gpus: 0, threads: 1, device: cpu, data_type: float32}\npreprocessing: {threads: 1}\n"
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20"]


def test_scans_of_a_list_are_predicted_by_jobs(cluster, undisturbed, tmp_path):
    """Two scans and a damaged one: a row each, and Slurm ran a job of each rule."""
    images = read_table(undisturbed / "results/manifest/images.tsv")["t1w"].head(2)
    damaged = tmp_path / "damaged_T1w.nii.gz"
    damaged.write_bytes((undisturbed / images[0]).read_bytes()[:5000])
    scans = tmp_path / "scans.txt"
    scans.write_text("".join(f"{undisturbed / name}\n" for name in images) + f"{damaged}\n")
    (tmp_path / "own.yaml").write_text(OWN)
    weights = undisturbed / "results/pretrain/multitask/weights.safetensors"
    line = [sys.executable, "-m", "neurotransfer.cli", "predict", "--weights", weights, "--images", scans, "--out"]
    line += [tmp_path / "predictions.tsv", "--profile", "slurm", "--configfile", tmp_path / "own.yaml", "--", *QUICK]

    done = subprocess.run(
        list(map(str, line)), capture_output=True, text=True, timeout=400, cwd=tmp_path, env=cluster.environment
    )

    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "predictions.tsv", sep="\t")
    assert table["status"].tolist() == ["ok", "ok", "failed"] and table["reason"][2] == "truncated"
    assert table["predicted_age"][:2].notna().all()
    logs = {path.parent.parent.name for path in (tmp_path / "predictions.work/logs/slurm").glob("rule_*/*/*.log")}
    assert {"rule_preprocess", "rule_cache", "rule_predict"} <= logs
