"""The cluster profile: it works from the repository's folder, and its resources reach the jobs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fan_out import fan_out
from runs import REPOSITORY, snakemake

PROFILE = REPOSITORY / "profiles/slurm/config.yaml"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> str:
    """The dry run of a study of the paper's configuration with the profile."""
    folder = tmp_path_factory.mktemp("profile")
    overlay = folder / "two.yaml"
    overlay.write_text("study: two\nresampling: {n: [100], replicates: 2}\n")
    study = fan_out(folder / "study", 45)
    done = snakemake(study, "--profile", "slurm", "--dry-run", overlays=[overlay])
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def settings() -> dict:
    return yaml.safe_load(PROFILE.read_text())


def resources_of(jobs: str, rule: str) -> dict[str, str]:
    """The resources of the first job of a rule."""
    found = re.search(rf"rule {rule}:\n(?: +\w.*\n)*? +resources: (.*)", jobs)
    return dict(part.partition("=")[::2] for part in found[1].split(", "))


def test_the_profile_works_as_typed_from_the_repository(jobs):
    assert (REPOSITORY / "slurm/config.yaml").samefile(PROFILE)
    assert "Using profile slurm" in jobs


def test_gpu_rules_use_the_gpu_partition_and_request_one_gpu(jobs):
    for rule in ("pretrain", "evaluate", "baseline", "transfer", "second_seed"):
        found = resources_of(jobs, rule)
        assert (found["slurm_partition"], found["gpu"]) == ("gpu", "1")
    for rule in ("linear", "resample", "cache", "aggregate"):
        found = resources_of(jobs, rule)
        assert found["slurm_partition"] == "cpu"
        assert found.get("gpu", "0") == "0"


def test_every_job_requests_time_and_memory(jobs):
    rules = {rule for rule in re.findall(r"^ *rule (\w+):", jobs, re.M) if rule != "all"}
    assert {"preprocess", "cache", "pretrain", "linear", "transfer", "report"} <= rules
    for rule in rules:
        found = resources_of(jobs, rule)
        assert int(found["mem_mb"]) > 0 and int(found["runtime"]) > 0, rule


def test_only_linear_fits_and_their_resamples_are_grouped(repository_rules, settings, jobs):
    assert settings["groups"] == ["resample=linear", "linear=linear"]
    assert not [rule for rule, text in repository_rules.items() if re.search(r"^    group:", text, re.M)]
    grouped = re.findall(r"Group job linear \(jobs in lexicogr\. order\):\n((?:\n|    .*\n)*)", jobs)
    assert grouped and set(re.findall(r"rule (\w+):", "".join(grouped))) == {"resample", "linear"}


def test_grouped_rules_have_no_retries_because_a_group_is_repeated_whole(repository_rules, settings):
    for rule, text in repository_rules.items():
        assert ("retries: 0" in text) == (rule in ("linear", "resample")), rule
    assert settings["keep-incomplete"] is True
    assert settings["retries"] >= 1


def test_settings_that_a_run_of_weeks_needs(settings):
    assert settings["scheduler"] == "greedy"  # the other scheduler needs minutes for 3,000 ready jobs
    assert settings["keep-going"] is True
    assert settings["rerun-incomplete"] is True
    assert "code" not in settings["rerun-triggers"]
    assert settings["slurm-status-attempts"] > 60  # otherwise it loses its jobs when the controller restarts
    assert not [name for name in settings if "array" in name or name == "slurm-efficiency-report"]


def test_every_key_of_the_profile_has_a_reason():
    """In its own line, or in the comment above its block."""
    commented = False
    for line in PROFILE.read_text().splitlines():
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        elif not line.startswith(" "):
            assert commented or "# " in line or line.endswith(":"), line


def test_every_rule_states_its_log_and_resources(repository_rules):
    for rule, text in repository_rules.items():
        for word in ("log:", "threads:", "mem_mb", "runtime", "script:"):
            assert word in text, f"rule {rule} lacks {word}"


def test_the_plan_counts_the_jobs_that_snakemake_counts(jobs, tmp_path, monkeypatch):
    """`neurotransfer plan` and a dry run of the same study, job for job."""
    from neurotransfer.operations.plan import jobs_of
    from neurotransfer.study.configuration import load_config, merge
    from neurotransfer.study.plan import read_study

    study = fan_out(tmp_path / "study", 45)
    monkeypatch.chdir(study)
    config = load_config(REPOSITORY)
    merge(config, {"resampling": {"n": [100], "replicates": 2}, "cohorts": str(study / "config/cohorts.tsv")})
    counted = jobs_of(read_study(config, study / "results/manifest/shards.tsv"))
    stats = dict(re.findall(r"^(\w+) +(\d+)$", jobs.partition("Job stats:")[2], re.M))
    assert {rule: int(count) for rule, count in stats.items() if rule not in ("all", "total")} == counted


@pytest.fixture(scope="module")
def one_fit(tmp_path_factory) -> tuple[Path, Path]:
    """A study of which only one network's fit is missing, and its overlay."""
    folder = tmp_path_factory.mktemp("one-fit")
    overlay = folder / "one.yaml"
    overlay.write_text("study: one\n")
    study = fan_out(folder / "study", 45)
    for name in ("results/resamples/ad_hc/n100/001.tsv", "results/split/certificate.json"):
        (study / name).parent.mkdir(parents=True)
        (study / name).touch()
    return study, overlay


@pytest.fixture
def submit(one_fit, tmp_path, monkeypatch):
    """Submit the fit with an edited profile to a stand-in cluster; returns sbatch's arguments and Snakemake's output.

    `edits` maps lines of profiles/slurm/config.yaml to their replacements; `programs` are the cluster's commands as
    shell code.
    """
    study, overlay = one_fit

    def begin(edits: dict[str, str], status: int = 1, **programs: str) -> tuple[list[str], str]:
        text = PROFILE.read_text()
        for line, ours in edits.items():
            assert text.count(line) == 1, line
            text = text.replace(line, ours)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/config.yaml").write_text(text)
        (tmp_path / "bin").mkdir()
        programs = {"sbatch": f'printf "%s\\n" "$@" >{tmp_path}/arguments; echo 7; exit {status}'} | programs
        for name, lines in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{lines}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        options = ("--profile", tmp_path / "mine", "--retries", 0, "--allowed-rules", "baseline", "--latency-wait", 1)
        quick = ("--slurm-init-seconds-before-status-checks", 1, "--max-jobs-per-timespan", "100/1s")
        done = snakemake(study, "results/fits/ad_hc/n100/001/baseline.json", *options, *quick, overlays=[overlay])
        return (tmp_path / "arguments").read_text().splitlines(), done.stdout

    return begin


GPU_LINE = "  - baseline:slurm_partition=gpu\n"


@pytest.mark.parametrize(
    ("edits", "asked"),
    [
        ({}, ["--gpus=1"]),
        ({GPU_LINE: GPU_LINE + "  - baseline:gpu_model=a100\n"}, ["--gpus=a100:1"]),
        ({GPU_LINE: GPU_LINE + "  - baseline:gres=gpu:1\n  - baseline:gpu=0\n"}, ["--gres=gpu:1"]),
        ({GPU_LINE: GPU_LINE + "  - baseline:gres=gpu:a100:1\n  - baseline:gpu=0\n"}, ["--gres=gpu:a100:1"]),
    ],
    ids=["gpus", "gpus of a type", "gres", "gres of a type"],
)
def test_a_gpu_is_requested_in_the_clusters_way(submit, edits, asked):
    arguments, _ = submit(edits)
    assert [word for word in arguments if word.startswith(("--gpus", "--gres"))] == asked
    assert arguments[arguments.index("-p") + 1] == "gpu"
    assert arguments[arguments.index("--mem") + 1] == "9000" and arguments[arguments.index("-t") + 1] == "35"


def test_account_constraint_qos_and_reservation_are_a_line_each(submit):
    """With accounting, in which case the account is looked up before submission."""
    edits = {
        "  # - slurm_account=ACCOUNT ": "  - slurm_account=lab ",
        "  # - constraint=FEATURE ": "  - constraint=icelake ",
        "# slurm-qos: QOS ": "slurm-qos: long ",
        "# slurm-reservation: NAME ": "slurm-reservation: mri ",
    }
    arguments, _ = submit(edits, sacctmgr="echo lab")
    assert arguments[arguments.index("-A") + 1] == "lab"
    assert arguments[arguments.index("-C") + 1] == "icelake"
    assert {"--qos=long", "--reservation=mri"} <= set(arguments)


def test_with_accounting_a_failed_job_has_slurms_reason(submit):
    accounting = """case "$*" in
      *--format=Reason*) case "$*" in *7.0*) echo OutOfMemory ;; esac ;;
      *--name*) echo '7|FAILED' ;;
      *--version*|*--noheader*) echo 'slurm 23.11' ;;
    esac"""
    edits = {"slurm-status-command: squeue\n": "slurm-status-command: sacct\n"}
    _, output = submit(edits, status=0, sacct=accounting, sacctmgr="echo lab")
    assert "SLURM status is: 'FAILED'" in output, output[-2000:]
    assert "OutOfMemory" in output


def test_with_the_profiles_container_all_jobs_run_in_it_except_those_that_start_their_own(
    study, repository_rules, tmp_path, monkeypatch
):
    """A stand-in for Apptainer records its arguments and runs the command directly."""
    image = REPOSITORY / "envs/neurotransfer.sif"
    if image.exists():
        pytest.skip("a real image exists")
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apptainer").write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && echo 'apptainer version 1.3.4' && exit
echo "$@" >>{calls}
while [ "$1" != {image} ]; do shift; done
shift
exec "$@"
"""
    )
    (tmp_path / "bin/apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    lines = dict(re.findall(r"^# ((?:software|apptainer)-[\w-]+): (.*?)(?: +#.*)?$", PROFILE.read_text(), re.M))
    options = [word for key, value in lines.items() for word in (f"--{key}", value.replace("/DATA", str(study)))]
    target = "results/split/cohorts/memory.tsv"
    (study / target).unlink()
    line = (target, "--cores", 1, "--rerun-triggers", "mtime", *options)
    refused = snakemake(study, *line)
    assert refused.returncode == 1
    assert f"apptainer build {image} {image.with_suffix('.def')}" in refused.stdout
    try:
        image.touch()
        done = snakemake(study, *line)
    finally:
        image.unlink()
    assert done.returncode == 0, done.stdout
    call = shlex.split(calls.read_text().splitlines()[0])
    assert call[:2] == ["exec", "--home"] and "--nv" in call and "--bind" in call and str(image) in call
    assert (study / target).exists()
    assert [rule for rule, text in repository_rules.items() if "    container:" in text] == ["preprocess"]


def test_slurms_commands_are_repeated_while_the_controller_is_unreachable(tmp_path):
    """A refused connection is tried again; any other failure is passed on at once, with its message."""
    program = tmp_path / "sbatch"
    program.write_text(
        "#!/bin/sh\nif [ -e tried ]; then echo 42; else touch tried\n"
        "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1; fi\n"
    )
    program.chmod(0o755)
    (tmp_path / "sleep").write_text('#!/bin/sh\necho "$@" >>slept\n')
    (tmp_path / "sleep").chmod(0o755)
    line = [REPOSITORY / "profiles/slurm/bin/sbatch", "--parsable"]
    environment = {"PATH": f"{REPOSITORY / 'profiles/slurm/bin'}:{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert (tmp_path / "slept").read_text() == "10\n"
    program.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 3\n")
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "sbatch: error: invalid partition\n")


def test_without_accounting_squeue_replaces_sacct(tmp_path):
    for name, text in {
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
        "squeue": 'echo "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    line = [REPOSITORY / "profiles/slurm/bin/sacct", "-X", "--parsable2", "--endtime", "now", "--name", "run-7"]
    environment = {"PATH": f"{REPOSITORY / 'profiles/slurm/bin'}:{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "--format=%i|%T --states=all --noheader --name run-7\n"


def test_an_unreachable_slurm_on_this_machine_does_not_slow_the_tests():
    """Without tests/conftest.py, each start of Snakemake would wait 10 s for the controller."""
    code = "import os, pathlib; print(pathlib.Path(os.environ['SLURM_CONF']).read_text() == '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n"
