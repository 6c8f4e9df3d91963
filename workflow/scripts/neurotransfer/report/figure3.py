"""Figure 3: learning curves with bands, and the worth of pretraining in scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from .colours import INK, PAPER, marks_of
from .style import (
    draw_chance,
    draw_grid,
    drawing,
    legend_of_models,
    rows_and_columns,
    wrapped,
)  # fmt: skip

BEYOND = 1.18  # times the largest n: the end of an arrow that leads beyond it


def figure3(curves: pd.DataFrame, worth: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Monotone curves of the mean AUC by n, a panel per task, and arrows from transfer to the baseline's n.

    Parameters
    ----------
    curves, worth : as in results/statistics
    tasks : the configuration's tasks, in the order of the panels; `title` is shown
    """
    shown = [task for task in tasks if task in set(curves["task"])]
    rows, columns = rows_and_columns(len(shown), 3.6)
    with drawing():
        figure = Figure(figsize=(max(5.6, 3.6 * columns + 1.1), 3.4 * rows + 0.8), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for panel, axes in enumerate(grid.flat):
            if panel >= len(shown):
                axes.set_axis_off()
                continue
            task = shown[panel]
            _draw_curves(axes, curves[curves["task"] == task])
            _draw_arrows(axes, worth[(worth["task"] == task) & (worth["question"] == "baseline needs")])
            axes.set_title(wrapped(str(tasks[task].get("title", task)), 38), parse_math=False)
            axes.set_xlabel("training images, n (logarithmic)")
            if panel % columns == 0:
                axes.set_ylabel("mean AUC in the test set")
        lines = legend_of_models(curves["model"])
        lines.append(Line2D([], [], color=INK, linewidth=1, marker=">", markersize=4, label="what the baseline needs"))
        figure.legend(handles=lines, loc="outside upper center", ncols=4)
    return figure


def _draw_curves(axes: Axes, curves: pd.DataFrame) -> None:
    sizes = sorted(curves["n"].unique())
    for model, (colour, marker) in marks_of(curves["model"]).items():
        mine = curves[curves["model"] == model].sort_values("n")
        style = {"marker": marker, "markersize": 5, "markeredgecolor": PAPER, "markeredgewidth": 0.5}
        axes.plot(mine["n"], mine["auc"], color=colour, linewidth=1.5, zorder=3, **style)
        axes.fill_between(mine["n"], mine["low"], mine["high"], color=colour, alpha=0.15, linewidth=0, zorder=1)
    draw_chance(axes)
    draw_grid(axes, "y")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    labelled = [n for n in sizes if n in (sizes[0], sizes[-1]) or _has_room(n, sizes)]
    axes.set_xticks(labelled, [str(n) for n in labelled])
    axes.set_xlim(sizes[0] / BEYOND, sizes[-1] * BEYOND**1.5)


def _has_room(n: int, sizes: list[int]) -> bool:
    """Whether a label has room on a logarithmic axis: 12 % of its width to every other size."""
    width = np.log(sizes[-1] / sizes[0])
    return all(abs(np.log(n / other)) > 0.12 * width for other in sizes if other != n)


def _draw_arrows(axes: Axes, worth: pd.DataFrame) -> None:
    """Arrows from transfer at n to the baseline's n with the same AUC; those beyond the largest n leave the panel."""
    if worth.empty:
        return
    largest = worth["n"].max()
    for row in worth.itertuples():
        end = row.scans if np.isfinite(row.scans) else largest * BEYOND
        if end > row.n * 1.02:
            style = {"arrowstyle": "->", "color": INK, "linewidth": 0.9, "shrinkA": 4, "shrinkB": 0}
            axes.annotate("", (end, row.auc), (row.n, row.auc), arrowprops=style, zorder=2)


def figure3_data(curves: pd.DataFrame, worth: pd.DataFrame) -> pd.DataFrame:
    """The data of Figure 3: the curves, and the number of scans for each question.

    Returns
    -------
    quantity, task, model, n, value, low, high, reached
    """
    parts = [
        curves.rename(columns={"auc": "value"}).assign(quantity="monotone mean AUC"),
        worth.rename(columns={"scans": "value", "question": "model"}).assign(quantity="training images"),
    ]
    columns = ["quantity", "task", "model", "n", "value", "low", "high", "reached"]
    return pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True).astype({"n": "Int64"})
