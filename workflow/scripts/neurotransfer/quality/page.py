"""The page on which a person looks at the most unusual images: slices, the mask's outline, what is odd, the ledger.

It shows people's heads and names images, so it is private and says so.  Only the unusual ones have pictures, so its
size depends on the configuration and not on the number of images.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from .. import pages
from ..cache.image_figures import FIGURES
from ..cache.shard_file import ShardFile
from ..files import read_table
from ..preprocess.reasons import FIT, REASONS
from .judge import badness

ODD = 3.5  # robust z-score from which a figure counts as a reason (Iglewicz and Hoaglin, 1993)
PER_RULE = 10  # images shown of those that a rule excludes, and of those that failed with one reason
PLACE = ("shard", "file", "line")  # of a ledger's row
LARGEST, LONGEST = 512**3, 1024  # voxels of a failed image that has a picture, and along an axis
SMALLEST = 180  # pixels of a slice; smaller ones are enlarged, so that an outline is thin
QUALITY = 82  # of JPEG
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
OUTLINE = (255, 176, 0)  # seen on grey by the colour-blind, too


def quality_content(
    study: str,
    tables: Sequence[pd.DataFrame],
    slices: Sequence[str | Path],
    ledgers: Sequence[str | Path],
    settings: Mapping[str, Any],
    exclude: Mapping[str, Mapping[str, float | None]],
    manifests: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Everything that the page shows.

    Parameters
    ----------
    study : its name
    tables : of each cohort, from quality.judge
    slices : of each shard, ``<shard>.slices.npy``
    ledgers : of each preprocessing job, ``<shard>/<job>.tsv``
    settings : `images` and `per_cohort`, how many of the study's and of each cohort's most unusual images are shown,
        and `flag_below_mm3`, the volume of a mask below which an image is flagged
    exclude : the rules in force
    manifests : of each shard, ``shards/<shard>.tsv``, in which the files of failed images stand
    """
    tables = [table for table in tables if len(table)]
    images = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["cohort", "status", "unusual"])
    recorded = read_ledgers(ledgers)
    images = images.assign(flag=flags(images, notes(recorded), settings["flag_below_mm3"]))
    shown = most_unusual(images, settings["images"], settings["per_cohort"])
    groups = {name: compared_with(table) for name, table in _by_cohort(tables)}
    pictures = {Path(path).name.removesuffix(".slices.npy"): path for path in slices}
    rows = ledger_rows(shown, recorded)
    cards = []
    for image in shown.to_dict("records"):
        picture, outline = thumbnails(ShardFile(pictures[image["shard"]]).image(int(image["row"])))
        group = groups[image["cohort"]].loc[image["group"]]
        cards.append(
            card(image, group) | {"picture": picture, "outline": outline, "ledger": rows.get(image["image_id"])}
        )
    excluded = images[images["status"] == "excluded"]
    return {
        "study": study,
        "images": len(images),
        "excluded": len(excluded),
        "flagged": int(images["flag"].notna().sum()),
        "odd": int((images["unusual"].astype(float) >= ODD).sum()),
        "rules": rule_rows(excluded, exclude),
        "cohorts": [
            {
                "name": name,
                "images": len(table),
                "excluded": int((table["status"] == "excluded").sum()),
                "odd": int((table["unusual"] >= ODD).sum()),
            }
            for name, table in _by_cohort(tables)
        ],
        "settings": dict(settings),
        "failed": failed_images(recorded, manifests),
        "threshold": ODD,
        "data": {
            "cards": cards,
            "figures": [
                {"name": name, "title": figure.title, "unit": figure.unit, "digits": figure.digits}
                for name, figure in FIGURES.items()
            ],
            "cohorts": [{"name": name} | distributions(table) for name, table in _by_cohort(tables)],
        },
    }


def _by_cohort(tables: Sequence[pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    return [(table["cohort"].iloc[0], table) for table in tables]


def compared_with(table: pd.DataFrame) -> pd.DataFrame:
    """Of each group of a cohort its size (`images`) and the median of each figure; "all" is the whole cohort."""
    names = list(FIGURES)
    parts = {group: part for group, part in table.groupby("group") if group != "all"} | {"all": table}
    return pd.DataFrame({group: part[names].median() for group, part in parts.items()}).T.assign(
        images=[len(part) for part in parts.values()]
    )


def read_ledgers(paths: Sequence[str | Path]) -> pd.DataFrame:
    """The rows of all ledgers, with the `shard` of each, its `file` (relative to the page) and its `line` there."""
    tables = []
    for path in map(Path, paths):
        table = read_table(path)
        shard, file = path.parent.name, f"../preprocessed/{path.parent.name}/{path.name}"
        tables.append(table.assign(shard=shard, file=file, line=range(2, len(table) + 2)))
    if not tables:
        return pd.DataFrame(columns=["image_id", "status", "reason", "detail", *PLACE])
    return pd.concat(tables, ignore_index=True)


def notes(recorded: pd.DataFrame) -> dict[str, str]:
    """What an engine has noted of images that it has completed, by image, without the figure that every image has."""
    found: dict[str, str] = {}
    for row in recorded[(recorded["status"] == "ok") & recorded["detail"].notna()].itertuples():
        said = [part for part in str(row.detail).split("; ") if not part.startswith(FIT)]
        if said:
            found[row.image_id] = "; ".join(said)
    return found


def flags(images: pd.DataFrame, noted: Mapping[str, str], smallest: float | None) -> pd.Series:
    """Why an image that stays in the study needs a look: text, or None.

    Parameters
    ----------
    noted : the engine's notes, by image
    smallest : mm³; smaller masks are flagged; None flags none of them
    """
    found = images["image_id"].map(noted).astype(object) if len(images) else pd.Series(dtype=object)
    if smallest is not None and len(images):
        small = images["mask_volume_mm3"].astype(float) < smallest
        limit = f"the mask is smaller than {smallest / 1000:g} ml"
        found = found.where(~small, [limit if pd.isna(text) else f"{limit}; {text}" for text in found])
    return found.where(found.notna() & (images["status"] == "ok"), None) if len(images) else found


def most_unusual(images: pd.DataFrame, count: int, per_cohort: int) -> pd.DataFrame:
    """The images with pictures, the most unusual first; `first` marks those of the whole study's list.

    Of each cohort the most unusual are there too, and of each rule the most unusual that it excludes, so that no
    cohort and no rule is without an example.  So are the flagged images, the most unusual `count` of them.
    """
    if images.empty:
        return images.assign(first=False)
    ranked = images.sort_values(["unusual", "image_id"], ascending=[False, True], kind="stable")
    excluded = ranked[ranked["status"] == "excluded"].groupby("reason").head(PER_RULE)
    flagged = ranked[ranked["flag"].notna()].index[:count]
    wanted = ranked.index[:count].union(ranked.groupby("cohort").head(per_cohort).index).union(excluded.index)
    chosen = ranked[ranked.index.isin(wanted.union(flagged))]
    return chosen.assign(first=chosen.index.isin(ranked.index[:count].union(flagged)))


def card(image: Mapping[str, Any], group: pd.Series) -> dict[str, Any]:
    """What the page says of one image.

    Parameters
    ----------
    image : a row of its cohort's table
    group : size (`images`) and median of each figure of the group that it is compared with
    """
    figures: list[dict[str, Any]] = []
    for name, figure in FIGURES.items():
        value, z = image[name], image[f"z_{name}"]
        middle = group[name]
        figures.append(
            {
                "name": name,
                "value": None if pd.isna(value) else value * figure.scale,
                "z": None if pd.isna(z) else cut(float(z)),
                "median": None if pd.isna(middle) else middle * figure.scale,
            }
        )
    scores = {name: badness(name, pd.Series([image[f"z_{name}"]], dtype=float)).iloc[0] for name in FIGURES}
    odd = [name for name, score in scores.items() if score >= ODD]
    return {
        "id": image["image_id"],
        "cohort": image["cohort"],
        "age": None if pd.isna(image["age"]) else round(float(image["age"]), 1),
        "group": image["group"],
        "size": int(group["images"]),
        "why": image["why"],
        "reasons": sorted({*odd, image["why"]}, key=list(FIGURES).index),
        "unusual": round(float(image["unusual"]), 2),
        "rule": None if pd.isna(image["reason"]) else image["reason"],
        "detail": None if pd.isna(image["detail"]) else image["detail"],
        "flag": None if pd.isna(image["flag"]) else image["flag"],
        "first": bool(image["first"]),
        "figures": figures,
    }


def cut(z: float) -> float:
    """A z-score with two decimals, towards 0, so that none below a threshold is shown as the threshold.

    >>> cut(3.4999), cut(-3.4999), cut(3.5), cut(4.35)
    (3.49, -3.49, 3.5, 4.35)
    """
    return math.copysign(math.floor(abs(z) * 100 + 1e-6) / 100, z)


def ledger_rows(shown: pd.DataFrame, recorded: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of each image its row of the ledger, with the file (relative to the page) and the line that it stands in."""
    if shown.empty:
        return {}
    rows = recorded[recorded["image_id"].isin(shown["image_id"]) & recorded["shard"].isin(shown["shard"])]
    found = {}
    for row in rows.to_dict("records"):
        facts = {name: None if pd.isna(value) else str(value) for name, value in row.items() if name not in PLACE}
        found[row["image_id"]] = facts | {"file": row["file"], "line": row["line"]}
    return found


def failed_images(recorded: pd.DataFrame, manifests: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The first failed images of each reason, with what is recorded of them and three slices if they can be read.

    Parameters
    ----------
    recorded : from read_ledgers
    manifests : of each shard; a failed image that none of them lists is left out
    """
    failed = recorded[recorded["status"] == "failed"]
    tables = [read_table(path)[["image_id", "t1w"]] for path in manifests if Path(path).stem in set(failed["shard"])]
    if not tables:
        return []
    failed = failed.merge(pd.concat(tables), on="image_id").sort_values("reason", kind="stable")
    counts = failed["reason"].value_counts()
    found = []
    for row in failed.groupby("reason").head(PER_RULE).to_dict("records"):
        reason = str(row["reason"])
        found.append(
            {
                "id": row["image_id"],
                "cohort": row["shard"].rpartition("-")[0],
                "reason": reason,
                "detail": None if pd.isna(row["detail"]) else str(row["detail"]),
                "remedy": REASONS[reason].remedy if reason in REASONS else None,
                # an image that killed its job would kill this one, too
                "picture": None if reason == "killed" else picture_of_file(Path(str(row["t1w"]))),
                "of": int(counts[reason]),
            }
        )
    return found


def picture_of_file(path: Path) -> str | None:
    """Sagittal, coronal and axial slice through the middle of an image file, as a data address.

    None if they cannot be read.  Only these slices are in memory.
    """
    try:
        image: Any = nibabel.load(path)
        if len(image.shape) < 3 or image.get_data_dtype().kind not in "biuf":
            return None
        if np.prod(image.shape[:3], dtype=float) > LARGEST or max(image.shape) > LONGEST:
            return None
        axes = nibabel.io_orientation(image.affine)
        if np.isnan(axes).any():
            axes = np.array([[0, 1], [1, 1], [2, 1]])
        planes = []
        for across in range(3):
            index: list[Any] = [slice(None)] * 3 + [0] * (len(image.shape) - 3)
            position = int(np.flatnonzero(axes[:, 0] == across)[0])
            index[position] = image.shape[position] // 2
            plane = np.asarray(image.dataobj[tuple(index)], np.float64)
            rest = np.delete(axes, position, axis=0)
            if rest[0, 0] > rest[1, 0]:
                plane, rest = plane.T, rest[::-1]
            plane = plane[:: int(rest[0, 1]), :: int(rest[1, 1])].T[::-1]  # superior or anterior up
            plane = plane[:, ::-1] if across else plane  # the person's left on the right
            planes.append(np.nan_to_num(plane, posinf=0.0, neginf=0.0))
    except Exception:  # a broken file can fail in any way, and has no picture then
        return None
    values = np.concatenate([plane.ravel() for plane in planes])
    low, high = np.percentile(values, (1, 99))
    size = max(max(plane.shape) for plane in planes)
    strip = np.zeros((size, 3 * size), np.uint8)
    for at, plane in enumerate(planes):
        grey = ((plane - low) / max(high - low, 1e-30) * 255).clip(0, 255).astype(np.uint8)
        top, left = (size - grey.shape[0]) // 2, at * size + (size - grey.shape[1]) // 2
        strip[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
    picture = Image.fromarray(strip).resize((3 * 2 * SMALLEST, 2 * SMALLEST), Image.Resampling.BICUBIC)
    return _address(picture, "jpeg", quality=QUALITY, optimize=True)


def thumbnails(slices: np.ndarray) -> tuple[str, str]:
    """Sagittal, coronal and axial slice side by side, and their masks' outlines to lay over them, as data addresses.

    Parameters
    ----------
    slices : uint8 [3, size, size] from cache.middle_slices: sagittal, axial, coronal, in the file's axes (LIA)
    """
    sagittal, axial, coronal = slices
    # superior and anterior up, the person's left on the right; the sagittal one looks to the right
    strip = np.concatenate([sagittal, coronal.T, axial.T[::-1]], axis=1)
    zoom = max(1, math.ceil(SMALLEST / len(sagittal)))
    grey, mask = Image.fromarray(strip & 0xFE), np.kron(strip & 1, np.ones((zoom, zoom), np.uint8)).astype(bool)
    size = (strip.shape[1] * zoom, strip.shape[0] * zoom)
    cross, thick = ndimage.generate_binary_structure(2, 1), max(1, len(mask) // 128)
    edge = mask & ~ndimage.binary_erosion(mask, cross, thick, border_value=1)
    line = Image.fromarray(edge.astype(np.uint8), "P")
    line.putpalette([0, 0, 0, *OUTLINE])
    picture = grey.resize(size, Image.Resampling.BICUBIC) if zoom > 1 else grey
    return (
        _address(picture, "jpeg", quality=QUALITY, optimize=True),
        _address(line, "png", transparency=0, bits=1),
    )


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind.upper(), **options)
    return pages.address(file.getvalue(), f"image/{kind}")


def rule_rows(excluded: pd.DataFrame, exclude: Mapping[str, Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """The rules in force in words, and how many images each leaves out."""
    counts = excluded["reason"].value_counts() if len(excluded) else {}
    rows = []
    for name, limits in exclude.items():
        for ending, word in (("min", "below"), ("max", "above")):
            limit = limits.get(ending)
            if limit is None:
                continue
            if name == "z":
                said = f"any |z| {word} {limit:g}"
            else:
                figure = FIGURES[name]
                said = f"{figure.title} {word} {limit * figure.scale:,.{figure.digits}f} {figure.unit}".strip()
            rows.append({"rule": f"{name}_{ending}", "text": said, "images": int(counts.get(f"{name}_{ending}", 0))})
    return rows


def distributions(table: pd.DataFrame) -> dict[str, Any]:
    """A cohort's number of images, and of each figure the quantiles that its row of the plot shows."""
    quantiles = {}
    for name, figure in FIGURES.items():
        values = table[name].dropna().astype(float)
        quantiles[name] = [float(value) * figure.scale for value in values.quantile(QUANTILES)] if len(values) else None
    return {"images": len(table), "quantiles": quantiles}


def quality_html(content: Mapping[str, Any]) -> str:
    """The page, in one file; every text is escaped."""
    # inside a script element only "<" could end it early
    data = json.dumps(content["data"], allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return pages.render({**content, "data": data}, "quality.html.j2", "quality.js")
