"""Quality control in the real workflow: jobs that a changed rule repeats, excluded images, volumes, and verify."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from neurotransfer.files import read_json, read_table
from runs import OVERLAYS, neurotransfer, planned_jobs, snakemake


def overlay(folder: Path, quality: dict) -> list[Path]:
    path = folder / "quality.yaml"
    path.write_text(yaml.safe_dump({"quality": quality}))
    return [*OVERLAYS, path]


def limit(**limits) -> dict:
    return {"exclude": {"mask_volume_mm3": {"min": None, "max": None} | limits}}


def test_volumes_are_the_numbers_of_labelled_voxels_times_the_voxel_volume(small_study):
    index = read_table(small_study / "results/index/mood.tsv")
    matrix = np.load(small_study / "results/index/mood.volumes.npy")
    ids = read_json(small_study / "results/index/mood.volumes.json")["seg_ids"]
    for row in (0, len(index) // 2, len(index) - 1):
        folder = small_study / f"results/preprocessed/subjects/{index['shard'][row]}/{index['image_id'][row]}/mri"
        image = nibabel.load(folder / "aparc.DKTatlas+aseg.deep.mgz")
        mm3 = float(np.prod(image.header.get_zooms()[:3]))
        labels = np.asarray(image.dataobj)
        counted = [(labels == seg_id).sum() * mm3 for seg_id in ids[1:]]
        assert matrix[row, 1:] == pytest.approx(counted, rel=1e-6)
        mask = np.asarray(nibabel.load(folder / "mask.mgz").dataobj) > 0
        assert matrix[row, 0] == pytest.approx(mask.sum() * mm3) == index["mask_volume_mm3"][row]


def test_the_index_names_the_engine_of_each_image(small_study):
    index = read_table(small_study / "results/index/alpha.tsv")
    assert set(index["engine"]) == {"builtin"} and index["engine_version"].notna().all()


def test_a_changed_rule_repeats_the_judgement_and_not_the_cache(small_study, tmp_path):
    jobs = planned_jobs(small_study, overlays=overlay(tmp_path, limit(min=1.0)))
    rules = {job.split()[0] for job in jobs}
    assert {"quality", "index", "quality_page", "split", "report"} <= rules
    assert not {"preprocess", "cache"} & rules


def test_a_changed_setting_of_the_page_repeats_the_page_and_the_report(small_study, tmp_path):
    changed = overlay(tmp_path, {"page": {"images": 10, "per_cohort": 1}})
    assert planned_jobs(small_study, overlays=changed) == {"quality_page", "report"}


def test_excluded_images_leave_the_index_and_its_volumes(study, tmp_path):
    before = read_table(study / "results/index/mood.tsv")
    smallest = before["mask_volume_mm3"].nsmallest(3)
    changed = overlay(tmp_path, limit(min=float(smallest.iloc[1] + smallest.iloc[2]) / 2))
    done = snakemake(study, "results/index/mood.tsv", "--cores", os.cpu_count() or 1, overlays=changed)
    assert done.returncode == 0, done.stdout
    after = read_table(study / "results/index/mood.tsv")
    gone = before.loc[smallest.index[:2], "image_id"]
    assert after["image_id"].tolist() == [image for image in before["image_id"] if image not in set(gone)]
    volumes = np.load(study / "results/index/mood.volumes.npy")
    assert volumes[:, 0] == pytest.approx(after["mask_volume_mm3"])
    judged = read_table(study / "results/quality/mood.tsv").set_index("image_id")
    assert set(judged.index[judged["status"] == "excluded"]) == set(gone)
    assert set(judged.loc[gone, "reason"]) == {"mask_volume_mm3_min"}


def test_a_cohort_without_usable_images_has_an_empty_index_and_one_warning(study, tmp_path):
    changed = overlay(tmp_path, limit(min=1e7))
    target = "results/split/cohorts/mood.tsv"
    done = snakemake(study, target, "--cores", os.cpu_count() or 1, overlays=changed)
    assert done.returncode == 0, done.stdout
    count = len(read_table(study / "results/quality/mood.tsv"))
    assert read_table(study / "results/index/mood.tsv").empty and read_table(study / target).empty
    warnings = [line for line in (study / "logs/index/mood.log").read_text().splitlines() if "WARNING" in line]
    (line,) = warnings
    assert f"cohort mood: none of its {count} images is usable ({count} excluded mask_volume_mm3_min)" in line


def test_verify_finds_nothing_in_a_finished_study_and_names_the_shard_of_a_flipped_byte(study):
    options = ("verify", "--directory", study, "--configfile", *OVERLAYS)
    intact = neurotransfer(*options)
    assert intact.returncode == 0 and intact.stdout.endswith("all as written\n"), intact.stdout + intact.stderr
    path = study / "results/cache/mood-0001.npy"
    times, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 128
    path.write_bytes(raw)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    damaged = neurotransfer(*options)
    assert damaged.returncode == 1
    first, last = damaged.stdout.splitlines()
    assert first.startswith("results/cache/mood-0001.npy: row 35: ") and last.endswith(": 1 wrong")
