"""The report's tables on confounding: labels by site, AUCs and differences within strata, gains, who is in the sets.

The certificate and tables of results/statistics go in, texts come out, without counts of fewer people than
`report.smallest_cell`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..split.roles import SETS
from ..statistics.confounding import SITE
from ..text import fixed, interval, p_text, signed
from .cells import shown_grid, shown_row

FIGURE = {"width": 160.0, "height": 40.0}  # of the small figure of class shares, in the units of its view box


def site_alone(measures: pd.DataFrame) -> pd.DataFrame:
    """The arm of the site alone, with the columns of medians.tsv that the table of results reads."""
    return measures.loc[measures["model"] == SITE, ["task", "n", "model", "replicates", "median", "low", "high"]]


def site_groups(
    confounding: Mapping[str, Any], settings: Mapping[str, Any], tasks: Mapping[str, Any], smallest: int
) -> list[dict[str, Any]]:
    """Per task and kind of site, participants by label and site, and how well the site alone predicts the label.

    Parameters
    ----------
    confounding : of the certificate, by task, see split.confounding.confounding_of
    settings : the configuration's `confounding`
    smallest : number of people
    """
    groups = []
    for task, found in confounding.items():
        for kind, site in found.items():
            people = {row["site"]: {name: row[name] for name in ("positive", "negative")} for row in site["sites"]}
            # sums of columns are those of the other kind of site, and of rows those of the cohorts
            cells, without_sum = shown_grid(people, people, smallest)
            for name in without_sum:
                hidden = {side: cell for side, cell in cells[name].items() if isinstance(cell, str)}
                cells[name] = {**shown_row(people[name], people[name], smallest), **hidden}
            rows = [{"site": name, **mine} for name, mine in cells.items()]
            auc = site["auc"]
            shown = auc is not None and auc >= settings["shown_from"]
            refused = auc is not None and auc >= settings["refused_from"]
            title = (tasks.get(task) or {}).get("title", task)
            group = {"title": title, "kind": kind, "rows": rows, "auc": fixed(auc) if shown else None}
            groups.append(group | {"waived": refused and task in settings["waived"]})
    return groups


def names_of_strata(measures: pd.DataFrame) -> list[str]:
    """The strata of the tables, in their order."""
    return [name for name in dict.fromkeys(measures["strata"]) if name != "all"]


def within_groups(measures: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n and model: the median AUC within each kind of strata, with its interval."""
    groups = []
    for task in tasks:
        rows = []
        mine = measures[(measures["task"] == task) & (measures["strata"] != "all")]
        for (n, model), part in mine.groupby(["n", "model"], sort=False):
            cells = {
                row["strata"]: {"median": fixed(row["median"]), "interval": interval(row["low"], row["high"])}
                for row in part.to_dict("records")
            }
            rows.append({"n": int(n), "model": model, "cells": cells})
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def difference_groups(within: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n and pair of models: the mean difference within each kind of strata, with its interval."""
    groups = []
    for task in tasks:
        rows = []
        for (n, first, second), part in within[within["task"] == task].groupby(["n", "first", "second"], sort=False):
            cells = {
                row["strata"]: {
                    "difference": signed(row["mean_difference"]),
                    "interval": interval(row["low"], row["high"], sign=True),
                }
                for row in part.to_dict("records")
                if row["replicates"]
            }
            rows.append({"n": int(n), "pair": f"{first} − {second}", "cells": cells})
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def gain_groups(gains: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n and model: its gain over the covariates alone, with interval and p-values."""
    groups = []
    for task in tasks:
        rows = [
            {
                "n": row["n"],
                "model": row["model"],
                "gain": signed(row["mean_gain"]),
                "interval": interval(row["low"], row["high"], sign=True),
                "p": p_text(row["p_two_sided"]),
                "holm": p_text(row["p_holm"]),
            }
            for row in gains[gains["task"] == task].to_dict("records")
        ]
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def set_groups(sets: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]], smallest: int) -> list[dict[str, Any]]:
    """Per task, a row per n and set: who is in it, and the lines of a small figure of the share of positive images
    (none if there is a single n).

    Sets of fewer people than `smallest`, in the mean over replicates, are left out.
    """
    groups = []
    for task in tasks:
        mine = sets[(sets["task"] == task) & (sets["participants"] >= smallest)]
        rows = [
            {
                "n": row["n"],
                "role": row["role"],
                "images": f"{row['images']:.0f}",
                "participants": f"{row['participants']:.0f}",
                "positive": f"{100 * row['positive_share']:.0f} %",
                "age": "–" if pd.isna(row["age_mean"]) else f"{row['age_mean']:.1f} ± {row['age_sd']:.1f}",
                "female": "–" if pd.isna(row["female_share"]) else f"{100 * row['female_share']:.0f} %",
                "scans": f"{row['scans_per_person']:.2f}",
            }
            for row in mine.to_dict("records")
        ]
        lines = _lines(mine) if mine["n"].nunique() > 1 else []
        groups.append({"title": tasks[task].get("title", task), "rows": rows, "lines": lines})
    return groups


def _lines(sets: pd.DataFrame) -> list[dict[str, Any]]:
    """The share of positive images against n, a line per set, in the figure's units; 0 to 100 % from bottom to top."""
    sizes = sorted(sets["n"].unique())
    lines = []
    for role in SETS:
        mine = sets[sets["role"] == role].sort_values("n")
        centres = [
            (
                FIGURE["width"] * (sizes.index(n) + 0.5) / len(sizes),
                FIGURE["height"] * (1 - share),
            )
            for n, share in mine[["n", "positive_share"]].itertuples(index=False)
        ]
        lines.append({"role": role, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in centres), "centres": centres})
    return lines
