"""The report's tables of the pretrained network: known targets, metrics, subgroups, calibration.

Tables of the split and of results/pretrain go in, texts come out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd

from ..manifest.withdrawal import participant_of
from ..pretrain.evaluation import BAND
from ..study.targets import CLASSES, TARGETS, UNITS
from ..text import MISSING, fixed, interval, words
from .cells import cell, enough, hidden_parts, share_text

SPLIT_ROLES = {"validation": "validation", "holdout": "test"}
SPLIT_NAMES = {"validation": "validation", "holdout": "unseen cohorts"}
REST = "\uffff"  # the people in no group that is shown; sorts last
METRIC_NAMES = {"mae": "MAE", "rmse": "RMSE", "r": "R", "auc": "AUC", "bias": "mean error"}


def target_name(target: str) -> str:
    """A target's name on the page."""
    return "BMI" if target == "bmi" else words(target)


def known_targets(
    images: pd.DataFrame, targets: Iterable[str], smallest: int = 1, without: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Per target and role, the number of images with a known value; of few people no number and no share.

    Parameters
    ----------
    without : roles whose number of images is not shown
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
            known = f"not shown: of < {smallest} people" if few else "hidden" if role in without else int(has.sum())
            share = None if few or role in without else 100 * has.mean()
            total = cell(len(mine), people, smallest, role in without)
            cells.append({"role": role, "known": known, "images": total, "share": share})
        rows.append({"target": target_name(target), "cells": cells})
    return rows


def metric_groups(
    metrics: pd.DataFrame, published: pd.DataFrame, smallest: int = 1, without: Collection[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Per target, the metrics on validation images and unseen cohorts, with the dummy's and the published ones.

    Parameters
    ----------
    without : splits and targets whose number of images is not shown, see `sizes_hidden`
    """
    metrics = enough(metrics, smallest)
    paper = published[published["quantity"] == "metric"].set_index(["task", "split", "metric"])["value"]
    groups = []
    for target, mine in metrics.groupby("target", sort=False):
        rows = []
        for metric, part in mine.groupby("metric", sort=False):
            unit = f", {UNITS[target]}" if target in UNITS and metric in ("mae", "rmse", "bias") else ""
            cells = {}
            for found in part.to_dict("records"):
                values = {"value": fixed(found["value"]), "interval": interval(found["low"], found["high"])}
                bound = share_text(found["value"], found["observations"], smallest) if metric == "accuracy" else None
                values = values if bound is None else {"value": bound, "interval": MISSING}
                values |= {"dummy": fixed(found["dummy"]), "paper": paper.get((target, found["split"], metric))}
                cells[found["split"]] = values
            rows.append({"metric": METRIC_NAMES.get(metric, metric) + unit, **cells})
        sizes = mine.drop_duplicates("split").set_index("split")[["observations", "participants"]].to_dict("index")
        for split, known in sizes.items():
            sizes[split] = dict.fromkeys(known, "hidden") if (split, target) in without else known
        groups.append({"target": target_name(target), "rows": rows, "sizes": sizes})
    return groups


def sizes_hidden(images: pd.DataFrame, smallest: int, without: Collection[str]) -> set[tuple[str, str]]:
    """Splits and targets whose number of evaluated images is not shown: few others follow from it.

    Parameters
    ----------
    images : `participant_id`, `role` and a column per target of each usable image
    without : roles whose number of images is not shown
    """
    found = set()
    for split, role in SPLIT_ROLES.items():
        mine = images[images["role"] == role]
        for target in (target for target in TARGETS if target in images):
            unknown = mine.loc[mine[target].isna(), "participant_id"].nunique()
            if role in without or 0 < unknown < smallest:
                found.add((split, target))
    return found


def without_rare_class(metrics: pd.DataFrame, images: pd.DataFrame, smallest: int) -> pd.DataFrame:
    """Metrics without those of binary targets of which a class has few people: an AUC is a share of pairs of people.

    Parameters
    ----------
    metrics : `split` and `target`, and perhaps `by` and `group`
    images : `participant_id`, `cohort`, `role` and a column per target of each usable image
    """

    def is_rare(row: dict[str, Any]) -> bool:
        if row["target"] not in CLASSES or row["target"] not in images:
            return False
        mine = images[(images["role"] == SPLIT_ROLES[row["split"]]) & images[row["target"]].notna()]
        if "by" in row:
            mine = mine[_groups_of(mine, row["by"]) == row["group"]]
        people = mine.groupby(row["target"])["participant_id"].nunique()
        return bool(((people > 0) & (people < smallest)).any())

    return metrics.loc[np.array([not is_rare(row) for row in metrics.to_dict("records")], bool)]


def _groups_of(images: pd.DataFrame, by: str) -> pd.Series:
    """The name of each image's group, as in the table of metrics by group."""
    if by == "cohort":
        return images["cohort"].astype(str)
    if by == "sex":
        return images["sex"].map({0.0: "female", 1.0: "male"})
    low = images["age"].astype(float) // BAND * BAND
    return low.map(lambda start: f"{start:.0f} to {start + BAND - 1:.0f}", na_action="ignore")


def shown_groups(groups: pd.DataFrame, metrics: pd.DataFrame, images: pd.DataFrame, smallest: int) -> pd.DataFrame:
    """Metrics by group without groups from which another of few people would follow, and all groups together.

    Beside the groups of a kind all people of the split are known, so their difference is.  If it is of few people, the
    smallest other group is left out.

    Parameters
    ----------
    groups : from evaluation.evaluate_groups
    metrics : of the same images, from evaluation.evaluate
    images : `participant_id`, `cohort`, `role` and a column per target of each usable image
    """
    groups = without_rare_class(enough(groups, smallest), images, smallest)
    if groups.empty or metrics.empty:
        return groups
    whole = metrics.groupby(["split", "target"])["observations"].first()
    left_out = []
    for (split, target, _), mine in groups.groupby(["split", "target", "by"], sort=False):
        sizes = mine.drop_duplicates("group").set_index("group")
        rest = int(whole.get((split, target), 0) - sizes["observations"].sum())
        role = images[images["role"] == SPLIT_ROLES[split]]
        most = max(1, int(role["participant_id"].value_counts().max())) if len(role) else 1
        people = {**sizes["participants"].astype(int).to_dict(), REST: -(-rest // most)}
        hidden = hidden_parts(people, smallest)
        left_out.append(mine[mine["group"].isin(hidden)])
    return groups.drop(index=pd.concat(left_out).index)


def subgroups(groups: pd.DataFrame, smallest: int = 1) -> list[dict[str, Any]]:
    """Per target, the main metric (MAE or AUC) and the mean error by cohort, age band and sex.

    Parameters
    ----------
    groups : from `shown_groups`
    """
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
                "observed": bound or f"{row['observed']:.3f}",
                "interval": MISSING if bound else interval(row["low"], row["high"]),
                "observations": row["observations"],
            }
            for row in mine.to_dict("records")
            for bound in [share_text(row["observed"], row["observations"], smallest)]
        ]
        found.append({"target": target_name(target), "split": SPLIT_NAMES[split], "rows": rows})
    return found
