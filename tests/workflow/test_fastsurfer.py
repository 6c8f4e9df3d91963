"""The real workflow with FastSurfer's stand-in: from scans to the cache, in containers, with a bad scan."""

import gzip
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from neurotransfer.files import read_json, read_table, write_json
from runs import OVERLAYS, REPOSITORY, neurotransfer, planned_jobs, snakemake

STANDINS = REPOSITORY / "tests/standins"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Two cohorts with copies of one scan, which the stand-in segments once; and their configuration."""
    folder = tmp_path_factory.mktemp("fastsurfer")
    made = neurotransfer("simulate", folder, "--cohorts", "alpha", "coin", "--participants", 0.2)
    assert made.returncode == 0, made.stderr
    heads = sorted((folder / "data").rglob("*_T1w.nii.gz"))
    content = gzip.decompress(heads[0].read_bytes())
    for at, head in enumerate(heads):
        head.write_bytes(gzip.compress(content, compresslevel=1, mtime=at))
    (folder / "images").mkdir()
    (folder / "images/fastsurfer-2.5.0.sif").touch()
    own = {"version": "2.5.0", "runs_in": "apptainer", "image": str(folder / "images/fastsurfer-2.5.0.sif")}
    changes = {
        "tasks": {"ad_hc": None, "scz_bd": None},
        "manifest": {"images_per_shard": 8, "images_per_job": None},
        "resampling": {"n": [4], "validation_share": 0.5, "test_share": 0.5, "min_per_class": 1},
        "preprocessing": {
            "engine": "fastsurfer",
            "voxel_size": 1.0,
            "gpus": 0,
            "images_at_once": 2,
            "keep": "needed",
            "fastsurfer": own,
        },
    }
    overlay = folder / "fastsurfer.yaml"
    overlay.write_text(yaml.safe_dump(changes))
    compiled = neurotransfer("manifest", "--directory", folder, "--configfile", *OVERLAYS, overlay)
    assert compiled.returncode == 0, compiled.stderr
    images = read_table(folder / "results/manifest/images.tsv").set_index("cohort")
    bad = images.loc["alpha", "image_id"].iloc[1]
    write_json(folder / "faults.json", {bad: "exit_1"})
    (folder / "standin").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{STANDINS}:{os.environ['PATH']}")
        for name, path in {"FAULTS": "faults.json", "CACHE": "standin", "TRACE": "trace"}.items():
            patch.setenv(f"STANDIN_{name}", str(folder / path))
        patch.setenv("STANDIN_PYTHON", sys.executable)
        yield folder, [*OVERLAYS, overlay], bad


def statuses(folder: Path) -> dict[str, str]:
    return {path.parent.name: read_json(path)["state"] for path in folder.rglob("subjects/*/*/status.json")}


def test_a_broken_installation_stops_the_first_shard_with_one_line(scanned, tmp_path):
    folder, overlays, _ = scanned
    wrong = tmp_path / "wrong.yaml"
    (tmp_path / "fastsurfer-2.4.2.sif").touch()
    wrong.write_text(f"preprocessing: {{fastsurfer: {{image: {tmp_path}/fastsurfer-2.4.2.sif}}}}\n")
    done = snakemake(folder, "cached", "--cores", 2, overlays=[*overlays, wrong])
    assert done.returncode != 0
    failures = list((folder / "results/failures/preprocess").iterdir())
    assert 1 <= len(failures) <= 2  # those already started
    cause = read_json(failures[0])["cause"]
    assert "this is FastSurfer 2.4.2" in cause and "\n" not in cause
    log = Path(folder, read_json(failures[0])["log"]).read_text()
    assert cause in log.splitlines()[-1] and "Traceback" not in log
    assert not statuses(folder)
    assert not (folder / "trace").exists()

    missing = os.environ["PATH"].removeprefix(f"{STANDINS}:")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", missing)
        done = snakemake(folder, "cached", "--cores", 2, overlays=overlays)
    assert "there is no program apptainer on this machine" in done.stdout
    assert "rule preprocess" not in done.stdout


def test_scans_are_processed_in_containers_and_a_bad_one_is_recorded(scanned):
    folder, overlays, bad = scanned
    done = snakemake(folder, "cached", "--cores", 2, overlays=overlays)
    assert done.returncode == 0, done.stdout

    images = read_table(folder / "results/manifest/images.tsv")
    assert len(images) > 15
    found = statuses(folder)
    assert found == {image: "failed" if image == bad else "ok" for image in images["image_id"]}
    assert "failed" in found.values()
    ledgers = list((folder / "results/preprocessed").glob("*-*/*.tsv"))
    assert max(len(read_table(path)) for path in ledgers) == 4  # FastSurfer on the CPU: four images per job
    indexed = {image for path in (folder / "results/index").glob("*.tsv") for image in read_table(path)["image_id"]}
    assert indexed == set(images["image_id"]) - {bad}
    volumes = np.load(folder / "results/index/coin.volumes.npy")
    assert np.isfinite(volumes).all() and (volumes[:, 0] > 4e5).all()
    volumes = np.load(folder / "results/index/alpha.volumes.npy")  # of a cohort that only pretrains: the mask's
    assert volumes.shape[1] == 1 and (volumes > 4e5).all()
    subjects = folder / "results/preprocessed/subjects"
    assert {len([path for path in subject.rglob("*") if path.is_file()]) for subject in subjects.glob("*/coin_*")} == {
        5
    }
    verified = neurotransfer("verify", "--directory", folder, "--configfile", *overlays)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert planned_jobs(folder, "cached", overlays=overlays) == set()

    # like `neurotransfer retry`: the status and its ledger are removed, and the jobs that depend on them follow
    shard = images.set_index("image_id").loc[bad, "shard"]
    ledger = next(path for path in ledgers if bad in path.read_text())
    (folder / f"results/preprocessed/subjects/{shard}/{bad}/status.json").unlink()
    ledger.unlink()
    assert planned_jobs(folder, "cached", overlays=overlays) - {"cached"} == {
        f"preprocess shard={shard}, job={ledger.stem}",
        f"cache shard={shard}",
        "quality cohort=alpha",
        "index cohort=alpha",
        "quality_page",
    }

    # settings of execution are no parameters: nothing else is repeated for them
    changes = folder / "changes.yaml"
    changes.write_text("preprocessing: {threads: 2, time_limit: 9, max_mem_mb: 9000, fastsurfer: {runs_in: docker}}\n")
    more = yaml.safe_load(changes.read_text())
    more["preprocessing"]["fastsurfer"]["image"] = None
    changes.write_text(yaml.safe_dump(more))
    planned = planned_jobs(folder, "cached", overlays=[*overlays, changes])
    assert {job for job in planned if job.startswith("preprocess")} == {f"preprocess shard={shard}, job={ledger.stem}"}


def test_a_cohort_that_is_already_preprocessed_requests_no_gpu(scanned):
    folder, overlays, _ = scanned
    table = pd.read_csv(folder / "cohorts.tsv", sep="\t", dtype=str)
    (folder / "derivatives/coin_CO001").mkdir(parents=True)
    pattern = table["cohort"].map(lambda name: f"{folder}/derivatives/{{image_id}}" if name == "coin" else None)
    table.assign(derivatives=pattern).to_csv(folder / "cohorts.tsv", sep="\t", index=False)
    gpu = folder / "gpu.yaml"
    gpu.write_text("preprocessing: {gpus: 1, fastsurfer: {image: null}}\n")
    compiled = neurotransfer("manifest", "--directory", folder, "--configfile", *overlays, gpu)
    assert compiled.returncode == 0, compiled.stderr
    done = snakemake(folder, "cached", "--dry-run", "--forcerun", "preprocess", overlays=[*overlays, gpu])
    jobs = re.findall(r"rule preprocess:.*?wildcards: shard=(\w+)-.*?resources: (.*?)\n", done.stdout, re.DOTALL)
    asked = {(cohort, int(re.search(r"\bgpu=(\d)", words)[1])) for cohort, words in jobs}
    assert asked == {("alpha", 1), ("coin", 0)}
