"""What failed and why: told by the job, or read from what Slurm left."""

import json

import pytest
from neurotransfer.operations.failures import failures_of, report


def leave(folder, rule, wildcards, cause, lines=(), time=1.0):
    log = f"logs/{rule}/{'/'.join(wildcards) or rule}.log"
    path = folder / log
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, f"2026-01-01 00:00:00,000 ERROR {rule} failed: {cause}"]) + "\n")
    key = "-".join(wildcards) or "all"
    facts = {"rule": rule, "key": key, "cause": cause, "time": time, "log": log, "wildcards": wildcards}
    path = folder / f"results/failures/{rule}/{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))


def slurm_log(folder, place, job, text):
    path = folder / "logs/slurm" / place / f"{job}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", "time limit"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch. Some of your processes", "more memory"),
        ("slurmstepd: error: StepId=7.0 exceeded memory limit (400 > 300), being killed", "more memory"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE", "node failed"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***", "cancelled (scancel)"),
    ],
)
def test_a_job_that_was_killed_without_a_word_is_explained_by_slurms_log(tmp_path, text, words):
    slurm_log(tmp_path, "rule_transfer/ad_hc_100_007", 7, text)
    (failure,) = failures_of(tmp_path)
    assert words in failure.cause
    assert failure.target == "results/fits/ad_hc/n100/007/transfer.json"


@pytest.mark.parametrize(
    ("folder", "target"),
    [
        ("rule_quality_page", "results/quality/quality.html"),
        ("rule_nt_transfer/ad_hc_100_007", "results/fits/ad_hc/n100/007/transfer.json"),
        ("rule_nt_transfer_011/ad_hc_100", "results/fits/ad_hc/n100/011/transfer.json"),
        ("rule_second_seed/ad_hc_100_007_transfer", "results/second_seeds/ad_hc/n100/007/transfer.json"),
        ("rule_second_seed_001/ad_hc_100_baseline", "results/second_seeds/ad_hc/n100/001/baseline.json"),
        ("rule_2nd_rule", "2nd_rule"),
    ],
)
def test_a_killed_job_is_named_by_its_whole_rule_also_with_a_modules_prefix(tmp_path, folder, target):
    slurm_log(tmp_path, folder, 7, "exceeded memory limit")
    (failure,) = failures_of(tmp_path)
    assert failure.target == target


def test_only_the_newest_log_of_a_job_counts_and_a_result_clears_it(tmp_path):
    slurm_log(tmp_path, "rule_baseline/ad_hc_100_001", 7, "exceeded memory limit")
    assert failures_of(tmp_path)
    result = tmp_path / "results/fits/ad_hc/n100/001/baseline.json"
    result.parent.mkdir(parents=True)
    result.touch()
    assert not failures_of(tmp_path)


def test_a_killed_group_is_told_until_the_fits_are_summarised(tmp_path):
    slurm_log(tmp_path, "group_linear_linear_resample", 9, "slurmstepd: error: *** JOB 9 CANCELLED AT 2026-01-01 ***")
    (failure,) = failures_of(tmp_path)
    assert (failure.rule, failure.key) == ("group of linear fits", "Slurm job 9")
    summary = tmp_path / failure.target
    summary.parent.mkdir(parents=True)
    summary.touch()
    assert not failures_of(tmp_path)


def test_causes_alike_are_counted_together_and_each_has_its_command(tmp_path):
    for number in range(5):
        leave(tmp_path, "transfer", ["ad_hc", "100", f"00{number}"], f"no space left on results/x/{number}")
    leave(tmp_path, "cache", ["A-0001"], "the disk is gone", time=2.0)
    text = report(failures_of(tmp_path), 4, ["--configfile", "my study.yaml"])
    assert text.startswith("6 jobs failed when last tried, of 2 kinds")
    assert "5 × transfer" in text and "1 × cache" in text
    assert "snakemake results/fits/ad_hc/n100/000/transfer.json --configfile 'my study.yaml'" in text
    assert "snakemake results/cache/A-0001.tsv" in text
    assert "and 3 more like these" in text


def test_one_failure_is_one_job_of_one_kind(tmp_path):
    leave(tmp_path, "cache", ["A-0001"], "the disk is gone")
    assert report(failures_of(tmp_path), 4).startswith("1 job failed when last tried, of 1 kind\n")


def test_the_last_meaningful_lines_of_the_log_are_shown(tmp_path):
    noise = ["2026 INFO setting 0", "", "ValueError: 7 is not 8"]
    leave(tmp_path, "linear", ["scz_bd", "200", "010"], "ValueError: 7 is not 8", ["a line", *noise])
    (failure,) = failures_of(tmp_path)
    assert failure.lines == ("a line",)


def test_nothing_failed(tmp_path):
    assert report(failures_of(tmp_path), 20).startswith("no job has failed")
