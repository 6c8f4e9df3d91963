"""Engines: what turns one T1-weighted image into FastSurfer's file layout.

A job opens one engine for its images; preprocess/run.py hands it a `EngineInput` and an empty folder at a time, and
writes the ledger.  Which files must be there at the end, and what they must look like, is in outputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

CLASSES = {
    "builtin": "builtin.Builtin",
    "fastsurfer": "fastsurfer.FastSurfer",
    "derivatives": "derivatives.Derivatives",
}


@dataclass(frozen=True)
class EngineInput:
    """One image, as it is given to an engine.

    `t1w` and `derivatives` are absolute; `derivatives` is the folder of existing outputs, if there is one.  Without
    `volumes`, the image needs no statistics; `kept` is a folder with its outputs except these.
    """

    image_id: str
    t1w: Path
    derivatives: Path | None = None
    participant_id: str | None = None
    session: str | None = None
    run: str | None = None
    volumes: bool = True
    kept: Path | None = None


@dataclass(frozen=True)
class Made:
    """What an engine says of an image that succeeded: a note for the ledger's `detail`, and the seconds that each part
    of the work took (see study.demands.PARTS), as far as it measures them."""

    note: str | None = None
    parts: Mapping[str, float] | None = None


class Engine(Protocol):
    """Opened once per job with the configuration's `preprocessing`: ``Engine(settings)``.

    `at_once` is how many images it works on at the same time (in threads: only an engine whose work happens in
    other processes says more than 1).
    """

    at_once: int

    def check(self) -> None:
        """Look once, before the job's first image, whether the engine can work at all.

        Raises
        ------
        InstallationError
            if it cannot, in one line with the fix; the job stops, and no image fails for it
        """

    def facts(self, scan: EngineInput) -> dict[str, Any]:
        """JSON values that the image's outputs depend on besides `t1w` itself: other values, another try."""

    def made_by(self, scan: EngineInput) -> tuple[str, str]:
        """The ledger's `engine` and `engine_version`: what makes, or made, the image's files.  Raises nothing."""

    def run(self, scan: EngineInput, folder: Path, *, alone: bool = False) -> Made | None:
        """Write ``mri/{orig,mask,aparc.DKTatlas+aseg.deep}.mgz`` and ``stats/aseg+DKT.stats`` into `folder`.

        An engine that can save time so leaves the statistics out if `scan.volumes` is false, and computes only them if
        there is `scan.kept`.
        Logs go to ``scripts/`` there, which stays when the image fails.  `alone` says that this is the second try after
        TryAlone and that no other image of the job is being worked on.

        Returns
        -------
        what is to be said of an image that succeeded; a note stands in the ledger and on the quality page

        Raises
        ------
        ImageError
            with a reason of reasons.REASONS; TryAlone asks for a second try at the end of the job
        InstallationError
            if not the image but the engine is at fault: the job stops
        """

    def stop(self) -> None:
        """Have whatever is running end, at once: the job is ending.  Called from another thread than `run`."""

    def close(self) -> None:
        """Let go of what it holds; nothing is running any more."""


def open_engine(settings: Mapping[str, Any], name: str | None = None) -> Engine:
    """The engine called `name` (or the configured one) for one job.

    Parameters
    ----------
    settings : the configuration's `preprocessing`
    """
    module, _, engine = CLASSES[name or settings["engine"]].partition(".")
    return getattr(import_module(f".{module}", __name__), engine)(settings)
