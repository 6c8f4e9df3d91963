"""Benchmarks are run by hand, so their imports from the library are checked here."""

import ast
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from neurotransfer.files import write_json
from neurotransfer.simulation import study
from runs import REPOSITORY

from workbench import heads

PATHS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_name_that_a_benchmark_imports_from_the_library_exists(path):
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("neurotransfer", "workbench")):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ModuleNotFoundError:
                        missing.append(f"{node.module}.{alias.name}")
    assert not missing


def test_the_benchmark_of_training_works_on_small_images(tmp_path):
    """It draws, trains, writes, and its tables have a row per recipe; its defaults are config.yaml's."""
    rows = []
    for script in ("training", "training_fits"):
        line = [sys.executable, REPOSITORY / f"benchmarks/{script}.py", "--try", "--folder", tmp_path]
        done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        rows.append([line.split() for line in done.stdout.splitlines()])
    assert rows[0][1][:3] == ["adamw", "0.0003,", "max,"] and "stable" in rows[0][1]
    assert [row[0] for row in rows[1][1:]] == ["baseline", "transfer"]


def test_the_benchmark_of_training_on_a_gpu_works_without_what_a_borrowed_machine_lacks(tmp_path):
    """On a CPU and small images: trainings, fits of either model, whole fits, and a table of each."""
    lacking = ("snakemake", "nibabel", "nilearn", "zstandard", "jsonschema", "jinja2", "matplotlib")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({lacking}))\n")
    heads.write_template(tmp_path / "head.npz")
    line = [sys.executable, REPOSITORY / "benchmarks/training_gpu.py", "--try", "--device", "cpu"]
    line += ["--folder", tmp_path / "bench", "--template", tmp_path / "head.npz"]
    done = subprocess.run(
        list(map(str, line)),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows if "stable" in row] == ["| adamw 0.0003, max, dropout 0"] * 2 + [
        *["| baseline", "| transfer"] * 2
    ]


def test_the_benchmark_of_training_on_a_gpu_prints_the_epochs_of_the_docs_table(tmp_path):
    training_gpu = importlib.import_module("benchmarks.training_gpu")
    history = [{"validation_sex_auc": epoch / 100, "validation_age_mae": epoch / 10} for epoch in range(1, 49)]
    result = {"run": {"steps": training_gpu.SEX_STEPS}, "diverged": False, "history": history}
    (tmp_path / "results").mkdir()
    write_json(tmp_path / "results/sex-default.json", result)
    head, row = training_gpu.sex_rows(tmp_path)
    assert f"| {' | '.join(head)} |\n" in (REPOSITORY / "docs/pretraining.md").read_text(encoding="utf-8")
    assert row == ["sex-default", *(f"{int(epoch) / 100:.2f}, {int(epoch) / 10:.1f}" for epoch in head[1:])]


def test_a_head_is_drawn_near_the_brain_only_and_is_the_same(monkeypatch):
    [design] = study._designs(("alpha",), 0.2)
    for person in study._people(design, 7)[:3]:
        drawn = heads.masked_head(person, 7, (28, 24, 28), 8.0)
        with monkeypatch.context() as patched:
            patched.setattr(heads, "_near_brain", lambda points: np.ones(points.shape[:3], bool))
            assert np.array_equal(drawn, heads.masked_head(person, 7, (28, 24, 28), 8.0))
        assert 0.1 < (drawn > 0).mean() < 0.4


def test_enlarging_keeps_a_brains_volume_mean_and_noise():
    generator = torch.Generator().manual_seed(1)
    image = torch.zeros(1, 32, 32, 32)
    image[:, 4:28, 4:28, 4:28] = 100 + heads.NOISE * torch.randn(24, 24, 24, generator=generator)
    training_gpu = importlib.import_module("benchmarks.training_gpu")
    large = training_gpu.enlarged(image.round().to(torch.uint8), generator)
    inside = large[large > 0].float()
    assert large.shape == (1, 64, 64, 64)
    assert len(inside) == pytest.approx(8 * 24**3, rel=0.05)
    assert float(inside.mean()) == pytest.approx(100, abs=0.1)
    assert float(inside.std()) == pytest.approx(heads.NOISE, rel=0.03)


def test_the_benchmark_of_a_gpu_works_on_small_images():
    line = [sys.executable, str(REPOSITORY / "benchmarks/gpu.py"), "--try"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    table = [row.split(" | ") for row in done.stdout.splitlines() if row.startswith("| ")][1:]
    names = ["bare convolutions of blocks 2 to 6", "ours", "ours without fused kernels", "plain"]
    assert [row[0].removeprefix("| ") for row in table][:4] == names
    assert all(float(row[1]) > 0 for row in table[:4])
    rest = [row[0].removeprefix("| ") for row in table[4:]]
    assert rest[1:4] == ["loop from a plain cache", "loop from a zstd cache", "replicate, n = 10"]
    assert rest[4:] == [f"start, with the folder of compiled kernels {filled}" for filled in ("empty", "full")]
    assert "ours / bare convolutions: " in done.stdout
