"""The workflow as a module in another repository's Snakefile, with that repository's overrides only."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from fan_out import fan_out
from runs import REPOSITORY

OVERRIDES = {"study": "theirs", "resampling": {"n": [100], "replicates": 2}, "tasks": {"scz_bd": None}}
SNAKEFILE = """
configfile: "theirs.yaml"


module neurotransfer:
    snakefile:
        "{repository}/workflow/Snakefile"
    config:
        config


use rule * from neurotransfer{name}
"""


@pytest.fixture
def study(tmp_path):
    """Another repository: a Snakefile, a few keys, and a compiled manifest."""
    folder = fan_out(tmp_path / "theirs", 45)
    (folder / "theirs.yaml").write_text(yaml.safe_dump(OVERRIDES))
    return folder


def dry_run(study, *options, name: str = "") -> subprocess.CompletedProcess:
    (study / "Snakefile").write_text(SNAKEFILE.format(repository=REPOSITORY, name=name))
    line = [sys.executable, "-m", "snakemake", "--dry-run", *map(str, options)]
    return subprocess.run(line, cwd=study, capture_output=True, text=True)


def counts(output: str) -> dict[str, int]:
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


@pytest.mark.parametrize(("name", "prefix"), [("", ""), (" as nt_*", "nt_")])
def test_it_dry_runs_with_the_defaults_below_the_overrides(study, name, prefix):
    done = dry_run(study, name=name)
    assert done.returncode == 0, done.stdout + done.stderr
    found = counts(done.stdout)
    for rule in ("linear", "baseline", "transfer", "resample"):
        assert found[f"{prefix}{rule}"] == 2, rule  # one task, one n, two replicates
    assert found[f"{prefix}pretrain"] == found[f"{prefix}report"] == 1
    assert found[f"{prefix}index"] == 45


def test_a_mistake_in_the_overrides_is_named_by_its_file_and_key(study):
    (study / "theirs.yaml").write_text(yaml.safe_dump({"resampling": {"replicate": 2}}))
    done = dry_run(study)
    assert done.returncode == 1
    assert "theirs.yaml: resampling.replicate: " in done.stdout + done.stderr


def test_a_profile_for_prefixed_rules_is_the_profile_with_prefixed_names(study):
    """With the command in config/README.md."""
    shutil.copytree(REPOSITORY / "profiles/slurm", study / "profile")
    (command,) = re.findall(r"^    (sed .*)$", (REPOSITORY / "config/README.md").read_text(), re.M)
    subprocess.run(command, shell=True, cwd=study, check=True)
    done = dry_run(study, "--profile", study / "profile", name=" as nt_*")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = done.stdout
    for rule, partition in (("pretrain", "gpu"), ("transfer", "gpu"), ("cache", "cpu"), ("resample", "cpu")):
        resources = re.search(rf"rule nt_{rule}:\n(?: +\w.*\n)*? +resources: (.*)", jobs)[1]
        assert f"slurm_partition={partition}" in resources, rule
    assert "Group job linear" in jobs


def test_a_snakefile_without_the_library_beside_it_names_the_fix(study):
    """Like Snakemake's copy from a Git address: only Snakefiles."""
    (study / "workflow").mkdir()
    shutil.copy(REPOSITORY / "workflow/Snakefile", study / "workflow")
    shutil.copytree(REPOSITORY / "workflow/rules", study / "workflow/rules")
    line = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--dry-run"]
    done = subprocess.run(line, cwd=study, capture_output=True, text=True)
    assert done.returncode == 1
    assert "clone the repository and name its workflow/Snakefile by path" in done.stdout + done.stderr
