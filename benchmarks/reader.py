"""Reading images from the cache into batches, compared with a copy, MONAI, NIfTI and the disk; cost of compression.

    make bench-reader
    python benchmarks/reader.py --brains FOLDER --monai FOLDER

`--brains` is a folder of brain-extracted T1w images as NIfTI; by default they are nilearn's MNI152 template with noise.
`--monai` is the FOLDER of ``pip install --no-deps --target FOLDER monai``; without it, MONAI's rows are left out.

A shard of `--images` images, uncompressed and compressed, is read in batches and in random order.  Compared readers
take turns; figures are medians over the rounds, of rates and of the ratios within a round.  Warm files are in the page
cache and their checksums are already verified, as in all epochs except the first.  Before each cold reading the page
cache is dropped: all of it if /proc/sys/vm/drop_caches is writable, otherwise the file's part.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "workflow/scripts")]

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.cache.image_figures import bounding_box  # noqa: E402
from neurotransfer.cache.shard_file import ShardFile, checksum, shard_written  # noqa: E402
from neurotransfer.cache.write import crop_slices  # noqa: E402
from neurotransfer.network.device import choose_device  # noqa: E402
from neurotransfer.pretrain.batches import Images, as_input, augment  # noqa: E402
from neurotransfer.pretrain.checkpoints import Checkpoints  # noqa: E402
from neurotransfer.pretrain.loop import pretrain  # noqa: E402
from neurotransfer.pretrain.targets import learn_targets  # noqa: E402
from nibabel.processing import conform  # noqa: E402
from step import machine  # noqa: E402

CONFORMED = (256, 256, 256)
CPU = torch.device("cpu")
DROP = Path("/proc/sys/vm/drop_caches")
FORMS = {"plain": None, "zstd": "zstd"}
NETWORK = {"channels": [4, 8, 8, 8, 8], "bottleneck": 8, "pooling": "max"}
SETTINGS = {
    "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 0.0, "patience": None,
    "schedule": {"factor": 0.3, "every": 30}, "dropout": 0.5, "augmentation": {"shift": 2, "mirror": True},
    "data_type": "float32", "accumulate": 1, "compile": False, "deterministic": False,
}  # fmt: skip


def brains(folder: Path | None) -> list[np.ndarray]:
    """Brains as FastSurfer conforms them: uint8 [256, 256, 256], 1 mm, LIA."""
    if folder:
        found = [nibabel.load(path) for path in sorted(folder.glob("*.nii*"))]
    else:
        from nilearn.datasets import load_mni152_template

        template, found = load_mni152_template(resolution=1), []
        for seed in range(4):
            voxels = template.get_fdata(dtype=np.float32)
            noise = np.random.default_rng(seed).normal(0, 0.04 * voxels.max(), voxels.shape)
            found.append(nibabel.Nifti1Image((voxels + noise) * (voxels > 0), template.affine))
    result = []
    for image in found:
        image = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
        voxels = np.asarray(conform(image, CONFORMED, order=1, orientation="LIA").dataobj)
        voxels = voxels * (255 / np.percentile(voxels[voxels > 0], 99.9))
        result.append(np.where(voxels < 2, 0, voxels.clip(0, 255).round()).astype(np.uint8))
    return result


def cropped(whole: np.ndarray, crop: Sequence[int]) -> np.ndarray:
    """The crop around a brain, as in the cache."""
    image = np.zeros(tuple(crop), np.uint8)
    source, target = crop_slices(bounding_box(whole > 0), whole.shape, crop)
    image[target] = whole[source]
    return image


def rate(run: Callable[[], int]) -> float:
    """Images per second."""
    start = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - start)


def in_turns(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of each run in every round; a round has every run once."""
    rates = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(rate(run))
    return rates


def ratio(rates: dict[str, list[float]], one: str, other: str) -> float:
    """The median over the rounds of one rate over the other."""
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def orders(count: int, batch: int) -> list[np.ndarray]:
    """An epoch's batches."""
    return np.array_split(np.random.default_rng(0).permutation(count), -(-count // batch))


def read(images: Images, batch: int) -> int:
    """An epoch's images into batches."""
    return sum(len(found) for found in images.batches(orders(len(images), batch), CPU))


def read_augmented(images: Images, batch: int) -> int:
    """The same, shifted, mirrored and as float32: the network's input on the CPU."""
    batches = images.batches(orders(len(images), batch), CPU)
    return sum(len(as_input(augment(found, SETTINGS["augmentation"], seed))) for seed, found in enumerate(batches))


def monai_loaders(installed: Path, files: list[Path], crop: Sequence[int], batch: int) -> dict[str, Callable[[], int]]:
    """Epochs of MONAI's CacheDataset, already filled, with its cheapest transforms to shift and mirror."""
    sys.path.append(str(installed))
    from monai import transforms
    from monai.data import CacheDataset, DataLoader

    def epoch(loader: DataLoader) -> int:
        return sum(len(found["image"]) for found in loader)

    loaders = {}
    kinds = [("float32", np.float32, False), ("uint8", np.uint8, False), ("float32, augmented", np.float32, True)]
    for name, data_type, augmented in kinds:
        steps = [transforms.LoadImaged("image", dtype=data_type), transforms.EnsureChannelFirstd("image")]
        reach = SETTINGS["augmentation"]["shift"] * augmented
        steps += [transforms.CenterSpatialCropd("image", [edge + 2 * reach for edge in crop])]
        if augmented:
            steps += [transforms.RandSpatialCropd("image", crop, random_size=False)]
            steps += [transforms.RandFlipd("image", prob=0.5, spatial_axis=0)]
        data = CacheDataset([{"image": str(file)} for file in files], transforms.Compose(steps), progress=False)
        for workers in (0, 2):
            loader = DataLoader(data, workers, batch_size=batch, shuffle=True, persistent_workers=workers > 0)
            loaders[f"MONAI CacheDataset, {name}, {workers} workers"] = functools.partial(epoch, loader)
    return loaders


def warm(folder: Path, tables: dict[str, pd.DataFrame], asked: argparse.Namespace) -> list[str]:
    """Rows on warm files."""
    images = {name: Images(table, folder) for name, table in tables.items()}
    whole = np.load(folder / "plain.npy", mmap_mode="r")
    target = np.empty((asked.batch, *asked.crop), np.uint8)
    files = [folder / f"{row}.nii.gz" for row in range(len(list(folder.glob("*.nii.gz"))))]

    def copy() -> int:
        for at in range(0, asked.images - asked.batch + 1, asked.batch):
            np.copyto(target, whole[at : at + asked.batch])
        return asked.images // asked.batch * asked.batch

    def decode() -> int:
        for row, file in enumerate(files):
            target[row % asked.batch] = cropped(np.asarray(nibabel.load(file).dataobj), asked.crop)
        return len(files)

    runs = {f"reader, {name}": functools.partial(read, images[name], asked.batch) for name in FORMS}
    runs["reader, plain, augmented, as float32"] = functools.partial(read_augmented, images["plain"], asked.batch)
    runs |= {"one plain copy of the same bytes": copy, "decoding NIfTI": decode}
    if asked.monai:
        few = [files[row % len(files)] for row in range(min(asked.images, 32))]
        runs |= monai_loaders(asked.monai, few, asked.crop, asked.batch)
    for run in runs.values():
        run()
    rates = in_turns(runs, asked.rounds)
    rows = [f"| {name}, images/s | {statistics.median(found):.0f} |" for name, found in rates.items()]
    for name in list(runs)[3:]:
        ours = "reader, plain, augmented, as float32" if "augmented" in name else "reader, plain"
        rows.append(f"| {ours} / {name} | {ratio(rates, ours, name):.2f} |")
    return [*rows, f"| reader, zstd / reader, plain | {ratio(rates, 'reader, zstd', 'reader, plain'):.2f} |"]


def forget(path: Path) -> None:
    """Drop a file, or everything, from the page cache."""
    if os.access(DROP, os.W_OK):
        DROP.write_text("3")
    else:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold(folder: Path, tables: dict[str, pd.DataFrame], asked: argparse.Namespace) -> list[str]:
    """Rows on cold files."""
    os.sync()
    verified = {name: Images(table, folder) for name, table in tables.items()}
    for images in verified.values():
        read(images, asked.batch)

    def dd() -> int:
        file = folder / "plain.npy"
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=1M"], check=True, stderr=subprocess.DEVNULL)
        return asked.images

    def once(name: str, images: Images | None) -> int:
        return read(images or Images(tables[name], folder), asked.batch)

    runs = {"dd": dd}
    for name in FORMS:
        runs[f"reader, {name}, verifying"] = functools.partial(once, name, None)
        runs[f"reader, {name}"] = functools.partial(once, name, verified[name])
    rates = {name: [] for name in runs}
    for at in range(asked.rounds):
        for name, run in [*runs.items()][at:] + [*runs.items()][:at]:  # another run is first in each round
            forget(folder / f"{'zstd' if 'zstd' in name else 'plain'}.npy")
            rates[name].append(rate(run))
    how = "the whole page cache dropped" if os.access(DROP, os.W_OK) else "the file dropped by posix_fadvise"
    speed = statistics.median(rates["dd"]) * np.prod(asked.crop) / 1e9
    rows = [f"| cold ({how}): dd, GB/s | {speed:.2f} |"]
    return rows + [f"| cold: {name} / dd | {ratio(rates, name, 'dd'):.2f} |" for name in list(runs)[1:]]


def memory(folder: Path, tables: dict[str, pd.DataFrame], asked: argparse.Namespace) -> list[str]:
    """Peak memory above that of an idle process, for the cache and for one four times as large."""
    for copy in range(4):
        for name in FORMS:
            os.link(folder / f"{name}.npy", folder / f"{name}{copy}.npy")
    rows = []
    for name, table in tables.items():
        for times in (1, 4):
            parts = [table.assign(shard=f"{name}{copy}") for copy in range(times)]
            pd.concat(parts).to_csv(folder / "table.csv", index=False)
            command = [sys.executable, __file__, "--peak", str(folder), "--batch", str(asked.batch)]
            peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            batches = peak * 1e6 / (asked.batch * np.prod(asked.crop))
            rows.append(f"| peak memory, {name}, {times * asked.images} images, in batches | {batches:.2f} |")
    return rows


def peak(folder: Path, batch: int) -> None:
    """Print the MB that reading the table's images adds to the peak of this process."""
    table = pd.read_csv(folder / "table.csv", dtype={"shard": str, "checksum": str})
    images = Images(table, folder)

    def highest() -> float:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return int(status["VmHWM"].split()[0]) * 1024 / 1e6

    before = highest()
    read(images, batch)
    print(highest() - before)


class InMemory(Images):
    """Images as tensors in memory: the same ones in every batch."""

    def __init__(self, table: pd.DataFrame, images: torch.Tensor) -> None:
        super().__init__(table, "")
        self.images = images

    def batches(self, order: Sequence[np.ndarray], device: torch.device) -> Iterator[torch.Tensor]:
        """The first images, as many as each batch has."""
        for positions in order:
            yield self.images[: len(positions)].to(device)


def training(folder: Path, tables: dict[str, pd.DataFrame], asked: argparse.Namespace) -> list[str]:
    """Rows on the pretraining loop itself, from the cache and from tensors in memory."""
    count = asked.training_images
    about = {"age": np.linspace(20, 80, count), "sex": np.arange(count) % 2.0, "cohort": "x"}
    targets = {"age": {"kind": "continuous", "weight": 1.0, "loss": "squared"}}
    targets["sex"] = {"kind": "binary", "weight": 1.0, "class_weights": False}
    tensors = torch.from_numpy(np.stack([ShardFile(folder / "plain.npy").image(row) for row in range(4)]))

    def epochs(name: str) -> int:
        table = tables.get(name, tables["plain"])[:count].assign(**about)
        sets = [table, table[:4].reset_index(drop=True)]
        images = [InMemory(part, tensors) if name == "tensors" else Images(part, folder) for part in sets]
        with tempfile.TemporaryDirectory() as checkpoints:
            pretrain(
                *images, sets, targets=learn_targets(targets, table), network=NETWORK, settings=SETTINGS, seed=1,
                device=CPU, checkpoints=Checkpoints(Path(checkpoints), "benchmark"),
            )  # fmt: skip
        return 2 * count

    rates = in_turns({name: functools.partial(epochs, name) for name in (*FORMS, "tensors")}, asked.training_rounds)
    rows = [f"| training, {name}, images/s | {statistics.median(found):.2f} |" for name, found in rates.items()]
    return rows + [f"| training, {name} / tensors | {ratio(rates, name, 'tensors'):.3f} |" for name in FORMS]


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--crop", type=int, nargs=3, default=[224, 192, 224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--training-images", type=int, default=12)
    parser.add_argument("--training-rounds", type=int, default=2)
    parser.add_argument("--brains", type=Path)
    parser.add_argument("--monai", type=Path)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    choose_device("cpu", 2)
    if asked.peak:
        peak(asked.peak, asked.batch)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wholes = brains(asked.brains)
        for row, whole in enumerate(wholes):
            nibabel.save(nibabel.Nifti1Image(whole, np.eye(4)), folder / f"{row}.nii.gz")
        images = [cropped(whole, asked.crop) for whole in wholes]
        checksums = [checksum(images[row % len(images)]) for row in range(asked.images)]
        tables = {}
        for form, compression in FORMS.items():
            with shard_written(folder / f"{form}.npy", asked.images, tuple(asked.crop), compression) as write:
                for row in range(asked.images):
                    write(images[row % len(images)])
            tables[form] = pd.DataFrame({"shard": form, "row": range(asked.images), "checksum": checksums})
        sizes = [(folder / f"{form}.npy").stat().st_size for form in FORMS]
        size = "×".join(map(str, asked.crop))
        print(machine(), "\n\n| what | measured |\n|---|---|")
        print(f"| {len(wholes)} brains of {size}: space, zstd / plain | {sizes[1] / sizes[0]:.3f} |", flush=True)
        for part in (warm, cold, memory, training):
            print(*part(folder, tables, asked), sep="\n", flush=True)


if __name__ == "__main__":
    main()
