"""What the demo says of its own result."""

import pandas as pd
from neurotransfer.simulation.demo import CONTROL, PARTICIPANTS, TASK, finding


def test_the_finding_is_that_of_the_smallest_n_where_there_is_an_effect_and_where_there_is_none():
    medians = pd.DataFrame(
        [(task, n, model, 0.5 + n / 100 + (model == "transfer") * (task == TASK) * 0.1)
         for task in (TASK, CONTROL) for n in (40, 20) for model in ("transfer", "baseline")],
        columns=["task", "n", "model", "median"],
    )  # fmt: skip
    comparisons = pd.DataFrame(
        [(TASK, 20, "transfer", "baseline", 0.003), (TASK, 40, "transfer", "baseline", 0.9),
         (CONTROL, 20, "transfer", "baseline", 0.7), (CONTROL, 40, "transfer", "baseline", 0.01)],
        columns=["task", "n", "first", "second", "p_holm"],
    )  # fmt: skip
    text = finding(medians, comparisons, 0.05)
    assert text == (
        "with 20 training images, where two groups differ, transfer has AUC 0.80 and baseline 0.70: a difference "
        "(p = 0.003); where they do not, transfer has AUC 0.70 and baseline 0.70: no difference (p = 0.7)"
    )
    assert "no difference (p = 0.003)" in finding(medians, comparisons, 0.001)


def test_larger_pools_are_of_known_cohorts():
    from neurotransfer.simulation.demo import COHORTS

    assert set(PARTICIPANTS) < set(COHORTS)


def test_the_cost_and_the_name_of_each_job_of_the_demo_are_of_rules():
    from neurotransfer.simulation.demo import SECONDS, WORDS
    from neurotransfer.study.rules import RULES

    assert set(SECONDS) - {"all"} <= set(RULES) and set(WORDS) <= set(RULES)
