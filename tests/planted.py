"""Small images with planted signals, cached like a study's, for tests of training."""

from pathlib import Path

import numpy as np
import pandas as pd
from neurotransfer.cache.shard_file import checksum, shard_written
from neurotransfer.pretrain.batches import Images
from neurotransfer.pretrain.checkpoints import Checkpoints
from neurotransfer.pretrain.loop import Pretrained, pretrain
from neurotransfer.pretrain.targets import learn_targets

NETWORK = {"channels": [4, 8], "bottleneck": 8, "pooling": "average"}
TARGETS = {
    "age": {"kind": "continuous", "weight": 1.0, "loss": "squared"},
    "sex": {"kind": "binary", "weight": 0.5, "class_weights": False},
}
SETTINGS = {
    "epochs": 4, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "patience": None,
    "schedule": {"factor": 0.5, "every": 3}, "dropout": 0.1, "augmentation": {"shift": 1, "mirror": True},
    "data_type": "float32", "accumulate": 1, "compile": False, "deterministic": True,
    "epoch_by": "loss",
}  # fmt: skip
IMAGES, TRAINING = 48, 36


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """The ages, and the images in the order of the table, uint8 [48, 12, 12, 12]."""
    generator = np.random.default_rng(5)
    age = generator.uniform(20, 80, IMAGES)
    images = generator.normal(100, 12, (IMAGES, 12, 12, 12))
    images[:, 4:8, 4:8, 4:8] += (age[:, None, None, None] - 50) * 1.5
    return age, images.clip(0, 255).astype(np.uint8)


def plant(folder: Path, compression: str | None = None) -> pd.DataFrame:
    """Cache 48 noisy images of 12³ voxels in two shards, with a middle that is brighter with age; return their table.

    A fifth of the ages is missing; sex is missing in one whole shard.
    """
    age, images = drawn()
    for shard, part in (("x-0001", images[:24]), ("x-0002", images[24:])):
        with shard_written(folder / f"{shard}.npy", len(part), part.shape[1:], compression) as write:
            for image in part:
                write(image)
    rows = np.arange(IMAGES)
    table = pd.DataFrame({"image_id": [f"i{row:02d}" for row in rows], "cohort": "x", "index_row": rows})
    table["shard"], table["row"] = np.where(rows < 24, "x-0001", "x-0002"), rows % 24
    table["engine"], table["engine_version"] = "builtin", "1"
    table["participant_id"] = [f"x_{row:02d}" for row in rows]
    table["checksum"] = [checksum(image) for image in images]
    known = rows % 5 > 0
    return table.assign(age=np.where(known, age, np.nan), sex=np.where(rows < 24, rows % 2, np.nan), label=age > 50)


def sides(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows for training and for validation."""
    return table[:TRAINING].reset_index(drop=True), table[TRAINING:].reset_index(drop=True)


def pretrained(folder: Path, table: pd.DataFrame, checkpoints: Path, device, **changes) -> Pretrained:
    """Pretrain a tiny network on the planted images; `changes` override settings."""
    tables = sides(table)
    return pretrain(
        *(Images(part, folder) for part in tables), tables, targets=learn_targets(TARGETS, tables[0]),
        network=NETWORK, settings=SETTINGS | changes, seed=3, device=device, checkpoints=Checkpoints(checkpoints, "f"),
    )  # fmt: skip


def resample_of(table: pd.DataFrame) -> pd.DataFrame:
    """24 training rows (12 images, each twice), 12 for validation and 12 for test, of other participants."""
    rows = np.r_[np.arange(12), np.arange(12), np.arange(20, 32), np.arange(34, 46)]
    roles = ["train"] * 24 + ["validation"] * 12 + ["test"] * 12
    return table.iloc[rows].reset_index(drop=True).assign(role=roles, label=lambda rows: rows["label"].astype(int))
