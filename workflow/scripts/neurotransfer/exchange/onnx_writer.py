"""A network as an ONNX graph, built with the helpers of the package onnx from the tensors of a file of weights.

Images go in, predictions in the targets' units and the pooled features come out, as neurotransfer itself computes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from ..network.sfcn import EPSILON, SMALLEST_MEAN
from ..pretrain.targets import Target

OPSET, IR_VERSION = 17, 8  # what programs of 2022 and later read
INPUT, PREDICTIONS, FEATURES = "images", "predictions", "features"


class _Graph:
    """Nodes and constants that are collected; each method adds a layer and returns the name of its output."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self.state = state
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def tensor(self, name: str) -> str:
        return self.constant(name, self.state[name].detach().cpu().float().numpy())

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def convolution(self, x: str, name: str, padding: int) -> str:
        inputs = [x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")]
        return self.add("Conv", inputs, f"{name}_out", pads=[padding] * 6)

    def norm(self, x: str, name: str) -> str:
        parts = ("weight", "bias", "running_mean", "running_var")
        inputs = [x, *(self.tensor(f"{name}.{part}") for part in parts)]
        return self.add("BatchNormalization", inputs, f"{name}_out", epsilon=EPSILON)


def graph_of(
    state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], targets: Sequence[Target], facts: Mapping[str, str]
) -> onnx.ModelProto:
    """The model: ``images`` [N, 1, D, H, W] to ``predictions`` [N, targets] and ``features`` [N, bottleneck].

    Parameters
    ----------
    metadata : of the file of weights: `network`, `crop`, `scaling`
    facts : texts that the file carries, by name
    """
    graph, network = _Graph(state), metadata["network"]
    x = INPUT
    if metadata.get("scaling", "none") == "mean":
        mean = graph.add("ReduceMean", [x], "mean", axes=[1, 2, 3, 4], keepdims=1)
        least = graph.constant("smallest_mean", np.float32(SMALLEST_MEAN))
        x = graph.add("Div", [x, graph.add("Max", [mean, least], "mean_above_0")], "scaled")
    for block in range(len(network["channels"])):
        x = graph.norm(graph.convolution(x, f"blocks.{block}.conv", 1), f"blocks.{block}.norm")
        x = graph.add("MaxPool", [x], f"blocks.{block}.pooled", kernel_shape=[2] * 3, strides=[2] * 3)
        x = graph.add("Relu", [x], f"blocks.{block}.out")
    x = graph.add("Relu", [graph.norm(graph.convolution(x, "bottleneck", 0), "norm")], "squeezed")
    x = graph.add("GlobalMaxPool" if network["pooling"] == "max" else "GlobalAveragePool", [x], "pooled")
    features = graph.add("Flatten", [x], FEATURES, axis=1)
    graph.add("Concat", _heads(graph, features, targets), PREDICTIONS, axis=1)
    size = ["N", 1, *metadata["crop"]]
    outputs = [(PREDICTIONS, len(targets)), (FEATURES, network["bottleneck"])]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "neurotransfer",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, size)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in outputs],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="neurotransfer",
    )
    helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    return model


def _heads(graph: _Graph, features: str, targets: Sequence[Target]) -> list[str]:
    """The prediction of each target, [N, 1]: in its unit, or the probability of class 1."""
    weight, bias = (graph.state[f"head.{part}"].double().numpy() for part in ("weight", "bias"))
    found, row = [], 0
    for target in targets:
        rows = slice(row, row + target.outputs)
        row += target.outputs
        linear = target.kind == "continuous" and target.bins is None
        sd, mean = (target.sd, target.mean) if linear else (1.0, 0.0)
        inputs = [
            features,
            graph.constant(f"head.{target.name}.weight", (weight[rows] * sd).astype(np.float32)),
            graph.constant(f"head.{target.name}.bias", (bias[rows] * sd + mean).astype(np.float32)),
        ]
        x = graph.add("Gemm", inputs, f"{target.name}.linear", transB=1)
        if target.bins is not None:
            start, width, count = target.bins
            centres = (start + (np.arange(count) + 0.5) * width) * target.sd + target.mean
            shares = graph.add("Softmax", [x], f"{target.name}.shares", axis=1)
            of_bins = graph.constant(f"{target.name}.centres", centres[:, None].astype(np.float32))
            x = graph.add("MatMul", [shares, of_bins], f"{target.name}.value")
        elif target.kind == "binary":
            x = graph.add("Sigmoid", [x], f"{target.name}.probability")
        found.append(x)
    return found


def described(targets: Sequence[Target]) -> str:
    """The columns of the predictions as JSON: name and kind of each target, in order."""
    return json.dumps([{"name": target.name, "kind": target.kind} for target in targets])
