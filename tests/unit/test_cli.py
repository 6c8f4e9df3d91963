"""Options of the console command: a number that makes no sense is one line, before anything is read."""

import os
import subprocess
import sys

import pytest
from bounds import Used, bounded
from neurotransfer import cli
from runs import REPOSITORY

CHECK = ["weights", "check", "w.safetensors", "--crops", ".", "--expected", "e.tsv"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["plan", "--cores", "0"], "--cores: it is '0' but must be a whole number from 1 to 1000000"),
        (["plan", "--gpus", "9" * 5_000], "--gpus: it is '999"),
        (["verify", "--threads", "-1"], "--threads: it is '-1' but must be a whole number"),
        ([*CHECK, "--threads", "0"], "--threads: it is '0' but must be a whole number"),
        ([*CHECK, "--tolerance", "nan"], "--tolerance: it is 'nan' but must be a number"),
        ([*CHECK, "--tolerance", "0"], "--tolerance: it is '0' but must be a number"),
        (["rehearse", "--minutes", "nan"], "--minutes: it is 'nan' but must be a number"),
        (["simulate", "x", "--seed", "1e3"], "--seed: it is '1e3' but must be a whole number from 0"),
        (["failures", "--n", "\x1b[31m"], "must be a whole number"),
        (["plan", "--core", "\x1b[31m{braces}%s"], "must be a whole number"),
        (["plam"], "invalid choice: 'plam'"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        cli.main(options)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed and len(printed.splitlines()) == 1 and printed.rstrip("\n").isprintable()


def test_the_help_ends_with_the_commands_in_the_order_of_a_study(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    listed = text.rpartition("with your own data: ")[2].partition(", snakemake (docs/tutorial.md)")[0].split(", ")
    assert listed == ["look", "init", "manifest", "rehearse", "plan"]
    assert all(f"\n    {name} " in text for name in ("demo", *listed))


def _grid(values: int) -> str:
    numbers = ", ".join(f"0.0{at:03}1" for at in range(values))
    lists = ", ".join(f"{name}: [{numbers}]" for name in ("learning_rate", "weight_decay", "dropout"))
    return f"models: {{baseline: {{settings: [{{{lists}}}]}}}}"


HOSTILE = {
    "a bomb": "a0: &a0 [x, x]\n" + "\n".join(f"a{at}: &a{at} [{f'*a{at - 1}, ' * 9}]" for at in range(1, 12)),
    "a recursive alias": "tasks: &a {b: {c: *a}}",
    "replicates": "resampling: {replicates: 10000000}",
    "n": "resampling: {n: [1000000000]}",
    "a grid of millions": _grid(300),
    "many settings": "models: {linear: {settings: [" + "{c: 1}, " * 4_900 + "]}}",
    "a seed of 400 digits": "seed: " + "9" * 400,
    "a seed of 5,000 digits": "seed: 1" + ":59" * 3_000,
    "braces in a path": "cohorts: '{x}.tsv'",
    "braces in a name": "tasks: {'a{b}': {title: x, positive: [A], negative: [B], seed: 0}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_configuration_that_asks_too_much_is_one_line_at_once(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(HOSTILE[name])
    with bounded(Used()):
        assert cli.main(["plan", "--configfile", "my.yaml"]) == 2
    printed = capsys.readouterr().err
    assert "my.yaml" in printed and len(printed.splitlines()) == 1 and printed.rstrip("\n").isprintable()


def test_a_configuration_that_links_to_itself_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").symlink_to("my.yaml")
    assert cli.main(["plan", "--configfile", "my.yaml"]) == 2
    printed = capsys.readouterr().err
    assert "my.yaml" in printed and len(printed.splitlines()) == 1


def test_a_profile_is_found_where_snakemake_finds_it_whatever_the_studys_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    for name in ("mine", "settings/snakemake/cluster"):
        (tmp_path / name).mkdir(parents=True)
    assert cli._profile("mine") == str(tmp_path / "mine")
    assert cli._profile("cluster") == str(tmp_path / "settings/snakemake/cluster")
    assert cli._profile("local") == str(REPOSITORY / "profiles/local")
    assert cli._profile("nosuch") == "nosuch"


def test_a_preview_is_written_into_the_study_unless_another_file_is_named(tmp_path, monkeypatch):
    study, here = tmp_path / "study", tmp_path / "here"
    study.mkdir()
    here.mkdir()
    monkeypatch.setattr("neurotransfer.study.plan.read_study", lambda config: None)
    monkeypatch.setattr("neurotransfer.report.preview.preview_html", lambda config, study: "page")
    for options, written in (([], study / "preview.html"), (["--output", "mine.html"], here / "mine.html")):
        monkeypatch.chdir(here)
        assert cli.main(["preview", "-d", str(study), *options]) == 0
        assert written.read_text() == "page"
    assert {path.name for path in tmp_path.glob("*/*")} == {"preview.html", "mine.html"}


def test_a_failed_prediction_has_a_command_with_the_configuration_of_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "p.work/results/failures/cache/scans-0001.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"rule": "cache", "key": "scans-0001", "cause": "no space", "time": 1.0}')
    (tmp_path / "p.work/predict.yaml").touch()
    assert cli.main(["failures", "--profile", "slurm", "--directory", "p.work"]) == 0
    said = capsys.readouterr().out
    assert f"--profile {REPOSITORY / 'profiles/slurm'} --directory p.work --configfile p.work/predict.yaml\n" in said


@pytest.mark.parametrize(("program", "profile"), [("/usr/bin/sbatch", "slurm"), (None, "local --cores 3")])
def test_a_failed_job_is_made_again_by_slurm_if_it_is_here(tmp_path, monkeypatch, capsys, program, profile):
    monkeypatch.setattr(cli.shutil, "which", lambda name: program)
    monkeypatch.setattr(cli.os, "cpu_count", lambda: 3)
    record = tmp_path / "results/failures/cache/A-0001.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"rule": "cache", "key": "A-0001", "cause": "no space", "time": 1.0}')
    monkeypatch.chdir(REPOSITORY)
    assert cli.main(["failures", "--directory", str(tmp_path)]) == 0
    command = f"snakemake results/cache/A-0001.tsv --profile profiles/{profile} --directory {tmp_path}\n"
    assert command in capsys.readouterr().out


def test_a_pipe_whose_reader_has_read_enough_is_no_error():
    line = [sys.executable, "-m", "neurotransfer.cli", "failures"]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (cli.ENDED_BY_PIPE, "")
