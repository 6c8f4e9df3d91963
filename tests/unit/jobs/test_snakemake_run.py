"""Snakemake's many lines in one of progress."""

from neurotransfer.jobs.snakemake_run import Progress

TABLE = """Job stats:
job             count
------------  -------
preprocess          2
pretrain            1
baseline_001        2
total               5

"""


def heard(progress: Progress, text: str) -> Progress:
    for line in text.splitlines():
        progress.hear(line)
    return progress


def test_the_line_says_what_is_worked_on_and_what_is_learnt():
    progress = heard(Progress(), f"{TABLE}rule preprocess:\nrule preprocess:\n")
    heard(progress, "2026-11-27 05:18:13,301 INFO 23 of 36: gamma_GA017_ses-02 ok (correlation 0.98), 1 s")
    heard(progress, "Finished jobid: 32 (Rule: preprocess)\n1 of 5 steps (20%) done")
    assert progress.line(10) == "   1 of 5 jobs done ( 20 %) after   10 s: preprocess"
    heard(
        progress, "Finished jobid: 33 (Rule: preprocess)\n2 of 5 steps (40%) done\nrule pretrain:\nrule baseline_001:"
    )
    heard(
        progress,
        "2026-11-27 05:21:04,140 INFO epoch 4: loss 0.612, age_mae 12.119, sex_auc 0.236; 69 images/s, 105 s to go",
    )
    assert progress.line(20).endswith("after   20 s: pretrain (epoch 4, error of age 12.1 years), baseline")


def test_the_time_left_is_in_proportion_to_the_costs_of_jobs():
    progress = heard(Progress({"preprocess": 10, "pretrain": 60, "baseline": 10}), TABLE)
    heard(progress, "rule preprocess:\nFinished jobid: 1 (Rule: preprocess)\n1 of 5 steps (20%) done")
    assert "to go" not in progress.line(12)  # a tenth of the work, and no more
    heard(progress, "rule baseline_001:\nFinished jobid: 2 (Rule: baseline_001)\n2 of 5 steps (40%) done")
    assert "after   20 s, about 80 s to go" in progress.line(20)


def test_jobs_of_a_run_that_goes_on_count_from_there():
    progress = heard(Progress({"pretrain": 60}), TABLE.replace("total               5", "total               3"))
    assert progress.line(1).startswith("   0 of 0 jobs")
    heard(progress, "Finished jobid: 7 (Rule: quality)\n1 of 3 steps (33%) done")
    assert progress.line(5) == "   1 of 3 jobs done ( 33 %) after    5 s"
