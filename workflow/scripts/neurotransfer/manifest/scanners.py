"""The scanner of each image, from the JSON files beside a BIDS data set's scans.

Goes in: the paths of images.  Comes out: manufacturer, model and field strength, of images for which any is stated.  A
fact in a file nearer to the image wins, as BIDS' inheritance principle says (BIDS 1.10, "The Inheritance Principle").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import read_table

COLUMNS = ["image_id", "manufacturer", "model", "field_strength"]
FIELDS = {"manufacturer": "Manufacturer", "model": "ManufacturersModelName", "field_strength": "MagneticFieldStrength"}
NOT_STATED = "not stated"
MOST_BYTES = 2**20  # of a JSON file that is read; converters write a few kB
LONGEST = 60  # characters of a name
STRONGEST = 25.0  # tesla; field strengths above are in gauss or wrong


def scanners_of(images: pd.DataFrame, roots: Mapping[str, Path]) -> pd.DataFrame:
    """The scanners of images whose JSON files state any part of it.

    Parameters
    ----------
    images : `image_id`, `cohort` and `t1w`, the path of the image
    roots : the folder of each cohort's data set; images of other cohorts are left out

    Returns
    -------
    COLUMNS, sorted by `image_id`; `field_strength` is in tesla, and what is not stated is missing
    """
    known: dict[Path, dict[str, str | float]] = {}
    rows = []
    for image in images[images["cohort"].isin(list(roots))].itertuples():
        found: dict[str, str | float] = {}
        for path in _files(Path(image.t1w), roots[image.cohort]):
            if path not in known:
                known[path] = _read(path)
            found |= known[path]
        if found:
            rows.append({"image_id": image.image_id, **found})
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"field_strength": float})
    return table.sort_values("image_id", ignore_index=True)


def with_scanner(images: pd.DataFrame, scanners: pd.DataFrame) -> pd.DataFrame:
    """Images with a column `scanner`, see `names_of_scanners`; without it if the scanner of none is known."""
    names = names_of_scanners(images["image_id"], scanners)
    return images if (names == NOT_STATED).all() else images.assign(scanner=names)


def read_scanners(path: str | Path | None) -> pd.DataFrame:
    """The table of scanners, without rows if there is none."""
    return read_table(path) if path else pd.DataFrame(columns=COLUMNS)


def names_of_scanners(image_ids: pd.Series, scanners: pd.DataFrame) -> pd.Series:
    """One name for the scanner of each image, such as "Siemens Prisma 3 T", or "not stated"; with the ids' index."""
    strength = scanners["field_strength"].map(lambda tesla: f"{tesla:g} T", na_action="ignore")
    parts = pd.concat([scanners["manufacturer"], scanners["model"], strength], axis=1).astype(object).to_numpy()
    names = [" ".join(str(part) for part in row if not pd.isna(part)) for row in parts]
    known = dict(zip(scanners["image_id"], names, strict=True))
    return image_ids.map(lambda image: known.get(image, NOT_STATED))


def _files(image: Path, root: Path) -> Iterable[Path]:
    """The JSON files that may describe an image, the data set's first and the image's own last."""
    above = [folder for folder in image.parents if folder == root or root in folder.parents]
    stem = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_defaced")
    labels = [part for part in stem.split("_")[:-1] if part.startswith(("sub-", "ses-"))]
    for folder in reversed(above):
        yield folder / "T1w.json"
        for count in range(1, len(labels) + 1):
            yield folder / f"{'_'.join(labels[:count])}_T1w.json"
    yield image.with_name(f"{stem}.json")


def _read(path: Path) -> dict[str, str | float]:
    """The fields that a file states; nothing of a file that is missing, large or no JSON object."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        document = json.loads(content) if len(content) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    found = {name: document.get(FIELDS[name]) for name in COLUMNS[1:]}
    named = {name: _short(text) for name, text in found.items() if name != "field_strength" and isinstance(text, str)}
    return {name: text for name, text in named.items() if text} | _tesla(found["field_strength"])


def _short(text: str) -> str:
    """A name as one short line."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:LONGEST].strip()


def _tesla(value: Any) -> dict[str, str | float]:
    """A field strength, if it can be one; 2.89 is 2.9, because scanners of one kind differ by a little."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= STRONGEST
    return {"field_strength": round(float(value), 1)} if known else {}
