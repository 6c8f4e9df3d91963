"""For all tests: none contacts this machine's own Slurm, and slow fixtures are made once."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Snakemake's Slurm plugin contacts the controller on import, and needs ten seconds if there is no answer; with an empty
# configuration Slurm's clients stop at once.  tests/slurm set their own.
os.environ["SLURM_CONF"] = os.devnull

# a GPU's kernels run on this CPU, in Triton's interpreter, which must be chosen before triton is imported
os.environ["TRITON_INTERPRET"] = "1"

# files with slow fixtures: two workers would make each twice, so each file has one worker
ONE_WORKER = {
    "unit/preprocess/engines/test_fastsurfer",
    "unit/report/test_page",
    "unit/simulation/test_study",
    "unit/split/test_duplicates",
    "workflow/test_fastsurfer",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of such a file together."""
    for item in items:
        name = item.path.relative_to(TESTS).with_suffix("").as_posix()
        if name in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(name))
