"""What the report's tables of the pretrained network show: known targets, metrics, subgroups, calibration.

Tables of the split and of results/pretrain go in, texts come out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ..text import MISSING, fixed, interval, words

SPLITS = {"validation": "validation", "holdout": "unseen cohorts"}


def known_targets(images: pd.DataFrame, targets: Iterable[str]) -> list[dict[str, Any]]:
    """Per target and role, the images whose value is known.

    Parameters
    ----------
    images : `role` and, as far as it is known, a column per target, of every image of the split
    """
    rows = []
    for target in (target for target in targets if target in images):
        cells = []
        for role in (role for role in ("train", "validation", "test", "unused") if (images["role"] == role).any()):
            values = images.loc[images["role"] == role, target]
            share = 100 * values.notna().mean()
            cells.append({"role": role, "known": int(values.notna().sum()), "images": len(values), "share": share})
        rows.append({"target": "BMI" if target == "bmi" else words(target), "cells": cells})
    return rows


def metric_groups(metrics: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, its metrics on validation and on unseen cohorts beside the dummy's and the published, to show."""
    paper = published[published["quantity"] == "metric"].set_index(["task", "split", "metric"])["value"]
    labels = {"mae": "MAE", "rmse": "RMSE", "r": "R", "auc": "AUC", "bias": "mean error"}
    units = {"age": "years", "bmi": "kg/m²"}
    groups = []
    for target, mine in metrics.groupby("target", sort=False):
        rows = []
        for metric, part in mine.groupby("metric", sort=False):
            unit = f", {units[target]}" if target in units and metric in ("mae", "rmse", "bias") else ""
            row: dict[str, Any] = {"metric": labels.get(metric, metric) + unit}
            for found in part.to_dict("records"):
                cell = {"value": fixed(found["value"]), "dummy": fixed(found["dummy"])}
                cell |= {"interval": interval(found["low"], found["high"])}
                cell["paper"] = paper.get((target, found["split"], metric))
                row[found["split"]] = cell
            rows.append(row)
        name = words(target)
        sizes = mine.drop_duplicates("split").set_index("split")[["observations", "participants"]]
        groups.append({"target": "BMI" if name == "bmi" else name, "rows": rows, "sizes": sizes.to_dict("index")})
    return groups


def subgroups(groups: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, its error (MAE or AUC) and mean error by cohort, age band and sex, of the rows that there are."""
    found = []
    for target, mine in groups.groupby("target", sort=False):
        main = "auc" if (mine["metric"] == "auc").any() else "mae"
        rows = []
        for (by, group, split), part in mine.groupby(["by", "group", "split"], sort=False):
            cells = part.set_index("metric")
            row = {"by": by, "group": group, "split": SPLITS[split]}
            row |= {name: int(part[name].iloc[0]) for name in ("observations", "participants")}
            for name, metric in (("main", main), ("bias", "bias")):
                known = metric in cells.index
                row[name] = fixed(cells.loc[metric, "value"]) if known else MISSING
                bounds = (cells.loc[metric, "low"], cells.loc[metric, "high"]) if known else (None, None)
                row[f"{name}_interval"] = interval(*bounds, sign=metric == "bias")
            rows.append(row)
        found.append({"target": words(target), "main": main.upper(), "binary": main == "auc", "rows": rows})
    return found


def calibration_groups(calibration: pd.DataFrame) -> list[dict[str, Any]]:
    """Per binary target and split: predicted and observed shares by bin."""
    found = []
    for (target, split), mine in calibration.groupby(["target", "split"], sort=False):
        rows = [
            {
                "predicted": f"{row['predicted']:.3f}",
                "observed": f"{row['observed']:.3f}",
                "interval": interval(row["low"], row["high"]),
                "observations": row["observations"],
            }
            for row in mine.to_dict("records")
        ]
        found.append({"target": words(target), "split": SPLITS[split], "rows": rows})
    return found
