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
    "unit/report/test_public",
    "unit/simulation/test_study",
    "unit/split/test_duplicates",
    "workflow/test_dry_run",
    "workflow/test_fastsurfer",
    "workflow/test_predict",
    "workflow/test_rehearsal",
    "workflow/test_rules",
}

# files with the longest tests, which start first; otherwise one worker would end long after the others
LONG = (
    "workflow/test_rehearsal",
    "workflow/test_fastsurfer",
    "unit/report/test_page",
    "unit/preprocess/engines/test_fastsurfer",
    "unit/pretrain/test_distributed",
    "unit/pretrain/test_default",
    "unit/split/test_duplicates",
    "unit/test_benchmarks",
    "workflow/test_faults",
    "workflow/test_retry_and_withdrawal",
    "workflow/test_leaks",
    "workflow/test_profile",
)

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Give each test to the worker that is free, in the order of the tests, and a file of ONE_WORKER as a whole.

    With pytest 9.2, pytest-xdist 3.8 does not see its own groups.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")
            return name if name in ONE_WORKER else nodeid

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and sort all by when they should start."""
    for item in items:
        if name_of(item) in SLOW:
            item.add_marker("slow")
    items.sort(key=turn_of)
    # except for one that makes the study: the other workers do in the meantime what does not need it
    if readers := [item for item in items if reads_small_study(item)]:
        items.remove(readers[0])
        items.insert(0, readers[0])


def turn_of(item: pytest.Item) -> tuple[bool, int]:
    """Where a test comes in the order: long ones first, and those that read the small study last."""
    name = name_of(item)
    return reads_small_study(item), LONG.index(name) if name in LONG else len(LONG)


def reads_small_study(item: pytest.Item) -> bool:
    """Whether a test starts from the finished study of tests/workflow/conftest.py, which takes minutes."""
    return "small_study" in getattr(item, "fixturenames", ())


def name_of(item: pytest.Item) -> str:
    """The test's file without its suffix, from the folder of tests on."""
    return item.path.relative_to(TESTS).with_suffix("").as_posix()
