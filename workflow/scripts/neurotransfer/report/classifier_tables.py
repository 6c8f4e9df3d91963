"""The report's tables behind the AUCs: thresholds, calibration, and AUCs of subgroups.

Tables of results/statistics go in, texts and the lines of small figures come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from .. import pages
from ..files import table_text
from ..text import fixed, interval, is_missing
from .colours import marks_of

METRICS = (  # in the order of the columns
    "balanced accuracy", "sensitivity", "specificity", "PR-AUC", "share of positive images", "Brier score",
    "calibration slope", "calibration intercept",
)  # fmt: skip
FILES = {"classifiers": "classifiers.tsv", "calibration_curves": "calibration.tsv", "subgroups": "subgroups.tsv"}
SIDE = 100.0  # of a small figure, in the units of its view box


def figure_groups(figures: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n and model with a cell per metric; a metric that no fit has is missing."""
    groups = []
    for task in tasks:
        rows = []
        for (n, model), part in figures[figures["task"] == task].groupby(["n", "model"], sort=False):
            cells = {
                row["metric"]: {"value": fixed(row["value"]), "interval": interval(row["low"], row["high"])}
                for row in part.to_dict("records")
            }
            rows.append({"n": int(n), "model": model, "cells": [cells.get(metric) for metric in METRICS]})
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def subgroup_rows(subgroups: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per subgroup and model at the largest n."""
    groups = []
    for task in tasks:
        mine = subgroups[subgroups["task"] == task]
        rows = [
            {
                "group": row["group"],
                "model": row["model"],
                "auc": fixed(row["value"]),
                "interval": interval(row["low"], row["high"]),
                "participants": _count(row["participants"]),
                "positive": _count(row["positive_participants"]),
                "replicates": int(row["replicates"]),
            }
            for row in mine[mine["n"] == mine["n"].max()].sort_values(["by", "group"], kind="stable").to_dict("records")
        ]
        if rows:
            groups.append({"title": tasks[task].get("title", task), "n": int(mine["n"].max()), "rows": rows})
    return groups


def _count(people: float) -> int | str:
    """A number of people; a missing one would reveal another."""
    return "hidden" if is_missing(people) else int(people)


def curve_groups(curves: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, the calibration curve of each model at the largest n, as points of a small figure."""
    groups = []
    for task in tasks:
        mine = curves[curves["task"] == task]
        lines = []
        for model, mark in marks_of(mine["model"]).items():
            part = mine[(mine["model"] == model) & (mine["n"] == mine["n"].max())].sort_values("predicted")
            shares = list(part[["predicted", "observed"]].itertuples(index=False, name=None))
            centres = [(SIDE * x, SIDE * (1 - y)) for x, y in shares]
            if centres:
                points = " ".join(f"{x:.1f},{y:.1f}" for x, y in centres)
                numbers = [(fixed(x), fixed(y)) for x, y in shares]
                drawn = {"points": points, "centres": centres, "numbers": numbers}
                lines.append({"model": model, "colour": mark.colour.lower(), **drawn})
        if lines:
            groups.append({"title": tasks[task].get("title", task), "n": int(mine["n"].max()), "lines": lines})
    return groups


def files(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, str]]:
    """The tables as files for the page: their names and data addresses."""
    return [
        {"name": file, "address": pages.address(table_text(tables[name]).encode(), "text/tab-separated-values")}
        for name, file in FILES.items()
    ]
