"""What holds for every test: none talks to a Slurm that this machine may have, and costly fixtures are made once."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Snakemake's Slurm plugin asks the controller whenever it is imported, ten seconds long where none answers;
# with an empty configuration Slurm's clients stop at once.  tests/slurm set their own.
os.environ["SLURM_CONF"] = os.devnull

# files whose fixtures take longer than what two workers would save on their tests; each has one worker
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
