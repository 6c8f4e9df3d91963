"""The cluster profile, as typed from the repository: it parses, and its resources reach the jobs."""

import re

from runs import REPOSITORY, snakemake


def test_the_profile_works_as_typed_and_sends_gpu_rules_to_the_gpu_partition(small_study):
    assert (REPOSITORY / "slurm/config.yaml").samefile(REPOSITORY / "profiles/slurm/config.yaml")
    done = snakemake(small_study, "--profile", "slurm", "--dry-run", "--forcerun", "linear", "transfer")
    assert done.returncode == 0, done.stdout
    partitions = dict(re.findall(r"rule (\w+):\n(?: +\w.*\n)*? +resources: .*slurm_partition=(\w+)", done.stdout))
    assert partitions["linear"] == "cpu"
    assert partitions["transfer"] == "gpu"


def test_only_linear_fits_and_their_resamples_are_grouped(repository_rules):
    grouped = [rule for rule, text in repository_rules.items() if re.search(r"^    group:", text, re.M)]
    assert sorted(grouped) == ["covariates", "linear", "resample"]


def test_every_rule_that_runs_a_script_states_what_it_needs(repository_rules):
    for rule, text in repository_rules.items():
        for word in ("log:", "threads:", "mem_mb", "runtime", "script:"):
            assert word in text, f"rule {rule} lacks {word}"
