"""The table of rules (study/rules.py) agrees with workflow/rules, and every job has a target."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from fan_out import fan_out
from neurotransfer.operations.failures import failures_of
from neurotransfer.study.configuration import load_config
from neurotransfer.study.rules import RULES, cores_of, uses_gpu
from runs import REPOSITORY, planned_jobs, snakemake

# each rule after Snakemake has parsed the workflow
DUMP = """
include: "{repository}/Snakefile"

import json

facts = {{}}
for known in workflow.rules:
    threads, gpu = (known.resources[name].value if name in known.resources else 0 for name in ("_cores", "gpu"))
    gpu = 1 if callable(gpu) else gpu  # a function: some of the rule's jobs use one
    facts[known.name] = {{"outputs": list(map(str, known.output)), "threads": threads, "gpu": gpu}}
with open("rules.json", "w") as file:
    json.dump(facts, file)
"""
VALUES = {"shard": "ADNI-0001", "job": "0000", "cohort": "ADNI", "run": "multitask"}
VALUES |= {"task": "ad_hc", "n": "100", "replicate": "001", "model": "transfer"}
TARGETS = {"all", "cached", "pretrained", "predicted", "finals"}  # targets for users, without a script


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of the paper's configuration in which every rule of the default run has a job."""
    folder = fan_out(tmp_path_factory.mktemp("rules") / "study", 45)
    overlay = folder / "small.yaml"
    overlay.write_text(yaml.safe_dump({"resampling": {"n": [100], "replicates": 1}}))
    return folder, overlay


@pytest.fixture(scope="module")
def parsed(study):
    """The outputs, threads and GPUs of each rule, as Snakemake parsed them."""
    folder, overlay = study
    (folder / "Dump").write_text(DUMP.format(repository=REPOSITORY))
    line = [sys.executable, "-m", "snakemake", "--snakefile", "Dump", "--list-rules", "--configfile", str(overlay)]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "rules.json").read_text())


def test_every_rule_is_in_the_table_and_nothing_else(parsed):
    assert set(parsed) - TARGETS == set(RULES)


def test_a_rules_result_is_one_of_its_outputs(parsed):
    for name, rule in RULES.items():
        outputs = [re.sub(r"\{(\w+),[^}]*\}", r"{\1}", output) for output in parsed[name]["outputs"]]
        assert rule.result in outputs, name


def test_cores_and_gpus_are_those_of_the_rules(parsed, study):
    config = load_config(REPOSITORY, [study[1]])
    for name in RULES:
        if name not in ("heads", "duplicates"):  # the rule sets their number, and their hours are not counted
            assert parsed[name]["threads"] == cores_of(name, config), name
        assert bool(parsed[name]["gpu"]) == uses_gpu(name, config), name


def test_snakemake_accepts_the_suggested_target_for_a_failed_job_of_every_rule(study):
    folder, overlay = study
    for at, (name, rule) in enumerate(RULES.items()):
        wildcards = [VALUES[wildcard] for wildcard in rule.wildcards]
        key = "-".join(wildcards) or "all"
        path = folder / f"results/failures/{name}/{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rule": name, "key": key, "cause": "no", "time": at, "wildcards": wildcards}))
    targets = {failure.rule: failure.target for failure in failures_of(folder)}
    assert set(targets) == set(RULES)
    planned = planned_jobs(folder, *targets.values(), overlays=[overlay])
    for name, rule in RULES.items():
        values = ", ".join(f"{wildcard}={VALUES[wildcard]}" for wildcard in rule.wildcards)
        assert f"{name} {values}".strip() in planned, name


def test_networks_of_fits_are_kept_if_the_configuration_says_so(study, tmp_path):
    folder, overlay = study
    more = tmp_path / "keep.yaml"
    more.write_text("models: {cnn: {keep: chosen}}")
    done = snakemake(folder, "--dry-run", overlays=[overlay, more])
    assert done.returncode == 0, done.stdout
    assert "results/fits/ad_hc/n100/001/transfer.safetensors" in done.stdout


def test_braces_in_names_are_no_wildcards(study, tmp_path):
    folder, overlay = study
    more = tmp_path / "braces.yaml"
    more.write_text("study: '{study} {0}'\ntasks: {ad_hc: {title: 'a {b}', positive: [AD, '{x}']}}")
    done = snakemake(folder, "--dry-run", overlays=[overlay, more])
    assert done.returncode == 0, done.stdout
