"""The results of the study of this folder's tests."""

import json
from pathlib import Path

FITS = "results/fits/ad_hc/n18"


def bytes_of(study: Path, *paths: str) -> dict[str, bytes]:
    """The bytes of results by name."""
    return {path: (study / path).read_bytes() for path in paths}


def forget(study: Path, *paths: str) -> None:
    """Remove results; the next run makes them again."""
    for path in paths:
        (study / path).unlink()


def holder_of(output: Path) -> int:
    """The process that holds an output's lease."""
    return json.loads(Path(f"{output}.lease").read_text())["pid"]
