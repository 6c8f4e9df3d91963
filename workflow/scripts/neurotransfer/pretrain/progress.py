"""How far a pretraining is, in lines of its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from ..text import duration
from .evaluation import is_metric

logger = logging.getLogger("neurotransfer")
NEWS_SECONDS = 60.0  # between two lines of progress within an epoch


class Progress:
    """Lines for a person: one per minute within an epoch, and one per epoch, with the latest validation metrics.

    Parameters
    ----------
    images : of an epoch
    epochs : that there will be
    epoch : that this process begins with
    """

    def __init__(self, images: int, epochs: int, epoch: int) -> None:
        self.images, self.epochs, self.first = images, epochs, epoch
        self.started = self.logged = time.monotonic()
        self.seen = 0
        self.figures = ""

    def tell(self, epoch: int, step: int, images: int, loss: float) -> None:
        """Count a step's images, and write a line if the last one is a minute old."""
        self.seen += images
        now = time.monotonic()
        if now - self.logged > NEWS_SECONDS:
            self.logged = now
            pace = self.seen / (now - self.started)
            left = (self.epochs - self.first) * self.images - self.seen
            message = "epoch %d, step %d: loss %.4f%s; %.1f images/s, %s to go"
            logger.info(message, epoch, step, loss, self.figures, pace, duration(left / pace))

    def conclude(self, row: Mapping[str, float]) -> None:
        """Write an epoch's line."""
        self.logged = time.monotonic()
        elapsed, done = self.logged - self.started, row["epoch"] + 1 - self.first
        figures = [f"{name.removeprefix('validation_')} {row[name]:.3f}" for name in row if is_metric(name)]
        if "dead_features" in row:
            figures.append(f"dead_features {row['dead_features']}")
        losses = [f"train_loss {row['train_loss']:.3f}", f"loss {row['validation_loss']:.3f}"]
        self.figures = f" (after epoch {row['epoch']}: {', '.join([losses[1], *figures])})"
        left = duration(elapsed / done * (self.epochs - row["epoch"] - 1))
        message = "epoch %d: %s; %.1f images/s, %s to go"
        logger.info(message, row["epoch"], ", ".join([*losses, *figures]), self.seen / elapsed, left)
