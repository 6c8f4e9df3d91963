"""`snakemake --lint`, compared with a list of accepted findings; part of `make lint`.

A new finding fails.  An accepted finding that is no longer found fails, too: remove its line here.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "workflow/scripts")]

from fan_out import fan_out  # noqa: E402
from neurotransfer.study.rules import RULES  # noqa: E402

ENVIRONMENT = "Specify a conda environment or container for each rule."
FUNCTIONS = "Mixed rules and functions in same snakefile."
PATH = "Environment variable PATH used but not asserted with envvars directive."
ACCEPTED = Counter(
    {
        # all rules run in one environment, that of Snakemake itself, or in one container (envs/, workflow/Snakefile),
        # because 1,000 fits must not create environments
        **{(f"rule {name}", ENVIRONMENT): 1 for name in RULES},
        # functions of one stage are beside its rules; functions of several stages are in common.smk
        **{(f"rules/{name}.smk", FUNCTIONS): 1 for name in ("preprocess", "cache", "fit", "statistics", "report")},
        # the main process puts the profile's Slurm commands, which repeat failed calls, first on PATH; no job reads it
        ("Snakefile", PATH): 2,
    }
)


def findings(text: str) -> Counter:
    """The number of each finding in the output of ``snakemake --lint``, by file or rule and title."""
    found: Counter = Counter()
    source = ""
    for line in text.splitlines():
        if heading := re.match(r"Lints for snakefile (\S+):", line):
            source = heading[1].rpartition("/workflow/")[2]
        elif heading := re.match(r"Lints for rule (\w+) ", line):
            source = f"rule {heading[1]}"
        elif title := re.match(r"    \* (.*?)(?: in line \d+)?\.?:$", line):
            found[source, f"{title[1]}."] += 1
    return found


def complaints(found: Counter) -> list[str]:
    """One line for each finding that is new or gone."""
    new = [f"{source}: {title} (fix it, or accept it with its reason)" for source, title in found - ACCEPTED]
    gone = [f"{source}: no longer found: {title} (remove it from ACCEPTED)" for source, title in ACCEPTED - found]
    return new + gone


def main() -> int:
    """Lint the workflow over a study without scans; the exit status is 1 if a finding is new or gone."""
    with tempfile.TemporaryDirectory() as folder:
        fan_out(Path(folder, "study"), 45)
        line = [sys.executable, "-m", "snakemake", "--lint", "--snakefile", REPOSITORY / "Snakefile"]
        done = subprocess.run([*line, "--directory", f"{folder}/study"], capture_output=True, text=True)
    found = findings(done.stdout + done.stderr)
    if not found:
        print(done.stderr, file=sys.stderr)
    wrong = complaints(found)
    print("\n".join(wrong) or f"snakemake --lint: {found.total()} findings, all of them accepted")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
