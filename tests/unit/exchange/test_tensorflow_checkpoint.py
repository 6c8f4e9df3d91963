"""A checkpoint that TensorFlow wrote is read without it, and damaged ones are refused."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from keras_sfcn import TARGETS, images, write
from neurotransfer.errors import InputError
from neurotransfer.exchange.importing import import_weights
from neurotransfer.exchange.tensorflow_checkpoint import DATA, INDEX, Checkpoint, crc32c, read_keras
from neurotransfer.pretrain.targets import decode, from_metadata
from neurotransfer.pretrain.weights import network_from, read_weights

HERE = Path(__file__).parent


@pytest.fixture
def checkpoint(tmp_path):
    for ending in (INDEX, DATA):
        shutil.copy(HERE / f"keras{ending}", tmp_path)
    return tmp_path / "keras"


def imported_predictions(source, folder):
    import_weights(source, "pyment-multi-2025", folder / "w.safetensors")
    state, facts = read_weights(folder / "w.safetensors")
    model = network_from(facts)
    model.load_state_dict(state)
    with torch.no_grad():
        outputs = model.eval()(torch.tensor(images())[:, None])
    return decode(outputs.numpy(), from_metadata(facts["targets"])), facts


@pytest.mark.parametrize("ending", ["", INDEX, DATA])
def test_the_imported_network_predicts_what_keras_predicted(checkpoint, tmp_path, ending):
    wanted = np.loadtxt(HERE / "keras.tsv", skiprows=1)
    found, facts = imported_predictions(f"{checkpoint}{ending}", tmp_path)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.01 and np.ptp(wanted, axis=1).min() > 0.1
    assert facts["source"]["licence"] == "CC-BY-NC-4.0" and len(facts["source"]["files"]) == 2


def test_what_tensorflow_writes_here_is_read(tmp_path):
    pytest.importorskip("tensorflow")
    wanted = write(tmp_path / "new")
    np.testing.assert_allclose(imported_predictions(tmp_path / "new", tmp_path)[0], wanted, atol=1e-4)


def test_heads_are_in_the_order_of_the_targets_that_they_are_named_after(checkpoint):
    state = read_keras(checkpoint, TARGETS)
    turned = read_keras(checkpoint, TARGETS[::-1])
    assert torch.equal(turned["head.weight"], state["head.weight"].flip(0))
    assert state["head.weight"].unique(dim=0).shape == (6, 4)


def test_the_checksum_is_crc_32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its catalogue
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")


def changed(path, at, value):
    raw = bytearray(path.read_bytes())
    raw[at] ^= value
    path.write_bytes(raw)


@pytest.mark.parametrize(("ending", "at"), [(INDEX, 100), (INDEX, -60), (INDEX, -3), (DATA, -100), (DATA, 500)])
def test_a_changed_byte_is_found(checkpoint, ending, at):
    changed(Path(f"{checkpoint}{ending}"), at, 0x10)
    with pytest.raises(InputError) as refused:
        read_keras(checkpoint, TARGETS)
    assert "\n" not in str(refused.value)


def test_files_cut_anywhere_are_refused_in_one_line(checkpoint):
    index, data = (Path(f"{checkpoint}{ending}") for ending in (INDEX, DATA))
    whole = index.read_bytes()
    for length in range(0, len(whole), 97):
        index.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"keras\.index: "):
            Checkpoint(checkpoint)
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:-200])
    with pytest.raises(InputError, match="beyond the end of the data file"):
        read_keras(checkpoint, TARGETS)
    data.unlink()
    with pytest.raises(InputError, match="there is no such file; a checkpoint is two files"):
        read_keras(checkpoint, TARGETS)


def test_a_compressed_index_is_refused(checkpoint):
    index = Path(f"{checkpoint}{INDEX}")
    raw = bytearray(index.read_bytes())
    footer = raw[-48:]
    start, length = index_block(footer)
    raw[start + length] = 1
    value = crc32c(bytes(raw[start : start + length + 1]))
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    raw[start + length + 1 : start + length + 5] = struct.pack("<I", masked)
    index.write_bytes(raw)
    with pytest.raises(InputError, match="its blocks are compressed by Snappy"):
        Checkpoint(checkpoint)


def index_block(footer):
    """Start and length of the block that lists the others: the third and fourth number of the footer."""
    numbers, value, shift = [], 0, 0
    for byte in footer:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value, shift = 0, 0
    return numbers[2], numbers[3]
