"""Each name in the lists of tests/conftest.py is a file: a renamed one would silently lose its turn and its mark."""

import pytest

from tests.conftest import LONG, ONE_WORKER, SLOW, TESTS, name_of, reads_small_study


@pytest.mark.parametrize("names", [ONE_WORKER, LONG, SLOW], ids=["ONE_WORKER", "LONG", "SLOW"])
def test_each_name_is_that_of_a_file_with_tests(names):
    missing = [name for name in names if not (TESTS / f"{name}.py").is_file()]
    assert names
    assert not missing
    assert all("\ndef test_" in (TESTS / f"{name}.py").read_text(encoding="utf-8") for name in names)


def test_the_names_are_those_that_tests_have(request):
    assert name_of(request.node) == "unit/test_lists_of_tests"
    assert not reads_small_study(request.node)


def test_the_fixture_that_takes_minutes_exists_and_is_used():
    assert "\ndef small_study(" in (TESTS / "workflow/conftest.py").read_text(encoding="utf-8")
    readers = [path for path in TESTS.rglob("test_*.py") if "small_study" in path.read_text(encoding="utf-8")]
    assert len(readers) > 1
