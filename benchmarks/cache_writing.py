"""Time and memory to write shards, compared with nibabel's decoding of the same two files.

    python benchmarks/cache_writing.py

Makes conformed images of 256³ voxels from the MNI152 template (a head surrounded by noise, which compresses like a
real one) and writes shards of them like the rule `cache`, on one core.  It compares the images/s of nibabel decoding
`orig.mgz` and `mask.mgz` with the images/s of writing a whole shard with its checksums, figures, volumes and slices.
Both take turns, because other work on the machine then slows both equally.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow/scripts"))

from neurotransfer.cache import write
from neurotransfer.preprocess import volumes
from neurotransfer.preprocess.engines.builtin import template

CROP = (224, 192, 224)  # the paper's
TO_LIA = nibabel.orientations.axcodes2ornt(("L", "I", "A"))


def make_subject(folder: Path, seed: int) -> None:
    """One image like FastSurfer's output: 256³ voxels of 1 mm in LIA order, mask and statistics of 95 structures."""
    t1, grey, white, affine = template()
    generator = np.random.default_rng(seed)
    brain = t1 > 0
    skull = ndimage.binary_dilation(brain, iterations=16) & ~ndimage.binary_dilation(brain, iterations=7)
    noise = generator.normal(8, 3, t1.shape)
    head = np.where(brain | skull, t1 * 0.8 + 150 * skull + 2 * noise, np.abs(noise)).clip(0, 255)
    half = [(256 - size) / 2 for size in t1.shape]
    widths = [(int(np.floor(at)), int(np.ceil(at))) for at in half]
    images = {
        "orig": np.pad(head, widths).astype(np.uint8),
        "mask": np.pad(brain, widths).astype(np.uint8),
    }
    tissue = np.where(white > grey, 2, 1002) * brain
    (folder / "mri").mkdir(parents=True)
    (folder / "stats").mkdir()
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), TO_LIA)
    lia = np.array([[-1.0, 0, 0, 128], [0, 0, 1, -128], [0, -1, 0, 128], [0, 0, 0, 1]])
    for name, values in images.items():
        turned = nibabel.orientations.apply_orientation(values, change)
        nibabel.save(nibabel.MGHImage(np.ascontiguousarray(turned), lia), folder / f"mri/{name}.mgz")
    text = volumes.stats_text(tissue, head, brain, volumes.ATLASES["DKT"], 1.0)
    (folder / "stats/aseg+DKT.stats").write_text(text)


def decode(folders: list[Path]) -> None:
    """The reference: nibabel reading the two files of each image."""
    for folder in folders:
        for name in ("orig.mgz", "mask.mgz"):
            np.asarray(nibabel.load(folder / "mri" / name).dataobj)


def write_all(folders: list[Path], to: Path) -> None:
    """The work of the rule `cache` for a shard of these images."""
    images = pd.DataFrame({"image_id": [f"i{at}" for at in range(len(folders))], "status": "ok", "reason": None})
    images = images.assign(engine="fastsurfer", engine_version="2.4.2")
    beside = [to / f"x-0001.{name}" for name in ("volumes.tsv", "slices.npy", "small.npy")]
    rows, statistics_ = write.write_shard(to / "x-0001.npy", folders, images, CROP, 1.0)
    volumes.write_volumes(statistics_, beside[0])
    write.write_cache_table(rows, to / "x-0001.tsv", CROP, beside)


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Processor time and wall-clock time; other work on the machine hardly affects the first."""
    starts = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - starts[0], time.perf_counter() - starts[1]


def peak_memory(folder: Path, images: int) -> float:
    """Peak resident memory, in MB, of a process that writes one shard of so many images."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import cache_writing as b; from pathlib import Path\n"
        "folders = sorted(Path(sys.argv[2]).glob('subject*')); b.write_all(\n"
        "    [folders[at % len(folders)] for at in range(int(sys.argv[3]))], Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    line = [sys.executable, "-c", code, str(Path(__file__).resolve().parent), str(folder), str(images)]
    return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="of one shard; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each; the median counts; default: %(default)s")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cache-writing-"))
    try:
        folders = [folder / f"subject{at}" for at in range(3)]
        for at, subject in enumerate(folders):
            make_subject(subject, at)
        used = [folders[at % len(folders)] for at in range(chosen.images)]
        megabytes = [
            np.mean([(subject / "mri" / name).stat().st_size for subject in folders]) / 1e6
            for name in ("orig.mgz", "mask.mgz")
        ]
        print(f"orig.mgz {megabytes[0]:.1f} MB, mask.mgz {megabytes[1]:.2f} MB on average; crop {CROP}")
        decode(folders), write_all(folders, folder)  # a warm-up, so neither includes imports and cold files
        turns = [
            (seconds(lambda: decode(used)), seconds(lambda: write_all(used, folder))) for _ in range(chosen.repeats)
        ]
        shares = []
        for clock, kind in enumerate(("processor time", "wall-clock time")):
            print(f"{kind}:")
            for at, name in enumerate(("nibabel decodes the two files", "the shard with all beside it")):
                middle = statistics.median(turn[at][clock] for turn in turns) / chosen.images
                print(f"  {name:32s} {1 / middle:6.2f} images/s ({1000 * middle:.0f} ms each)")
            ratios = sorted(decoding[clock] / writing[clock] for decoding, writing in turns)
            shares.append(statistics.median(ratios))
            spread = f"{ratios[0]:.0%} to {ratios[-1]:.0%}"
            print(f"  written at {shares[-1]:.0%} of the speed of decoding ({spread}); target: 80 %")
        few, many = (peak_memory(folder, count) for count in (4, 32))
        print(f"peak memory {few:.0f} MB for 4 images, {many:.0f} MB for 32")
        sys.exit(0 if shares[0] >= 0.8 else 1)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
