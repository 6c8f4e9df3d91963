"""The search for duplicates: its sensitivity, time and memory.

    python benchmarks/duplicates.py scale             # all pairs of the paper's 114,257 images, simulated shapes
    python benchmarks/duplicates.py heads --people 200  # simulated people through the builtin engine, scanned twice

`scale` plants copies among random shapes whose variances decay like those of simulated heads.  `heads` renders every
person on the scanner of the cohort and, in another pose, on another scanner, and copies the first scan with another
intensity scale and voxel order; every image is processed by the engine.
"""

import argparse
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow/scripts"))
from neurotransfer.cache import write
from neurotransfer.cache.image_figures import bounding_box
from neurotransfer.preprocess.engines import builtin
from neurotransfer.seeds import seed_from
from neurotransfer.simulation import study
from neurotransfer.simulation.anatomy import image_at
from neurotransfer.split import duplicates

SETTINGS = {"same_head": 4.0, "chance_pairs": 1, "same_scan": 0.99, "same_pose": 0.3}  # as in config/config.yaml
ENGINE = {"voxel_size": 4.5, "grid": [64, 64, 64], "threads": 1}
CROP = (32, 40, 32)


def scale(count: int) -> None:
    """Time and memory to compare all pairs of so many shapes."""
    numbers = duplicates.NUMBERS - duplicates.POSE
    generator = np.random.default_rng(1)
    spread = np.exp(-np.arange(numbers) / 25).astype(np.float32) + 0.01
    shapes = generator.normal(size=(count, numbers)).astype(np.float32) * spread
    shapes = shapes @ np.linalg.qr(generator.normal(size=(numbers, numbers)))[0].astype(np.float32)
    for copy in range(50):
        shapes[-1 - copy] = shapes[copy] + generator.normal(size=numbers).astype(np.float32) * 0.003
    people = np.arange(count)
    started, worked = time.perf_counter(), time.process_time()
    units = duplicates.directions(shapes)
    middle, sd = duplicates.spread_of_strangers(units, people)
    whitened = time.perf_counter()
    least = middle + max(SETTINGS["same_head"], duplicates.least_by_chance(count, SETTINGS["chance_pairs"])) * sd
    pairs = duplicates.alike(units, people, least)
    ended = time.perf_counter()
    found = int((pairs["first"] + pairs["second"] == count - 1).sum())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{count:,} images, {count * (count - 1) // 2:,} pairs: whitening {whitened - started:.1f} s, ", end="")
    print(f"products {ended - whitened:.1f} s, {time.process_time() - worked:.0f} CPU s in all, peak {memory:.2f} GiB")
    print(f"50 copies planted, {found} found; {pairs.attrs['found'] - found} other pairs")


def heads(people: int, processes: int) -> None:
    """The numbers of planted repeats and copies that are found, and of false alarms."""
    designs = list(study.COHORTS)
    images = [image for design in designs for image in study._people(design, 7) if image["session"] in ("", "01")]
    chosen = np.random.default_rng(1).permutation(len(images))[:people]
    started = time.perf_counter()
    with ProcessPoolExecutor(processes) as pool:
        volumes = list(pool.map(_three_scans, [images[number] for number in chosen], chunksize=2))
    volumes = [volume for three in volumes for volume in three]
    rendered = time.perf_counter()
    rows = duplicates.heads_of(volumes, ENGINE["voxel_size"], processes)
    seconds = (time.perf_counter() - rendered) * processes / len(volumes)
    print(f"{people} people, 3 images each ({rendered - started:.0f} s); shape of a head: {seconds:.3f} s on one core")
    for name, second in (("repeats on another scanner", 1), ("copies of the scan", 2)):
        numbers = [3 * person + scan for scan in (0, second) for person in range(people)]
        table = pd.DataFrame({"image_id": [f"i{number}" for number in numbers], "cohort": "x", "checksum": "c"})
        table["participant_id"] = table["image_id"]
        mine = [volumes[number] for number in numbers]
        pairs, summary = duplicates.find_pairs(rows[numbers], table, mine, ENGINE["voxel_size"], SETTINGS)
        ends = pairs[["image_1", "image_2"]].apply(lambda column: column.str[1:].astype(int) // 3)
        same = ends["image_1"] == ends["image_2"]
        print(f"{name}: {same.sum()} of {people} found ({pairs['kind'][same].value_counts().to_dict()}); ", end="")
        print(f"{(~same).sum()} of {summary['pairs_compared'] - people:,} pairs of different people called alike")


def _three_scans(image: dict) -> list[np.ndarray]:
    """The cached images of a person: a scan, a scan on another scanner, a copy of the first."""
    designs = list(study.COHORTS)
    own = study.design_of(image["cohort"], designs)
    other = designs[seed_from("scanner", image["cohort"], image["label"]) % len(designs)]
    first, affine = _scan(image, own, 1)
    flipped = affine @ np.array([[-1, 0, 0, len(first) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    copy = np.round(first * (3000 / first.max()) + 13).astype(np.int16)[::-1]
    return [_cached(*scan) for scan in ((first, affine), _scan(image, other, 2), (copy, flipped))]


def _scan(image: dict, design: study.CohortDesign, visit: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed_from("visit", image["cohort"], image["label"], design.name, visit))
    affine, shape = study._box(design, ENGINE["voxel_size"], generator)
    grid = np.stack(np.meshgrid(*(np.arange(size, dtype=float) for size in shape), indexing="ij"), -1)
    points = grid @ affine[:3, :3].T + affine[:3, 3]
    points = (points - generator.normal(0, 4, 3)) @ study._rotation(generator.normal(0, 3, 3))
    latents = {name.removeprefix("latent_"): value for name, value in image.items() if name.startswith("latent_")}
    values, _ = image_at(points, latents, seed_from(7, "shape", image["cohort"], image["label"]), ENGINE["voxel_size"])
    values = design.gain * (values * study._bias(points, design.bias, generator) + 4)
    noise = generator.normal(0, design.noise * design.gain, (2, *shape))
    return np.round(np.hypot(values + noise[0], noise[1])).astype(np.int16), affine


def _cached(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        t1w, subject = Path(folder, "t1.nii.gz"), Path(folder, "subject")
        nibabel.save(nibabel.Nifti1Image(values, affine), t1w)
        subject.mkdir()
        builtin.run(t1w, subject, ENGINE)
        orig, mask, _ = write.read_subject(subject)
    source, target = write.crop_slices(bounding_box(mask), mask.shape, CROP)
    cropped = np.zeros(CROP, np.uint8)
    cropped[target] = np.where(mask[source], orig[source], 0)
    return cropped


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["scale", "heads"])
    parser.add_argument("--images", type=int, default=114_257)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    scale(chosen.images) if chosen.what == "scale" else heads(chosen.people, chosen.processes)
