"""The workflow at the paper's scale, with jobs that only write empty outputs."""

import hashlib
import itertools
import os
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
from cluster import cpu_seconds_of, peak_mb_of
from fan_out import fan_out
from neurotransfer.study.plan import ARMS, MODELS
from runs import REPOSITORY, neurotransfer, snakemake

FITS_AWAY = 10
REPLICATES = int(os.environ.get("NEUROTRANSFER_REPLICATES", "2"))  # of the fan-out through Slurm; 100 in the paper
PATIENCE = 600 + 600 * REPLICATES  # seconds; half a minute for each of a replicate's 20 jobs
SIZES = (100, 200, 300, 400, 500)
IDLE = """\
from neurotransfer.jobs import job

with job.job(snakemake):
    import hashlib
    from pathlib import Path

    from neurotransfer.files import write_text

    number = int(hashlib.sha256(snakemake.output[0].encode()).hexdigest(), 16)
    if snakemake.rule in ("linear", "baseline", "transfer") and number % 100 < SHARE and not Path("repaired").exists():
        raise RuntimeError("failed at random")
    for path in snakemake.output:
        write_text(path, "")
"""


def finish(folder: Path, overlays) -> list[Path]:
    """Make every output that Snakemake lists, empty and with one time, and return them."""
    listed = snakemake(folder, "--summary", overlays=overlays)
    assert listed.returncode == 0, listed.stdout[-2000:]
    rows = [line.split("\t")[0] for line in listed.stdout.splitlines() if "\t" in line]
    files = [folder / name for name in rows if name.startswith("results/")]
    now = time.time()
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (now, now))
    return files


@pytest.mark.long
def test_a_dry_run_after_all_but_ten_of_3000_fits_shows_those(tmp_path, capsys):
    """The ten and the summaries, in less than 20 s."""
    overlay = tmp_path / "paper.yaml"
    overlay.write_text("study: fan-out\n")
    study = fan_out(tmp_path / "study", 1809)
    files = finish(study, [overlay])
    fits = sorted(path for path in files if path.parts[-5] == "fits" and path.stem in MODELS)
    assert len(fits) == 3000
    for path in fits[:: len(fits) // FITS_AWAY][:FITS_AWAY]:
        path.unlink()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = snakemake(study, "--dry-run", overlays=[overlay])
    after, waited = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    # seconds of CPU, which other work on the machine hardly changes
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(
            f"\ndry run with {len(fits) - FITS_AWAY} of {len(fits)} fits done: {seconds:.1f} s of CPU in {waited:.1f} s"
        )
    assert done.returncode == 0, done.stdout[-2000:]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.M))
    assert sum(int(jobs.get(rule, 0)) for rule in ("linear", "baseline", "transfer")) == FITS_AWAY
    assert int(jobs["total"]) - FITS_AWAY <= 6  # `all`, and the tables, figures and page that depend on fits
    assert seconds < 20


def idle_repository(folder: Path, failing: int = 0) -> Path:
    """This repository with scripts that only make their outputs; `failing` percent of the fits fail."""
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow", symlinks=True)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    for name in ("config", "profiles"):
        (folder / name).symlink_to(REPOSITORY / name)
    for script in (folder / "workflow/scripts").glob("*.py"):
        script.write_text(IDLE.replace("SHARE", str(failing)))
    return folder


def before_the_fits(folder: Path, replicates: int) -> tuple[Path, Path]:
    """A study that is finished up to its resamples, and its overlay."""
    overlay = folder / "fan-out.yaml"
    overlay.write_text(f"study: fan-out\nresampling: {{replicates: {replicates}}}\n")
    study = fan_out(folder / "study", 45)
    for path in finish(study, [overlay]):
        if path.relative_to(study).parts[1] in ("fits", "resamples", "statistics", "report"):
            path.unlink()
    return study, overlay


@pytest.mark.long
def test_one_fit_of_twenty_fails_at_random(cluster, start, tmp_path):
    """The others finish, failed fits are listed with their cause, and the next run repeats only those."""
    study, overlay = before_the_fits(tmp_path, 2)
    idle = idle_repository(tmp_path / "idle", failing=5)
    run = start(study, "results/statistics/aucs.tsv", overlays=[overlay], repository=idle)
    assert run.wait(3000) == 1
    keys = itertools.product(("ad_hc", "scz_bd"), SIZES, ("001", "002"), ARMS)
    wanted = {f"results/fits/{task}/n{n}/{replicate}/{model}.json" for task, n, replicate, model in keys}
    failed = {fit for fit in wanted if int(hashlib.sha256(fit.encode()).hexdigest(), 16) % 100 < 5}
    failed = {fit for fit in failed if not fit.endswith("covariates.json")}
    made = {str(path.relative_to(study)) for path in study.glob("results/fits/**/*.json")}
    assert failed and not {fit for fit in failed if fit.endswith("linear.json")}  # a group would fail with it
    assert wanted - made == failed
    options = ("--directory", study, "--configfile", overlay)
    failures = neurotransfer("failures", *options).stdout
    assert "failed at random" in failures and all(fit in failures for fit in failed)
    status = neurotransfer("status", *options).stdout
    for model in {Path(fit).stem for fit in failed}:
        count = sum(fit.endswith(f"/{model}.json") for fit in failed)
        assert f"{count} x {model}: RuntimeError: failed at random" in status, status
    assert f"{len(failed)} jobs failed when last tried" in status

    stamps = {fit: (study / fit).stat().st_mtime_ns for fit in made}
    (study / "repaired").touch()
    again = start(study, "results/statistics/aucs.tsv", overlays=[overlay], repository=idle)
    assert again.wait(3000) == 0, again.text[-3000:]
    assert len(re.findall(r"has been submitted with SLURM jobid", again.text)) == len(failed) + 1  # and aggregate
    assert {fit: (study / fit).stat().st_mtime_ns for fit in made} == stamps
    assert neurotransfer("failures", "--directory", study).stdout.startswith("no job has failed")


@pytest.mark.long
@pytest.mark.timeout(PATIENCE + 300)
def test_the_fan_out_through_slurm(cluster, start, tmp_path, capsys):
    """Every fit and its resample as a job without work; the rest is the cost of Snakemake and of this workflow.

    NEUROTRANSFER_REPLICATES sets its size: 100 is the paper's study, which takes an hour and a half on two cores.
    """
    study, overlay = before_the_fits(tmp_path, REPLICATES)
    began = time.monotonic()
    idle = idle_repository(tmp_path / "idle")
    run = start(study, "results/statistics/aucs.tsv", overlays=[overlay], repository=idle)
    assert run.wait(PATIENCE) == 0, run.text[-3000:]
    seconds = time.monotonic() - began
    jobs = len(re.findall(r"has been submitted with SLURM jobid", run.text))
    assert len(list(study.glob("results/fits/**/*.json"))) == 2 * len(SIZES) * REPLICATES * len(ARMS)
    controller = cluster.controller()
    with capsys.disabled():
        print(f"\n{30 * REPLICATES} fits in {jobs} Slurm jobs: {seconds:.0f} s, {seconds / jobs:.2f} s a job")
        print(f"Snakemake: {run.cpu:.0f} s of CPU, {run.cpu / jobs:.3f} s a job, {run.memory:.0f} MB at most")
        print(f"slurmctld: {cpu_seconds_of(controller):.0f} s of CPU, {peak_mb_of(controller):.0f} MB at most")
    assert run.cpu < 30 + 0.1 * jobs  # it plans, and then only reacts to the ends of jobs


@pytest.mark.long
def test_a_group_of_fifty_requests_the_resources_of_four(tmp_path, monkeypatch):
    """Snakemake sums the resources of jobs that may run in parallel; the profile limits them to four."""
    study, overlay = before_the_fits(tmp_path, 50)
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexit 1\n')
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    snakemake(study, "--profile", "slurm", "--until", "linear", overlays=[overlay])
    for call in calls.read_text().splitlines():
        assert "--cpus-per-task=4 " in call and "--mem 8000 " in call
        assert int(re.search(r" -t (\d+) ", call)[1]) < 240
