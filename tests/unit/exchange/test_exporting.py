"""Exports give what the weights give, in programs that know nothing of this one, and their cards name nobody."""

import re

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from neurotransfer.cache.shard_file import shard_written
from neurotransfer.cli import main
from neurotransfer.errors import InputError
from neurotransfer.exchange import exporting
from neurotransfer.files import write_table
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain.study_key import digests_of
from neurotransfer.pretrain.weights import write_weights
from runs import REPOSITORY
from torch import nn

CHANNELS, CROP = [3, 4, 5], [17, 16, 24]
AGE = {"name": "age", "kind": "continuous", "mean": 52.0, "sd": 14.0}
SEX = {"name": "sex", "kind": "binary", "mean": 0.5, "sd": 1.0}
BINS = {"name": "age", "kind": "continuous", "mean": 0.0, "sd": 1.0, "bins": [42, 1, 40]}
REST = {"weight": 1.0, "loss": "squared", "positive_weight": 1.0}
PEOPLE = [
    {"cohort": "AB", "ages": "20 to 29", "participants": 41, "images": 60},
    {"cohort": "AB", "ages": "30 to 39", "participants": 4, "images": 4},  # none of ours: not to be shown
]


def weights(folder, targets, pooling="max", scaling="none", **more):
    torch.manual_seed(6)
    outputs = sum(target.get("bins", [0, 0, 1])[2] for target in targets)
    model = SFCN(CHANNELS, 6, outputs, pooling, 0.0, scaling=scaling)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    facts = {
        "network": {"channels": CHANNELS, "bottleneck": 6, "pooling": pooling}, "crop": CROP, "scaling": scaling,
        "preprocessing": {"engine": "builtin", "voxel_size": 4.5, "grid": [64] * 3},
        "images_made_by": [["builtin", "2"]],
        "targets": [REST | target for target in targets], "people": PEOPLE,
        "training": {"images": 64, "participants": 45}, "participants": digests_of(["AB_secret"], b"k" * 32),
    }  # fmt: skip
    write_weights(folder / "w.safetensors", model.state_dict(), facts | more)
    return folder / "w.safetensors", model.eval()


def shard(folder):
    images = np.random.default_rng(2).integers(0, 256, (2, *CROP), dtype=np.uint8)
    with shard_written(folder / "x-0001.npy", 2, tuple(CROP)) as write:
        for image in images:
            write(image)
    return folder / "x-0001.npy", torch.from_numpy(images)[:, None].float()


def plain(model, images):
    """Features and raw outputs by torch's functions, one layer after another."""
    x, state = images, model.state_dict()
    if model.scaling == "mean":
        x = x / x.mean((1, 2, 3, 4), keepdim=True)
    blocks = [(f"blocks.{at}.conv", f"blocks.{at}.norm", 1) for at in range(len(CHANNELS))]
    for conv, norm, padding in [*blocks, ("bottleneck", "norm", 0)]:
        x = nn.functional.conv3d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=padding)
        values = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = nn.functional.batch_norm(x, *values, eps=1e-3)
        x = torch.relu(nn.functional.max_pool3d(x, 2) if padding else x)
    x = x.amax((2, 3, 4)) if model.pooling == "max" else x.mean((2, 3, 4))
    return x, x @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize(
    ("targets", "pooling", "scaling"),
    [([AGE, SEX], "max", "none"), ([BINS], "average", "mean"), ([SEX], "max", "none")],
)
def test_onnx_gives_in_onnxruntime_what_plain_layers_give(tmp_path, targets, pooling, scaling):
    file, model = weights(tmp_path, targets, pooling, scaling)
    path, images = shard(tmp_path)
    text = exporting.export_weights(file, "onnx", None, "CC-BY-4.0", [path])
    assert "on 2 random and 2 given images" in text
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    predictions, features = session.run(None, {"images": images.numpy()})  # both at once: N is free
    wanted, outputs = plain(model, images)
    np.testing.assert_allclose(features, wanted, atol=1e-4)
    centres = 42.5 + torch.arange(outputs.shape[1])
    age = torch.softmax(outputs, 1) @ centres if targets[0] is BINS else outputs[:, 0] * 14 + 52
    columns = {"age": age, "sex": torch.sigmoid(outputs[:, -1])}
    for column, target in zip(predictions.T, targets, strict=True):
        np.testing.assert_allclose(column, columns[target["name"]], atol=1e-3)


def test_the_module_in_the_documentation_loads_the_torch_file(tmp_path):
    file, model = weights(tmp_path, [AGE, SEX])
    _, images = shard(tmp_path)
    line = ["weights", "export", str(file), "--as", "torch", "--out", str(tmp_path / "net.pt"), "--licence", "CC0"]
    assert main(line) == 0
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs/weights.md").read_text(), re.DOTALL)[1]
    found: dict = {}
    exec(code, found)
    network = found["SFCN"](CHANNELS, 6, 2, "max")
    network.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    with torch.no_grad():
        age, sex = network.eval()(images).T
    _, outputs = plain(model, images)
    torch.testing.assert_close(age, outputs[:, 0] * 14 + 52, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sex, outputs[:, 1], rtol=1e-4, atol=1e-4)


def test_an_export_that_differs_is_not_kept(tmp_path, monkeypatch):
    file, _ = weights(tmp_path, [AGE])
    monkeypatch.setattr("neurotransfer.exchange.onnx_writer.EPSILON", 1e-1)
    with pytest.raises(InputError, match="the export differs from the weights by"):
        exporting.export_weights(file, "onnx", None, "CC0")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_card_has_metrics_with_intervals_and_names_nobody(tmp_path):
    file, _ = weights(tmp_path, [AGE, SEX], age_bias={"slope": 0.8, "intercept": 9.0, "images": 50})
    row = {"target": "age", "metric": "mae", "value": 3.25, "low": 3.0, "high": 3.5, "dummy": 9.0, "observations": 90}
    rows = [row | {"split": "validation", "participants": 80}, row | {"split": "holdout", "participants": 4}]
    write_table(pd.DataFrame(rows), tmp_path / "metrics.tsv")
    exporting.export_weights(file, "torch", None, "CC-BY-NC-4.0")
    card = (tmp_path / "w.pt.md").read_text()
    assert "| age | mae | 3.250 | 3.000 to 3.500 | 80 |" in card
    assert "| AB | 20 to 29 | 41 | 60 |" in card
    assert "CC-BY-NC-4.0, chosen by those who exported the file" in card
    assert "(age − 9.0000) / 0.8000" in card
    assert "| 4 |" not in card and "30 to 39" not in card  # fewer than 5 people
    assert "secret" not in card and not re.search(r"\b[0-9a-f]{32}\b", card)
    for heading in ("Input", "Output", "Intended use and limits", "Training data", "Metrics", "Licence", "Citation"):
        assert f"\n## {heading}\n" in card


def test_the_card_promises_no_target_that_nobody_had(tmp_path):
    nobody = SEX | {"name": "neuroticism", "kind": "continuous", "mean": 0.0}
    file, _ = weights(tmp_path, [AGE, SEX | {"mean": 0.0}, nobody], known_targets=["age", "sex"])
    exporting.export_weights(file, "torch", None, "CC0")
    card = (tmp_path / "w.pt.md").read_text()
    assert "network (SFCN) that predicts age, sex from a T1" in card
    assert "| neuroticism | none: no training image had it |" in card
    assert "| sex | logit of the probability of male |" in card


def test_the_card_of_a_tasks_network_says_what_to_expect_of_it(tmp_path):
    expected = {"n": 500, "replicates": 100, "median": 0.94, "low": 0.9, "high": 0.97}
    task = {"name": "ad_hc", "title": "Alzheimer's disease or healthy", "positive": ["AD"], "negative": ["HC"]}
    training = {"images": 900, "participants": 800, "expected_test_auc": expected}
    file, _ = weights(tmp_path, [SEX | {"name": "ad_hc"}], task=task, training=training)
    exporting.export_weights(file, "torch", None, "CC0")
    card = (tmp_path / "w.pt.md").read_text()
    assert "| ad hc | logit of the probability of AD against HC |" in card
    assert "a median test AUC of 0.940; 95 % of them lie between 0.900 and 0.970" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--licence", " "], "--licence: it is empty"),
        (["--licence", "CC0", "--out", "x.pt"], "--out: it does not end with .onnx"),
        (["--licence", "CC0", "--images", "x-0002.npy"], "voxels, the crop of the weights"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, [AGE])
    with shard_written(tmp_path / "x-0002.npy", 1, (8, 8, 8)) as write:
        write(np.zeros((8, 8, 8), np.uint8))
    assert main(["weights", "export", "w.safetensors", "--as", "onnx", *options]) == 2
    assert message in capsys.readouterr().err
