"""Stop anywhere, start again: checkpoints of a training, and the signal that asks for one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..files import read_bytes, written_whole

logger = logging.getLogger("neurotransfer")
MOST_BYTES = 2**34  # of a checkpoint
KEPT = 2  # the newest, and the one before in case the newest is damaged
DIGEST = hashlib.sha256().digest_size  # bytes at a file's start, because torch does not notice a flipped bit


class Checkpoints:
    """The checkpoints of one training, in a folder of their own outside any rule's outputs.

    Parameters
    ----------
    folder : of these checkpoints only
    fingerprint : of everything that the training depends on; a checkpoint with another one is ignored
    minutes : after which the next one is due
    """

    def __init__(self, folder: str | Path, fingerprint: str, minutes: float = 10.0) -> None:
        self.folder, self.fingerprint, self.minutes = Path(folder), fingerprint, minutes
        self.saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last one is older than `minutes`."""
        return time.monotonic() - self.saved_at > 60 * self.minutes

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint whole, and remove all but the newest two of this training.

        Parameters
        ----------
        step : counts up within a training
        state : tensors, numbers, texts, and lists and dictionaries of them
        """
        buffer = io.BytesIO()
        torch.save({"fingerprint": self.fingerprint, "state": state}, buffer)
        path = self.folder / f"{self._prefix}{step:012d}.pt"
        with written_whole(path, "wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        for old in {*self.folder.glob("*.pt")} - {*self._newest_first()[:KEPT]}:
            old.unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state of the newest usable checkpoint, or None; says what it ignores and why."""
        mine = self._newest_first()
        if any(path not in mine for path in self.folder.glob("*.pt")):
            logger.warning("%s: checkpoints of another configuration or of other images, ignored", self.folder)
        for path in mine:
            try:
                content = read_bytes(path, MOST_BYTES)
                if hashlib.sha256(memoryview(content)[DIGEST:]).digest() != content[:DIGEST]:
                    raise ValueError("its digest is another")
                saved = torch.load(io.BytesIO(memoryview(content)[DIGEST:]), map_location="cpu", weights_only=True)
                if saved["fingerprint"] != self.fingerprint:
                    raise ValueError("its fingerprint is another")
                state = saved["state"]
                if not isinstance(state, dict):
                    raise ValueError("it holds no state")
            except Exception as error:  # torch's reader raises nearly anything on a damaged file
                logger.warning("%s: damaged, ignored (%s)", path, " ".join(str(error).split())[:200])
                continue
            logger.info("resumed from %s", path)
            return state
        return None

    def delete(self) -> None:
        """Remove them all, after success."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _prefix(self) -> str:
        return f"{self.fingerprint[:16]}-"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self._prefix}*.pt"), reverse=True)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """While the block runs, SIGTERM is noted in the list that it gets instead of ending the process."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
