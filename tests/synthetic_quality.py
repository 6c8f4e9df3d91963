"""A study's quality tables, slices and ledgers as the workflow writes them, of any size, with planted outliers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from neurotransfer.files import table_text
from neurotransfer.preprocess.run import LEDGER
from neurotransfer.quality.judge import judge

SHARD = 64
LIMITS = {
    "mask_volume_mm3": {"min": 400_000, "max": 2_800_000},
    "mask_parts": {"max": None},
    "contrast": {"min": None, "max": None},
    "z": {"max": None},
}
SETTINGS = {"age_band": 10, "min_group": 30, "exclude": LIMITS}


@dataclass(frozen=True)
class Study:
    """The inputs of quality/page.py, and the planted outliers: by image, the unusual figure."""

    tables: list[pd.DataFrame]
    slices: list[Path]
    ledgers: list[Path]
    odd: dict[str, str]


def figures(count: int, generator: np.random.Generator) -> pd.DataFrame:
    """Figures of ordinary images of adults of all ages."""
    normal = generator.standard_normal
    return pd.DataFrame(
        {
            "age": generator.uniform(18, 90, count),
            "mask_volume_mm3": 1.45e6 + 1.2e5 * normal(count),
            "mask_parts": 1.0,
            "mask_loose": 0.0,
            "mask_holes": 0.0,
            "mask_hollow": 0.0,
            "outside_crop": 0.0,
            "contrast": 0.3 + 0.03 * normal(count),
            "clipped": (0.002 * np.exp(0.3 * normal(count))),
        }
    )


ODDITIES = {  # planted at regular intervals
    "mask_volume_mm3": {"mask_volume_mm3": 312_000.0},
    "mask_parts": {"mask_parts": 41.0, "mask_loose": 0.12},
    "contrast": {"contrast": 0.02},
    "clipped": {"clipped": 0.4},
    "outside_crop": {"outside_crop": 0.09},
}


def study(folder: Path, images: int, cohorts: int, slices: np.ndarray, odd: int = 10) -> Study:
    """Write a study's files below `folder`; some images of each cohort have one planted outlier.

    Parameters
    ----------
    slices : uint8 [3, size, size], the same for every image
    """
    generator = np.random.default_rng(1)
    tables, files, ledgers, planted = [], [], [], {}
    one = folder.resolve() / "one.slices.npy"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(one, np.repeat(slices[None], SHARD, axis=0))
    for number, count in enumerate(np.full(cohorts, images // cohorts) + (np.arange(cohorts) < images % cohorts)):
        cohort, count = f"cohort{number + 1:02d}", int(count)
        table = figures(count, generator)
        numbers = np.arange(count)
        table["image_id"] = [f"{cohort}_{number:05d}_1" for number in numbers]
        table["cohort"], table["row"] = cohort, numbers % SHARD
        table["shard"] = [f"{cohort}-{number // SHARD + 1:04d}" for number in numbers]
        table["engine"], table["engine_version"], table["checksum"] = "fastsurfer", "2.4.2", "0" * 32
        for at, kind in zip(range(3, count, max(4, count // odd)), list(ODDITIES) * odd, strict=False):
            for name, value in ODDITIES[kind].items():
                table.loc[at, name] = value
            planted[table.loc[at, "image_id"]] = kind
        tables.append(judge(table, SETTINGS))
        for shard, rows in table.groupby("shard"):
            files.append(folder / "cache" / f"{shard}.slices.npy")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].symlink_to(one)
            ledger = rows[["image_id", "engine", "engine_version"]].assign(status="ok", reason=None, detail=None)
            ledgers.append(folder / "preprocessed" / str(shard) / "0000.tsv")
            ledgers[-1].parent.mkdir(parents=True, exist_ok=True)
            ledgers[-1].write_text(table_text(ledger[LEDGER]))
    return Study(tables, files, ledgers, planted)
