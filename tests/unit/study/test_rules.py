"""Names of rules and targets of jobs, without Snakemake."""

import pytest
from neurotransfer.study.rules import RULES, base_name, target_of


@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_that_another_workflow_took_in_under_a_longer_name_is_recognised(name):
    assert base_name(name) == base_name(f"nt_{name}") == base_name(f"{name}_again") == name


def test_a_name_of_no_rule_stays_as_it_is():
    assert base_name("index_fasta_files") == "index"  # begins with a rule's name, as one with a suffix does
    assert base_name("align") == "align"


def test_a_job_that_lacks_a_wildcard_is_asked_for_by_its_rule():
    assert target_of("quality", ["ADNI"]) == "results/quality/ADNI.tsv"
    assert target_of("quality", []) == "quality"
    assert target_of("align", ["x"]) == "align"
