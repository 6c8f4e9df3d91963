"""`snakemake --lint`, held against the findings that are accepted here, exactly: `make lint` runs it.

A new finding fails, and so does one that is gone: then its line here is removed.
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
        # every rule runs in one environment, the one that Snakemake was started from, or in one container for all
        # (envs/, workflow/Snakefile): 1,000 fits do not create an environment of their own
        **{(f"rule {name}", ENVIRONMENT): 1 for name in RULES},
        # a function that only one stage uses stands beside its rules; those of several stages are in common.smk
        **{(f"rules/{name}.smk", FUNCTIONS): 1 for name in ("preprocess", "cache", "fit", "statistics", "report")},
        # the main process lays the profile's patient Slurm commands before PATH; no job reads the variable
        ("Snakefile", PATH): 2,
    }
)


def findings(text: str) -> Counter:
    """How often each finding stands in the output of ``snakemake --lint``, by file or rule and title."""
    found: Counter = Counter()
    place = ""
    for line in text.splitlines():
        if heading := re.match(r"Lints for snakefile (\S+):", line):
            place = heading[1].rpartition("/workflow/")[2]
        elif heading := re.match(r"Lints for rule (\w+) ", line):
            place = f"rule {heading[1]}"
        elif title := re.match(r"    \* (.*?)(?: in line \d+)?\.?:$", line):
            found[place, f"{title[1]}."] += 1
    return found


def complaints(found: Counter) -> list[str]:
    """One line for each finding that is new or gone."""
    new = [f"{place}: {title} (fix it, or accept it with its reason)" for place, title in found - ACCEPTED]
    gone = [f"{place}: no longer found: {title} (remove it from ACCEPTED)" for place, title in ACCEPTED - found]
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
