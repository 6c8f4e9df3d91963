"""Tables into the study's two figures, each as SVG, PNG and the TSV behind it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from .files import write_table, written_whole

# Okabe & Ito's palette, which people with a colour-vision deficiency tell apart
COLOURS = {"linear": "#0072B2", "baseline": "#E69F00", "transfer": "#009E73"}
ROLES = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "neurotransfer",
    "svg.fonttype": "path",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}
UNITS = {"age": "years", "bmi": "kg/m²"}


def figure2(
    aucs: pd.DataFrame,
    medians: pd.DataFrame,
    comparisons: pd.DataFrame,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    alpha: float,
    bounds: Mapping[str, float] | None = None,
) -> Figure:
    """Test AUC by n, a panel per task: every replicate, medians, their 95 % bootstrap intervals.

    Parameters
    ----------
    aucs, medians, comparisons : as in results/statistics
    alpha : threshold of the Holm-adjusted p above which no mark is drawn
    bounds : in simulated studies, the AUC of the latent truth by task
    """
    shown = [task for task in tasks if task in set(medians["task"])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 3.4 * len(shown) + 0.6), 3.9), layout="constrained")
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        lowest = max(0.0, min(0.45, aucs["auc"].min() - 0.03))
        for axis, task in zip(axes, shown, strict=True):
            sizes = sorted(medians.loc[medians["task"] == task, "n"].unique())
            _draw_task(axis, task, sizes, aucs, medians)
            _mark(axis, task, sizes, comparisons, alpha)
            axis.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            if bounds and task in bounds:
                axis.axhline(bounds[task], color="0.25", linewidth=1, linestyle="--", label="latent truth")
            axis.set_title("\n".join(_wrapped(tasks[task].get("title", task), 30)))
            axis.set_xticks(range(len(sizes)), [str(n) for n in sizes])
            axis.set_xlim(-0.5, len(sizes) - 0.5)
            axis.set_ylim(lowest, 1.17)
            axis.set_yticks(np.arange(np.ceil(lowest * 10) / 10, 1.01, 0.1))
            axis.set_xlabel("training images, n")
        axes[0].set_ylabel("AUC in the test set")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [text]


def _draw_task(axis, task: str, sizes: Sequence[int], aucs: pd.DataFrame, medians: pd.DataFrame) -> None:
    generator = np.random.default_rng(0)  # of the jitter only
    models = [model for model in COLOURS if model in set(medians["model"])]
    for place, model in enumerate(models):
        offset = (place - (len(models) - 1) / 2) * 0.24
        rows = medians[(medians["task"] == task) & (medians["model"] == model)].set_index("n").reindex(sizes)
        at = np.arange(len(sizes)) + offset
        for position, n in zip(at, sizes, strict=True):
            chosen = (aucs["task"] == task) & (aucs["model"] == model) & (aucs["n"] == n)
            values = aucs.loc[chosen, "auc"].to_numpy()
            jitter = generator.uniform(-0.08, 0.08, len(values))
            fade = float(np.clip(6 / np.sqrt(len(values) + 1) / 6, 0.06, 0.45))
            axis.scatter(position + jitter, values, s=9, color=COLOURS[model], alpha=fade, linewidths=0)
        errors = [rows["median"] - rows["low"], rows["high"] - rows["median"]]
        axis.errorbar(
            at, rows["median"], errors, color=COLOURS[model], marker="o", markersize=5, linewidth=1.6, label=model
        )


def _mark(axis, task: str, sizes: Sequence[int], comparisons: pd.DataFrame, alpha: float) -> None:
    """A mark above each n where transfer differs from another model after Holm's adjustment."""
    for other, height, sign in (("baseline", 1.04, "▲▼"), ("linear", 1.10, "▲▼")):
        chosen = (comparisons["task"] == task) & (comparisons["first"] == "transfer") & (comparisons["second"] == other)
        for row in comparisons[chosen].itertuples():
            if row.p_holm < alpha:
                mark = sign[0] if row.mean_difference > 0 else sign[1]
                axis.text(sizes.index(row.n), height, mark, color=COLOURS[other], ha="center", fontsize=9)


def latent_bounds(truth: pd.DataFrame) -> dict[str, float]:
    """AUC of the simulated latent score itself, by task: what no model can exceed on average."""
    bounds = {}
    for task, group in truth.dropna(subset=["task", "label"]).groupby("task"):
        if group["label"].nunique() == 2:
            bounds[str(task)] = float(roc_auc_score(group["label"], group["latent_score"]))
    return bounds


def figure1(
    images: pd.DataFrame, history: pd.DataFrame | None, metrics: pd.DataFrame, predictions: pd.DataFrame
) -> Figure:
    """Ages by set, cohorts, pretraining curves, predicted against true age, and every target's metric.

    Parameters
    ----------
    images : results/split/images.tsv
    history : of pretraining; None where weights were given
    metrics, predictions : of the pretrained network
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 7), layout="constrained")
        upper, lower = figure.subfigures(2, 1)
        a, b, c = upper.subplots(1, 3, width_ratios=(1, 1.1, 1))
        d, e = lower.subplots(1, 2, width_ratios=(1, 1.6))
        _draw_ages(a, images)
        _draw_cohorts(b, images)
        _draw_history(c, history)
        _draw_predictions(d, predictions)
        _draw_metrics(e, metrics)
    return figure


def _draw_ages(axis, images: pd.DataFrame) -> None:
    ages = images.dropna(subset=["age"])
    if len(ages):
        edges = np.arange(np.floor(ages["age"].min() / 5) * 5, ages["age"].max() + 5, 5)
        groups = [ages.loc[ages["role"] == role, "age"] for role in ROLES]
        labels = [f"{role} ({(images['role'] == role).sum():,})" for role in ROLES]
        axis.hist(groups, edges, stacked=True, color=list(ROLES.values()), label=labels)
        axis.legend(frameon=False, fontsize=8)
    axis.set(title="A  Ages by set", xlabel="age at scan (years)", ylabel="images")


def _draw_cohorts(axis, images: pd.DataFrame) -> None:
    order = images.groupby("cohort").size().sort_values().index[-45:]
    for place, cohort in enumerate(order):
        rows = images[images["cohort"] == cohort]
        ages = rows["age"].dropna()
        colour = ROLES["train"] if (rows["role"] == "train").any() else ROLES["test"]
        if len(ages):
            axis.plot(ages.quantile([0, 1]), [place] * 2, color=colour, linewidth=1)
            axis.plot(ages.quantile([0.25, 0.75]), [place] * 2, color=colour, linewidth=4, solid_capstyle="butt")
    sizes = [f"{cohort} ({(images['cohort'] == cohort).sum():,})" for cohort in order]
    axis.set_yticks(range(len(order)), sizes, fontsize=8 if len(order) < 20 else 5)
    axis.set(title="B  Cohorts: range and middle half of ages", xlabel="age at scan (years)")


def _draw_history(axis, history: pd.DataFrame | None) -> None:
    if history is None or history.empty:
        axis.text(0.5, 0.5, "weights were given:\nno pretraining here", ha="center", transform=axis.transAxes)
    else:
        axis.plot(history["epoch"], history["train_loss"], color="0.5", label="training")
        axis.plot(history["epoch"], history["validation_loss"], color=ROLES["validation"], label="validation")
        best = history["validation_loss"].idxmin()
        axis.plot(history["epoch"][best], history["validation_loss"][best], "o", color=ROLES["validation"])
        axis.set_ylim(0, np.nanpercentile(history[["train_loss", "validation_loss"]], 98) * 1.15)
        axis.legend(frameon=False, fontsize=8)
    axis.set(title="C  Pretraining; dot: epoch chosen", xlabel="epoch", ylabel="weighted loss")


def _draw_predictions(axis, predictions: pd.DataFrame) -> None:
    ages = predictions[predictions["target"] == "age"]
    for split, colour in (("validation", ROLES["validation"]), ("holdout", ROLES["test"])):
        rows = ages[ages["split"] == split]
        size = float(np.clip(2000 / (len(rows) + 1), 1, 12))
        label = f"{split} ({len(rows):,})"
        axis.scatter(rows["truth"], rows["prediction"], s=size, color=colour, alpha=0.6, linewidths=0, label=label)
    if len(ages):
        limits = [ages[["truth", "prediction"]].min().min(), ages[["truth", "prediction"]].max().max()]
        axis.plot(limits, limits, color="0.6", linewidth=0.8, linestyle=":")
        axis.legend(frameon=False, fontsize=8)
    axis.set(title="D  Predicted and true age", xlabel="true age (years)", ylabel="predicted age (years)")


def _draw_metrics(axis, metrics: pd.DataFrame) -> None:
    leading = metrics[metrics["metric"].isin(["mae", "auc"])]
    names = list(dict.fromkeys(leading["target"]))
    labels = []
    for place, name in enumerate(reversed(names)):
        rows = leading[leading["target"] == name]
        for shift, (split, colour) in zip(
            (0.15, -0.15), {"validation": "#E69F00", "holdout": "#009E73"}.items(), strict=True
        ):
            for row in rows[rows["split"] == split].itertuples():
                # the share of the dummy's error that is gone, so that all targets have one axis
                scale = (lambda v, d=row.dummy: 1 - v / d) if row.metric == "mae" else (lambda v: 2 * v - 1)
                values = scale(row.value), scale(row.low), scale(row.high)
                error = [[abs(values[0] - min(values))], [abs(max(values) - values[0])]]
                label = split if place == len(names) - 1 else None
                axis.errorbar(values[0], place + shift, xerr=error, fmt="o", color=colour, markersize=4, label=label)
        kind = rows["metric"].iloc[0]
        unit = f", {UNITS[name]}" if name in UNITS and kind == "mae" else ""
        labels.append(f"{name.replace('_', ' ')} ({'MAE' if kind == 'mae' else 'AUC'}{unit})")
    axis.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(labels)), labels)
    axis.set(title="E  Skill: 0 is the dummy, 1 is perfect", xlabel="1 - MAE / dummy's MAE, or 2 AUC - 1")
    if names:
        axis.legend(frameon=False, fontsize=8)


def save_figure(figure: Figure, data: pd.DataFrame, paths: Sequence[str | Path]) -> None:
    """Write a figure as SVG and PNG and the table behind it, the same bytes for the same content.

    Parameters
    ----------
    paths : of the SVG, the PNG and the TSV, in this order
    """
    FigureCanvasAgg(figure)
    svg, png, tsv = paths
    with matplotlib.rc_context(STYLE):
        for path, options in (
            (svg, {"format": "svg", "metadata": {"Date": None}}),
            (png, {"format": "png", "dpi": 160}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, **options)
            with written_whole(path, "wb") as file:
                file.write(buffer.getvalue())
    write_table(data, tsv)
