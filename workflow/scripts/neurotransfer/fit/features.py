"""Features of a resample's images for logistic regression: of the pretrained trunk, or from a table of the user's.

The trunk's features of a cohort's images are computed once; every resample takes its rows from them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError
from ..files import opened
from ..study import layout
from ..text import counted


def rows_of_index(path: str | Path, rows: np.ndarray) -> np.ndarray:
    """Rows of a matrix that has one for each image of a cohort's index: [rows, columns], copied.

    Raises
    ------
    InputError
        if the matrix has fewer rows
    """
    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.max() >= len(matrix):
        what = f"it has {counted(len(matrix), 'row')}, fewer than its index"
        raise InputError(path, "", what, "delete it, then run the same command again")
    return matrix[rows]


def drawable(index: pd.DataFrame, split: pd.DataFrame, seen: Iterable[str]) -> np.ndarray:
    """Rows of a cohort's index that a task may draw: images of the role test, of people whom pretraining has not seen.

    Parameters
    ----------
    index : of one cohort
    split : `image_id` and `role` of the cohort's images
    seen : participants behind the weights, as far as they are known
    """
    role = index["image_id"].map(split.set_index("image_id")["role"])
    return np.flatnonzero((role == "test") & ~index["participant_id"].isin(set(seen)))


def read_features(resample: pd.DataFrame, files: Sequence[str | Path]) -> np.ndarray:
    """The trunk's features of a resample's images, by its rows.

    Parameters
    ----------
    resample : with `cohort`, `index_row` and `image_id`
    files : ``<cohort>.npy`` of each cohort of the task, float32 [rows of the index, features]

    Returns
    -------
    float64 [rows, features]

    Raises
    ------
    InputError
        if a file is shorter than its index, or an image has no features because pretraining has seen its participant
    """
    by_cohort = {Path(path).stem: path for path in files}
    parts = [
        pd.DataFrame(rows_of_index(by_cohort[cohort], part["index_row"].to_numpy(int)), index=part.index)
        for cohort, part in resample.groupby("cohort")
    ]
    features = pd.concat(parts).loc[resample.index].to_numpy(np.float64)
    lacking = np.flatnonzero(~np.isfinite(features).all(1))
    if len(lacking):
        row = resample.iloc[lacking[0]]
        lacks = counted(len(lacking), "image has", "images have")
        what = f"{lacks} no features, such as {row['image_id']}: pretraining has seen their people"
        fix = f"delete {layout.SPLIT} and {layout.RESAMPLES} and run again; with given weights, leave these people out"
        raise InputError(by_cohort[row["cohort"]], "", what, fix)
    return features


def read_table_of_features(resample: pd.DataFrame, path: str | Path) -> np.ndarray:
    """Features of a resample's images from a TSV file that has a column `image_id` and any number of others.

    Only the rows of the resample's images are converted, because the file may have thousands of columns.

    Returns
    -------
    float64 [rows, features]; an empty cell, NA or NaN is missing (NaN), and is filled in by what training images have

    Raises
    ------
    InputError
        if the file has no such column, no other column, a cell that is no finite number, an image twice, or lacks one
    """
    wanted = set(resample["image_id"])
    found: dict[str, np.ndarray] = {}
    with opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace") as file:
        names = file.readline().rstrip("\r\n").split("\t")
        if "image_id" not in names or len(names) < 2:
            what = f"its columns are {', '.join(names[:5])}"
            raise InputError(path, "", what, "give a TSV with the column image_id and at least one column of features")
        at = names.index("image_id")
        for number, line in enumerate(file, 2):
            name = line.rstrip("\r\n").split("\t", at + 1)[at] if line.count("\t") >= at else ""
            if name not in wanted:
                continue
            cells = line.rstrip("\r\n").split("\t")
            if name in found:
                raise InputError(path, f"line {number}", f"{name} is there twice", "keep one row for each image")
            if len(cells) != len(names):
                what = f"it has {counted(len(cells), 'cell')}, the first line has {len(names)}"
                raise InputError(path, f"line {number}", what, "write as many cells in each line")
            values = [(names[place], cell) for place, cell in enumerate(cells) if place != at]
            found[name] = np.array([_number(path, number, column, cell) for column, cell in values])
    lacking = wanted - found.keys()
    if lacking:
        what = f"it has no row for {len(lacking)} of the resample's images, such as {min(lacking)}"
        raise InputError(path, "image_id", what, "add them, or remove the table from models.features")
    return np.stack([found[name] for name in resample["image_id"]])


def _number(path: str | Path, line: int, column: str, cell: str) -> float:
    if cell.strip() in ("", "NA", "NaN", "nan", "n/a"):
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        fix = "write finite numbers, and leave a cell empty if its value is missing"
        raise InputError(path, f"line {line}, {column}", f"{cell!r} is no finite number", fix)
    return value
