"""The results of the study that the faults of this folder happen to."""

import json
from pathlib import Path

FITS = "results/fits/ad_hc/n18"


def bytes_of(study: Path, *paths: str) -> dict[str, bytes]:
    """The bytes of results by name."""
    return {path: (study / path).read_bytes() for path in paths}


def forget(study: Path, *paths: str) -> None:
    """Remove results, so that a run makes them again."""
    for path in paths:
        (study / path).unlink()


def holder_of(output: Path) -> int:
    """The process that holds an output's lease."""
    return json.loads(Path(f"{output}.lease").read_text())["pid"]
