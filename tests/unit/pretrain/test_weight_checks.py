"""Files of weights that were damaged, changed or made up: each is refused in one line before anything is computed."""

import json
import random
import struct

import pytest
import torch
import yaml
from bounds import Used, bounded
from neurotransfer.cli import main
from neurotransfer.errors import InputError
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain import weight_checks
from neurotransfer.pretrain.weight_file import show
from neurotransfer.pretrain.weights import read_weights, write_weights
from runs import REPOSITORY
from safetensors.torch import save_file

NETWORK = {"channels": [2, 3], "bottleneck": 4, "pooling": "max"}
TARGET = {
    "name": "age", "kind": "continuous", "weight": 1.0, "mean": 50.0, "sd": 20.0, "loss": "squared",
    "positive_weight": 1.0,
}  # fmt: skip
FACTS = {"network": NETWORK, "targets": [TARGET]}
FIRST, VARIANCE = "blocks.0.conv.weight", "blocks.1.norm.running_var"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return SFCN([2, 3], 4, 1, "max", 0.0).state_dict()


def plain(path, state, facts):
    """A file of weights without a checksum, as earlier versions wrote them and as anybody can make them."""
    save_file(dict(state), path, metadata={"neurotransfer": json.dumps({"format": "neurotransfer-1", **facts})})
    return path


def with_value(state, name, value):
    changed = state[name].clone()
    changed.view(-1)[0] = value
    return {**state, name: changed}


def test_weights_of_an_earlier_version_have_no_checksum_and_are_read(state, tmp_path):
    read, facts = read_weights(plain(tmp_path / "w", state, FACTS))
    assert "checksum" not in facts and read.keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: with_value(state, FIRST, torch.nan), f"{FIRST} holds numbers that are not finite"),
        (lambda state: with_value(state, FIRST, -torch.inf), f"{FIRST} holds numbers that are not finite"),
        (lambda state: with_value(state, FIRST, -1e30), rf"{FIRST} holds numbers above 1e\+15"),
        (lambda state: with_value(state, VARIANCE, -0.5), f"{VARIANCE} holds negative numbers"),
        (lambda state: {**state, FIRST: state[FIRST].to(torch.int8)}, f"{FIRST} is of the type I8, not F32"),
        (lambda state: {**state, FIRST: state[FIRST].double()}, f"{FIRST} is of the type F64, not F32"),
        (lambda state: {**state, FIRST: state[FIRST].flatten().clone()}, "not those of the network"),
        (lambda state: {**state, "more": state[FIRST].clone()}, "not those of the network"),
    ],
)
def test_tensors_that_no_training_gives_are_refused(state, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        read_weights(plain(tmp_path / "w", change(state), FACTS))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"network": NETWORK | {"channels": [1] * 200_000}}, "network.channels"),
        ({"network": NETWORK | {"channels": [2, 10**9]}}, "network.channels"),
        ({"network": NETWORK | {"bottleneck": True}}, "network.bottleneck"),
        ({"network": NETWORK | {"pooling": "none"}}, "network.pooling"),
        ({"network": [2, 3]}, "network"),
        ({"targets": []}, "targets"),
        ({"targets": [TARGET, TARGET]}, "targets.name"),
        ({"targets": [TARGET | {"name": "\x1b[2J"}]}, "targets.name"),
        ({"targets": [TARGET | {"sd": 0.0}]}, "targets.sd"),
        ({"targets": [TARGET | {"mean": 10**400}]}, "targets.mean"),
        ({"targets": [TARGET | {"mean": float("nan")}]}, "NaN"),
        ({"targets": [{"name": "age"}]}, "targets"),
        ({"images_made_by": [["builtin"]]}, "images_made_by"),
        ({"participants": ["x_01"]}, "participants"),
        ({"participants": {"scheme": "hmac-sha256", "key_id": "a"}}, "participants.digests"),
        ({"recipe": "2"}, "recipe"),
        ({"targets": [TARGET | {"name": "ad_hc"}]}, "targets.name"),
        ({"task": {"name": "a/b", "title": "", "positive": [], "negative": []}}, "task.name"),
        ({"task": {"name": "ad_hc", "title": "", "positive": [], "negative": []}}, "targets.name"),
        ({"age_bias": {"slope": 0, "intercept": 1.0}}, "age_bias"),
        ({"quality": {"contrast": [0.2, 0.0]}}, "quality"),
        ({"people": [{"cohort": "A", "ages": "20 to 29", "participants": "6", "images": 6}]}, "people"),
    ],
)
def test_facts_of_the_wrong_kind_or_size_are_refused_at_once(state, tmp_path, change, name):
    path = plain(tmp_path / "w", state, FACTS | change)
    with pytest.raises(InputError, match=name) as error, bounded(Used()):
        read_weights(path)
    assert "\n" not in str(error.value)


def test_metadata_that_is_nested_without_end_is_refused(state, tmp_path):
    save_file(dict(state), tmp_path / "w", metadata={"neurotransfer": "[" * 100_000})
    with pytest.raises(InputError, match="no whole weights"):
        read_weights(tmp_path / "w")


def test_every_flipped_bit_is_noticed(state, tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, state, FACTS | {"crop": [32, 32, 32], "images_made_by": [("builtin", "2")]})
    read_weights(path)
    whole, draw = path.read_bytes(), random.Random(1)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for at in [*range(0, header, 13), *(draw.randrange(header, len(whole)) for _ in range(100))]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(InputError):
            read_weights(path)


def test_what_is_shown_of_weights_controls_no_terminal(state, tmp_path, capsys):
    facts = FACTS | {"images_made_by": [["\x1b[31mbuiltin", "2\x9b1m"]], "crop\x1b[2J": "\x1b]0;title\x07"}
    path = plain(tmp_path / "w\x1b[2J", state, facts)
    assert all(line.isprintable() for line in show(path).split("\n"))
    path.write_bytes(b"")
    assert main(["weights", "show", str(path)]) == 2
    assert capsys.readouterr().err.strip().isprintable()


def test_the_bounds_of_a_network_are_those_of_the_configuration():
    schema = yaml.safe_load((REPOSITORY / "workflow/schemas/config.schema.yaml").read_text())
    network = schema["properties"]["network"]["properties"]
    assert network["channels"]["maxItems"] == weight_checks.BLOCKS
    assert {network["channels"]["items"]["maximum"], network["bottleneck"]["maximum"]} == {weight_checks.CHANNELS}
