"""Figure 2, the answer: test AUC by number of training images, from the tables of results/statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import roc_auc_score

from .colours import INK, MARKS, PAPER, PUBLISHED, SOFT, marks_of
from .style import (
    RASTER,
    draw_chance,
    draw_grid,
    drawing,
    legend_of_models,
    rows_and_columns,
    wrapped,
)  # fmt: skip
from .verdicts import Verdict, verdicts

COVARIATES = {"color": SOFT, "linestyle": (0, (2, 1.5)), "linewidth": 1.2}  # the line of confounding alone
BOUND = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 3))}  # the line of the latent truth


def figure2(
    aucs: pd.DataFrame,
    medians: pd.DataFrame,
    comparisons: pd.DataFrame,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    alpha: float,
    statistic: str = "mean",
    bounds: Mapping[str, float] | None = None,
    published: pd.DataFrame | None = None,
) -> Figure:
    """Test AUC by n, a panel per task: all replicates, medians with 95 % bootstrap intervals, and marks of the tests.

    Only medians are shown for the covariates, which are outside the comparisons.

    Parameters
    ----------
    aucs, medians, comparisons : as in results/statistics
    tasks : the configuration's tasks, in the order of the panels; `title` is shown
    alpha : threshold of p: the mark is filled if Holm's adjusted p is below it, open if only the unadjusted p is
    statistic : of the paired differences, "mean" or "median"; its sign is the direction of the mark
    bounds : in simulated studies, the AUC of the latent truth by task
    published : published medians (see published_medians); hidden in the files, the page can show them
    """
    shown = [task for task in tasks if task in set(medians["task"])]
    most = medians.groupby("task")["n"].nunique().max()
    width = max(3.3, 0.58 * most + 0.5)  # inches of a panel
    rows, columns = rows_and_columns(len(shown), width)
    found = verdicts(comparisons, alpha=alpha, statistic=statistic)
    with drawing():
        figure = Figure(figsize=(max(5.9, width * columns + 1.1), 4.3 * rows + 0.9), layout="constrained")
        bands = figure.subfigures(rows, 1, squeeze=False)[:, 0]
        grid = [band.subplots(2, columns, squeeze=False, height_ratios=(0.5, 3)) for band in bands]
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.0, wspace=0.03)
        dots = aucs.loc[aucs["model"].isin(list(marks_of(medians["model"]))), "auc"]
        lowest = max(0.0, min(0.45, float(dots.min()) - 0.03))
        for panel in range(rows * columns):
            strip, axes = grid[panel // columns][:, panel % columns]
            if panel >= len(shown):
                strip.set_axis_off()
                axes.set_axis_off()
                continue
            task = shown[panel]
            sizes = sorted(medians.loc[medians["task"] == task, "n"].unique())
            _draw_aucs(axes, task, sizes, aucs, medians)
            if bounds and task in bounds:
                axes.axhline(bounds[task], zorder=1, **BOUND)
            if published is not None:
                _draw_published(axes, sizes, published[published["task"] == task])
            draw_chance(axes)
            axes.set(ylim=(lowest, 1.01), xlabel="training images, n", xlim=(-0.5, len(sizes) - 0.5))
            axes.set_yticks(np.arange(np.ceil(lowest * 10 - 1e-9), 10.5) / 10)
            axes.set_xticks(range(len(sizes)), [f"{n}" for n in sizes])
            _draw_marks(strip, sizes, [verdict for verdict in found if verdict.task == task])
            strip.set_title(wrapped(str(tasks[task].get("title", task)), int(width * 10.5)), parse_math=False)
            if panel % columns == 0:
                axes.set_ylabel("AUC in the test set")
                strip.tick_params(axis="y", labelleft=True)
            else:
                axes.tick_params(labelleft=False)
        _legend_of_figure2(figure, medians, comparisons, alpha, bool(bounds))
    return figure


def _draw_aucs(axes: Axes, task: str, sizes: Sequence[int], aucs: pd.DataFrame, medians: pd.DataFrame) -> None:
    generator = np.random.default_rng(0)  # for the jitter only
    marks = marks_of(medians["model"])
    step = min(0.27, 0.8 / len(marks))
    draw_grid(axes, "y")
    for order, (model, (colour, marker)) in enumerate(marks.items()):
        centres = np.arange(len(sizes)) + (order - (len(marks) - 1) / 2) * step
        chosen = aucs[(aucs["task"] == task) & (aucs["model"] == model)]
        positions = chosen["n"].map(dict(zip(sizes, centres, strict=True))).to_numpy(float)
        jitter = generator.uniform(-0.36, 0.36, len(chosen)) * step
        per_size = max(1.0, len(chosen) / len(sizes))
        fade = float(np.clip(3 / np.sqrt(per_size), 0.05, 0.45))
        axes.scatter(
            positions + jitter,
            chosen["auc"],
            s=float(np.clip(60 / np.sqrt(per_size), 3, 11)),
            color=colour,
            alpha=fade,
            linewidths=0,
            zorder=2,
            rasterized=len(chosen) > RASTER,
        )
        rows = medians[(medians["task"] == task) & (medians["model"] == model)].set_index("n").reindex(sizes)
        errors = np.maximum([rows["median"] - rows["low"], rows["high"] - rows["median"]], 0)
        style = {"marker": marker, "markersize": 5.5, "markeredgecolor": PAPER, "markeredgewidth": 0.6}
        axes.errorbar(centres, rows["median"], errors, color=colour, linewidth=1.5, elinewidth=1.8, zorder=3, **style)
    alone = medians[(medians["task"] == task) & (medians["model"] == "covariates")].set_index("n")
    if len(alone):
        height = alone.reindex(sizes)["median"]
        single = {"marker": "_", "markersize": 12} if len(sizes) == 1 else {}
        axes.plot(range(len(sizes)), height, zorder=2, **COVARIATES, **single)


def _draw_published(axes: Axes, sizes: Sequence[int], published: pd.DataFrame) -> None:
    """Hollow marks at the published n, joined by dashes; interpolated between this study's n."""
    models = [model for model in MARKS if model in set(published["model"])]
    step = min(0.27, 0.8 / max(1, len(models)))
    for order, model in enumerate(models):
        colour, marker = MARKS[model]
        mine = published[published["model"] == model].sort_values("n")
        centres = np.interp(mine["n"], sizes, np.arange(len(sizes))) + (order - (len(models) - 1) / 2) * step
        style = {"marker": marker, "markersize": 8.5, "markerfacecolor": "none", "markeredgewidth": 1.3}
        line = {"color": colour, "linestyle": (0, (4, 2)), "linewidth": 1.1, "zorder": 4}
        axes.plot(centres, mine["value"], gid=f"{PUBLISHED}-{mine['task'].iloc[0]}-{model}", **style, **line)


def published_medians(published: pd.DataFrame, medians: pd.DataFrame) -> pd.DataFrame:
    """The published medians of tasks with the same key, for n within the range of this study."""
    found = published[(published["quantity"] == "median AUC") & published["task"].isin(medians["task"])]
    ends = medians.groupby("task")["n"].agg(["min", "max"]).reindex(found["task"])
    within = (found["n"].to_numpy() >= ends["min"].to_numpy()) & (found["n"].to_numpy() <= ends["max"].to_numpy())
    return found[within].reset_index(drop=True)


def _draw_marks(strip: Axes, sizes: Sequence[int], found: Sequence[Verdict]) -> None:
    """Marks above each n: does transfer differ from another model?  Filled by Holm's p, open by the unadjusted p."""
    others = ("baseline", "linear")
    for verdict in found:
        if verdict.first == "transfer" and verdict.second in others:
            height = 1 - others.index(verdict.second)
            marker = {1: "^", -1: "v", 0: "_"}[verdict.direction]
            style = {"facecolor": INK if verdict.adjusted else "none", "edgecolor": INK}
            style = style if verdict.direction else {"color": SOFT}
            strip.scatter(sizes.index(verdict.n), height, s=26, marker=marker, linewidths=0.9, **style)
    strip.set(xlim=(-0.5, len(sizes) - 0.5), ylim=(-0.75, 1.6))
    strip.set_xticks([])
    strip.set_yticks((1, 0), [f"transfer vs {other}" for other in others], fontsize=10.3)
    strip.tick_params(length=0, labelleft=False)
    strip.spines[:].set_visible(False)


def _legend_of_figure2(
    figure: Figure, medians: pd.DataFrame, comparisons: pd.DataFrame, alpha: float, bound: bool
) -> None:
    lines = legend_of_models(medians["model"])
    if "covariates" in set(medians["model"]):
        lines.append(Line2D([], [], label="covariates", **COVARIATES))
    lines.append(Line2D([], [], color=SOFT, linewidth=0.8, linestyle=":", label="chance"))
    if bound:
        lines.append(Line2D([], [], label="latent truth", **BOUND))
    mark = {"linestyle": "none", "color": INK, "markersize": 5}
    below = f"p < {alpha:g}"
    marks = [
        Line2D([], [], marker="^", label=f"transfer better, Holm's {below}", **mark),
        Line2D([], [], marker="^", markerfacecolor="none", label=f"better, unadjusted {below} only", **mark),
        Line2D([], [], marker="v", label="worse, likewise", **mark),
        Line2D([], [], marker="_", label="not distinguishable", **mark | {"color": SOFT}),
    ]
    width = figure.get_figwidth()
    figure.legend(
        handles=lines,
        loc="outside upper center",
        ncols=7 if width > 9 else 4 if width > 7.5 else 3,
        columnspacing=1.4,
        handlelength=1.8,
    )
    if len(comparisons):
        ncols = 4 if width > 9 else 2
        figure.legend(handles=marks, loc="outside lower center", ncols=ncols, handletextpad=0.3, columnspacing=1.2)


def figure2_data(
    aucs: pd.DataFrame,
    medians: pd.DataFrame,
    comparisons: pd.DataFrame,
    bounds: Mapping[str, float] | None = None,
    published: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The data of Figure 2 in long form: a row per replicate, median, comparison, bound and published median.

    Returns
    -------
    quantity, task, n, model, replicate, value, low, high, p_two_sided, p_holm
    """
    parts = [
        aucs.rename(columns={"auc": "value"}).assign(quantity="AUC of a replicate"),
        medians.rename(columns={"median": "value"}).assign(quantity="median AUC"),
    ]
    for name in ("mean", "median"):
        part = comparisons.rename(columns={f"{name}_difference": "value"})
        pair = comparisons["first"] + " - " + comparisons["second"]
        parts.append(part.assign(quantity=f"{name} difference", model=pair, low=np.nan, high=np.nan))
    rows = [
        {"quantity": "AUC of the latent truth", "task": task, "value": value} for task, value in (bounds or {}).items()
    ]
    columns = ["quantity", "task", "n", "model", "replicate", "value", "low", "high", "p_two_sided", "p_holm"]
    parts.append(pd.DataFrame(rows, columns=columns))
    if published is not None:
        parts.append(published.assign(quantity="published median AUC"))
    table = pd.concat([part.reindex(columns=columns) for part in parts if len(part)], ignore_index=True)
    return table.astype({"n": "Int64"})


def latent_bounds(truth: pd.DataFrame, images: pd.DataFrame) -> dict[str, float]:
    """AUC of the simulated latent score by task, over the pool of the replicates.

    Parameters
    ----------
    truth : of a simulated study: `participant_id`, `task`, `label` (0 or 1) and `latent_score` of each image
    images : results/split/images.tsv; a pool contains only test participants

    Returns
    -------
    the AUC by task, which no model exceeds on average; without tasks whose pool has one class
    """
    pool = truth[truth["participant_id"].isin(images.loc[images["role"] == "test", "participant_id"])]
    bounds = {}
    for task, group in pool.dropna(subset=["task", "label", "latent_score"]).groupby("task"):
        if group["label"].nunique() == 2:
            bounds[str(task)] = float(roc_auc_score(group["label"].astype(int), group["latent_score"]))
    return bounds
