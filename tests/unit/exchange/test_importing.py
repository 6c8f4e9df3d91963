"""Published weights become a file whose network gives what the source's own layers give."""

import json

import numpy as np
import pytest
import torch
from neurotransfer.cli import main
from neurotransfer.errors import InputError
from neurotransfer.exchange.importing import import_weights
from neurotransfer.exchange.torch_file import read_torch
from neurotransfer.pretrain.targets import decode, from_metadata
from neurotransfer.pretrain.weights import network_from, read_weights
from published import image_pair, published
from torch import nn


@pytest.mark.parametrize("smallness", [1.0, 0.01])  # of the second the variances are too small to give up 1e-3
@pytest.mark.parametrize("legacy", [False, True])
def test_peng_s_age_is_the_mean_of_the_bins_that_plain_layers_give(tmp_path, smallness, legacy):
    network = published(40, smallness)
    state = nn.DataParallel(network).state_dict()
    torch.save(state, tmp_path / "best.p", _use_new_zipfile_serialization=not legacy)
    import_weights(tmp_path / "best.p", "peng-age", tmp_path / "w.safetensors")
    ours, theirs = image_pair()
    whole = np.prod((182, 218, 182)) / np.prod((160, 192, 160))  # the mean is over the whole image there
    mean = theirs.mean((1, 2, 3, 4), keepdim=True) / whole
    with torch.no_grad():
        wanted = torch.softmax(network(theirs / mean), 1) @ (42.5 + torch.arange(40.0))
    values, facts = predictions(tmp_path / "w.safetensors", ours)
    np.testing.assert_allclose(values[:, 0], wanted, rtol=1e-4)
    assert np.ptp(values[:, 0]) > 1e-3  # two images differ
    assert facts["known_answers"] == {"state": "unchecked"}


def predictions(path, images):
    """What the imported file predicts: [N, targets], and its metadata."""
    state, facts = read_weights(path)
    model = network_from(facts)
    model.load_state_dict(state)
    with torch.no_grad():
        return decode(model.eval()(images).numpy(), from_metadata(facts["targets"])), facts


def test_peng_s_sex_is_the_probability_that_softmax_gives_its_second_output(tmp_path):
    network = published(2)
    torch.save(network.state_dict(), tmp_path / "last.p")
    import_weights(tmp_path / "last.p", "peng-sex", tmp_path / "w.safetensors")
    ours, theirs = image_pair()
    whole = np.prod((182, 218, 182)) / np.prod((160, 192, 160))
    with torch.no_grad():
        wanted = torch.softmax(network(theirs / theirs.mean((1, 2, 3, 4), keepdim=True) * whole), 1)[:, 1]
    np.testing.assert_allclose(predictions(tmp_path / "w.safetensors", ours)[0][:, 0], wanted, rtol=1e-4)


def mapping_of(**changes):
    names = {f"feature_extractor.conv_{at}.{part}": f"blocks.{at}.{name}"
             for at in range(2) for part, name in ((0, "conv"), (1, "norm"))}  # fmt: skip
    names |= {"feature_extractor.conv_2.0": "bottleneck", "feature_extractor.conv_2.1": "norm",
              "classifier.conv_3": "head"}  # fmt: skip
    facts = {"names": names, "epsilon": 1e-5, "pooling": "average", "crop": [32, 32, 32],
             "targets": [{"name": "age", "kind": "continuous", "mean": 40, "sd": 10},
                         {"name": "sex", "kind": "binary"}],
             "licence": "CC0"}  # fmt: skip
    return facts | changes


@pytest.fixture
def in_house(tmp_path):
    """A network of two blocks with a checkpoint, and a function that imports it by a changed mapping file."""
    network = published(2, channels=[3, 4, 5])
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "ours.pt")

    def imported(**changes):
        (tmp_path / "mapping.yaml").write_text(json.dumps(mapping_of(**changes)))
        arguments = (tmp_path / "ours.pt", "mapping", tmp_path / "w.safetensors", tmp_path / "mapping.yaml")
        return network, tmp_path / "w.safetensors", import_weights(*arguments)

    return imported


def test_a_mapping_file_brings_any_state_dict_of_this_shape(in_house):
    network, path, text = in_house()
    images = torch.rand(3, 1, 9, 8, 11) * 255
    values, facts = predictions(path, images)
    with torch.no_grad():
        age, sex = network(images).T
    np.testing.assert_allclose(values, torch.stack([age * 10 + 40, torch.sigmoid(sex)], 1), rtol=1e-4)
    assert facts["source"]["licence"] == "CC0" and "licence: CC0" in text
    assert facts["network"] == {"channels": [3, 4], "bottleneck": 5, "pooling": "average"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pooling": "mean"}, 'pooling: it is "mean"; write'),
        ({"names": {"conv_9": "head"}}, "conv_9: it has no tensor or layer of this name"),
        ({"names": mapping_of()["names"] | {"classifier.conv_3": "norm"}}, "conv_3: norm.bias has two sources"),
        ({"targets": [{"name": "age", "kind": "continuous"}]}, r"head.weight: its shape is \[2, 5\], .* has \[1, 5\]"),
        ({"axes": "LAS", "crop": [34, 32, 32]}, "blocks leave a rest"),
        ({"axes": "LAL"}, "axes: 'LAL' names an axis twice"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_in_one_line(in_house, changes, line):
    with pytest.raises(InputError, match=line) as refused:
        in_house(**changes)
    assert "\n" not in str(refused.value)


class Payload:
    """An object that runs code if it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_a_missing_file_is_called_missing_and_a_folder_no_file(tmp_path):
    with pytest.raises(InputError, match="there is no such file; correct the path"):
        read_torch(tmp_path / "weights.pt")
    for folder, kind in (("weights.pt", "peng-age"), ("weights.onnx", "pyment-multi-2025")):
        (tmp_path / folder).mkdir()
        with pytest.raises(InputError, match=r"weights\.\w+: it is (no regular file|a folder)"):
            import_weights(tmp_path / folder, kind, tmp_path / "own.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_source_that_runs_code_is_not_unpickled(tmp_path, capsys, legacy):
    torch.save({"a": Payload()}, tmp_path / "bad.p", _use_new_zipfile_serialization=not legacy)
    call = ["weights", "import", str(tmp_path / "bad.p"), "--as", "peng-age", "--out", str(tmp_path / "w.safetensors")]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "it holds more than tensors, and is not unpickled" in error and error.count("\n") == 1
    (tmp_path / "bad.p").write_bytes(b"not torch")
    assert main(call) == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file_is_one_line_or_is_read(tmp_path, legacy):
    torch.save(published(2).state_dict(), tmp_path / "last.p", _use_new_zipfile_serialization=not legacy)
    whole, generator = (tmp_path / "last.p").read_bytes(), np.random.default_rng(7)
    refused = 0
    for _ in range(30):
        raw = bytearray(whole)
        raw[int(generator.integers(0, 1500))] = int(generator.integers(0, 256))
        cut = len(raw) if generator.random() < 0.7 else int(generator.integers(0, len(raw)))
        (tmp_path / "last.p").write_bytes(raw[:cut])
        try:
            import_weights(tmp_path / "last.p", "peng-sex", tmp_path / "w.safetensors")
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10
