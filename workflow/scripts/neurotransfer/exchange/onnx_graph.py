"""Tensors of an SFCN in an ONNX file: its graph is followed from convolution to convolution, by what the nodes do.

Exporters may leave batch norm as it is, write it as a product and a sum, or fold it into the convolutions.  In the last
two cases mean and variance are lost: the network predicts as before, and could not be trained further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import opened

SHAPES = ("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Dropout")  # no arithmetic
POOLING = {"GlobalMaxPool": "max", "ReduceMax": "max", "GlobalAveragePool": "average", "ReduceMean": "average"}


@dataclass(frozen=True)
class Graph:
    """Tensors under the names of network/sfcn.py, and whether batch norm's mean and variance are lost."""

    tensors: dict[str, Tensor]
    folded: bool


class _Walk:
    """The nodes of a graph, by the names of what they take and give."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
        except ImportError:
            fix = "pip install 'neurotransfer[onnx]'"
            raise InputError(path, "", "the package onnx, which reads it, is not installed", fix) from None
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        self.path = path
        try:
            with opened(path):  # onnx opens it again, by its path, because tensors may lie in files beside it
                graph = onnx.load(path).graph
            self.values = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
            for node in graph.node:
                if node.op_type == "Constant" and node.attribute[0].name == "value":
                    self.values[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        except InputError:
            raise
        except (DecodeError, ValueError, TypeError, OSError, IndexError) as error:
            what = f"it is no whole ONNX file ({' '.join(str(error).split())[:200]})"
            raise InputError(path, "", what, "download it again") from None
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.by_output = {name: node for node in self.nodes for name in node.output}

    def after(self, node: Any) -> Any:
        """The one node that takes what `node` gives, past nodes that only shape it; None if there are several."""
        while node is not None:
            taking = [other for other in self.nodes if node.output[0] in other.input]
            node = taking[0] if len(taking) == 1 else None
            if node is None or node.op_type not in SHAPES:
                return node
        return None

    def constant(self, node: Any, length: int) -> np.ndarray | None:
        """The constant of a node of two inputs, a number per channel; None if it has none."""
        for name in node.input:
            if name in self.values and self.values[name].size in (1, length):
                return np.broadcast_to(self.values[name].reshape(-1).astype(np.float64), length)
        return None

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        """An attribute of a node."""
        import onnx

        found = [onnx.helper.get_attribute_value(given) for given in node.attribute if given.name == name]
        return found[0] if found else default

    def refuse(self, node: Any, what: str) -> InputError:
        """The error for a node that an SFCN has not."""
        where = str(node.name or node.op_type) if node is not None else ""
        return InputError(self.path, where, what, "only networks of the SFCN's shape can be imported (docs/weights.md)")


def read_onnx(path: str | Path, epsilon: float, pooling: str) -> Graph:
    """The tensors of a network in an ONNX file.

    If batch norm is folded, the tensors are those of one whose mean is 0 and whose variance with epsilon is 1.

    Parameters
    ----------
    epsilon : of the kind; the file's own must be the same
    pooling : of the kind, "max" or "average"; the file's own must be the same

    Raises
    ------
    InputError
        if the file cannot be read, or its graph is no SFCN
    """
    try:
        return _read_graph(_Walk(Path(path)), epsilon, pooling)
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        what = f"its graph is damaged ({' '.join(str(error).split())[:200]})"
        raise InputError(path, "", what, "download it again") from None


def _read_graph(walk: _Walk, epsilon: float, pooling: str) -> Graph:
    convolutions = [node for node in walk.nodes if node.op_type == "Conv"]
    if len(convolutions) < 2:
        raise walk.refuse(None, f"it has {len(convolutions)} convolutions")
    tensors: dict[str, np.ndarray] = {}
    folded = False
    for at, node in enumerate(convolutions):
        last = at == len(convolutions) - 1
        names = ("bottleneck", "norm") if last else (f"blocks.{at}.conv", f"blocks.{at}.norm")
        kernel = walk.values.get(node.input[1])
        if kernel is None or kernel.ndim != 5 or walk.attribute(node, "group", 1) != 1:
            raise walk.refuse(node, "it is no convolution of volumes with a constant kernel")
        for name in ("strides", "dilations"):
            if set(walk.attribute(node, name, [1])) != {1}:
                raise walk.refuse(node, f"its {name} are not 1")
        tensors[f"{names[0]}.weight"] = kernel
        bias, norm, found = _after_convolution(walk, node, len(kernel), epsilon)
        tensors[f"{names[0]}.bias"] = bias
        tensors |= {f"{names[1]}.{part}": value for part, value in norm.items()}
        folded |= found
    used = {POOLING[node.op_type] for node in walk.nodes if node.op_type in POOLING}
    if used != {pooling}:
        what = f"it pools by {' and '.join(sorted(used)) or 'nothing'}, a network of this kind by {pooling}"
        raise InputError(walk.path, "", what, "correct --as")
    heads = _heads(walk)
    tensors["head.weight"] = np.concatenate([weight for weight, _ in heads])
    tensors["head.bias"] = np.concatenate([bias for _, bias in heads])
    return Graph({name: torch.tensor(value.astype(np.float32)) for name, value in tensors.items()}, folded)


def _after_convolution(
    walk: _Walk, node: Any, channels: int, epsilon: float
) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
    """The bias of a convolution, the batch norm after it, and whether the latter's mean and variance are lost."""
    bias = np.zeros(channels)
    if len(node.input) > 2 and node.input[2]:
        bias = walk.values[node.input[2]].astype(np.float64)
    scale, shift, affine = np.ones(channels), np.zeros(channels), False
    following = walk.after(node)
    while following is not None and following.op_type in ("Add", "Sub", "Mul"):
        value = walk.constant(following, channels)
        if value is None or (following.op_type == "Sub" and following.input[1] not in walk.values):
            raise walk.refuse(following, "it takes no constant for each channel")
        if following.op_type == "Mul":
            scale, shift, affine = scale * value, shift * value, True
        else:
            shift = shift + (value if following.op_type == "Add" else -value)
        following = walk.after(following)
    if following is not None and following.op_type == "BatchNormalization":
        if affine:
            raise walk.refuse(following, "there is a product between convolution and batch norm")
        own = float(walk.attribute(following, "epsilon", 1e-5))
        if not math.isclose(own, epsilon, rel_tol=1e-3):
            raise walk.refuse(following, f"its epsilon is {own:g}, that of this kind {epsilon:g}")
        names = ("weight", "bias", "running_mean", "running_var")
        values = [walk.values.get(name) for name in following.input[1:5]]
        if any(value is None for value in values):
            raise walk.refuse(following, "its parameters are no constants")
        return bias + shift, dict(zip(names, values, strict=True)), False  # type: ignore[arg-type]
    if following is None or following.op_type not in ("Relu", "MaxPool"):
        raise walk.refuse(following, "after a convolution there is neither batch norm nor ReLU")
    norm = {"weight": scale, "bias": shift, "running_mean": np.zeros(channels)}
    return bias, norm | {"running_var": np.full(channels, 1 - epsilon)}, True


def _heads(walk: _Walk) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [outputs, features] and biases [outputs] of the heads, in the order in which they are concatenated."""
    linear = [node for node in walk.nodes if node.op_type in ("MatMul", "Gemm")]
    joined = [node for node in walk.nodes if node.op_type == "Concat" and len(node.input) == len(linear) > 1]
    ordered = [_source(walk, name) for name in joined[-1].input] if joined else linear
    if not ordered or (len(ordered) > 1 and not joined):
        raise walk.refuse(None, f"it has {len(linear)} heads, which are not joined at its end")
    found = []
    for node in ordered:
        weight = walk.values.get(node.input[1])
        if weight is None or weight.ndim != 2:
            raise walk.refuse(node, "it is no head with a constant matrix")
        turned = node.op_type == "Gemm" and walk.attribute(node, "transB", 0)
        weight = weight if turned else weight.T
        bias = np.zeros(len(weight))
        following = walk.after(node)
        if len(node.input) > 2:
            bias = walk.values[node.input[2]].reshape(-1)
        elif following is not None and following.op_type == "Add":
            added = walk.constant(following, len(weight))
            bias = bias if added is None else added
        found.append((weight, bias))
    return found


def _source(walk: _Walk, name: str) -> Any:
    """The product that a value comes from, back through its bias and its sigmoid."""
    while (node := walk.by_output.get(name)) is not None and node.op_type not in ("MatMul", "Gemm"):
        if node.op_type not in (*SHAPES, "Add", "Sigmoid"):
            break
        name = next((given for given in node.input if given in walk.by_output), "")
    if node is None or node.op_type not in ("MatMul", "Gemm"):
        raise walk.refuse(node, "an output comes from no head")
    return node
