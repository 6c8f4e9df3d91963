"""The report's tables of the pretrained network: known targets, metrics, subgroups, calibration.

Tables of the split and of results/pretrain go in, texts come out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ..manifest.withdrawal import participant_of
from ..study.targets import UNITS
from ..text import fixed, interval, words
from .cells import enough, shown

SPLIT_NAMES = {"validation": "validation", "holdout": "unseen cohorts"}
METRIC_NAMES = {"mae": "MAE", "rmse": "RMSE", "r": "R", "auc": "AUC", "bias": "mean error"}


def target_name(target: str) -> str:
    """A target's name on the page."""
    return "BMI" if target == "bmi" else words(target)


def known_targets(images: pd.DataFrame, targets: Iterable[str], smallest: int = 1) -> list[dict[str, Any]]:
    """Per target and role, the number of images with a known value; of few people no number and no share.

    Parameters
    ----------
    images : `role` and a column per target, of every image of the split; unknown values are missing
    """
    rows = []
    for target in (target for target in targets if target in images):
        cells = []
        for role in (role for role in ("train", "validation", "test", "unused") if (images["role"] == role).any()):
            mine = images[images["role"] == role]
            has = mine[target].notna()
            person = mine["image_id"].map(participant_of)
            people = person.nunique()
            few = any(0 < count < smallest for count in (people, person[has].nunique(), person[~has].nunique()))
            known = f"not shown: of < {smallest} people" if few else int(has.sum())
            share = None if few else 100 * has.mean()
            cells.append({"role": role, "known": known, "images": shown(len(mine), people, smallest), "share": share})
        rows.append({"target": target_name(target), "cells": cells})
    return rows


def metric_groups(metrics: pd.DataFrame, published: pd.DataFrame, smallest: int = 1) -> list[dict[str, Any]]:
    """Per target, the metrics on validation images and unseen cohorts, with the dummy's and the published ones."""
    metrics = enough(metrics, smallest)
    paper = published[published["quantity"] == "metric"].set_index(["task", "split", "metric"])["value"]
    groups = []
    for target, mine in metrics.groupby("target", sort=False):
        rows = []
        for metric, part in mine.groupby("metric", sort=False):
            unit = f", {UNITS[target]}" if target in UNITS and metric in ("mae", "rmse", "bias") else ""
            cells = {
                found["split"]: {
                    "value": fixed(found["value"]),
                    "dummy": fixed(found["dummy"]),
                    "interval": interval(found["low"], found["high"]),
                    "paper": paper.get((target, found["split"], metric)),
                }
                for found in part.to_dict("records")
            }
            rows.append({"metric": METRIC_NAMES.get(metric, metric) + unit, **cells})
        sizes = mine.drop_duplicates("split").set_index("split")[["observations", "participants"]]
        groups.append({"target": target_name(target), "rows": rows, "sizes": sizes.to_dict("index")})
    return groups


def subgroups(groups: pd.DataFrame, smallest: int = 1) -> list[dict[str, Any]]:
    """Per target, the main metric (MAE or AUC) and the mean error by cohort, age band and sex."""
    found = []
    for target, mine in enough(groups, smallest).groupby("target", sort=False):
        main = "auc" if (mine["metric"] == "auc").any() else "mae"
        rows = []
        for (by, group, split), part in mine.groupby(["by", "group", "split"], sort=False):
            cells = part.set_index("metric")[["value", "low", "high"]].reindex([main, "bias"])
            counts = {name: int(part[name].iloc[0]) for name in ("observations", "participants")}
            values = {"main": fixed(cells.loc[main, "value"]), "bias": fixed(cells.loc["bias", "value"])}
            values["main_interval"] = interval(*cells.loc[main, ["low", "high"]])
            values["bias_interval"] = interval(*cells.loc["bias", ["low", "high"]], sign=True)
            rows.append({"by": by, "group": group, "split": SPLIT_NAMES[split], **counts, **values})
        found.append({"target": target_name(target), "main": main.upper(), "binary": main == "auc", "rows": rows})
    return found


def calibration_groups(calibration: pd.DataFrame, smallest: int = 1) -> list[dict[str, Any]]:
    """Per binary target and split: predicted and observed shares by bin."""
    found = []
    for (target, split), mine in enough(calibration, smallest).groupby(["target", "split"], sort=False):
        rows = [
            {
                "predicted": f"{row['predicted']:.3f}",
                "observed": f"{row['observed']:.3f}",
                "interval": interval(row["low"], row["high"]),
                "observations": row["observations"],
            }
            for row in mine.to_dict("records")
        ]
        found.append({"target": target_name(target), "split": SPLIT_NAMES[split], "rows": rows})
    return found
