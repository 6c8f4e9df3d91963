"""A file of weights in forms that other programs read: `neurotransfer weights export`.

Goes in: a file of weights.  Comes out: an ONNX graph or a plain state dict, which is compared with this program's
network before it is kept, and a model card beside it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache.shard_file import ShardFile
from ..errors import InputError
from ..files import digest_of_file, write_text, written_whole
from ..network.sfcn import SFCN
from ..pretrain.batches import as_input
from ..pretrain.targets import Target, decode, from_metadata
from ..pretrain.weights import network_from, read_weights
from .known_answers import read_image
from .model_card import card

ENDINGS = {"onnx": ".onnx", "torch": ".pt"}
TOLERANCE = 1e-4  # of predictions in standard deviations of their target, of probabilities, and of features of size 1
RANDOM_IMAGES = 2
SHARD_IMAGES = 4  # of a shard, which may have hundreds


def export_weights(
    file: Path, form: str, out: Path | None, licence: str, images: Sequence[Path] = (), metrics: Path | None = None
) -> str:
    """Write an export and its model card; lines for a person.

    Parameters
    ----------
    form : "onnx" or "torch"
    out : None for the name of `file` with another ending
    licence : under which the user gives the weights away
    images : for the check, besides random ones: cropped images, folders of FastSurfer's, or shards of a cache (.npy)
    metrics : as evaluation writes them; None for those beside `file`, if there are any

    Raises
    ------
    InputError
        if the weights or the images cannot be read, or the export does not give what the weights give
    """
    if not file.is_file():
        raise InputError(file, "", "there is no such file of weights", "correct the path")
    state, metadata = read_weights(file)
    out = out or file.with_suffix(ENDINGS[form])
    if out.suffix != ENDINGS[form]:
        raise InputError(out, "--out", f"it does not end with {ENDINGS[form]}", "write another name")
    if not licence.strip():
        raise InputError("", "--licence", "it is empty", "write one, such as CC-BY-4.0")
    targets = from_metadata(metadata["targets"])
    crop = metadata.get("crop")
    if not isinstance(crop, list):
        raise InputError(file, "crop", "its metadata does not say the crop", "pretrain or import it with this version")
    model = network_from(metadata)
    model.load_state_dict(state)
    examples = [*_random_images(crop), *(image for path in images for image in read_images(path, metadata))]
    if form == "onnx":
        content, largest = _onnx(model.eval(), metadata, targets, examples, licence)
    else:
        content, largest = _torch(model.eval(), metadata, targets, examples)
    with written_whole(out, "wb") as written:
        written.write(content)
    about: dict[str, Any] = {"file": out.name, "sha256": digest_of_file(out), "form": form, "source": file.name}
    about |= {"checked": len(examples), "largest": largest}
    text = card(metadata, about, licence=licence, metrics=metrics or file.with_name("metrics.tsv"))
    beside = out.with_name(f"{out.name}.md")
    write_text(beside, text)
    lines = [
        f"written: {out} ({len(content):,} bytes)",
        f"checked on {RANDOM_IMAGES} random and {len(examples) - RANDOM_IMAGES} given images: the largest difference is"
        f" {largest:.1e}",
        f"model card: {beside}; read it before you pass it on",
    ]
    if source := metadata.get("source", {}).get("licence"):
        lines.append(f"licence of the source that these weights were imported from: {source}; yours must agree with it")
    return "\n".join(lines)


def _random_images(crop: Sequence[int]) -> list[Tensor]:
    """Smooth images with noise, in the range of a brain's: float32 [1, 1, D, H, W]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(RANDOM_IMAGES, 1, 5, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=tuple(crop), mode="trilinear") * 200
    noisy = smooth + 40 * torch.rand(smooth.shape, generator=generator)
    return list(noisy.round().clamp(0, 255).split(1))


def read_images(path: Path, metadata: Mapping[str, Any]) -> list[Tensor]:
    """Images as the network's input, float32 [1, 1, D, H, W] each: the first of a shard, or what `read_image` reads.

    Raises
    ------
    InputError
        if the file cannot be read, or its images are not of the crop's size
    """
    if path.suffix != ".npy":
        return [torch.from_numpy(read_image(path, metadata))[None, None]]
    shard, crop = ShardFile(path), tuple(metadata["crop"])
    if shard.shape[1:] != crop:
        what = f"its images have {shard.shape[1:]} voxels, the crop of the weights {crop}"
        raise InputError(path, "", what, "give cropped images, or a shard of results/cache")
    found = np.empty((min(SHARD_IMAGES, shard.shape[0]), *crop), np.uint8)
    for row, image in enumerate(found):
        shard.read(row, image)
    return list(as_input(torch.from_numpy(found)).float().split(1))


def _onnx(
    model: SFCN, metadata: Mapping[str, Any], targets: list[Target], images: Sequence[Tensor], licence: str
) -> tuple[bytes, float]:
    """The file's content, and the largest difference of onnxruntime's results from the network's."""
    try:
        import onnxruntime

        from .onnx_writer import INPUT, described, graph_of
    except ImportError:
        fix = "install them: pip install onnx onnxruntime, in the environment that neurotransfer is in"
        raise InputError("", "--as onnx", "the packages onnx and onnxruntime are not installed", fix) from None
    facts = {"targets": described(targets), "licence": licence}
    content = graph_of(model.state_dict(), metadata, targets, facts).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for image in images:
        predictions, features = session.run(None, {INPUT: image.numpy()})
        largest = max(largest, _difference(model, targets, image, predictions, features))
    return content, largest


def _torch(
    model: SFCN, metadata: Mapping[str, Any], targets: list[Target], images: Sequence[Tensor]
) -> tuple[bytes, float]:
    """The same of a state dict, which is read again with `weights_only`."""
    file = io.BytesIO()
    torch.save(in_units(model.state_dict(), targets), file)
    file.seek(0)
    again = network_from(metadata)
    again.load_state_dict(torch.load(file, weights_only=True))
    again.eval()
    plain = [target if target.bins else replace(target, mean=0.0, sd=1.0) for target in targets]
    largest = 0.0
    for image in images:
        with torch.no_grad():
            features = again.pooled(image).numpy()
            predictions = decode(again(image).numpy(), plain)
        largest = max(largest, _difference(model, targets, image, predictions, features))
    return file.getvalue(), largest


def in_units(state: Mapping[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
    """The state of a network whose outputs for continuous targets are in their units, not standardised."""
    weight, bias = state["head.weight"].double().clone(), state["head.bias"].double().clone()
    row = 0
    for target in targets:
        if target.kind == "continuous" and target.bins is None:
            weight[row] *= target.sd
            bias[row] = bias[row] * target.sd + target.mean
        row += target.outputs
    plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return plain | {"head.weight": weight.float().cpu(), "head.bias": bias.float().cpu()}


def _difference(
    model: SFCN, targets: list[Target], image: Tensor, predictions: np.ndarray, features: np.ndarray
) -> float:
    """The largest difference from the network's own results.

    Raises
    ------
    InputError
        if it exceeds the tolerance
    """
    with torch.no_grad():
        wanted, pooled = decode(model(image).numpy(), targets), model.pooled(image).numpy()
    sds = np.array([target.sd if target.kind == "continuous" else 1.0 for target in targets])
    by_prediction = np.abs(predictions - wanted) / np.maximum(sds, np.abs(wanted))
    by_feature = np.abs(features - pooled) / np.maximum(1.0, np.abs(pooled))
    largest = float(max(by_prediction.max(), by_feature.max()))
    if not largest <= TOLERANCE:
        what = f"the export differs from the weights by {largest:.2g}, more than {TOLERANCE:g}"
        raise InputError("", "export", what, "this is a fault of the export or of the installed onnxruntime: report it")
    return largest
