"""The time left of runs that are simple enough to be reckoned by hand."""

import pytest
from neurotransfer.jobs.work_left import Work

HOUR = 3600.0  # long jobs, beside which the 20 s for which a machine counts as ordinary are little


def work(jobs: dict[str, int], cores: int = 1, *, after: str = "") -> Work:
    """A run of these jobs, each of which costs an hour; the first job of the rule `after` took one and is done."""
    made = Work(dict.fromkeys(jobs, HOUR), images=None)
    made.jobs.update(jobs)
    made.cores = cores
    if after:
        made.begin("1", after, 0)
        made.finish("1", after, HOUR)
    return made


def test_without_costs_no_time_left_is_known():
    made = Work({}, images=None)
    made.jobs.update({"pretrain": 2})
    made.begin("1", "pretrain", 0)
    made.finish("1", "pretrain", HOUR)
    assert made.seconds_left(HOUR) is None


def test_the_rest_takes_as_long_for_its_cost_as_what_is_done():
    made = work({"baseline": 4})
    made.begin("1", "baseline", 0)
    made.finish("1", "baseline", 2 * HOUR)
    assert made.seconds_left(2 * HOUR) == pytest.approx(3 * 2 * HOUR, rel=0.01)


def test_a_running_job_takes_as_long_as_it_has_said_less_the_time_since_then():
    made = work({"pretrain": 1})
    made.begin("1", "pretrain", 0)
    made.said["pretrain"] = (6 * HOUR, 3 * HOUR)
    assert made.seconds_left(5 * HOUR) == pytest.approx(4 * HOUR, rel=0.02)


def test_a_job_that_takes_much_longer_than_its_cost_makes_the_next_ones_longer_too():
    made = work({"baseline": 3}, after="baseline")
    made.begin("2", "baseline", HOUR)
    assert made.seconds_left(HOUR + 60) == pytest.approx(2 * HOUR, rel=0.05)
    assert made.seconds_left(10 * HOUR) > 5 * HOUR  # two jobs took 10 hours, and one is waiting


def test_rules_that_follow_each_other_do_not_share_the_time_however_many_cores_there_are():
    made = work({"split": 1, "pretrain": 1, "evaluate": 1, "heads": 1}, cores=8, after="split")
    assert made.seconds_left(HOUR) == pytest.approx(3 * HOUR)


def test_jobs_of_one_rule_share_the_time():
    made = work({"split": 1, "baseline": 8}, cores=8, after="split")
    assert made.seconds_left(HOUR) == pytest.approx(HOUR)


def test_a_failed_job_has_done_nothing():
    made = work({"baseline": 3}, after="baseline")
    before = made.seconds_left(HOUR)
    made.begin("2", "baseline", HOUR)
    made.said["baseline"] = (HOUR, 1.5 * HOUR)
    made.fail("2", "baseline")
    assert made.running == [] and made.said == {}
    assert made.seconds_left(2 * HOUR) == before


def test_statistics_and_pages_come_after_all_else_one_after_the_other():
    made = work({"split": 1, "baseline": 8, "aggregate": 1, "report": 1}, cores=8, after="split")
    assert made.seconds_left(HOUR) == pytest.approx(3 * HOUR)


def test_no_time_left_is_said_before_a_twentieth_of_the_work_is_done():
    made = work({"baseline": 40})
    for number in (1, 2, 3):
        assert made.seconds_left(number * HOUR) is None
        made.begin(str(number), "baseline", (number - 1) * HOUR)
        made.finish(str(number), "baseline", number * HOUR)
    assert made.seconds_left(3 * HOUR) == pytest.approx(37 * HOUR)
