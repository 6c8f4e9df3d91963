"""The published networks that can be imported, and what a user's mapping file says of another one.

A kind is what tensors alone do not say: how the images were made, scaled and cropped, what the outputs mean, and under
which licence the weights may be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..pretrain.targets import Target, as_metadata, from_metadata
from ..study.configuration import schema_mistakes
from ..study.documents import read_document

SCHEMA = Path(__file__).resolve().parents[3] / "schemas/mapping.schema.yaml"
MNI = (182, 218, 182)  # voxels of the MNI152 template at 1 mm, as FSL has it
PYMENT = "Leonardsen et al. (2025), doi:10.64898/2025.12.19.25342659; https://github.com/estenhl/pyment-public"
PENG = "Peng et al. (2021), doi:10.1016/j.media.2020.101871; https://github.com/ha-ha-ha-han/UKBiobank_deep_pretrain"


@dataclass(frozen=True)
class Kind:
    """A published network, as far as its tensors do not say it.

    Parameters
    ----------
    epsilon : of batch norm
    pooling : "max" or "average", over what the blocks leave
    targets : of the head, in the order of its outputs
    crop : voxels of the images, in LIA order
    crop_rule : how the crop is placed: "bounding_box" and "pyment" are rules of `cache.crop_rule`, others are words
    axes : directions in which the axes of the images point that it was trained on, as nibabel spells them
    scaling : "none", or "mean": intensities are divided by the mean of the image
    mean_over : the grid over which that mean is taken, if it is not the crop; outside the crop the image is 0
    voxel_size : mm, or the smallest and the largest
    grid : voxels of the whole image, in LIA order
    engine, version : of the images' preprocessing
    names : from the source's names of tensors, or of layers, to those of network/sfcn.py; empty if the source's format
        is known
    answers : the column of a table of published predictions that has the first target
    """

    name: str
    epsilon: float
    pooling: str
    targets: Sequence[Target]
    crop: Sequence[int]
    crop_rule: str
    axes: str
    scaling: str
    voxel_size: float | Sequence[float]
    grid: Sequence[int]
    engine: str
    version: str
    licence: str
    citation: str
    mean_over: Sequence[int] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    answers: str = ""

    def metadata(self) -> dict[str, Any]:
        """The facts of a file of weights that do not depend on its tensors."""
        rule = {} if self.crop_rule == "bounding_box" else {"crop_rule": self.crop_rule}
        size = list(self.voxel_size) if isinstance(self.voxel_size, Sequence) else self.voxel_size
        return rule | {
            "crop": list(self.crop),
            "scaling": self.scaling,
            "preprocessing": {"engine": self.engine, "voxel_size": size, "grid": list(self.grid)},
            "images_made_by": [[self.engine, self.version]],
            "targets": as_metadata(self.targets),
        }


def _target(name: str, kind: str, bins: tuple[float, float, int] | None = None) -> Target:
    loss = "logistic" if kind == "binary" else "squared"
    return Target(name, kind, 1.0, loss, 0.0, 1.0, 1.0, bins)


AGE = _target("age", "continuous")
SIX = (
    *(AGE, _target("sex", "binary"), _target("handedness", "binary"), _target("bmi", "continuous")),
    *(_target("fluid_intelligence", "continuous"), _target("neuroticism", "continuous")),
)
FASTSURFER: dict[str, Any] = {
    "crop": (224, 192, 224),
    "crop_rule": "pyment",
    "axes": "LIA",
    "scaling": "none",
    "voxel_size": (0.69, 1.03),
    "grid": (256, 256, 256),
    "engine": "fastsurfer",
    "version": "2.0.1",
    "licence": "CC-BY-NC-4.0",
    "citation": PYMENT,
    "epsilon": 1e-3,
}
UK_BIOBANK: dict[str, Any] = {  # T1_brain_linear_to_MNI
    "crop": (160, 160, 192),
    "crop_rule": "centre of MNI152",
    "axes": "LAS",
    "scaling": "mean",
    "mean_over": MNI,
    "voxel_size": 1.0,
    "grid": (182, 182, 218),  # MNI152 in LIA order
    "engine": "fsl",
    "version": "UK Biobank, linear to MNI152",
    "licence": "MIT",
    "citation": PENG,
    "epsilon": 1e-5,
    "pooling": "average",
}
KINDS = {
    kind.name: kind
    for kind in (
        Kind("pyment-multi-2025", pooling="max", targets=SIX, answers="multi-2025", **FASTSURFER),
        Kind("pyment-reg-2025", pooling="average", targets=(AGE,), answers="reg-2025", **FASTSURFER),
        Kind("peng-age", targets=(_target("age", "continuous", (42, 1, 40)),), **UK_BIOBANK),
        Kind("peng-sex", targets=(_target("sex", "binary"),), **UK_BIOBANK),
    )
}
MAPPING = "mapping"  # the kind that a mapping file describes


def read_mapping(path: str | Path) -> Kind:
    """The kind that a user's mapping file describes (docs/weights.md); YAML or JSON.

    Raises
    ------
    InputError
        if the file is no such description; one line for its first mistake
    """
    document = read_document(path)
    for mistake in schema_mistakes(document, read_document(SCHEMA)):
        raise InputError(path, ".".join(map(str, mistake.path)), mistake.what, mistake.fix)
    engine = document.get("engine", ["unknown", "unknown"])
    targets = [
        {"weight": 1.0, "loss": "logistic" if target["kind"] == "binary" else "squared", "positive_weight": 1.0}
        | {"mean": 0.0, "sd": 1.0}
        | target
        for target in document["targets"]
    ]
    defaults: dict[str, Any] = {"mean_over": None, "voxel_size": 1.0, "crop_rule": "bounding_box", "axes": "LIA"}
    defaults |= {"scaling": "none", "grid": (256, 256, 256), "licence": "not stated", "citation": "not stated"}
    stated = {key: value for key, value in document.items() if key not in ("engine", "targets")}
    return Kind(
        name=MAPPING,
        targets=tuple(from_metadata(targets)),
        engine=engine[0],
        version=str(engine[1]),
        **{**defaults, **stated},
    )
