"""Checkpoints for FastSurfer 2.4 from random weights; FastSurfer's own Python runs this (see real_fastsurfer.py).

    PYTHONPATH=FASTSURFER PYTHON fastsurfer_checkpoints.py IMAGE

They have the layout of the real ones, so FastSurfer's code loads and runs them.  Their labels mean nothing, but its
later steps must accept them.  So three things are not random:

* A kernel has one random weight for all its pixels.  Features are smooth then, and labels are regions, not noise.
* The rows of the last layer are scaled and shifted: each label's logit has a mean of 0 and a standard deviation of 1 in
  the brain, measured at every STEP-th voxel of the image.  The background's is a constant, with which the labels fill
  LITRES.
* Of the labels only WINNING ever win.  FastSurfer gives the regions of other labels to a hemisphere one by one, and
  random labels have thousands of them; its statistics divide by zero if a label has one voxel away from its borders.
"""

from __future__ import annotations

import sys

import nibabel
import numpy as np
import torch
from FastSurferCNN.data_loader import data_utils
from FastSurferCNN.data_loader.augmentation import ToTensorTest
from FastSurferCNN.data_loader.conform import conform
from FastSurferCNN.data_loader.dataset import MultiScaleOrigDataThickSlices
from FastSurferCNN.models.networks import build_model
from FastSurferCNN.run_prediction import set_up_cfgs
from FastSurferCNN.utils.parser_defaults import FASTSURFER_ROOT

STEP = 16  # voxels between those that the last layer is fitted to
LITRES = 1.1  # of labels, on a grid of 1 mm
# Axis of the slices, order of the axes of a batch of logits that gives (x, y, z, label), weight of the view
VIEWS = {"coronal": (2, (2, 3, 0, 1), 0.4), "sagittal": (0, (0, 3, 2, 1), 0.2), "axial": (1, (3, 0, 2, 1), 0.4)}
WINNING = (0, 2, 4, 10, 12, 16, 17, 41, 43, 49, 51, 53, 1002, 1005, 2002, 2005)
NEVER = -1000.0  # a logit that never wins, and that float16 can hold


def main() -> None:
    labels = data_utils.read_classes_from_lut(FASTSURFER_ROOT / "FastSurferCNN/config/FastSurfer_ColorLUT.tsv")
    image = conform(nibabel.load(sys.argv[1]), conform_vox_size=1.0)
    voxels = np.asarray(image.dataobj).astype(np.uint8)
    torch.set_flush_denormal(True)
    total, models = torch.zeros(()), {}
    for seed, (plane, (_, _, weight)) in enumerate(VIEWS.items()):
        models[plane], cfg = random_network(plane, seed)
        batch = logits_of(models[plane], cfg, plane, voxels, image.header.get_zooms())
        total = total + weight * standardise(models[plane].classifier.conv, batch, plane, voxels)
    allowed = [number in WINNING for number in labels["ID"]]
    best = total[..., allowed][..., 1:].max(-1).values.flatten().sort(descending=True).values
    threshold = float(best[int(LITRES * 1e6 / STEP**3)])
    (FASTSURFER_ROOT / "checkpoints").mkdir(exist_ok=True)
    for plane, model in models.items():
        model.classifier.conv.bias.data[0] = threshold
        if plane != "sagittal":  # whose rows are shared by the hemispheres
            model.classifier.conv.bias.data[[not may_win for may_win in allowed]] = NEVER
        path = FASTSURFER_ROOT / f"checkpoints/aparc_vinn_{plane}_v2.0.0.pkl"
        torch.save({"model_state": model.state_dict()}, path)


def random_network(plane: str, seed: int):
    """FastSurfer's network for a plane, with smooth random weights, and its configuration."""
    cfg = set_up_cfgs(FASTSURFER_ROOT / f"FastSurferCNN/config/FastSurferVINN_{plane}.yaml")
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            outputs, inputs, height, width = module.weight.shape
            weights = torch.randn(outputs, inputs, 1, 1) * (2 / inputs) ** 0.5 / (height * width)
            module.weight.data = weights.expand_as(module.weight).clone()
            torch.nn.init.zeros_(module.bias)
    return model, cfg


@torch.no_grad()
def logits_of(model, cfg, plane: str, voxels: np.ndarray, zooms) -> torch.Tensor:
    """A view's logits (slice, label, height, width) at every STEP-th voxel."""
    slices = MultiScaleOrigDataThickSlices(voxels, zooms, cfg, transforms=ToTensorTest())
    found = []
    for at in range(0, voxels.shape[VIEWS[plane][0]], STEP):
        scale = torch.as_tensor(np.asarray(slices[at]["scale_factor"]))[None]
        found.append(model(torch.as_tensor(slices[at]["image"])[None], scale, None)[:, :, ::STEP, ::STEP])
    return torch.cat(found)


def standardise(conv: torch.nn.Conv2d, batch: torch.Tensor, plane: str, voxels: np.ndarray) -> torch.Tensor:
    """Scale and shift the rows of a last layer; its new logits (x, y, z, label)."""
    logits = batch.permute(*VIEWS[plane][1])
    inside = logits[torch.as_tensor(voxels[::STEP, ::STEP, ::STEP]) > 0]
    mean, scale = inside.mean(0), inside.std(0)
    scale = torch.where(mean < 0, -scale, scale)  # bright voxels get labels, and the air, whose logits were 0, none
    conv.weight.data /= scale[:, None, None, None]
    conv.bias.data = -mean / scale
    conv.weight.data[0], conv.bias.data[0] = 0.0, 0.0
    logits = (logits - mean) / scale
    if plane != "sagittal":
        return logits
    return data_utils.map_prediction_sagittal2full(logits.movedim(3, 1), num_classes=len(mean)).movedim(1, 3)


if __name__ == "__main__":
    main()
