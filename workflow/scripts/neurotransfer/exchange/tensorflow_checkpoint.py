"""Tensors of a TensorFlow checkpoint, read without TensorFlow: ``NAME.index`` and ``NAME.data-00000-of-00001``.

The index is a table of LevelDB's kind: blocks of sorted keys, each block with a checksum, then an index of the blocks
and a footer.  A value is a small protocol buffer: type, shape, place in the data file and checksum of a tensor
(tensorflow/core/protobuf/tensor_bundle.proto).  Every length is checked before it is used.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

INDEX, DATA = ".index", ".data-00000-of-00001"
MAGIC = 0xDB4775248B80FB57  # the last 8 bytes of a table
FOOTER, TRAILER = 48, 5  # bytes: of the table's end, and after each block (compression, checksum)
COMPRESSIONS = {1: "Snappy"}
FLOAT, STRING = 1, 7  # TensorFlow's numbers of types
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the tensor that holds the variables' own names
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
WEIGHTS = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")  # of Keras's layers
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
TRAINED = "_trainable_variables"  # in the keys of weights that an optimiser holds, among its own memory


class Checkpoint:
    """The float32 tensors of a checkpoint by key, read when they are asked for.

    Parameters
    ----------
    path : of either file, or their common name

    Attributes
    ----------
    names : the variable's own name by key, as far as the checkpoint holds it, and the key otherwise

    Raises
    ------
    InputError
        if a file is missing, damaged or compressed, or the data are in several files
    """

    def __init__(self, path: str | Path) -> None:
        name = str(path).removesuffix(INDEX).removesuffix(DATA)
        self.files = [Path(name + ending) for ending in (INDEX, DATA)]
        for file in self.files:
            if not file.is_file():
                raise InputError(file, "", "there is no such file", "a checkpoint is two files; put them side by side")
        self._data = np.memmap(self.files[1], np.uint8, "r") if self.files[1].stat().st_size else np.empty(0, np.uint8)
        with _in_one_line(self.files[0]):
            entries = {key: _fields(value) for key, value in _table(self.files[0].read_bytes())}
            if _whole(entries.pop(b"", {}), 1, 1) != 1:
                raise ValueError("its tensors are in several data files")
            self._entries = {key.decode(): entry for key, entry in entries.items()}
            self.names = {key: key.removesuffix(SUFFIX) for key in self._entries if key != GRAPH}
            if GRAPH in self._entries:
                self.names |= _names_in(_fields(self._string(self._entries[GRAPH])))

    def layers(self) -> dict[str, dict[str, str]]:
        """Keys of the weights by layer and by Keras's name of the weight; an optimiser's memory is left out."""
        found: dict[str, dict[str, str]] = {}
        for key, name in self.names.items():
            layer, _, weight = name.rpartition("/")
            weight = weight.removeprefix("_")
            memory = "optimizer" in key.lower() and TRAINED not in key
            if weight in WEIGHTS and not memory and _whole(self._entries[key], 1) == FLOAT:
                found.setdefault(layer, {})[weight] = key
        return found

    def read(self, key: str) -> np.ndarray:
        """A tensor, float32, checked against its checksum."""
        with _in_one_line(self.files[1], key):
            entry = self._entries[key]
            shape = [_whole(_fields(dim), 1) for dim in _all(_fields(_bytes(entry, 2)), 2)]
            raw = self._bytes_of(entry)
            if 7 in entry or len(raw) != 4 * math.prod(shape):
                raise ValueError(f"it has {len(raw)} bytes, its shape is {shape}")
            if _masked(crc32c(raw)) != _whole(entry, 6):
                raise ValueError("its checksum is another one: the file is damaged")
            return np.frombuffer(raw, "<f4").reshape(shape)

    def _bytes_of(self, entry: Mapping[int, list[int | bytes]]) -> bytes:
        start, size = _whole(entry, 4, 0), _whole(entry, 5, 0)
        if _whole(entry, 3, 0) != 0 or start + size > len(self._data):
            raise ValueError("a tensor lies beyond the end of the data file")
        return self._data[start : start + size].tobytes()

    def _string(self, entry: Mapping[int, list[int | bytes]]) -> bytes:
        """A tensor of one string: its length, the checksum of the length, and its bytes."""
        raw = self._bytes_of(entry)
        length, at = _varint(raw, 0)
        if _whole(entry, 1) != STRING or at + 4 + length != len(raw):
            raise ValueError("its table of names is damaged")
        size = struct.pack("<I" if length < 2**32 else "<Q", length)
        check = raw[at : at + 4]
        if struct.unpack("<I", check)[0] != _masked(crc32c(size)) or _masked(
            crc32c(raw[at + 4 :], crc32c(check, crc32c(size)))
        ) != _whole(entry, 6):
            raise ValueError("the checksum of its table of names is another one: the file is damaged")
        return raw[at + 4 :]


def read_keras(path: str | Path, targets: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a Keras SFCN in a checkpoint, under the names and in the shapes of network/sfcn.py.

    Layers are put in the order of their names or numbers; heads in the order of the targets that they are named after.

    Parameters
    ----------
    targets : names of the outputs, in their order

    Raises
    ------
    InputError
        if a file is missing or damaged, or its layers are not those of an SFCN
    """
    checkpoint = Checkpoint(path)
    layers = {
        name: {weight: checkpoint.read(key) for weight, key in keys.items()}
        for name, keys in sorted(checkpoint.layers().items(), key=lambda item: _natural(item[0]))
    }
    convolutions = [weights for weights in layers.values() if weights.get("kernel", np.empty(0)).ndim == 5]
    norms = [weights for weights in layers.values() if "gamma" in weights]
    heads = {name: weights for name, weights in layers.items() if weights.get("kernel", np.empty(0)).ndim == 2}
    if len(convolutions) < 2 or len(norms) != len(convolutions) or not heads:
        what = f"it has {len(convolutions)} convolutions, {len(norms)} batch norms and {len(heads)} heads"
        raise InputError(checkpoint.files[0], "", f"{what}, which is no SFCN", "correct --as, or give another file")
    state: dict[str, Tensor] = {}
    last = len(convolutions) - 1
    for at, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        names = ("bottleneck", "norm") if at == last else (f"blocks.{at}.conv", f"blocks.{at}.norm")
        kernel = torch.tensor(convolution["kernel"]).permute(4, 3, 0, 1, 2)  # D, H, W, in, out -> out, in, D, H, W
        state[f"{names[0]}.weight"] = kernel
        if "bias" in convolution:
            state[f"{names[0]}.bias"] = torch.tensor(convolution["bias"])
        state |= {f"{names[1]}.{ours}": torch.tensor(norm[theirs]) for theirs, ours in NORM.items() if theirs in norm}
    ordered = _heads_in_order(heads, targets)
    state["head.weight"] = torch.cat([torch.tensor(head["kernel"]).T for head in ordered])  # [outputs, bottleneck]
    if all("bias" in head for head in ordered):
        state["head.bias"] = torch.cat([torch.tensor(head["bias"]) for head in ordered])
    return state


def _heads_in_order(heads: Mapping[str, dict], targets: Sequence[str]) -> list[dict]:
    """Heads by the targets at the end of their names; as they stand if the names do not say it."""
    named = {target: [head for name, head in heads.items() if name.endswith(target)] for target in targets}
    if len(heads) == len(targets) and all(len(found) == 1 for found in named.values()):
        return [found[0] for found in named.values()]
    return list(heads.values())


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key for sorting names in which layer 10 comes after layer 9."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


@contextlib.contextmanager
def _in_one_line(file: Path, where: str = "") -> Iterator[None]:
    """Make an InputError of what damaged bytes raise."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, struct.error) as error:
        what = str(error) if isinstance(error, ValueError) else "it is damaged"
        raise InputError(file, where, what, "download both files of the checkpoint again") from None


def _table(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table of LevelDB's kind, in order."""
    if len(raw) < FOOTER or struct.unpack("<Q", raw[-8:])[0] != MAGIC:
        raise ValueError("it is no index of a TensorFlow checkpoint, or not whole")
    footer = raw[-FOOTER:]
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)  # the index of metadata, of which checkpoints have none
    for _, handle in _block(raw, footer[at:]):
        yield from _block(raw, handle)


def _block(raw: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block.

    Parameters
    ----------
    handle : begins with the block's start and length, as variable-length integers
    """
    start, at = _varint(handle, 0)
    length, _ = _varint(handle, at)
    stop = start + length
    if stop + TRAILER > len(raw) - FOOTER:
        raise ValueError("a block lies beyond its end")
    if struct.unpack("<I", raw[stop + 1 : stop + TRAILER])[0] != _masked(crc32c(raw[start : stop + 1])):
        raise ValueError("the checksum of a block is another one: the file is damaged")
    if raw[stop]:
        kind = COMPRESSIONS.get(raw[stop], f"a compression of number {raw[stop]}")
        raise ValueError(f"its blocks are compressed by {kind}, and TensorFlow's own are not")
    block = raw[start:stop]
    restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + own + size > end:
            raise ValueError("an entry lies beyond the end of its block")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + size]
        at += own + size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than 64 bits")


def _fields(message: bytes) -> dict[int, list[int | bytes]]:
    """The values of a protocol buffer by field number."""
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
            case 2:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
            case 1 | 5:
                length = 8 if tag & 7 == 1 else 4
                value, at = int.from_bytes(message[at : at + length], "little"), at + length
            case _:
                raise ValueError("an entry is no protocol buffer")
        if at > len(message):
            raise ValueError("an entry is not whole")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _whole(fields: Mapping[int, list[int | bytes]], number: int, default: int = 0) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError("an entry is no protocol buffer of a checkpoint")
    return value


def _all(fields: Mapping[int, list[int | bytes]], number: int) -> list[bytes]:
    values = fields.get(number, [])
    if not all(isinstance(value, bytes) for value in values):
        raise ValueError("an entry is no protocol buffer of a checkpoint")
    return [value for value in values if isinstance(value, bytes)]


def _bytes(fields: Mapping[int, list[int | bytes]], number: int) -> bytes:
    return (_all(fields, number) or [b""])[-1]


def _names_in(graph: Mapping[int, list[int | bytes]]) -> dict[str, str]:
    """Variables' names by key, from the graph of the objects that were saved."""
    names = {}
    for node in _all(graph, 1):
        for attribute in map(_fields, _all(_fields(node), 2)):
            if name := _bytes(attribute, 2).decode():
                names[_bytes(attribute, 3).decode()] = name
    return names


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC = _crc_table()


def crc32c(data: bytes, value: int = 0) -> int:
    """CRC-32C (Castagnoli) of bytes that follow others whose checksum is `value`."""
    value ^= 0xFFFFFFFF
    for byte in data:
        value = CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(value: int) -> int:
    """A checksum as LevelDB stores it, because checksums of checksums are weak."""
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
