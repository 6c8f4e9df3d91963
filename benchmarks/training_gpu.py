"""Which recipe trains the paper's network, on a GPU at the paper's crop: the runs of training.py and training_fits.py.

    python benchmarks/training_gpu.py --write-template head.npz    # with nilearn: what heads are drawn from
    python3 benchmarks/training_gpu.py --template head.npz         # on a machine with a GPU; needs no installation
    python3 benchmarks/training_gpu.py --try --device cpu          # the same code on small images

Heads are drawn at 2 mm by the CPUs and interpolated to 1 mm on the GPU, where all of them stay.  That loses little,
because the simulation's template has a grid of 2 mm; noise of single voxels is added at 1 mm.  Longer runs have 600
steps of 8 images.  The fits are as long as in training_fits.py, in batches of the configuration's size; then come whole
fits of 100 people, as the configuration has them.  All is done by one process, the decisive runs first, each result
written when it is there; none starts after `--minutes`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neurotransfer.files import read_json  # noqa: E402
from neurotransfer.network.device import choose_data_type, choose_device  # noqa: E402
from neurotransfer.pretrain.batches import Images  # noqa: E402
from neurotransfer.pretrain.checkpoints import Checkpoints  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from neurotransfer.text import aligned  # noqa: E402
from torch.nn import functional  # noqa: E402

from benchmarks import training, training_fits  # noqa: E402
from benchmarks.gpu import versions  # noqa: E402
from benchmarks.training import COHORTS, RUNS, SHORT, Run  # noqa: E402
from workbench.heads import NOISE, drawn_heads, use_template, write_template  # noqa: E402

TRAINING, VALIDATION = 400, 112  # images
CROP, VOXEL_SIZE = (112, 96, 112), 2.0  # twice as many voxels of 1 mm along each axis are the paper's crop
LONG = {"steps": 600, "batch_size": 8}
SEX_STEPS = 2400  # of the runs that show how soon sex is learnt
SEX_EPOCHS = (1, 4, 8, 12, 20, 28, 36, 48)  # in docs/pretraining.md
SEED = 11  # of the noise
AT_ONCE = 4  # images that are interpolated together, to bound memory
WHOLE = (100, 20)  # people who train and who validate in a whole fit, as in the paper's smallest
Fit = tuple[str, int, int]  # model, setting, seed


@dataclass(frozen=True)
class OnDevice:
    """Some rows of images that lie on the device, uint8 [images, D, H, W]: as much of `Images` as training asks for."""

    voxels: torch.Tensor
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of an image along each axis."""
        return self.voxels.shape[1:]

    def batches(self, order: Sequence[np.ndarray], device: torch.device) -> Iterator[torch.Tensor]:
        """The batches of `order`."""
        for positions in order:
            yield self.voxels[self.rows[torch.as_tensor(positions, device=self.rows.device)]]

    def part(self, rows: np.ndarray) -> OnDevice:
        """These rows of them."""
        return OnDevice(self.voxels, self.rows[torch.as_tensor(rows, device=self.rows.device)])


def loaded(table: pd.DataFrame, folder: Path, device: torch.device) -> OnDevice:
    """The images of a table, interpolated to half the voxel size."""
    read = Images(table, folder)
    generator = torch.Generator(device).manual_seed(SEED)
    parts = [np.arange(at, min(at + AT_ONCE, len(read))) for at in range(0, len(read), AT_ONCE)]
    voxels = torch.cat([enlarged(read.read(part).to(device), generator) for part in parts])
    return OnDevice(voxels, torch.arange(len(read), device=device))


def enlarged(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Masked images with twice the voxels along each axis, and noise of the same variance.

    Parameters
    ----------
    images : uint8 [N, D, H, W], 0 outside the brain
    generator : of the noise, on the device of the images

    Returns
    -------
    uint8 [N, 2 D, 2 H, 2 W]
    """
    inside = (images > 0).float()
    values, weight = (
        functional.interpolate(part.unsqueeze(1), scale_factor=2, mode="trilinear")[:, 0]
        for part in (images.float(), inside)
    )  # [N, 2 D, 2 H, 2 W]
    kept = (0.75**2 + 0.25**2) ** 3  # share of the noise's variance that interpolation leaves
    noise = torch.randn(weight.shape, generator=generator, device=images.device) * NOISE * (1 - kept) ** 0.5
    values = values / weight.clamp(min=0.5) + noise
    return torch.where(weight > 0.5, values, 0.0).round().clamp(0, 255).to(torch.uint8)


def runs(data_type: str) -> tuple[list[Run], list[Run]]:
    """The runs of training.py in the order in which they are done, the learning ones longer: decisive, and others."""
    short = [replace(run, data_type=data_type) for run in RUNS if run.steps == SHORT]
    default, larger, published = (replace(run, data_type=data_type, **LONG) for run in RUNS if run.group == "learn")
    long = [larger, published, replace(default, pooling="average"), replace(published, pooling="average")]
    exact = [Run("decide", seed) for seed in range(2)] if data_type != "float32" else []
    first = [run for run in short if run.group in ("decide", "twice")]
    contrast = [run for run in short if run.group == "contrast"]
    rest = [run for run in short if run not in (*first, *contrast)]
    return [*first, default, *contrast, *long[:2]], [*rest, *exact, *long[2:]]


def runs_for_sex(data_type: str) -> list[Run]:
    """The default, with sex at four times its weight, and with pooled features as they are, for 48 epochs.

    Before them, whether features as they are train at all: ten seeds, and six at larger rates.
    """
    undivided: dict[str, Any] = {"data_type": data_type, "divided": False}
    short = [Run("sex", seed, **undivided) for seed in range(10)]
    short += [Run("sex", seed, learning_rate=rate, **undivided) for rate in (6e-4, 1e-3, 2e-3) for seed in range(2)]
    default = Run("sex", 0, steps=SEX_STEPS, data_type=data_type)
    return [*short, default, replace(default, sex_weight=4.0), replace(default, divided=False)]


def sex_rows(folder: Path) -> list[list[str]]:
    """Validation AUC of sex, and age's mean absolute error, in some epochs of the long runs of `runs_for_sex`."""
    rows = [["all six targets", *map(str, SEX_EPOCHS)]]
    for path in sorted((folder / "results").glob("sex-*.json")):
        found = read_json(path)
        if found["run"]["steps"] == SEX_STEPS:
            of_epochs = [] if found["diverged"] else [found["history"][epoch - 1] for epoch in SEX_EPOCHS]
            figures = [f"{one['validation_sex_auc']:.2f}, {one['validation_age_mae']:.1f}" for one in of_epochs]
            rows.append([path.stem, *(figures or ["diverged"] * len(SEX_EPOCHS))])
    return rows


class NoCheckpoints(Checkpoints):
    """Writes none: a run takes seconds, and is repeated whole."""

    def save(self, step: int, state: dict) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Clock:
    """Says what was done when, and whether there is time for more."""

    minutes: float
    start: float

    def tell(self, what: str) -> None:
        """Print what is done."""
        print(f"{time.monotonic() - self.start:6.1f} s  {what}", flush=True)

    @contextlib.contextmanager
    def reporting(self, what: str) -> Iterator[None]:
        """Print that the block is done, or that memory or a kernel failed: the other runs are still worth having."""
        try:
            yield
        except RuntimeError as error:
            what = f"{what} failed: {str(error).splitlines()[0]}"
        self.tell(what)

    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self.start > 60 * self.minutes


@dataclass(frozen=True)
class Heads:
    """All heads, and their table, of which the first `training` rows train and the others validate."""

    images: OnDevice
    table: pd.DataFrame
    training: int

    @property
    def device(self) -> torch.device:
        """That holds the images."""
        return self.images.voxels.device

    @property
    def data_type(self) -> str:
        """That the device is best in; float32 on a CPU, which is there for tries."""
        asked = "auto" if self.device.type == "cuda" else "float32"
        return str(choose_data_type(asked, self.device)).removeprefix("torch.")

    def part(self, rows: np.ndarray) -> tuple[OnDevice, pd.DataFrame]:
        """Some of them."""
        return self.images.part(rows), self.table.iloc[rows].reset_index(drop=True)


def train_all(asked: list[Run], folder: Path, heads: Heads, clock: Clock) -> None:
    """Do the runs that there is time for; a short one has its steps in one epoch and few validation images."""
    for run in asked:
        if clock.is_over():
            return
        last = len(heads.table) if run.steps > SHORT else min(heads.training + 16, len(heads.table))
        rows = np.arange(min(run.steps * run.batch_size, heads.training)), np.arange(heads.training, last)
        images, tables = zip(*map(heads.part, rows), strict=True)
        checkpoints = NoCheckpoints(folder / run.name, "benchmark")
        with clock.reporting(run.name):
            training.train(run, folder, images, tables, heads.device, checkpoints)


def fit_all(
    asked: Iterable[Fit],
    counts: tuple[int, int],
    folder: Path,
    weights: Path,
    heads: Heads,
    clock: Clock,
    **changed: Any,
) -> None:
    """Do the fits that there is time for, each on people drawn with its seed; pretraining saw those who train only.

    Parameters
    ----------
    counts : of people who train and who validate
    weights : without which there is no transfer
    changed : of `training_fits.train`
    """
    for model, setting, seed in asked:
        if clock.is_over():
            return
        if model == "transfer" and not weights.exists():
            continue
        generator = np.random.default_rng(seed)
        seen, unseen = (generator.permutation(rows) for rows in np.split(np.arange(len(heads.table)), [heads.training]))
        images, table = heads.part(np.concatenate([seen[: counts[0]], unseen[: counts[1]]]))
        of_fit = {"data_type": heads.data_type, **changed}
        with clock.reporting(f"{folder.name}: {model}, setting {setting}, seed {seed}"):
            training_fits.train(model, setting, seed, folder, images, table, counts[0], weights, heads.device, of_fit)


def markdown(rows: list[list[str]]) -> str:
    """A table whose first row is its header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_tables(folder: Path) -> None:
    """All results so far, for a terminal and as Markdown."""
    fits = [training_fits.rows_of(folder / name) for name in ("fits", "whole-fits")]
    for rows in (training.rows_of(folder / "results"), sex_rows(folder), *fits):
        if len(rows) > 1:
            print(f"\n{aligned(rows, 'lrrl')}\n\n{markdown(rows)}", flush=True)


def do_all(folder: Path, heads: Heads, clock: Clock, *, tried: bool) -> None:
    """Trainings and fits, the decisive ones first."""
    decisive, others = runs(heads.data_type)
    default = next(run for run in decisive if run.group == "learn")
    cnn, fits = load_config(ROOT)["models"]["cnn"], training_fits.runs()
    whole, short = WHOLE, (training_fits.STEPS * cnn["batch_size"], 16)
    if tried:
        default = replace(default, steps=6, batch_size=4)
        decisive, others, fits = [replace(decisive[0], steps=3, batch_size=4), default], [], fits[9:11]
        whole, short, cnn = (8, 4), (8, 4), cnn | {"epochs": 1}
    weights = folder / f"results/{default.name}.safetensors"
    largest = [fit for fit in fits if fit[1] == fits[0][1]]  # those of the setting with the largest rate
    train_all(decisive, folder / "results", heads, clock)
    fit_all(largest, short, folder / "fits", weights, heads, clock)
    train_all(others, folder / "results", heads, clock)
    fit_all([fit for fit in fits if fit not in largest], short, folder / "fits", weights, heads, clock)
    of_whole = {name: cnn[name] for name in ("epochs", "schedule", "warmup")}
    once = dict.fromkeys((model, setting, 0) for model, setting, _ in fits)
    fit_all(once, whole, folder / "whole-fits", weights, heads, clock, **of_whole)
    train_all([] if tried else runs_for_sex(heads.data_type), folder / "results", heads, clock)


def main() -> None:
    """Draw, train, fit, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/training-gpu", help="of images and results")
    parser.add_argument("--template", type=Path, help="what heads are drawn from, if nilearn is missing")
    parser.add_argument("--write-template", type=Path, help="only write it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=4.0, help="after which no run starts")
    parser.add_argument("--table", action="store_true", help="only print the tables of the results so far")
    parser.add_argument("--try", dest="tried", action="store_true", help="a few steps on small images")
    asked = parser.parse_args()
    clock = Clock(asked.minutes, time.monotonic())
    training.check_default()
    if asked.table:
        print_tables(asked.folder)
        return
    if asked.write_template:
        write_template(asked.write_template)
        return
    if asked.template:
        use_template(asked.template)
    training_images, count = (12, 16) if asked.tried else (TRAINING, TRAINING + VALIDATION)
    crop, voxel_size = ((16, 16, 16), 12.0) if asked.tried else (CROP, VOXEL_SIZE)
    drawn = {"crop": crop, "voxel_size": voxel_size, "processes": os.cpu_count() or 1}
    table = drawn_heads(asked.folder / "images", COHORTS, count, **drawn)  # before CUDA, which does not survive a fork
    clock.tell(f"{count} heads are drawn")
    device = choose_device(asked.device, 1 if asked.tried else os.cpu_count() or 1)
    heads = Heads(loaded(table, asked.folder / "images", device), table, training_images)
    clock.tell(f"on the device; {versions(device)}")
    do_all(asked.folder, heads, clock, tried=asked.tried)
    print_tables(asked.folder)


if __name__ == "__main__":
    main()
