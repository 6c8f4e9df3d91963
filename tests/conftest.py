"""For all tests: none contacts this machine's own Slurm, and slow fixtures are made once."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent

# Snakemake's Slurm plugin contacts the controller on import, and needs ten seconds if there is no answer; with an empty
# configuration Slurm's clients stop at once.  tests/slurm set their own.
os.environ["SLURM_CONF"] = os.devnull

# a GPU's kernels run on this CPU, in Triton's interpreter, which must be chosen before triton is imported
os.environ["TRITON_INTERPRET"] = "1"

# the workers of pytest-xdist already use all cores; several threads in each, for matrices this small, mostly wait for
# one another.  Whoever needs another number of threads sets it.
os.environ["OMP_NUM_THREADS"] = "1"

# no example fails because the machine is slow or busy
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# files with slow fixtures: two workers would make each twice, so each file has one worker
ONE_WORKER = {
    "unit/manifest/test_withdrawal",
    "unit/preprocess/engines/test_fastsurfer",
    "unit/report/test_page",
    "unit/simulation/test_study",
    "unit/split/test_duplicates",
    "workflow/test_fastsurfer",
}

# files that take more than a few seconds; `make test-fast` leaves them out
SLOW = {
    "unit/fit/test_finetuning",
    "unit/network/test_device",
    "unit/network/test_triton_kernels",
    "unit/preprocess/engines/test_fastsurfer",
    "unit/preprocess/test_run",
    "unit/pretrain/test_checkpoints",
    "unit/pretrain/test_default",
    "unit/pretrain/test_distributed",
    "unit/pretrain/test_loop",
    "unit/quality/test_page",
    "unit/report/test_figure2",
    "unit/report/test_page",
    "unit/simulation/test_study",
    "unit/split/test_duplicates",
    "unit/split/test_resampling",
    "unit/split/test_roles",
    "unit/statistics/test_aggregation",
    "unit/statistics/test_inference",
    "unit/test_benchmarks",
    "unit/validation/test_validity",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file of ONE_WORKER together, and mark slow ones."""
    for item in items:
        name = item.path.relative_to(TESTS).with_suffix("").as_posix()
        if name in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(name))
        if name in SLOW:
            item.add_marker("slow")
