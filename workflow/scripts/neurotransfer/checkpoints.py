"""Stop anywhere, start again: checkpoints of a training, and the signal that asks for one."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .files import written_whole

logger = logging.getLogger("neurotransfer")
KEPT = 2  # the newest, and the one before in case the newest is damaged


class Checkpoints:
    """The checkpoints of one training, in a folder of their own outside any rule's outputs.

    Parameters
    ----------
    folder : where they lie
    fingerprint : of everything that the training depends on; a checkpoint with another one is ignored
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = Path(folder), fingerprint

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint whole and remove all but the newest two."""
        buffer = io.BytesIO()
        torch.save({"fingerprint": self.fingerprint, "step": step, "state": state}, buffer)
        with written_whole(self.folder / f"{step:012d}.pt", "wb") as file:
            file.write(buffer.getbuffer())
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The state of the newest usable checkpoint, or None; says what it ignores and why."""
        for path in self._newest_first():
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                fingerprint, state = content["fingerprint"], content["state"]
            except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
                logger.warning("%s: damaged, ignored (%s)", path, " ".join(str(error).split())[:200])
                continue
            if fingerprint != self.fingerprint:
                logger.warning("%s: made with another configuration or other images, ignored", path)
                continue
            logger.info("resumed from %s", path)
            return state
        return None

    def delete(self) -> None:
        """Remove them all, after success."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"), reverse=True)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """While the block runs, SIGTERM is noted in the list that it gets instead of ending the process."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
