"""Networks in ONNX files, as exporters write them, predict after the import what onnxruntime predicts."""

import nibabel
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.exchange import importing
from neurotransfer.exchange.importing import import_weights
from neurotransfer.network.sfcn import trunk_of
from neurotransfer.pretrain.targets import decode, from_metadata
from neurotransfer.pretrain.weights import network_from, read_weights
from onnx import helper, numpy_helper
from published import image_pair, published

LIA = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


class Writer:
    """An ONNX graph that grows node by node."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value, kind=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def add(self, kind, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def write(self, path, output):
        shapes = ("image", [None, 32, 32, 64]), (output, [None, None])
        given, made = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes)
        graph = helper.make_graph(self.nodes, "sfcn", [given], [made], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def write(path, network, norms, pooling="GlobalMaxPool"):
    """A network of tests/published.py as pyment's: blocks, global pooling, six heads, sigmoid on two of them.

    `norms` is how batch norm is written: "norm", "product" and sum, or "folded" into the convolution.
    """
    graph = Writer()
    x = graph.add("Reshape", "image", graph.constant([-1, 1, 32, 32, 64], np.int64))
    for sequence in network.feature_extractor:
        convolution, norm = sequence[0], sequence[1]
        kernel, bias = (value.detach().numpy() for value in (convolution.weight, convolution.bias))
        values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        weight, shift, mean, variance = (value.detach().numpy().astype(float) for value in values)
        scale = weight / np.sqrt(variance + norm.eps)
        if norms == "folded":
            kernel, bias = kernel * scale[:, None, None, None, None], (bias - mean) * scale + shift
        pads = [convolution.padding[0]] * 6
        x = graph.add("Conv", x, graph.constant(kernel), graph.constant(bias), pads=pads)
        if norms == "norm":
            parts = [graph.constant(value) for value in (weight, shift, mean, variance)]
            x = graph.add("BatchNormalization", x, *parts, epsilon=norm.eps)
        elif norms == "product":
            x = graph.add("Mul", x, graph.constant(scale[None, :, None, None, None]))
            x = graph.add("Add", graph.constant((shift - mean * scale)[None, :, None, None, None]), x)
        x = graph.add("Relu", x)
        if len(sequence) == 4:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    x = graph.add("Flatten", graph.add(pooling, x))
    head = network.classifier[0]
    outputs = []
    for at in (3, 1, 0, 2, 5, 4):  # written in another order than they are joined in
        row, bias = head.weight[at].detach().numpy().reshape(-1), head.bias[at : at + 1].detach().numpy()
        if at % 2:
            y = graph.add("Gemm", x, graph.constant(row[None]), graph.constant(bias), transB=1)
        else:
            y = graph.add("Add", graph.add("MatMul", x, graph.constant(row[:, None])), graph.constant(bias))
        outputs.append((at, graph.add("Sigmoid", y) if at in (1, 2) else y))
    graph.write(path, graph.add("Concat", *(y for _, y in sorted(outputs)), axis=1))


@pytest.fixture(scope="module")
def network():
    return published(6, epsilon=1e-3)


@pytest.fixture(scope="module")
def images():
    ours, _ = image_pair()
    return ours / ours.mean((1, 2, 3, 4), keepdim=True)


@pytest.fixture
def small(monkeypatch):
    """The kinds with the crop of these tests."""
    from dataclasses import replace

    for name in ("pyment-multi-2025", "pyment-reg-2025"):
        monkeypatch.setitem(importing.KINDS, name, replace(importing.KINDS[name], crop=(32, 32, 64)))


@pytest.mark.parametrize("norms", ["norm", "product", "folded"])
def test_the_imported_network_predicts_what_onnxruntime_predicts(tmp_path, network, images, small, norms):
    write(tmp_path / "m.onnx", network, norms)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"image": images[:, 0].numpy()})[0]
    for at, image in enumerate(images):
        nibabel.save(nibabel.MGHImage(image[0].numpy(), LIA), tmp_path / f"{at}.mgz")
    text = import_weights(tmp_path / "m.onnx", "pyment-multi-2025", tmp_path / "w.safetensors", crops=tmp_path)
    state, facts = read_weights(tmp_path / "w.safetensors")
    model = network_from(facts)
    model.load_state_dict(state)
    with torch.no_grad():
        found = decode(model.eval()(images).numpy(), from_metadata(facts["targets"]))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.01
    assert ("measured on 2 images" in text) == (norms != "norm")


@pytest.mark.parametrize("norms", ["product", "folded"])
def test_lost_means_and_variances_are_those_of_the_images(tmp_path, network, images, small, norms):
    """In training mode on the same images, plain layers with these statistics give what the network gives."""
    write(tmp_path / "m.onnx", network, norms)
    for at, image in enumerate(images):
        nibabel.save(nibabel.MGHImage(image[0].numpy(), LIA), tmp_path / f"{at}.mgz")
    import_weights(tmp_path / "m.onnx", "pyment-multi-2025", tmp_path / "w.safetensors", crops=tmp_path)
    state, facts = read_weights(tmp_path / "w.safetensors")
    model = network_from(facts)
    model.load_state_dict(state)
    with torch.no_grad():
        still = model.eval()(images)
        torch.testing.assert_close(model.train()(images), still, rtol=1e-3, atol=1e-3)
    assert all(torch.isfinite(value).all() for value in trunk_of(state).values())


def test_a_folded_batch_norm_is_refused_without_images(tmp_path, network, small):
    write(tmp_path / "m.onnx", network, "folded")
    with pytest.raises(InputError, match=r"batch norm is folded into its convolutions, .*TensorFlow checkpoint, or"):
        import_weights(tmp_path / "m.onnx", "pyment-multi-2025", tmp_path / "w.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: batch norm is folded"):
        import_weights(tmp_path / "m.onnx", "pyment-multi-2025", tmp_path / "w.safetensors", crops=tmp_path / "empty")


def test_other_graphs_are_refused_in_one_line(tmp_path, network, small):
    path, out = tmp_path / "m.onnx", tmp_path / "w.safetensors"
    write(path, network, "norm", pooling="GlobalAveragePool")
    with pytest.raises(InputError, match="it pools by average, a network of this kind by max"):
        import_weights(path, "pyment-multi-2025", out)
    write(path, published(6, epsilon=1e-5), "norm")
    with pytest.raises(InputError, match=r"its epsilon is 1e-05, that of this kind 0\.001"):
        import_weights(path, "pyment-multi-2025", out)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="it is no whole ONNX file") as refused:
        import_weights(path, "pyment-multi-2025", out)
    assert "\n" not in str(refused.value)
    graph = Writer()
    graph.write(path, graph.add("Relu", "image"))
    with pytest.raises(InputError, match="it has 0 convolutions"):
        import_weights(path, "pyment-reg-2025", out)
    assert not out.exists()
