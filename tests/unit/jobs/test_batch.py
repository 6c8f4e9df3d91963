"""Several replicates in one job: what is finished is kept, and a replicate that fails stops no other."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from neurotransfer.errors import InputError
from neurotransfer.jobs.batch import each_replicate
from neurotransfer.study import layout
from neurotransfer.study.rules import base_name, first_of_batch, name_for_batch
from snakemake.iocontainers import InputFiles, Namedlist, OutputFiles

BATCH = ("004", "005", "006")


def lists(kind: type, **named: object) -> Namedlist:
    """Snakemake's list of files, as a script gets it."""
    files = kind()
    for name, value in named.items():
        start = len(files)
        files.extend([value] if isinstance(value, str) else value)
        files._set_name(name, start, end=None if isinstance(value, str) else len(files))
    return files


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    """Snakemake's object for a job of the fits of three replicates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return SimpleNamespace(
        rule="baseline_004",
        wildcards=lists(Namedlist, task="ad_hc", n="18"),
        input=lists(
            InputFiles, resample=[layout.resample("ad_hc", 18, name) for name in BATCH], certificate="certificate.json"
        ),
        output=lists(OutputFiles, fit=[layout.fit("ad_hc", 18, name, "baseline") for name in BATCH]),
        log=["logs/baseline/ad_hc/n18/004-006.log"],
        params={"seed": 7},
        resources={"mem_mb": 2000},
        threads=1,
        config={},
    )


def test_each_replicate_has_its_own_files_log_and_cost(baseline):
    seen = []

    def work(one):
        seen.append((one.wildcards.replicate, one.input.resample, one.input.certificate, list(one.output), one.log))
        assert one.output.get("network") is None and not hasattr(one.output, "network")
        Path(one.output.fit).parent.mkdir(parents=True, exist_ok=True)
        Path(one.output.fit).write_text("{}")

    each_replicate(baseline, work)

    assert [name for name, *_ in seen] == list(BATCH)
    for name, resample, certificate, outputs, log in seen:
        assert (resample, certificate) == (layout.resample("ad_hc", 18, name), "certificate.json")
        assert outputs == [layout.fit("ad_hc", 18, name, "baseline")]
        assert log == [f"logs/baseline/ad_hc/n18/{name}.log"] and Path(log[0]).is_file()
        with Path(layout.benchmark("baseline", "ad_hc", "n18", name)).open(newline="") as file:
            (cost,) = csv.DictReader(file, delimiter="\t")
        assert float(cost["s"]) > 0 and float(cost["max_rss"]) > 1
    said = Path(baseline.log[0]).read_text()
    assert all(f"replicate {name}: done in " in said for name in BATCH)


def test_a_failing_replicate_stops_no_other_and_a_finished_one_is_kept(baseline):
    done = []

    def work(one):
        if one.wildcards.replicate == "005":
            raise InputError("a.tsv", "row 3", "age 230", "correct it")
        done.append(one.wildcards.replicate)

    kept = Path(layout.fit("ad_hc", 18, "004", "baseline"))
    kept.parent.mkdir(parents=True)
    kept.write_text("finished")
    with pytest.raises(SystemExit) as ended:
        each_replicate(baseline, work, is_finished=lambda one: Path(one.output.fit).read_text() == "finished")

    assert ended.value.code == 1 and done == ["006"] and kept.read_text() == "finished"
    failure = json.loads(Path("results/failures/baseline/ad_hc-18-005.json").read_text())
    assert failure["wildcards"] == ["ad_hc", "18", "005"] and "age 230" in failure["cause"]
    said = Path(baseline.log[0]).read_text()
    assert "replicate 004: finished before, kept" in said
    assert "replicate 005: failed, see logs/baseline/ad_hc/n18/005.log" in said


@pytest.mark.parametrize("stop", [KeyboardInterrupt, lambda: SystemExit(128 + signal.SIGTERM)])
def test_a_job_that_is_stopped_begins_no_other_replicate(baseline, stop):
    begun = []

    def work(one):
        begun.append(one.wildcards.replicate)
        raise stop()

    with pytest.raises(SystemExit):
        each_replicate(baseline, work)
    assert begun == ["004"]


def test_a_replicate_with_a_job_of_its_own_is_that_job(baseline):
    baseline.rule, baseline.log = "baseline", ["logs/baseline/ad_hc/n18/004.log"]
    baseline.wildcards = lists(Namedlist, task="ad_hc", n="18", replicate="004")
    baseline.output = lists(OutputFiles, fit=layout.fit("ad_hc", 18, "004", "baseline"))
    baseline.input = []
    seen = []
    each_replicate(baseline, seen.append, lease="fit", is_finished=lambda one: True)
    assert seen == [baseline] and not os.path.exists(layout.benchmark("baseline", "ad_hc", "n18", "004"))


@pytest.mark.parametrize("prefix", ["", "nt_", "other_linear_"])
def test_the_rule_of_a_batch_is_known_by_its_name(prefix):
    name = prefix + name_for_batch("baseline", BATCH)
    assert (base_name(name), first_of_batch(name)) == ("baseline", "004")
    assert (base_name(prefix + "baseline"), first_of_batch(prefix + "baseline")) == ("baseline", None)
    assert name_for_batch("baseline", None) == "baseline"
