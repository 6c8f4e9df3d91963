"""A file of weights: what it says of itself, and what is refused."""

import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.model import SFCN
from neurotransfer.weights import (
    check_weights,
    digests_of,
    expected_of,
    network_from,
    read_weights,
    seen_by,
    show,
    write_weights,
)

NETWORK = {"channels": [2, 3], "bottleneck": 4, "pooling": "max"}
TARGET = {"name": "age", "kind": "continuous", "weight": 1.0, "mean": 50.0, "sd": 20.0, "loss": "squared"}
FACTS = {
    "network": NETWORK, "crop": [32, 32, 32], "preprocessing": {"engine": "builtin", "voxel_size": 1.0, "threads": 1},
    "targets": [TARGET | {"positive_weight": 1.0}], "scaling": "none",
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    model = SFCN([2, 3], 4, 1, "max", 0.0)
    write_weights(tmp_path / "w.safetensors", model.state_dict(), FACTS)
    return tmp_path / "w.safetensors", model


def test_what_is_written_is_read(file):
    path, model = file
    state, facts = read_weights(path)
    assert facts | FACTS == facts
    rebuilt = network_from(facts)
    rebuilt.load_state_dict(state)
    x = torch.rand(2, 1, 9, 9, 9)
    assert torch.equal(model.eval()(x), rebuilt.eval()(x))


def expected(**changes):
    return expected_of(*({**FACTS, **changes}[name] for name in ("network", "crop", "preprocessing")))


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"crop": [32, 32, 64]}, r"crop: .* \[32, 32, 32\], this study has \[32, 32, 64\]"),
        ({"network": NETWORK | {"pooling": "average"}}, 'network.pooling: .* "max", this study has "average"'),
        ({"network": NETWORK | {"channels": [2, 4]}}, r"network.channels: .* \[2, 3\], this study has \[2, 4\]"),
        ({"network": NETWORK | {"bottleneck": 5}}, "network.bottleneck: .* 4, this study has 5"),
        ({"preprocessing": {"engine": "fastsurfer", "voxel_size": 1.0}}, 'engine: .* "builtin", this .* "fastsurfer"'),
        ({"preprocessing": {"engine": "builtin", "voxel_size": 2.0}}, "voxel_size: .* 1.0, this study has 2.0"),
    ],
)
def test_a_mismatch_is_refused_with_both_values(file, changes, values):
    _, facts = read_weights(file[0])
    with pytest.raises(InputError, match=values):
        check_weights(facts, expected(**changes), file[0])


def test_another_scaling_or_an_unknown_one_is_refused(file):
    _, facts = read_weights(file[0])
    with pytest.raises(InputError, match=r'scaling: .* "unit", this study has "none"'):
        check_weights(facts | {"scaling": "unit"}, expected(), file[0])
    with pytest.raises(InputError, match=r"scaling: .* null, this study"):
        check_weights({name: fact for name, fact in facts.items() if name != "scaling"}, expected(), file[0])


def test_matching_weights_pass_whatever_the_threads(file):
    _, facts = read_weights(file[0])
    check_weights(facts, expected(preprocessing={**FACTS["preprocessing"], "threads": 8}), file[0])


def test_the_same_weights_are_the_same_bytes(file, tmp_path):
    path, model = file
    write_weights(tmp_path / "again.safetensors", model.state_dict(), dict(reversed(FACTS.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_tensors_that_are_not_those_of_the_metadata_are_refused(file, tmp_path):
    path, model = file
    write_weights(path, model.state_dict(), FACTS | {"network": NETWORK | {"channels": [2, 4]}})
    with pytest.raises(InputError, match="not those of the network that its metadata describes"):
        read_weights(path)
    write_weights(path, model.state_dict(), {name: fact for name, fact in FACTS.items() if name != "targets"})
    with pytest.raises(InputError, match="no 'targets' in its metadata"):
        read_weights(path)


def test_weights_know_whom_they_have_seen_without_naming_them(file):
    path, model = file
    write_weights(path, model.state_dict(), FACTS | {"participants": digests_of(["x_01", "x_02", "x_02"], "key")})
    _, facts = read_weights(path)
    assert seen_by(facts, ["x_02", "x_03"]) == {"x_02"}
    assert seen_by(FACTS, ["x_02"]) is None
    assert b"x_02" not in path.read_bytes()
    assert "2 keyed digests" in show(path)


def test_damaged_foreign_and_missing_files_get_one_line(file, tmp_path):
    path, _ = file
    half = tmp_path / "half.safetensors"
    half.write_bytes(path.read_bytes()[:50])
    text = tmp_path / "text.safetensors"
    text.write_text("no weights")
    for wrong in (half, text, tmp_path / "none.safetensors"):
        with pytest.raises(InputError) as error:
            read_weights(wrong)
        assert str(wrong) in str(error.value)
        assert "\n" not in str(error.value)


def test_show_names_architecture_crop_and_targets(file):
    text = show(file[0])
    for word in ("network", "crop", "[32, 32, 32]", "age", "builtin"):
        assert word in text
