"""Figure 1: the participants of pretraining, its course, and the pretrained network's performance.

The figure can be mailed: ages are in bins, and no bar, line or mark is of fewer people than `report.smallest_cell`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..study.targets import TARGETS, UNITS
from ..text import number
from .cells import (
    YEARS,
    age_bins,
    age_spread,
    cell,
    coarse_share,
    enough,
)
from .colours import FAINT, INK, PAPER, SOFT
from .counts import SIDES, Name, hidden_in_figure1
from .pretraining_tables import SPLIT_NAMES, sizes_hidden, target_name, without_rare_class
from .style import draw_grid, drawing

# Okabe & Ito's colours (2008) that Figure 2 does not use for a model
ROLES = {"train": "#56B4E9", "validation": "#CC79A7", "test": "#D55E00", "unused": "#B0B7C0"}
SPLITS = {"validation": ROLES["validation"], "holdout": ROLES["test"]}
SHORT = {"bmi": "BMI", "fluid_intelligence": "fluid int."}  # short names of targets
DARKEST = 0.85  # opacity of a cell if the target is known for all images
COHORTS = 60  # largest number of cohorts that are shown
MANY = 22  # above this number of cohorts the figure is tall


def figure1(
    images: pd.DataFrame,
    history: pd.DataFrame | None,
    metrics: pd.DataFrame,
    predictions: pd.DataFrame,
    smallest: int = 1,
) -> Figure:
    """Ages by role, cohorts and their known targets, losses of pretraining, predicted and true age, skill by target.

    Parameters
    ----------
    images : results/split/images.tsv
    history : of pretraining; None if the weights were given
    metrics, predictions : of the pretrained network; may be empty
    smallest : number of people in the smallest cell
    """
    count = min(images["cohort"].nunique(), COHORTS)
    ages = binned_predictions(predictions, smallest)
    metrics = without_rare_class(enough(metrics, smallest), images, smallest)
    upper = [] if history is None or history.empty else ["pretraining"]
    upper += [split for split in SPLITS if (ages["split"] == split).any()]
    rows = skill_rows(metrics)
    with drawing():
        if not upper and rows.empty:  # given weights, and no image to evaluate them on
            figure = Figure(figsize=(10.5, max(3.8, 1.4 + 0.17 * count)), layout="constrained")
            right = None
            axes_of_ages, axes_of_cohorts, axes_of_targets = figure.subplots(1, 3, width_ratios=(1, 1, 0.45))
        else:
            tall = count > MANY
            figure = Figure(figsize=(11.6, max(6.45, 4.1 + 0.17 * count)), layout="constrained")
            left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1.9))
            ratios = (1.0, max(1.1, (0.9 + 0.17 * count) / 2.7))
            grid = left.add_gridspec(2, 2, height_ratios=ratios, width_ratios=(1, 0.5))
            axes_of_ages = left.add_subplot(grid[0, :])
            axes_of_cohorts, axes_of_targets = (left.add_subplot(grid[1, column]) for column in (0, 1))
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        hidden = hidden_in_figure1(images, smallest)
        _draw_ages(axes_of_ages, images, smallest, hidden)
        without = sizes_hidden(images, smallest, {role for role in ROLES if ("role", role) in hidden})
        order = largest_cohorts(images)
        _draw_cohorts(axes_of_cohorts, images, order, smallest, hidden)
        _draw_targets(axes_of_targets, known_shares(images, smallest), order)
        if right is not None:
            # with many cohorts the left side is long, so the right side gets one more row
            lines = [upper[:1], upper[1:]] if tall and len(upper) == 3 else [upper]
            lines = [line for line in lines if line]
            parts = right.subfigures(len(lines) + 1, 1, squeeze=False, height_ratios=[1] * len(lines) + [1.15])[:, 0]
            for part, line in zip(parts, lines, strict=False):
                for axes, name in zip(part.subplots(1, len(line), squeeze=False)[0], line, strict=True):
                    if name == "pretraining":
                        _draw_history(axes, history)
                    else:
                        _draw_predictions(axes, ages, metrics, name, counted=(name, "age") not in without)
                        if name != next(split for split in line if split in SPLITS):
                            axes.set_ylabel("")  # the one beside it has the same limits
            _draw_skill(parts[-1].subplots(), rows)
    return figure


def binned_ages(images: pd.DataFrame, smallest: int, hidden: Collection[Name] | None = None) -> pd.DataFrame:
    """Images by role and bin of five years: `group`, `x` (start of the bin, years), `value`; none of few people.

    Bins from which those of few people would follow are left out, too.

    Parameters
    ----------
    hidden : counts that are not shown; None: from counts.hidden_in_figure1
    """
    if hidden is None:
        hidden = hidden_in_figure1(images, smallest)
    groups = images.assign(x=np.floor(images["age"] / YEARS) * YEARS).groupby(["role", "x"])
    table = groups.agg(value=("image_id", "size"), people=("participant_id", "nunique")).reset_index()
    is_shown = [("age", role, start) not in hidden for role, start in zip(table["role"], table["x"], strict=True)]
    return table[is_shown].rename(columns={"role": "group"})[["group", "x", "value"]].reset_index(drop=True)


def binned_predictions(predictions: pd.DataFrame, smallest: int) -> pd.DataFrame:
    """Predicted ages by true age, in bins with enough people.

    Returns
    -------
    split, start and end of the bin of true ages (years), number of `images`, `mean` and `sd` of the predicted ages
    """
    found = predictions[predictions["target"] == "age"]
    rows = []
    for split, part in found.groupby("split"):
        truth, guess = part["truth"].astype(float), part["prediction"].astype(float)
        for start, end in age_bins(truth, part["participant_id"], smallest):
            mine = guess[(truth >= start) & (truth < end)]
            row = {"split": split, "start": start, "end": end, "images": len(mine)}
            rows.append(row | {"mean": mine.mean(), "sd": mine.std(ddof=0)})
    return pd.DataFrame(rows, columns=["split", "start", "end", "images", "mean", "sd"])


def _size(images: pd.DataFrame, smallest: int, is_hidden: bool) -> str:
    """A number of images in words."""
    return str(number(cell(len(images), images["participant_id"].nunique(), smallest, is_hidden)))


def _draw_ages(axes: Axes, images: pd.DataFrame, smallest: int, hidden: Collection[Name]) -> None:
    axes.set(title="Ages by role", xlabel="age at scan (years)", ylabel="images")
    present = [role for role in ROLES if (images["role"] == role).any()]
    bins = binned_ages(images, smallest, hidden)
    if bins.empty:
        none = "no age is known" if images["age"].isna().all() else f"fewer than {smallest} people in each bin"
        axes.text(0.5, 0.5, none, ha="center", color=SOFT, transform=axes.transAxes)
        return
    edges = np.arange(bins["x"].min(), bins["x"].max() + YEARS + 0.01, YEARS)
    below = np.zeros(len(edges) - 1)
    for role in present:
        heights = bins[bins["group"] == role].set_index("x")["value"].reindex(edges[:-1], fill_value=0).to_numpy()
        label = f"{role} ({_size(images[images['role'] == role], smallest, ('role', role) in hidden)})"
        style = {"color": ROLES[role], "label": label, "edgecolor": PAPER, "linewidth": 0.3}
        axes.bar(edges[:-1], heights, YEARS, bottom=below, align="edge", **style)
        below = below + heights
    axes.set_ylim(0, axes.get_ylim()[1] * (1.12 + 0.09 * len(present)))  # room for the legend
    axes.legend(loc="upper left", handlelength=1, handleheight=0.9, labelspacing=0.25)


def largest_cohorts(images: pd.DataFrame) -> list[str]:
    """The cohorts that are shown, the smallest first."""
    return list(images.groupby("cohort").size().sort_values(kind="stable").index[-COHORTS:])


def _draw_cohorts(
    axes: Axes, images: pd.DataFrame, order: Sequence[str], smallest: int, hidden: Collection[Name]
) -> None:
    sides = {"train": ["train", "validation"], "test": ["test"]}
    for row, cohort in enumerate(order):
        mine = images[images["cohort"] == cohort]
        groups = {side: mine[mine["role"].isin(roles)] for side, roles in sides.items()}
        found = {side: age_spread(part["age"], part["participant_id"], smallest) for side, part in groups.items()}
        parts = {side: spread for side, spread in found.items() if spread}
        for shift, (side, ages) in zip((0.17, -0.17) if len(parts) == 2 else (0,), parts.items(), strict=False):
            heights, style = [row + shift] * 2, {"color": ROLES[side]}
            axes.plot([ages["low"], ages["high"]], heights, linewidth=1, **style)
            middle = [ages["quarter"], ages["three_quarters"]]
            axes.plot(middle, heights, linewidth=4, solid_capstyle="butt", **style)
            axes.plot(ages["median"], row + shift, marker="|", color=PAPER, markersize=4, markeredgewidth=1.2)
    sizes = {
        cohort: _size(mine, smallest, ("cohort", str(cohort)) in hidden) for cohort, mine in images.groupby("cohort")
    }
    axes.set_yticks(range(len(order)), [f"{_short(cohort)} ({sizes[cohort]})" for cohort in order])
    axes.tick_params(axis="y", length=0, labelsize=10 if len(order) < 25 else 9.5)
    axes.set_ylim(-0.7, len(order) - 0.3)
    draw_grid(axes, "x")
    more = f", the largest {COHORTS} of {cohorts}" if (cohorts := images["cohort"].nunique()) > COHORTS else ""
    axes.set(title=f"Cohorts (images){more}", xlabel="age at scan (years)")


def known_shares(images: pd.DataFrame, smallest: int) -> pd.DataFrame:
    """The share of each cohort's images with a known target, in tenths: a row per cohort, a column per target.

    It is 0 for a cohort of few people.
    """
    known = images[[target for target in TARGETS if target in images]].notna().groupby(images["cohort"])
    large = images.groupby("cohort")["participant_id"].nunique() >= smallest
    return known.agg(coarse_share).mul(large, axis=0)


def _draw_targets(axes: Axes, shares: pd.DataFrame, order: Sequence[str]) -> None:
    """A cell per cohort and target, darker if more images have the target; rows in the order of the cohorts."""
    ink = {"facecolor": INK, "edgecolor": "none"}
    frame = {"facecolor": "none", "edgecolor": FAINT, "linewidth": 0.5}
    for row, cohort in enumerate(order):
        for column, target in enumerate(shares):
            corner = (column - 0.42, row - 0.38)
            axes.add_patch(Rectangle(corner, 0.84, 0.76, alpha=DARKEST * shares.loc[cohort, target], **ink))
            axes.add_patch(Rectangle(corner, 0.84, 0.76, **frame))
    axes.set(title="Known targets", xlim=(-0.6, len(shares.columns) - 0.4), ylim=(-0.7, len(order) - 0.3))
    axes.set_yticks([])
    axes.set_xticks(range(len(shares.columns)), [SHORT.get(name, name) for name in shares], rotation=90, fontsize=9.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    key = [Rectangle((0, 0), 1, 1, alpha=DARKEST * share, **ink) for share in (0.1, 0.5, 1.0)]
    axes.get_figure(root=False).legend(
        handles=key,
        labels=["10 %", "50 %", "100 % of a cohort's images"],
        loc="outside lower right",
        ncols=3,
        handlelength=1,
        handleheight=0.9,
        columnspacing=1,
        handletextpad=0.4,
    )


def _short(name: str) -> str:
    """A name of at most 20 characters."""
    return name if len(name) <= 20 else f"{name[:19]}…"


def _draw_history(axes: Axes, history: pd.DataFrame) -> None:
    axes.set(title="Pretraining", xlabel="epoch", ylabel="weighted loss")
    epochs = history["epoch"] + 1  # shown from 1 on
    single = {"marker": "."} if len(history) == 1 else {}
    axes.plot(epochs, history["train_loss"], color=ROLES["train"], label="training", **single)
    axes.plot(epochs, history["validation_loss"], color=ROLES["validation"], label="validation", **single)
    if history["validation_loss"].notna().any():
        best = history["validation_loss"].idxmin()
        style = {"color": ROLES["validation"], "marker": "o", "linestyle": "none", "markeredgecolor": PAPER}
        axes.plot(epochs[best], history["validation_loss"][best], label=f"chosen, epoch {epochs[best]}", **style)
    losses = history[["train_loss", "validation_loss"]].to_numpy()
    axes.set_ylim(0, float(np.nanpercentile(losses, 97)) * 1.45 or 1)  # the first epochs' peaks may exceed the panel
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right", labelspacing=0.25, handlelength=1, handletextpad=0.5, borderpad=0.1, fontsize=9.5)


def _draw_predictions(axes: Axes, ages: pd.DataFrame, metrics: pd.DataFrame, split: str, *, counted: bool) -> None:
    """Mean and standard deviation of the predicted ages in each bin of true ages; the limits follow from the bins."""
    low, high = min(ages["start"].min(), (ages["mean"] - ages["sd"]).min()), ages["end"].max()
    ends = np.array([low, max(high, (ages["mean"] + ages["sd"]).max())])
    limits = tuple(ends + np.array([-0.04, 0.16]) * max(float(np.ptp(ends)), 1.0))  # room for the text
    rows = ages[ages["split"] == split]
    axes.plot(limits, limits, color=SOFT, linewidth=0.8, linestyle=":", zorder=1)
    style = {"fmt": "o", "color": SPLITS[split], "markersize": 4.5, "elinewidth": 1.4}
    axes.errorbar((rows["start"] + rows["end"]) / 2, rows["mean"], yerr=rows["sd"], **style)
    error = metrics[(metrics["split"] == split) & (metrics["target"] == "age") & (metrics["metric"] == "mae")]["value"]
    text = "".join(f"MAE {value:.2f} years\n" for value in error)
    text += f"{rows['images'].sum():,} images" if counted else ""
    axes.text(0.04, 0.97, text, transform=axes.transAxes, va="top")
    axes.set(xlim=limits, ylim=limits, xlabel="true age (years)", ylabel="predicted age (years)")
    axes.set_title(f"Age, {SPLIT_NAMES[split]}")


def _draw_skill(axes: Axes, rows: pd.DataFrame) -> None:
    axes.set(title="Skill by target: 0 is the dummy, 1 is perfect", xlabel="1 − MAE / dummy's MAE,  or  2 AUC − 1")
    if rows.empty:
        axes.text(0.5, 0.5, "nothing was held out", ha="center", color=SOFT, transform=axes.transAxes)
        axes.set(xlabel="", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return
    names = list(dict.fromkeys(rows["target"]))[::-1]
    splits = [split for split in SPLITS if split in set(rows["split"])]
    for row in rows.itertuples():
        shift = 0.0 if len(splits) == 1 else (0.19 if row.split == splits[0] else -0.19)
        height = names.index(row.target) + shift
        unit = f" {UNITS[row.target]}" if row.metric == "mae" and row.target in UNITS else ""
        label = f"{row.metric.upper()} {row.value:.2f}, dummy {row.dummy:.2f}{unit}"
        if np.isfinite(row.skill):
            error = np.nan_to_num(np.maximum([[row.skill - row.low_skill], [row.high_skill - row.skill]], 0))
            axes.errorbar(
                row.skill, height, xerr=error, fmt="o", color=SPLITS[row.split], markersize=4.5, elinewidth=1.6
            )
        else:
            label = f"{row.metric.upper()} not defined here"
        axes.text(1.03, height, label, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5)
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=":")
    lowest = np.fmin.reduce([*rows["low_skill"], *rows["skill"], 0.0])
    axes.set_xlim(max(-1.0, lowest - 0.05), 1.03)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), [_short(target_name(name)) for name in names])
    draw_grid(axes, "x")
    style = {"marker": "o", "linestyle": "none"}
    handles = [Line2D([], [], color=SPLITS[name], label=SPLIT_NAMES[name], **style) for name in splits]
    axes.get_figure(root=False).legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0.2)


def skill_rows(metrics: pd.DataFrame) -> pd.DataFrame:
    """MAE or AUC per split and target on one scale: 0 is the dummy, 1 is perfect.

    Skill is 1 - MAE / dummy's MAE, or 2 AUC - 1 (Somers' D); its interval follows from the metric's.
    """
    rows = metrics[metrics["metric"].isin(["mae", "auc"])].copy()
    for name in ("value", "low", "high"):
        skill = np.where(rows["metric"] == "mae", 1 - rows[name] / rows["dummy"], 2 * rows[name] - 1)
        rows["skill" if name == "value" else f"{name}_skill"] = skill.astype(float)
    error = rows["metric"] == "mae"  # a lower error is more skill, so the ends of the interval are exchanged
    rows.loc[error, ["low_skill", "high_skill"]] = rows.loc[error, ["high_skill", "low_skill"]].to_numpy()
    return rows


def figure1_data(
    images: pd.DataFrame,
    history: pd.DataFrame | None,
    metrics: pd.DataFrame,
    predictions: pd.DataFrame,
    smallest: int = 1,
) -> pd.DataFrame:
    """The data of Figure 1 in long form, without identifiers and without small cells: a row per bar, point and mark.

    Returns
    -------
    panel, group, item, quantity, x, value, low, high
    """
    hidden, cohorts = hidden_in_figure1(images, smallest), []
    parts = [binned_ages(images, smallest, hidden).assign(panel="ages", quantity="images, ages x to x + 5")]
    for (cohort, side), mine in images.assign(side=images["role"].replace("validation", "train")).groupby(
        ["cohort", "side"]
    ):
        if mine["participant_id"].nunique() < smallest:
            continue
        row = {"group": side, "item": cohort, "panel": "cohorts"}
        if ("cohort", str(cohort), *next((roles for roles in SIDES if side in roles), (side,))) not in hidden:
            cohorts.append(row | {"quantity": "images", "value": len(mine)})
        if spread := age_spread(mine["age"], mine["participant_id"], smallest):
            ends = {"value": spread["median"], "low": spread["low"], "high": spread["high"]}
            cohorts.append(row | {"quantity": "age (years), from bins"} | ends)
    parts.append(pd.DataFrame(cohorts))
    shares = known_shares(images, smallest).rename_axis("item").reset_index().melt("item", var_name="group")
    parts.append(shares.assign(panel="targets", quantity="share of images with the target"))
    if history is not None:
        for name in ("train_loss", "validation_loss"):
            curve = pd.DataFrame({"x": history["epoch"] + 1, "value": history[name]})
            parts.append(curve.assign(panel="pretraining", group=name.removesuffix("_loss"), quantity="loss by epoch"))
    found = binned_predictions(predictions, smallest)
    marks = pd.DataFrame({"group": found["split"], "x": (found["start"] + found["end"]) / 2, "value": found["mean"]})
    marks["low"], marks["high"] = found["mean"] - found["sd"], found["mean"] + found["sd"]
    parts.append(marks.assign(panel="age", quantity="predicted age, mean and sd, by bin of the true age (years)"))
    counts = pd.DataFrame({"group": found["split"], "x": marks["x"], "value": found["images"]})
    counts["low"], counts["high"] = found["start"], found["end"]
    without = sizes_hidden(images, smallest, {role for role in ROLES if ("role", role) in hidden})
    counts = counts[[(split, "age") not in without for split in counts["group"]]]
    parts.append(counts.assign(panel="age", quantity="images in the bin from low to high (years)"))
    rows = skill_rows(without_rare_class(enough(metrics, smallest), images, smallest))
    for name, low, high in (("value", "low", "high"), ("skill", "low_skill", "high_skill"), ("dummy", None, None)):
        part = pd.DataFrame({"group": rows["split"], "item": rows["target"], "value": rows[name]})
        part["low"], part["high"] = (rows[low], rows[high]) if low else (np.nan, np.nan)
        parts.append(part.assign(panel="skill", quantity=rows["metric"] if name == "value" else name))
    columns = ["panel", "group", "item", "quantity", "x", "value", "low", "high"]
    return pd.concat([part.reindex(columns=columns) for part in parts if len(part)], ignore_index=True)
