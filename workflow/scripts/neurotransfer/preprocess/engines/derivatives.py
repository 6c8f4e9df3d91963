"""The engine derivatives: outputs of FastSurfer or FreeSurfer that exist already, checked and linked, not copied.

A folder of one image goes in: FastSurfer's (``mri/aparc.DKTatlas+aseg.deep.mgz``, ``mri/mask.mgz``,
``stats/aseg+DKT.stats`` or ``aseg+DKT.VINN.stats``) or FreeSurfer's from 6.0 on (``mri/aparc.DKTatlas+aseg.mgz``,
``mri/brainmask.mgz``, ``stats/aseg.stats`` and ``{lh,rh}.aparc.DKTatlas.stats``), each with ``mri/orig.mgz``.
Links under FastSurfer's names come out.  Nothing is ever written to, or deleted from, the folder itself.

FreeSurfer's ``aseg.stats`` has no cortical regions, so one file of statistics is put together: the cortex is the
``GrayVol`` of the two hemispheres' DKT parcellation, and cerebral white matter is the measure in the header.  Both
come from surfaces, while FastSurfer counts voxels; the ledger's engine keeps the two apart.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ...errors import ImageError, InputError
from ...files import opened, read_bytes
from ..volumes import ATLASES, NAMES, read_stats
from . import EngineInput
from .outputs import MASK, ORIG, SEGMENTATION, STATISTICS, UNREADABLE, Outputs, check_outputs

# Under which names an output may stand, the first one that is there counting; by what it is linked as
FASTSURFER = {
    ORIG: (ORIG,),
    MASK: (MASK,),
    SEGMENTATION: (SEGMENTATION,),
    STATISTICS: (STATISTICS, "stats/aseg+DKT.VINN.stats"),
}
FREESURFER = {
    ORIG: (ORIG,),
    MASK: (MASK, "mri/brainmask.mgz"),  # a skull-stripped image: the brain is where it is not 0
    SEGMENTATION: ("mri/aparc.DKTatlas+aseg.mgz",),
    STATISTICS: ("stats/aseg.stats",),
}
HEMISPHERES = ("lh", "rh")
WHITE_MATTER = {2: "lhCerebralWhiteMatterVol", 41: "rhCerebralWhiteMatterVol"}
# Where the version stands: FastSurfer's logs ("Version: 2.3.3+5d7c0d8 (stable)", or such a line alone), then
# FreeSurfer's ("freesurfer-linux-ubuntu22_x86_64-7.4.1-20230614-7eb8460", "...-stable-pub-v6.0.0-2beb96c")
VERSIONS = (
    ("fastsurfer", "scripts/deep-seg.log", re.compile(r"^Version:\s*v?(\d+\.\d+(?:\.\d+)?)", re.MULTILINE)),
    ("fastsurfer", "scripts/build.log", re.compile(r"^v?(\d+\.\d+\.\d+)[^\s]*(?:\s+\(.*\))?\s*$", re.MULTILINE)),
    ("fastsurfer", "scripts/BUILD.info", re.compile(r"^v?(\d+\.\d+\.\d+)[^\s]*(?:\s+\(.*\))?\s*$", re.MULTILINE)),
    ("freesurfer", "scripts/build-stamp.txt", re.compile(r"-v?(\d+\.\d+(?:\.\d+)?)(?:-|\s|$)")),
)
UNKNOWN = "unknown"


class Derivatives:
    """The engine for one job; see `Engine`."""

    at_once = 1  # reading is all the work, and the cache reads the same files again

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def check(self) -> None:
        """Nothing outside of Python is needed."""

    def facts(self, scan: EngineInput) -> dict[str, Any]:
        """Where the outputs are and, as far as a glance tells, what they are."""
        found: dict[str, Any] = {"folder": str(scan.derivatives), "voxel_size": self._settings["voxel_size"]}
        if scan.derivatives is None or not scan.derivatives.is_dir():
            return found
        names = (name for layout in (FASTSURFER, FREESURFER) for names in layout.values() for name in names)
        for name in dict.fromkeys([*names, *_of_cortex().values()]):
            try:
                about = (scan.derivatives / name).stat()
            except OSError:
                continue
            found[name] = [about.st_size, about.st_mtime_ns]
        return found

    def made_by(self, scan: EngineInput) -> tuple[str, str]:
        """What made the outputs, as their logs say; "unknown" if they do not."""
        return made_by(scan.derivatives) if scan.derivatives else (UNKNOWN, UNKNOWN)

    def run(self, scan: EngineInput, folder: Path, *, alone: bool = False) -> None:
        """Check the outputs where they are, then link them into `folder`; see `Engine`."""
        if scan.derivatives is None:
            raise ImageError("derivatives_missing", "the table of cohorts has no pattern for this cohort")
        if not scan.derivatives.is_dir():
            raise ImageError("derivatives_missing", f"there is no folder {scan.derivatives}")
        files, is_freesurfer = find_outputs(scan.derivatives)
        check_type(files[ORIG])
        outputs = Outputs(files[ORIG], files[MASK], files[SEGMENTATION], files[STATISTICS])
        check_outputs(outputs, self._settings["voxel_size"])
        text = freesurfer_statistics(scan.derivatives) if is_freesurfer else None
        for name, path in files.items():
            link = folder / name
            link.parent.mkdir(exist_ok=True)
            if name == STATISTICS and text is not None:
                link.write_text(text, encoding="utf-8")
            else:
                # absolute, so that the results may be moved; not resolved, because a dataset may move its content
                link.symlink_to(os.path.abspath(path))

    def stop(self) -> None:
        """Nothing runs but this process."""

    def close(self) -> None:
        """Nothing is held."""


def find_outputs(folder: Path) -> tuple[dict[str, Path], bool]:
    """The files by their standard names, and whether they are FreeSurfer's.

    A folder that holds both (FastSurfer with its surfaces) is FastSurfer's.

    Raises
    ------
    ImageError
        ``output_missing``, naming the file and the names that it may have
    """
    is_freesurfer = not (folder / SEGMENTATION).is_file() and (folder / FREESURFER[SEGMENTATION][0]).is_file()
    files = {}
    for name, allowed in (FREESURFER if is_freesurfer else FASTSURFER).items():
        path = next((folder / other for other in allowed if (folder / other).is_file()), None)
        if path is None:
            gone = next((other for other in allowed if (folder / other).is_symlink()), None)
            wanted = " or ".join(allowed if name != SEGMENTATION else (SEGMENTATION, FREESURFER[SEGMENTATION][0]))
            what = f"{gone} is a link to nothing" if gone else f"there is no {wanted}"
            raise ImageError("output_missing", f"{what} in {folder}")
        files[name] = path
    return files, is_freesurfer


def check_type(orig: Path) -> None:
    """Refuse an ``orig.mgz`` that was not conformed to uint8: the cache would cut its intensities off.

    Raises
    ------
    ImageError
        ``wrong_grid`` or ``output_damaged``
    """
    try:
        image: Any = nibabel.load(orig)
        kind = image.get_data_dtype()
    except UNREADABLE as error:
        raise ImageError("output_damaged", f"{orig.name}: {error}") from None
    if kind != np.uint8:
        raise ImageError("wrong_grid", f"{orig.name} holds {kind.name}, not the uint8 of a conformed image")


def freesurfer_statistics(folder: Path) -> str:
    """The text of an ``aseg+DKT.stats`` from FreeSurfer's three files.

    Rows of ``aseg.stats`` as they are; cerebral white matter from its header; cortex from the hemispheres' DKT
    parcellation.  Volumes in mm³.

    Raises
    ------
    ImageError
        ``output_missing`` or ``output_damaged``; without its cortex an image's volumes would read as 0
    """
    for cortex in _of_cortex().values():
        if not (folder / cortex).is_file():
            raise ImageError("output_missing", f"there is no {cortex} in {folder}")
    path = folder / FREESURFER[STATISTICS][0]
    rows: dict[int, tuple[str, float]] = {}
    try:
        statistics = read_stats(path)
        rows |= {seg_id: (statistics.names[seg_id], volume) for seg_id, volume in statistics.volumes.items()}
        measures = _measures(path)
        rows |= {seg_id: (NAMES[seg_id], measures[measure]) for seg_id, measure in WHITE_MATTER.items()}
        for side, cortex in _of_cortex().items():
            path = folder / cortex
            volumes = _grey_volumes(path)
            prefix = f"ctx-{side}-"
            regions = [seg_id for seg_id, name in ATLASES["DKT"].items() if name.startswith(prefix)]
            rows |= {seg_id: (NAMES[seg_id], volumes[NAMES[seg_id].removeprefix(prefix)]) for seg_id in regions}
    except (InputError, LookupError, *UNREADABLE) as error:
        what = error.what if isinstance(error, InputError) else error
        raise ImageError("output_damaged", f"{path.name}: {what}") from None
    lines = [
        "# Title Segmentation Statistics",
        "# generating_program neurotransfer, from FreeSurfer's aseg.stats and ?h.aparc.DKTatlas.stats",
        "# SegVolFile mri/aparc.DKTatlas+aseg.mgz",
        f"# Measure Mask, MaskVol, Mask Volume, {statistics.mask_volume:.6f}, mm^3",
    ]
    if math.isfinite(statistics.etiv):
        name = "Estimated Total Intracranial Volume"
        lines.append(f"# Measure EstimatedTotalIntraCranialVol, eTIV, {name}, {statistics.etiv:.6f}, mm^3")
    lines.append("# ColHeaders Index SegId Volume_mm3 StructName")
    for index, (seg_id, (name, volume)) in enumerate(sorted(rows.items()), start=1):
        lines.append(f"{index:3d} {seg_id:5d} {volume:12.3f}  {name}")
    return "\n".join(lines) + "\n"


def _of_cortex() -> dict[str, str]:
    return {side: f"stats/{side}.aparc.DKTatlas.stats" for side in HEMISPHERES}


def _measures(path: Path) -> dict[str, float]:
    """The header's measures by their second name."""
    found = {}
    for line in read_bytes(path).decode("utf-8", errors="replace").splitlines():
        if line.startswith("# Measure "):
            fields = [field.strip() for field in line.split(",")]
            found[fields[1]] = _finite(fields[3])
    return found


def _grey_volumes(path: Path) -> dict[str, float]:
    """Grey matter volume (mm³) by region, from a hemisphere's table, read by its own column headers."""
    headers: list[str] = []
    found = {}
    for line in read_bytes(path).decode("utf-8", errors="replace").splitlines():
        if line.startswith("# ColHeaders"):
            headers = line.split()[2:]
        elif line.strip() and not line.startswith("#"):
            row = dict(zip(headers, line.split(), strict=False))
            found[row["StructName"]] = _finite(row["GrayVol"])
    return found


def _finite(text: str) -> float:
    """A volume; ValueError if the text is no finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def made_by(folder: Path) -> tuple[str, str]:
    """Engine and version that a folder's logs name: ("fastsurfer", "2.4.2"), ("freesurfer", "7.4.1"), or "unknown"."""
    for engine, name, pattern in VERSIONS:
        try:
            with opened(folder / name) as file:
                found = pattern.findall(file.read(1_000_000).decode("utf-8", errors="replace"))
        except (OSError, InputError):
            continue
        if found:
            return engine, found[-1]  # a log that was appended to: the last run made the files
    if (folder / SEGMENTATION).is_file():
        return "fastsurfer", UNKNOWN
    return ("freesurfer" if (folder / FREESURFER[SEGMENTATION][0]).is_file() else UNKNOWN), UNKNOWN
