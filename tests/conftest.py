"""What holds for every test: none talks to a Slurm that this machine may have, and costly fixtures are made once."""

import os

import pytest

# Snakemake's Slurm plugin asks the controller whenever it is imported, ten seconds long where none answers;
# with an empty configuration Slurm's clients stop at once.  tests/slurm set their own.
os.environ["SLURM_CONF"] = os.devnull

# files whose fixtures take longer than what two workers would save on their tests; each has one worker
ONE_WORKER = {"test_duplicates", "test_fastsurfer", "test_report", "test_simulation"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of such a file together; both folders' test_fastsurfer are groups of their own."""
    for item in items:
        if item.path.stem in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.stem}"))
