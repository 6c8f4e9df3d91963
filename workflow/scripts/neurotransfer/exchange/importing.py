"""Published weights to a file of this program's: `neurotransfer weights import`.

The file's network gives the same outputs as the source.  What differs between the two is moved into the tensors: the
epsilon of batch norm, the order and direction of the image's axes, and the grid of a mean intensity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..files import digest_of_file
from ..network.sfcn import EPSILON, SFCN
from ..pretrain.weights import network_from, write_weights
from ..study.imported_weights import FACT, UNCHECKED
from .kinds import KINDS, MAPPING, Kind, read_mapping
from .known_answers import images_in, read_image
from .onnx_graph import read_onnx
from .tensorflow_checkpoint import Checkpoint, read_keras
from .torch_file import read_torch

COUNTER = "num_batches_tracked"
AXES = dict(zip("LRPAIS", (0, 0, 1, 1, 2, 2), strict=True))


def import_weights(
    source: str | Path,
    kind_name: str,
    out: str | Path,
    mapping: str | Path | None = None,
    crops: str | Path | None = None,
) -> str:
    """Write a file of weights from a published one, marked as unchecked.

    Parameters
    ----------
    kind_name : a key of `kinds.KINDS`, or "mapping"
    mapping : the file that describes the source, for "mapping"
    crops : folder of images, on which batch norm is measured if an ONNX file has lost its means and variances

    Returns
    -------
    lines for a person: what was imported, under which licence, and what to do next

    Raises
    ------
    InputError
        if the source is not what the kind says
    """
    if (kind_name == MAPPING) != (mapping is not None):
        fix = "give it with --as mapping, and only there"
        raise InputError("", "--mapping", "a mapping file belongs to --as mapping", fix)
    if kind_name not in (*KINDS, MAPPING):
        raise InputError("", "--as", f"there is no kind {kind_name!r}", f"write {', '.join([*KINDS, MAPPING])}")
    if Path(out).suffix != ".safetensors":
        raise InputError(out, "--out", "files of weights end with .safetensors", "write another name")
    kind = KINDS[kind_name] if mapping is None else read_mapping(mapping)
    tensors, files, folded = read_source(Path(source), kind)
    images = images_in(crops) if folded and crops is not None else []
    if folded and not images:
        what = "batch norm is folded into its convolutions, so that the network could not be trained further"
        fix = "import the TensorFlow checkpoint, or give --crops FOLDER with images on which it is measured again"
        raise InputError(source if crops is None else crops, "", what, fix)
    network, state = adapted(tensors, kind, source)
    facts: dict[str, Any] = kind.metadata() | {
        "network": network,
        FACT: {"state": UNCHECKED},
        "source": {
            "kind": kind.name,
            "files": {path.name: digest_of_file(path) for path in files},
            "licence": kind.licence,
            "citation": kind.citation,
            "epsilon": kind.epsilon,
            "answers": kind.answers,
        },
    }
    if folded:
        inputs = (torch.from_numpy(read_image(path, facts))[None, None] for path in images)
        state = with_measured_norms(state, facts, inputs)
        facts["source"]["batch_norm_measured_on"] = len(images)
    write_weights(out, state, facts)
    numbers = sum(value.numel() for value in state.values())
    return "\n".join(
        [
            f"written: {out} ({numbers:,} numbers, {', '.join(target.name for target in kind.targets)})",
            *([f"batch norm was folded, and is measured on {len(images)} images"] if folded else []),
            f"licence: {kind.licence}",
            f"source: {kind.citation}",
            "unchecked: nothing has shown yet that this file predicts what was published; every report that uses it "
            "says so",
            f"next: neurotransfer weights check {out} --crops FOLDER --expected predictions.csv",
        ]
    )


def read_source(source: Path, kind: Kind) -> tuple[dict[str, Tensor], list[Path], bool]:
    """What a published file holds.

    Returns
    -------
    tensors : under this program's names, still as they are
    files : that were read
    folded : whether batch norm's means and variances are lost
    """
    if kind.name.startswith("pyment") and source.suffix != ".onnx":
        files = Checkpoint(source).files
        return read_keras(source, [target.name for target in kind.targets]), files, False
    if not source.exists():
        raise InputError(source, "", "there is no such file", "correct the path")
    if kind.name.startswith("pyment"):
        graph = read_onnx(source, kind.epsilon, kind.pooling)
        return graph.tensors, [source], graph.folded
    return renamed(read_torch(source), kind.names or PENG_NAMES, source), [source], False


PENG_NAMES = {
    **{f"feature_extractor.conv_{block}.0": f"blocks.{block}.conv" for block in range(5)},
    **{f"feature_extractor.conv_{block}.1": f"blocks.{block}.norm" for block in range(5)},
    "feature_extractor.conv_5.0": "bottleneck",
    "feature_extractor.conv_5.1": "norm",
    "classifier.conv_6": "head",
}


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], source: object) -> dict[str, Tensor]:
    """Tensors under other names.

    Parameters
    ----------
    names : from a tensor's name, or a layer's (the tensor's up to its last dot), to the new one of the same sort

    Raises
    ------
    InputError
        if a name is not among the tensors, or two tensors get one name
    """
    found: dict[str, Tensor] = {}
    for old, new in names.items():
        if old in tensors:
            parts = {new: tensors[old]}
        else:
            layer = {
                name.rpartition(".")[2]: value for name, value in tensors.items() if name.rpartition(".")[0] == old
            }
            parts = {f"{new}.{part}": value for part, value in layer.items()}
        if not parts:
            known = ", ".join(sorted(tensors)[:5])
            raise InputError(source, old, f"it has no tensor or layer of this name; it has {known}, ...", "correct it")
        if twice := found.keys() & parts.keys():
            raise InputError(source, old, f"{min(twice)} has two sources", "give each tensor one source")
        found |= parts
    return found


def adapted(tensors: Mapping[str, Tensor], kind: Kind, source: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The architecture that tensors have, and the state of a network that gives what the source gives.

    Parameters
    ----------
    tensors : under this program's names; kernels [out, in, 3, 3, 3], a head of [outputs, bottleneck] or 1³ kernels

    Raises
    ------
    InputError
        if they are not the tensors of an SFCN whose head has the kind's targets
    """
    state = {name: value.float() for name, value in tensors.items() if not name.endswith(COUNTER)}
    if "head.weight" in state:
        state["head.weight"] = state["head.weight"].flatten(1)
        state |= _one_logit(state, kind)
    network = _architecture(state, kind, source)
    layers = _layers(len(network["channels"]))
    for layer, _ in layers:  # batch norm makes biases optional
        state.setdefault(f"{layer}.bias", torch.zeros(len(state[f"{layer}.weight"])))
    names = _check_tensors(state, network, kind, source)
    _check_axes(network, kind, source)
    for layer, norm in layers:
        _turn(state, layer, kind.axes)
        _move_epsilon(state, layer, norm, kind.epsilon)
        state[f"{norm}.{COUNTER}"] = torch.zeros((), dtype=torch.int64)
    if kind.mean_over is not None:  # x / mean over the whole grid = x / mean over the crop * voxels of both
        larger = float(np.prod(kind.mean_over)) / float(np.prod(kind.crop))
        state["blocks.0.conv.weight"] = state["blocks.0.conv.weight"] * larger
    return network, {name: state[name].clone().contiguous() for name in names}


def _check_tensors(state: Mapping[str, Tensor], network: Mapping[str, Any], kind: Kind, source: object) -> list[str]:
    """The names of a network's tensors, all of which `state` has in the right shape, with finite values."""
    outputs = sum(target.outputs for target in kind.targets)
    with torch.device("meta"):
        wanted = SFCN(network["channels"], network["bottleneck"], outputs, network["pooling"], 0.0).state_dict()
    for name, value in wanted.items():
        if name.endswith(COUNTER):
            continue
        if name not in state:
            raise InputError(source, name, "no tensor of the source is this one", "add it to the mapping's names")
        if state[name].shape != value.shape:
            what = f"its shape is {list(state[name].shape)}, a network of this kind has {list(value.shape)}"
            raise InputError(source, name, what, "correct --as, or the mapping file")
        if not torch.isfinite(state[name]).all():
            raise InputError(source, name, "it holds values that are not finite", "download the source again")
        if name.endswith("running_var") and (state[name] < 0).any():
            raise InputError(source, name, "a variance is negative", "correct the mapping's names")
    if more := state.keys() - wanted.keys():
        raise InputError(source, min(more), "no layer of an SFCN has this name", "remove it from the mapping's names")
    return list(wanted)


def _check_axes(network: Mapping[str, Any], kind: Kind, source: object) -> None:
    """Refuse to turn kernels if a pooled maximum would not stay in its place."""
    edge = 2 ** len(network["channels"])
    if sorted(AXES[letter] for letter in kind.axes) != [0, 1, 2]:
        raise InputError(source, "axes", f"{kind.axes!r} names an axis twice", "write such as LIA, or LAS for MNI152")
    if kind.axes == "LIA" or not any(length % edge for length in kind.crop):
        return
    what = f"a crop of {list(kind.crop)} in {kind.axes} order can't be turned to LIA order: blocks leave a rest"
    raise InputError(source, "crop", what, f"give multiples of {edge}, which a turned image needs")


def _layers(blocks: int) -> list[tuple[str, str]]:
    """The names of each convolution and of the batch norm after it."""
    return [(f"blocks.{at}.conv", f"blocks.{at}.norm") for at in range(blocks)] + [("bottleneck", "norm")]


def _architecture(state: Mapping[str, Tensor], kind: Kind, source: object) -> dict[str, Any]:
    channels: list[int] = []
    while (kernel := state.get(f"blocks.{len(channels)}.conv.weight")) is not None:
        channels.append(len(kernel))
    if not channels or "bottleneck.weight" not in state:
        missing = "blocks.0.conv.weight" if not channels else "bottleneck.weight"
        raise InputError(source, missing, "no tensor of the source is this one", "correct --as, or the mapping file")
    return {"channels": channels, "bottleneck": len(state["bottleneck.weight"]), "pooling": kind.pooling}


def _one_logit(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The head with one logit if it has two outputs, softmax after them and one binary target: their difference."""
    weight, bias = state["head.weight"], state.get("head.bias")
    binary = len(kind.targets) == 1 and kind.targets[0].kind == "binary"
    if not binary or bias is None or len(weight) != 2 or len(bias) != 2:
        return {}
    return {"head.weight": weight[1:] - weight[:1], "head.bias": bias[1:] - bias[:1]}


def _turn(state: dict[str, Tensor], layer: str, axes: str) -> None:
    """Turn kernels that were trained on images of other axes, so that they fit images in LIA order.

    A convolution of a turned image with turned kernels is the turned result, and a pooled maximum stays where it is as
    long as every block halves the image without a rest.
    """
    theirs, ours = (nibabel.orientations.axcodes2ornt(tuple(codes)) for codes in (axes, "LIA"))
    change = nibabel.orientations.ornt_transform(theirs, ours)
    kernel = state[f"{layer}.weight"]
    kernel = kernel.permute(0, 1, *(2 + int(axis) for axis in np.argsort(change[:, 0])))
    flipped = [2 + int(to) for to, direction in change if direction < 0]
    state[f"{layer}.weight"] = kernel.flip(flipped)


def _move_epsilon(state: dict[str, Tensor], layer: str, norm: str, epsilon: float) -> None:
    """Move what the source's batch norm adds to the variance into the tensors, because here it is a constant.

    The running variance takes the difference.  If it would be negative, the layer is scaled by k = sqrt(EPSILON /
    epsilon) instead: then mean and variance are k and k² times theirs, and k² (variance + epsilon) is k² variance +
    EPSILON.
    """
    variance = state[f"{norm}.running_var"].double() + (epsilon - EPSILON)
    if (variance >= 0).all():
        state[f"{norm}.running_var"] = variance.float()
        return
    factor = (EPSILON / epsilon) ** 0.5
    for name in (f"{layer}.weight", f"{layer}.bias", f"{norm}.running_mean"):
        state[name] = state[name] * factor
    state[f"{norm}.running_var"] = state[f"{norm}.running_var"] * factor**2


@torch.no_grad()
def with_measured_norms(state: Mapping[str, Tensor], facts: Mapping[str, Any], images: Iterable[Tensor]) -> dict:
    """The state of a network with batch norm, of one whose batch norm was folded: it predicts the same.

    The means and variances that the exporter has lost are measured on images: those of each convolution's output.

    Parameters
    ----------
    state : of a network whose batch norm has a mean of 0 and a variance that is 1 with epsilon
    facts : its metadata
    images : float32 [1, 1, D, H, W] each, all of one size
    """
    model = network_from(facts)
    model.load_state_dict(dict(state))
    model.eval()
    blocks = [(block.conv, block.norm) for block in model.blocks]
    layers = cast("list[tuple[nn.Conv3d, nn.BatchNorm3d]]", [*blocks, (model.bottleneck, model.norm)])
    moments: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    for image in images:
        x = model.scaled(image)
        for at, (convolution, norm) in enumerate(layers):
            x = convolution(x)  # [1, channels, ...]
            moments[at].append(torch.var_mean(x, dim=(0, 2, 3, 4), correction=0))
            x = functional.relu(norm(x))
            x = functional.max_pool3d(x, 2) if at < len(layers) - 1 else x
    for (_, norm), measured in zip(layers, moments, strict=True):
        variances, means = (torch.stack(values).double() for values in zip(*measured, strict=True))  # [images, C]
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        factor = norm.weight.double()  # what the whole of batch norm multiplies by
        values = {"weight": factor * (variance + EPSILON).sqrt(), "bias": norm.bias.double() + factor * mean}
        norm.load_state_dict({**norm.state_dict(), **values, "running_mean": mean, "running_var": variance})
    return model.state_dict()
