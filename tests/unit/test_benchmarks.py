"""Benchmarks are run by hand, so their imports from the library are checked here."""

import ast
import importlib
import subprocess
import sys

import pytest
from runs import REPOSITORY

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


def test_the_benchmark_of_a_gpu_works_on_small_images():
    line = [sys.executable, str(REPOSITORY / "benchmarks/gpu.py"), "--try"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    table = [row.split(" | ") for row in done.stdout.splitlines() if row.startswith("| ")][1:]
    names = ["bare convolutions of blocks 2 to 6", "ours", "ours without fused kernels", "plain"]
    assert [row[0].removeprefix("| ") for row in table][:4] == names
    assert all(float(row[1]) > 0 for row in table)
    assert "ours / bare convolutions: " in done.stdout
