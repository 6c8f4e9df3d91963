"""`neurotransfer predict` on simulated scans: the right numbers, in one process as by the workflow's jobs."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from neurotransfer.cli import main
from neurotransfer.network.sfcn import SFCN
from neurotransfer.preprocess.engines.builtin import version
from neurotransfer.pretrain.weights import write_weights
from neurotransfer.simulation.study import simulate_study
from runs import REPOSITORY

from workbench.plain_layers import PlainSFCN

VOXEL_SIZE, CROP = 6.0, [32, 32, 32]
CHANNELS, BOTTLENECK = [4, 6, 8], 5
TARGETS = [
    {"name": "age", "kind": "continuous", "mean": 50.0, "sd": 15.0},
    {"name": "sex", "kind": "binary", "mean": 0.5, "sd": 1.0},
]
FACTS = {
    "network": {"channels": CHANNELS, "bottleneck": BOTTLENECK, "pooling": "max"}, "crop": CROP, "scaling": "none",
    "preprocessing": {"engine": "builtin", "voxel_size": VOXEL_SIZE, "grid": [48, 48, 48]},
    "targets": [target | {"weight": 1.0, "loss": "squared", "positive_weight": 1.0} for target in TARGETS],
    "images_made_by": [["builtin", version()]], "age_bias": {"slope": 0.8, "intercept": 12.0, "images": 99},
    "quality": {"contrast": [9.0, 0.1]},
}  # fmt: skip
OWN = "pretrain: {data_type: float32, gpus: 0, device: cpu, threads: 1}\npreprocessing: {threads: 1}\n"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A BIDS folder with two good scans, a damaged one and one left out; weights; and the network."""
    folder = tmp_path_factory.mktemp("predict")
    simulate_study(folder, cohorts=["alpha"], participants=0.01, voxel_size=VOXEL_SIZE)
    scans = sorted((folder / "data/alpha").rglob("*_T1w.nii.gz"))
    bids = folder / "bids"
    for label, scan in zip("abc", [*scans[:2], scans[0]], strict=True):
        (bids / f"sub-{label}/anat").mkdir(parents=True)
        shutil.copy(scan, bids / f"sub-{label}/anat/sub-{label}_T1w.nii.gz")
    damaged = bids / "sub-c/anat/sub-c_T1w.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    (bids / "sub-d/anat").mkdir(parents=True)
    (bids / "sub-d/anat/sub-d_T1w.nii.gz").touch()
    torch.manual_seed(4)
    model = SFCN(CHANNELS, BOTTLENECK, 2, "max", 0.0)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.running_mean)
    write_weights(folder / "w.safetensors", model.state_dict(), FACTS)
    (folder / "own.yaml").write_text(OWN)
    return folder, model


def predicted(folder: Path, out: str, *options: str, images="bids") -> tuple[int, pd.DataFrame]:
    line = ["predict", "--weights", folder / "w.safetensors", "--images", folder / images, "--out", folder / out]
    status = main([*map(str, line), "--configfile", str(folder / "own.yaml"), "--cores", "1", *options])
    return status, pd.read_csv(folder / out, sep="\t")


@pytest.fixture(scope="module")
def here(asked):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(asked[0])
        return predicted(asked[0], "here.tsv")


def expected(folder: Path, model: SFCN, subject: Path) -> tuple[float, float]:
    """Age and probability of sex by plain layers, of the files that the engine has written."""
    orig, mask = (np.asarray(nibabel.load(subject / f"mri/{name}.mgz").dataobj) for name in ("orig", "mask"))
    padded = np.pad(orig * (mask > 0), 40)
    found = np.argwhere(mask > 0)
    start = (found.min(0) + found.max(0) + 1) // 2 - np.array(CROP) // 2 + 40
    image = padded[tuple(slice(low, low + size) for low, size in zip(start, CROP, strict=True))]
    plain = PlainSFCN(CHANNELS, BOTTLENECK, 2, "max", 0.0).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        age, sex = plain(torch.from_numpy(image)[None, None].float())[0].double()
    return float(age * 15 + 50), float(torch.sigmoid(sex))


def test_predictions_are_those_of_plain_layers_on_the_engines_files(asked, here):
    folder, model = asked
    status, table = here
    assert status == 0
    for row, label in enumerate("ab"):
        age, sex = expected(folder, model, folder / f"here.work/results/preprocessed/subjects/scans-0001/sub-{label}")
        assert table.loc[row, ["predicted_age", "predicted_sex"]].tolist() == pytest.approx([age, sex], rel=1e-4)
        assert table.loc[row, "predicted_age_corrected"] == pytest.approx((age - 12) / 0.8, rel=1e-4)
    assert len(set(table["predicted_age"].dropna())) == 2


def test_every_file_has_a_row_and_bad_ones_their_reason(here):
    table = here[1].set_index("image_id")
    assert table["status"].to_dict() == {
        "sub-a": "ok", "sub-b": "ok", "sub-c": "failed", "sub-d_T1w.nii.gz": "left out"
    }  # fmt: skip
    assert table["reason"].dropna().to_dict() == {"sub-c": "truncated", "sub-d_T1w.nii.gz": "empty_file"}
    assert table.loc["sub-a", "flags"] == "unusual_contrast" and pd.isna(table.loc["sub-c", "flags"])
    assert table.loc["sub-a", "mask_volume_mm3"] > 5e5


def test_the_workflows_jobs_write_the_same_table(asked, here, monkeypatch, capsys):
    folder = asked[0]
    monkeypatch.chdir(folder)
    status, table = predicted(folder, "jobs.tsv", "--profile", str(REPOSITORY / "profiles/local"))
    assert status == 0
    pd.testing.assert_frame_equal(table, here[1])
    assert (folder / "jobs.tsv").read_bytes() == (folder / "here.tsv").read_bytes()
    assert (folder / "jobs.work/logs/predict/scans-0001.log").is_file()
    assert "2 of 4 scans have predictions, 1 failed, 1 left out, 2 flagged" in capsys.readouterr().out


def test_outputs_of_another_engine_get_a_row_and_no_prediction(asked, here, monkeypatch):
    folder = asked[0]
    monkeypatch.chdir(folder)
    subjects = folder / "here.work/results/preprocessed/subjects/scans-0001"
    (folder / "list.tsv").write_text(f"derivatives\n{subjects / 'sub-a'}\n{folder / 'nowhere'}\n")
    status, table = predicted(folder, "other.tsv", images="list.tsv")
    assert status == 1  # the builtin engine leaves no log that names its version, so these count as unknown
    assert table["reason"].tolist() == ["other_engine", "derivatives_missing"]
    assert table["predicted_age"].isna().all()
    (folder / "own.yaml").write_text(OWN.replace("{data_type", "{accept_other_preprocessing: true, data_type"))
    status, table = predicted(folder, "other.tsv", images="list.tsv")
    (folder / "own.yaml").write_text(OWN)
    assert status == 0
    assert table["predicted_age"][0] == pytest.approx(here[1]["predicted_age"][0], rel=1e-5)
