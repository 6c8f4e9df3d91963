"""A prediction refuses what its weights do not know, and keeps of an earlier one only what still holds."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.files import read_table
from neurotransfer.network.sfcn import SFCN
from neurotransfer.predict.folder import lay_out, read_request
from neurotransfer.preprocess.engines.builtin import version
from neurotransfer.pretrain.weights import write_weights
from neurotransfer.study import layout
from neurotransfer.study.plan import read_study
from runs import REPOSITORY

TARGET = {"name": "age", "kind": "continuous", "weight": 1.0, "loss": "squared", "mean": 50.0, "sd": 15.0}
FACTS = {
    "network": {"channels": [2, 2], "bottleneck": 2, "pooling": "max"}, "crop": [32, 40, 32], "scaling": "none",
    "preprocessing": {"engine": "builtin", "voxel_size": 4.5, "grid": [64, 64, 64]},
    "targets": [TARGET | {"positive_weight": 1.0}], "images_made_by": [["builtin", version()]],
}  # fmt: skip


def scans(*names, derivatives=None):
    columns = {"image_id": names, "participant_id": names, "t1w": [f"/x/{name}.nii" for name in names]}
    return pd.DataFrame(columns | {"session": None, "run": None, "derivatives": derivatives}, dtype=object)


def request(folder, own="", engine=None, of=None, **changes):
    weights = folder / "w.safetensors"
    write_weights(weights, SFCN([2, 2], 2, 1, "max", 0.0).state_dict(), FACTS | changes)
    (folder / "own.yaml").write_text(own or "{}")
    return read_request(REPOSITORY, [folder / "own.yaml"], weights, scans("a") if of is None else of, engine)


def test_engine_grid_crop_and_network_are_those_of_the_weights(tmp_path):
    config = request(tmp_path).config
    assert config["preprocessing"]["engine"] == "builtin" and config["preprocessing"]["grid"] == [64, 64, 64]
    assert config["cache"]["crop"] == [32, 40, 32] and config["network"]["channels"] == [2, 2]
    known = {"images_made_by": [["fastsurfer", "2.4.2"]], "preprocessing": {"voxel_size": 1.0, "grid": [256] * 3}}
    assert request(tmp_path, **known).config["preprocessing"]["fastsurfer"]["version"] == "2.4.2"
    with_outputs = request(tmp_path, of=scans("a", derivatives="/fs/a"), **known)
    assert with_outputs.config["preprocessing"]["engine"] == "derivatives"


@pytest.mark.parametrize(
    ("own", "engine", "changes", "message"),
    [
        ("cache: {crop: [32, 32, 32]}", None, {}, r"crop: .* \[32, 40, 32\], this study has \[32, 32, 32\]"),
        ("preprocessing: {voxel_size: 1.0}", None, {}, r"voxel_size: .* 4.5, this study has 1.0"),
        ("", "fastsurfer", {}, r"images of builtin \d+, these images are of fastsurfer 2.5.0; give --engine builtin"),
        ("", None, {"images_made_by": [["builtin", "1"]]}, r"builtin 1, these images are of builtin \d+; .*accept"),
        (
            "preprocessing: {fastsurfer: {version: 2.6.0}}", None, {"images_made_by": [["fastsurfer", "2.4.2"]]},
            r"these images are of fastsurfer 2.6.0; give a --configfile with .*version: 2.4.2",
        ),
        (
            "", None, {"images_made_by": [["fastsurfer", "2.0.1"]]},
            r"of fastsurfer 2.0.1, these images are of fastsurfer 2.5.0; give --derivatives .*accept_other",
        ),
        ("", None, {"images_made_by": [["freesurfer", "7.4.1"]]}, "freesurfer 7.4.1; give --engine .* --derivatives"),
        ("", "derivatives", {}, "no folder of outputs is named for a; give --derivatives"),
    ],
)  # fmt: skip
def test_an_engine_crop_or_voxel_size_that_the_weights_do_not_know_is_refused(tmp_path, own, engine, changes, message):
    with pytest.raises(InputError, match=message):
        request(tmp_path, own, engine, **changes)


def test_weights_that_know_a_range_of_voxel_sizes_take_any_in_it(tmp_path):
    known = {"preprocessing": {"voxel_size": [0.69, 1.03], "grid": [256] * 3}, "scaling": "mean"}
    assert request(tmp_path, **known).config["preprocessing"]["voxel_size"] == 1.0
    assert request(tmp_path, "preprocessing: {voxel_size: 0.8}", **known).config["preprocessing"]["voxel_size"] == 0.8
    with pytest.raises(InputError, match=r"voxel_size: .* \[0.69, 1.03\], this study has 2.0"):
        request(tmp_path, "preprocessing: {voxel_size: 2.0}", **known)


def test_the_crop_is_placed_by_the_rule_of_the_weights(tmp_path):
    config = request(tmp_path, crop_rule="pyment", scaling="mean").config
    assert (config["cache"]["crop_rule"], config["network"]["scaling"]) == ("pyment", "mean")
    assert request(tmp_path).config["cache"]["crop_rule"] == "bounding_box"
    with pytest.raises(InputError, match=r'crop_rule: .* "centre of MNI152", .*accept_other_preprocessing: true'):
        request(tmp_path, crop_rule="centre of MNI152")
    own = "pretrain: {accept_other_preprocessing: true}"
    assert request(tmp_path, own, crop_rule="centre of MNI152").config["cache"]["crop_rule"] == "bounding_box"


@pytest.mark.parametrize("missing", ["crop", "preprocessing"])
def test_weights_that_do_not_say_how_images_were_made_are_refused(tmp_path, missing):
    with pytest.raises(InputError, match="its metadata does not say crop"):
        request(tmp_path, **{missing: {}})


def test_another_engine_is_used_if_the_configuration_accepts_it(tmp_path):
    own = "pretrain: {accept_other_preprocessing: true}"
    assert request(tmp_path, own, "builtin", images_made_by=[["builtin", "1"]]).config


def test_the_folder_is_a_study_that_the_workflow_reads(tmp_path, monkeypatch):
    asked = request(tmp_path)
    lay_out(tmp_path / "work", scans("a", "b"), asked, Path("/x"))
    monkeypatch.chdir(tmp_path / "work")
    study = read_study(asked.config)
    assert [shard.images for shard in study.shards.values()] == [2]
    assert read_table(layout.IMAGES)["t1w"].tolist() == ["/x/a.nii", "/x/b.nii"]


def test_scans_keep_their_shards_and_unchanged_files_their_times(tmp_path):
    asked, work = request(tmp_path), tmp_path / "work"
    lay_out(work, scans("a", "b"), asked, Path("/x"))
    table = work / layout.SHARD_TABLES / "scans-0001.tsv"
    os.utime(table, (1, 1))
    lay_out(work, scans("c", "a", "b"), asked, Path("/x"))
    assert table.stat().st_mtime == 1
    assert read_table(work / layout.IMAGES)["shard"].tolist() == ["scans-0001", "scans-0001", "scans-0002"]


def test_results_of_other_weights_or_of_another_crop_are_removed(tmp_path):
    work = tmp_path / "work"
    lay_out(work, scans("a"), request(tmp_path), Path("/x"))
    made = work / layout.PREDICTED.format(shard="scans-0001")
    cached = work / layout.CACHE / "scans-0001.npy"
    for path in (made, cached):
        path.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(f"# {json.dumps({'weights_sha256': 'other'})}\nimage_id\n")
    cached.touch()
    lay_out(work, scans("a"), request(tmp_path), Path("/x"))
    assert not made.exists() and cached.exists()
    lay_out(work, scans("a"), request(tmp_path, crop=[32, 32, 32]), Path("/x"))
    assert not cached.exists()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
