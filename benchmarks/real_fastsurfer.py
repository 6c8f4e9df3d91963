"""FastSurfer's own script, 2.4, through the native engine, with checkpoints from random weights on the CPU.

    python benchmarks/real_fastsurfer.py FASTSURFER PYTHON HEAD.nii.gz [--folder FOLDER] [--steps alone,without]

FASTSURFER is a folder with FastSurfer's repository (github.com/Deep-MI/FastSurfer), PYTHON one that has its packages.
A copy of FastSurfer gets networks with few filters and checkpoints of its own (fastsurfer_checkpoints.py), so that a
CPU finishes in minutes.  All else is FastSurfer's: script, conform, masks, N4, statistics.  Labels of a random network
mean nothing, so the brain is cut out by the builtin engine first.  The steps:

    alone      one image, on one core
    shared     two copies of it at once, on two cores
    without    one without volumes (--no_biasfield)
    later      the same one's volumes from its kept segmentation (--no_asegdkt), without the network

Each prints the image's status and the seconds by part, as the engine's parser reads them from the log.  At the end the
files of all images are compared.  FastSurfer 2.4 refuses root, even with
--allow_root: root puts `unshare --user --map-user=1000 --map-group=1000` before the command.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "workflow/scripts")]

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from neurotransfer.files import read_json  # noqa: E402
from neurotransfer.preprocess.engines import builtin  # noqa: E402
from neurotransfer.preprocess.run import preprocess_images  # noqa: E402
from neurotransfer.preprocess.volumes import read_stats  # noqa: E402
from neurotransfer.study import demands  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from nibabel.processing import resample_from_to  # noqa: E402

PARTS_OF_FASTSURFER = ("CerebNet", "FastSurferCNN", "HypVINN", "recon_surf", "run_fastsurfer.sh", "pyproject.toml")
STEPS = {"alone": ["a"], "shared": ["b", "c"], "without": ["d"], "later": ["d"]}  # and their images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fastsurfer", type=Path)
    parser.add_argument("python", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument("--filters", type=int, default=4, metavar="N", help="of the networks; default: %(default)s")
    parser.add_argument(
        "--iterations", type=int, default=50, metavar="N", help="of N4 on a level; default: %(default)s"
    )
    parser.add_argument("--folder", type=Path, help="keeps everything; default: a temporary one, removed at the end")
    parser.add_argument("--steps", default=",".join(STEPS), help="default: %(default)s")
    chosen = parser.parse_args()
    steps = chosen.steps.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / "FastSurfer"
        image = folder / "brain.nii.gz"
        if not image.exists():
            cut_out_brain(chosen.head, image)
        if not (copy / "checkpoints").exists():
            prepare(chosen, copy, image)
        for step in steps:
            settings = settings_of(copy, chosen.python, len(STEPS[step]), step != "without")
            run_job(image, STEPS[step], settings, folder / "subjects", step)
        compare(sorted(path.parent for path in (folder / "subjects/x-0001").glob("*/status.json")))


def cut_out_brain(head: Path, target: Path) -> None:
    """Write the head's voxels in the builtin engine's mask, on the head's own grid."""
    with tempfile.TemporaryDirectory() as name:
        builtin.run(head, Path(name), {"voxel_size": 2.0, "grid": [128, 128, 128], "threads": 1})
        mask = nibabel.load(Path(name, "mri/mask.mgz"))
        inside = nibabel.Nifti1Image(np.asarray(mask.dataobj).astype(np.uint8), mask.affine)
    image = nibabel.load(head)
    inside = np.asarray(resample_from_to(inside, image, order=0).dataobj) > 0
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * inside, image.affine), target)


def prepare(chosen: argparse.Namespace, copy: Path, image: Path) -> None:
    """Copy FastSurfer, with fewer filters in its networks and iterations of N4, and make checkpoints."""
    for name in PARTS_OF_FASTSURFER:
        source = chosen.fastsurfer / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    for path in (copy / "FastSurferCNN/config").glob("FastSurferVINN_*.yaml"):
        path.write_text(re.sub(r"(NUM_FILTERS(?:_INTERPOL)?): \d+", rf"\1: {chosen.filters}", path.read_text()))
    script = copy / "recon_surf/N4_bias_correct.py"
    script.write_text(re.sub(r"(dest=\"numiter\",[^)]*default=)\d+", rf"\g<1>{chosen.iterations}", script.read_text()))
    line = [str(chosen.python), "-s", str(REPOSITORY / "benchmarks/fastsurfer_checkpoints.py"), str(image)]
    subprocess.run(line, check=True, env=os.environ | {"PYTHONPATH": str(copy)}, stdout=subprocess.DEVNULL)


def settings_of(copy: Path, python: Path, images: int, volumes: bool) -> dict:
    """The default settings of preprocessing, with this FastSurfer and a core for each image of a job."""
    settings = load_config(REPOSITORY)["preprocessing"]
    version = re.search(r"version = '(\d+\.\d+\.\d+)", (copy / "pyproject.toml").read_text())[1]
    own = settings["fastsurfer"] | {"runs_in": "native", "version": version, "python": str(python)}
    own["script"] = str(copy / "run_fastsurfer.sh")
    shared = {"threads": images, "images_at_once": images, "gpus": 0, "keep": "all"}
    return settings | shared | {"fastsurfer": own, "volumes": volumes}


def run_job(image: Path, names: list[str], settings: dict, subjects: Path, step: str) -> None:
    """Process copies of the image in one job, and print what became of them."""
    table = pd.DataFrame({"image_id": names, "shard": "x-0001", "t1w": str(image)})
    before = os.times()
    ledger = preprocess_images(table, settings, subjects)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{step}: {after.elapsed - before.elapsed:.0f} s, {used:.0f} s of CPU, load {os.getloadavg()[0]:.1f}")
    for row in ledger.itertuples():
        folder = subjects / "x-0001" / row.image_id
        found = read_json(folder / "status.json").get("parts") or {}
        parts = {part: found[part] for part in demands.PARTS if part in found}
        print(f"  {row.image_id}: {row.status} {row.reason or ''} {row.detail or ''}")
        print("    " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items()))
        path = folder / "stats/aseg+DKT.stats"
        if path.exists():
            statistics = read_stats(path)
            print(f"    {len(statistics.volumes)} regions, mask {statistics.mask_volume / 1e6:.3f} l", flush=True)


def compare(folders: list[Path]) -> None:
    """Print which files of the images are the same bytes as the first one's."""
    first, *others = folders
    for path in sorted(path for path in first.rglob("*") if path.is_file() and path.suffix in (".mgz", ".stats")):
        name = path.relative_to(first)
        words = [f"{other.name}: {likeness(path, other / name)}" for other in others]
        print(f"{name}  {hashlib.sha256(content(path)).hexdigest()[:12]}  {', '.join(words)}")


def likeness(one: Path, other: Path) -> str:
    """How two files compare."""
    if not other.exists():
        return "not there"
    if one.read_bytes() == other.read_bytes():
        return "same bytes"
    return "same content" if content(one) == content(other) else "OTHER CONTENT"


def content(path: Path) -> bytes:
    """A file without what names the run: compression's header, and the comments of a table with times and paths."""
    if path.suffix == ".mgz":
        return gzip.decompress(path.read_bytes())
    return b"\n".join(
        line for line in path.read_bytes().splitlines() if re.match(rb"# (Measure|ColHeaders)|[^#]", line)
    )


if __name__ == "__main__":
    main()
