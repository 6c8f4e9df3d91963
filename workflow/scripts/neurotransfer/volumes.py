"""FreeSurfer statistics files: written by the builtin engine, read from every engine, into one matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError

MASK_VOLUME, MASK_NAME = -1, "MaskVol"


@dataclass(frozen=True)
class Statistics:
    """One image's volumes in mm³ by SegId, the structures' names, and the mask's volume."""

    volumes: Mapping[int, float]
    names: Mapping[int, str]
    mask_volume: float


def read_stats(path: str | Path) -> Statistics:
    """Read a ``.stats`` file by its own column headers.

    Raises
    ------
    InputError
        where it has no headers, no mask volume, or a row that does not fit
    """
    headers: list[str] = []
    mask_volume = None
    volumes, names = {}, {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("# ColHeaders"):
            headers = line.split()[2:]
        elif line.startswith("# Measure"):
            fields = [field.strip() for field in line.removeprefix("# Measure").split(",")]
            if fields[0] == "Mask":
                mask_volume = float(fields[3])
        elif line.strip() and not line.startswith("#"):
            row = dict(zip(headers, line.split(), strict=False))
            try:
                volumes[int(row["SegId"])] = float(row["Volume_mm3"])
                names[int(row["SegId"])] = row["StructName"]
            except (KeyError, ValueError):
                raise InputError(
                    path, line.strip()[:40], "not a row of statistics", "process the image again"
                ) from None
    if mask_volume is None or not volumes:
        raise InputError(path, "", "no mask volume or no structure in it", "process the image again")
    return Statistics(volumes, names, mask_volume)


def stats_text(segmentation: np.ndarray, image: np.ndarray, mask: np.ndarray, names: Mapping[int, str], mm3: float):
    """The text of FastSurfer's ``aseg+DKT.stats`` for a segmentation.

    Parameters
    ----------
    segmentation : int [D, H, W] of SegIds
    image : intensities, for the columns norm…
    names : every structure of the atlas; one that is absent here has volume 0
    mm3 : volume of a voxel
    """
    lines = [
        "# Title Segmentation Statistics",
        f"# Measure Mask, MaskVol, Mask Volume, {mask.sum() * mm3:.6f}, mm^3",
        "# ColHeaders Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange",
    ]
    for index, (seg_id, name) in enumerate(sorted(names.items()), start=1):
        inside = image[segmentation == seg_id].astype(float)
        low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)
        mean, sd = (inside.mean(), inside.std()) if len(inside) else (0.0, 0.0)
        figures = f"{mean:.4f} {sd:.4f} {low:.4f} {high:.4f} {high - low:.4f}"
        lines.append(f"{index:3d} {seg_id:5d} {len(inside):8d} {len(inside) * mm3:12.3f}  {name:32s} {figures}")
    return "\n".join(lines) + "\n"


def as_matrix(images: Sequence[Statistics]) -> tuple[np.ndarray, list[int], list[str]]:
    """Volumes of many images: float32 [images, structures] in mm³, the mask's first, then by SegId.

    A structure that an image's file does not list is 0 there: it was looked for and not found.
    """
    names = {seg_id: name for image in images for seg_id, name in image.names.items()}
    ids = sorted(names)
    rows = [[image.mask_volume, *(image.volumes.get(seg_id, 0.0) for seg_id in ids)] for image in images]
    matrix = np.array(rows, dtype=np.float32).reshape(len(rows), 1 + len(ids))
    return matrix, [MASK_VOLUME, *ids], [MASK_NAME, *(names[seg_id] for seg_id in ids)]
