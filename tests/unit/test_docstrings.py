"""The examples in docstrings of the functions that users meet first give what they show."""

import doctest
from importlib import import_module

import pytest

EXAMPLES = {
    "statistics.tests": ("bootstrap_interval", "sign_flip_test"),
    "pretrain.evaluation": ("metrics_with_intervals",),
    "split.resampling": ("draw",),
    "network.sfcn": ("SFCN",),
    "pretrain.batches": ("Images",),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_give_what_they_show(name):
    module = import_module(f"neurotransfer.{name}")
    with_examples = {test.name.rpartition(".")[2] for test in doctest.DocTestFinder().find(module) if test.examples}
    assert with_examples == set(EXAMPLES[name])
    assert doctest.testmod(module).failed == 0
