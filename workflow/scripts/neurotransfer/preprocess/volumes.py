"""FreeSurfer statistics files: written by the builtin engine, read from every engine, into one table of volumes.

A ``.stats`` file of FastSurfer, FreeSurfer or the builtin engine goes in; volumes in mm³ by SegId come out, under
FastSurfer's names.  What a file does not list is 0 if its atlas has the structure, because then it was looked
for and not found, and missing (NaN) if it has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError
from ..files import read_bytes, read_facts, read_table, write_table
from .status import read_status

MASK_VOLUME, MASK_NAME = -1, "MaskVol"
ETIV, ETIV_NAME = -2, "eTIV"  # estimated total intracranial volume
MOST_MM3 = 1e7  # of a structure: no head is larger
AGAIN = "process the image again"
# What the mask's volume is called: FastSurfer and FreeSurfer 5 to 8, and FreeSurfer 4
MASK_MEASURES = ("MaskVol", "BrainMaskVol")
ETIV_MEASURES = ("eTIV", "ICV")  # FreeSurfer, and FastSurfer with --tal_reg; older FreeSurfer
STATS_FILES = ("aseg+DKT.stats", "aseg+DKT.VINN.stats", "aseg.stats")  # newer FastSurfer links the first to the second

_SIDES = {
    "Left-": (4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28, 31),
    "Right-": (43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 63),
}
_PAIRED = (
    *("Lateral-Ventricle", "Inf-Lat-Vent", "Cerebellum-White-Matter", "Cerebellum-Cortex", "Thalamus", "Caudate"),
    *("Putamen", "Pallidum", "Hippocampus", "Amygdala", "Accumbens-area", "VentralDC", "choroid-plexus"),
)
_CORTEX = {
    2: "caudalanteriorcingulate", 3: "caudalmiddlefrontal", 5: "cuneus", 6: "entorhinal", 7: "fusiform",
    8: "inferiorparietal", 9: "inferiortemporal", 10: "isthmuscingulate", 11: "lateraloccipital",
    12: "lateralorbitofrontal", 13: "lingual", 14: "medialorbitofrontal", 15: "middletemporal", 16: "parahippocampal",
    17: "paracentral", 18: "parsopercularis", 19: "parsorbitalis", 20: "parstriangularis", 21: "pericalcarine",
    22: "postcentral", 23: "posteriorcingulate", 24: "precentral", 25: "precuneus", 26: "rostralanteriorcingulate",
    27: "rostralmiddlefrontal", 28: "superiorfrontal", 29: "superiorparietal", 30: "superiortemporal",
    31: "supramarginal", 34: "transversetemporal", 35: "insula",
}  # fmt: skip
CORPUS_CALLOSUM = {
    251: "CC_Posterior", 252: "CC_Mid_Posterior", 253: "CC_Central", 254: "CC_Mid_Anterior", 255: "CC_Anterior",
}  # fmt: skip
_SUBCORTICAL = {14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem", 24: "CSF", 77: "WM-hypointensities"} | {
    seg_id: side + name for side, ids in _SIDES.items() for seg_id, name in zip(ids, _PAIRED, strict=True)
}
# The structures of each atlas.  DKT: the classes of FastSurfer's network (run_fastsurfer.sh, --ids, without the
# corpus callosum, which a later step of it segments).  aseg: the rows of FreeSurfer's aseg.stats
# (ASegStatsLUT.txt), which measures the cerebral cortex and white matter by surfaces, as header lines.
ATLASES: dict[str, dict[int, str]] = {
    "DKT": _SUBCORTICAL
    | {2: "Left-Cerebral-White-Matter", 41: "Right-Cerebral-White-Matter"}
    | {base + at: f"ctx-{side}-{name}" for base, side in ((1000, "lh"), (2000, "rh")) for at, name in _CORTEX.items()},
    "aseg": _SUBCORTICAL
    | CORPUS_CALLOSUM
    | {30: "Left-vessel", 62: "Right-vessel", 72: "5th-Ventricle", 78: "Left-WM-hypointensities"}
    | {79: "Right-WM-hypointensities", 80: "non-WM-hypointensities", 81: "Left-non-WM-hypointensities"}
    | {82: "Right-non-WM-hypointensities", 85: "Optic-Chiasm"},
}
NAMES = ATLASES["DKT"] | ATLASES["aseg"]


@dataclass(frozen=True)
class Statistics:
    """One image's statistics by SegId.

    `volumes` (mm³) and `names` of the structures that its file lists, or that its atlas has; one that the file
    lists and that could not have been found is missing (NaN).  `mask_volume` (mm³) is NaN if the file has
    none.  `voxels` (counts) and `means` (intensities) as far as the file has them.  `etiv` (mm³) is the estimated
    total intracranial volume; NaN if the file has none.
    """

    volumes: Mapping[int, float]
    names: Mapping[int, str]
    mask_volume: float
    voxels: Mapping[int, float] = field(default_factory=dict)
    means: Mapping[int, float] = field(default_factory=dict)
    etiv: float = np.nan


def stats_file(folder: str | Path) -> Path:
    """The statistics file among an image's preprocessed files.

    Raises
    ------
    InputError
        if there is none, or only a link to nothing
    """
    for name in STATS_FILES:
        if (path := Path(folder, "stats", name)).is_file():
            return path
    raise InputError(Path(folder, "stats"), "", f"none of {', '.join(STATS_FILES)} is there", AGAIN)


def statistics_of(folder: str | Path) -> Statistics:
    """The statistics among an image's preprocessed files; empty ones if its ``status.json`` says that it needs none.

    Raises
    ------
    InputError
        if the file is missing without that, or can't be read
    """
    try:
        path = stats_file(folder)
    except InputError:
        if (read_status(Path(folder)) or {}).get("volumes", True):
            raise
        return Statistics({}, {}, np.nan)
    return read_stats(path)


def read_stats(path: str | Path) -> Statistics:
    """Read a ``.stats`` file by its own column headers, in whatever order they stand.

    Raises
    ------
    InputError
        if it has no headers, no structures, or a row that does not fit
    """
    headers: list[str] = []
    segmentation = ""
    measures: dict[str, str] = {}
    volumes: dict[int, float] = {}
    names: dict[int, str] = {}
    voxels: dict[int, float] = {}
    means: dict[int, float] = {}
    for line in read_bytes(path).decode("utf-8", errors="replace").splitlines():
        if line.startswith("# ColHeaders"):
            headers = line.split()[2:]
        elif line.startswith("# SegVolFile "):
            segmentation = Path(line.split(maxsplit=2)[2]).name
        elif line.startswith("# Measure"):
            measures |= _measure(line)
        elif line.strip() and not line.startswith("#"):
            row = dict(zip(headers, line.split(), strict=False))
            if not {"SegId", "Volume_mm3", "StructName"} <= set(row):
                raise InputError(path, line.strip()[:40], "not a row of statistics", AGAIN)
            seg_id = int(_number(path, line, row["SegId"]))
            volumes[seg_id] = _number(path, line, row["Volume_mm3"])
            if not 0 <= volumes[seg_id] <= MOST_MM3:
                raise InputError(path, line.strip()[:40], f"{row['Volume_mm3']} mm³ is no volume of a structure", AGAIN)
            names[seg_id] = NAMES.get(seg_id, row["StructName"])
            for column, found in (("NVoxels", voxels), (_mean_column(headers), means)):
                if column in row:
                    found[seg_id] = _number(path, line, row[column])
    if not volumes:
        raise InputError(path, "", "no structure in it", AGAIN)
    mask, etiv = _first(measures, MASK_MEASURES), _first(measures, ETIV_MEASURES)
    mask_volume = np.nan if mask is None else _number(path, "MaskVol", mask)
    atlas = atlas_of(Path(path).name, segmentation, volumes)
    if atlas == "DKT" and not any(volumes.get(seg_id) for seg_id in CORPUS_CALLOSUM):
        # FastSurfer lists it always; five zeros say that the step that segments it did not run
        volumes |= {seg_id: np.nan for seg_id in CORPUS_CALLOSUM if seg_id in volumes}
    absent = {seg_id: name for seg_id, name in ATLASES.get(atlas or "", {}).items() if seg_id not in volumes}
    volumes |= dict.fromkeys(absent, 0.0)
    # an image is usable without an eTIV, so one that is no number is none
    return Statistics(volumes, names | absent, mask_volume, voxels, means, _finite(etiv or ""))


def _measure(line: str) -> dict[str, str]:
    """The value of a header's line, "# Measure <key>, <name>, <description>, <value>, <unit>", by its name."""
    fields = [part.strip() for part in line.split(",")]
    return {fields[1]: fields[3]} if len(fields) >= 4 else {}


def _first(measures: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((measures[name] for name in names if name in measures), None)


def _finite(text: str) -> float:
    """A number; NaN if the text is none, or not a finite one."""
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def _number(path: str | Path, line: str, text: str) -> float:
    value = _finite(text)
    if np.isnan(value):
        raise InputError(path, line.strip()[:40], f"{text!r} is not a number", AGAIN)
    return value


def _mean_column(headers: Sequence[str]) -> str:
    """The column of mean intensities, which is named after the image that they were taken from: normMean, Mean."""
    return next((name for name in headers if name.endswith("Mean")), "normMean")


def atlas_of(name: str, segmentation: str, seg_ids: Mapping[int, float]) -> str | None:
    """Which atlas a statistics file belongs to: "DKT", "aseg", or None for one that lists all it has.

    Parameters
    ----------
    name : of the file
    segmentation : the name of the segmentation that its header says it was made from; may be empty
    seg_ids : the structures that it lists
    """
    if any(seg_id >= 12000 for seg_id in seg_ids):
        return None  # the builtin engine's regions; it writes a row for each of them
    if segmentation:
        return "DKT" if "DKT" in segmentation else "aseg" if segmentation.startswith("aseg") else None
    if any(1000 <= seg_id < 3000 for seg_id in seg_ids):
        return "DKT"
    return "aseg" if name.startswith("aseg.") else None


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


def write_volumes(images: Mapping[str, Statistics], path: str | Path) -> None:
    """Write a shard's volumes: `image_id`, then a column per SegId in mm³; the names stand in the first line."""
    matrix, ids, names = as_matrix(list(images.values()))
    # float32 as text: as many digits as distinguish it from its neighbours
    table = pd.DataFrame(matrix, columns=[str(seg_id) for seg_id in ids])
    table.insert(0, "image_id", list(images))
    write_table(table, path, {"names": dict(zip(map(str, ids), names, strict=True)), "unit": "mm3"})


def read_volumes(paths: Sequence[str | Path]) -> tuple[pd.DataFrame, dict[int, str]]:
    """Volumes of shards, from `write_volumes`.

    Returns
    -------
    table : float32 mm³, a row per `image_id`, a column per SegId: the mask's first, then the eTIV's if a shard has
        one, then in order; what a shard's files neither list nor have in their atlas is missing there
    names : by SegId
    """
    names: dict[int, str] = {MASK_VOLUME: MASK_NAME}
    tables = []
    for path in paths:
        names |= {int(seg_id): name for seg_id, name in read_facts(path)["names"].items()}
        table = read_table(path).set_index("image_id")
        tables.append(table.rename(columns=int).astype(np.float32))
    ids = sorted(names, key=lambda seg_id: (seg_id >= 0, abs(seg_id)))
    table = pd.concat(tables) if tables else pd.DataFrame()
    return table.reindex(columns=ids).astype(np.float32), {seg_id: names[seg_id] for seg_id in ids}


def as_matrix(images: Sequence[Statistics]) -> tuple[np.ndarray, list[int], list[str]]:
    """Volumes of many images: float32 [images, structures] in mm³, the mask's first, then the eTIV's, then by SegId.

    There is a column of eTIV only if an image has one.  A structure that is neither in an image's file nor in its
    atlas is missing (NaN) there.
    """
    names = {MASK_VOLUME: MASK_NAME}
    if any(np.isfinite(image.etiv) for image in images):
        names[ETIV] = ETIV_NAME
    structures = {seg_id: name for image in images for seg_id, name in image.names.items()}
    names |= {seg_id: structures[seg_id] for seg_id in sorted(structures)}
    found = [{MASK_VOLUME: image.mask_volume, ETIV: image.etiv, **image.volumes} for image in images]
    rows = [[volumes.get(seg_id, np.nan) for seg_id in names] for volumes in found]
    matrix = np.array(rows, dtype=np.float32).reshape(len(rows), len(names))
    return matrix, list(names), list(names.values())


def volumes_of(index: pd.DataFrame, volumes: pd.DataFrame) -> np.ndarray:
    """The volumes of an index's images, in its order: float32 [images, structures] in mm³.

    A mask volume that the statistics lack is the one that was counted in the mask (`mask_volume_mm3`).
    """
    matrix = volumes.reindex(index["image_id"]).to_numpy(np.float32, copy=True)
    counted = index["mask_volume_mm3"].to_numpy(np.float32)
    matrix[:, 0] = np.where(np.isnan(matrix[:, 0]), counted, matrix[:, 0])
    return matrix
