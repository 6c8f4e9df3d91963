"""The workflow's own scale: the paper's fan-out, with tasks that do nothing in place of the work."""

import os
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
from cluster import peak_mb_of
from fan_out import fan_out
from runs import REPOSITORY, snakemake

FITS_AWAY = 10


def finish(folder: Path, overlays) -> list[Path]:
    """Make every file that Snakemake says is an output, empty and of one age, and return them."""
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
    """The ten, and what summarises them, in under 20 s."""
    overlay = tmp_path / "paper.yaml"
    overlay.write_text("study: fan-out\n")
    study = fan_out(tmp_path / "study", 1809)
    files = finish(study, [overlay])
    fits = sorted(path for path in files if path.parts[-5] == "fits")
    assert len(fits) == 3000
    for path in fits[:: len(fits) // FITS_AWAY][:FITS_AWAY]:
        path.unlink()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = snakemake(study, "--dry-run", overlays=[overlay])
    after, waited = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    # of CPU, which a crowded machine does not change; it computes on one core and waits for nothing
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(
            f"\ndry run with {len(fits) - FITS_AWAY} of {len(fits)} fits done: {seconds:.1f} s of CPU in {waited:.1f} s"
        )
    assert done.returncode == 0, done.stdout[-2000:]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.M))
    assert sum(int(jobs.get(rule, 0)) for rule in ("linear", "baseline", "transfer")) == FITS_AWAY
    assert int(jobs["total"]) - FITS_AWAY <= 6  # all, and the tables, figures and page made from fits
    assert seconds < 20


def idle_repository(folder: Path) -> Path:
    """This repository with scripts that only make their outputs."""
    folder.mkdir()
    for name in ("Snakefile", "config", "profiles", "slurm", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "Snakefile", folder / "copy")
    (folder / "Snakefile").unlink()
    (folder / "copy").rename(folder / "Snakefile")
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow", symlinks=True)
    for script in (folder / "workflow/scripts").glob("*.py"):
        script.write_text("for path in snakemake.output:\n    open(path, 'w').close()\n")
    return folder


@pytest.mark.long
def test_the_fan_out_through_slurm(cluster, start, tmp_path, capsys):
    """Every fit and its resample as a job of its own, doing nothing: what remains is Snakemake's and ours.

    NEUROTRANSFER_REPLICATES makes it larger: 100 is the paper's study, and takes hours on two cores.
    """
    replicates = int(os.environ.get("NEUROTRANSFER_REPLICATES", "2"))
    overlay = tmp_path / "fan-out.yaml"
    overlay.write_text(f"study: fan-out\nresampling: {{replicates: {replicates}}}\n")
    study = fan_out(tmp_path / "study", 45)
    files = finish(study, [overlay])
    for path in files:
        if path.relative_to(study).parts[1] in ("fits", "resamples", "statistics"):
            path.unlink()
    began = time.monotonic()
    run = start(study, "results/statistics/aucs.tsv", overlays=[overlay], repository=idle_repository(tmp_path / "idle"))
    assert run.wait(3500) == 0, run.text[-3000:]
    seconds = time.monotonic() - began
    jobs = len(re.findall(r"has been submitted with SLURM jobid", run.text))
    fits = len(list(study.glob("results/fits/**/*.json")))
    assert fits == 2 * 5 * replicates * 3
    with capsys.disabled():
        print(f"\n{fits} fits in {jobs} Slurm jobs: {seconds:.0f} s, {seconds / jobs:.1f} s a job")
        print(f"peak memory of Snakemake: {run.memory:.0f} MB; of slurmctld: {peak_mb_of(cluster.controller()):.0f} MB")
