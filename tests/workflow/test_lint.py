"""The comparison of `snakemake --lint` with the accepted findings: new and vanished findings fail."""

from lint import ACCEPTED, ENVIRONMENT, complaints, findings

TEXT = """
Lints for snakefile /somewhere/workflow/rules/fit.smk:
    * Mixed rules and functions in same snakefile.:
      Small one-liner functions used only once should be defined as lambda
Lints for rule baseline (line 62, /somewhere/workflow/rules/fit.smk):
    * Specify a conda environment or container for each rule.:
      This way, the used software for each specific step is documented
    * No log directive defined.:
      Without a log directive, all output will be printed to the terminal.
"""


def test_findings_are_read_with_their_file_or_rule():
    assert findings(TEXT) == {
        ("rules/fit.smk", "Mixed rules and functions in same snakefile."): 1,
        ("rule baseline", ENVIRONMENT): 1,
        ("rule baseline", "No log directive defined."): 1,
    }


def test_a_new_finding_and_a_vanished_one_are_named():
    assert complaints(ACCEPTED) == []
    found = ACCEPTED.copy()
    found["rule baseline", "No log directive defined."] += 1
    del found["rule split", ENVIRONMENT]
    new, gone = complaints(found)
    assert new.startswith("rule baseline: No log directive defined.")
    assert gone.startswith("rule split: no longer found")
