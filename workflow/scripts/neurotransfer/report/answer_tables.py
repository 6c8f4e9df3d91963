"""The tables of the report's answer: AUCs, comparisons, worth in scans, the search over settings.

Tables of results/statistics go in, texts come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ..statistics.aggregation import of_paper
from ..statistics.confounding import SITE
from ..statistics.inference import ADJUSTED
from ..study.plan import ARMS, CNNS, MODELS, further_arms, further_models
from ..text import MISSING, interval, p_text, signed
from .colours import marks_of
from .verdicts import Verdict, listed

ALONE = ARMS[-1]  # the model of covariates alone, outside the comparisons
OUTSIDE = (ALONE, SITE)  # what confounding alone predicts


def result_groups(
    medians: pd.DataFrame, found: Mapping[str, Sequence[Verdict]], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Per task, a row per n: each model's median and interval, and the verdicts on transfer.

    Parameters
    ----------
    found : by test, its verdicts
    """
    auc = medians.set_index(["task", "n", "model"])
    verdict = {(v.task, v.n, v.second, test): v for test, mine in found.items() for v in mine if v.first == "transfer"}
    groups = []
    for task in tasks:
        rows = []
        for n in sorted(medians.loc[medians["task"] == task, "n"].unique()):
            models: dict[str, dict[str, Any]] = {}
            for model in _in_order(medians["model"]):
                if (task, n, model) in auc.index:
                    row = auc.loc[(task, n, model)]
                    # one replicate has no interval
                    between = interval(row["low"], row["high"]) if row["replicates"] > 1 else MISSING
                    models[model] = {"median": f"{row['median']:.3f}", "interval": between}
            highest = max((cell["median"] for model, cell in models.items() if model not in OUTSIDE), default=None)
            for model, cell in models.items():
                cell["highest"] = cell["median"] == highest and model not in OUTSIDE
            tests = {
                other: [verdict[key] for test in found if (key := (task, n, other, test)) in verdict]
                for other in ("baseline", "linear")
            }
            rows.append({"n": int(n), "models": models, "tests": tests})
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def noise_of_starts(medians: pd.DataFrame) -> str:
    """By how much networks' AUCs change with the seed alone: standard deviations over all tasks and n, in words.

    One of 0 cannot be told from the noise of test sets.  Empty without second seeds.
    """
    variances = (medians["seed_sd"] ** 2).groupby(medians["model"]).mean()
    known = {model: variances[model] ** 0.5 for model in CNNS if variances.get(model, float("nan")) >= 0}
    measured = {model: sd for model, sd in known.items() if round(sd, 3)}
    lost = [model for model in known if model not in measured]
    if not measured:
        return "in the AUCs of the networks it cannot be told from the noise of test sets" if known else ""
    text = (
        f"a standard deviation of {listed(f'{sd:.3f} ({model})' for model, sd in measured.items())} in a network's AUC"
    )
    text += ", averaged over tasks and n"
    return f"{text}; that of {listed(lost)} cannot be told from the noise of test sets" if lost else text


def _in_order(models: Iterable[str]) -> list[str]:
    return [*MODELS, *further_models(set(models) - {SITE}), *OUTSIDE]


def comparison_groups(
    comparisons: pd.DataFrame, found: Mapping[str, Sequence[Verdict]], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Per task, a row per n and pair of models: differences, and interval, p and verdict of the test of each question.

    Parameters
    ----------
    found : by test, its verdicts
    """
    rows = [
        {
            **row,
            "mean": signed(row["mean_difference"]),
            "median": signed(row["median_difference"]),
            "interval": interval(row["low"], row["high"], sign=True),
            "p": p_text(row["p_two_sided"]),
            "holm": p_text(row["p_holm"]),
            "won": f"{100 * row['wins']:.0f} %",
            "won_interval": f"{100 * row['wins_low']:.0f} to {100 * row['wins_high']:.0f} %",
            "population": {
                "p": p_text(row["p_population"]),
                "holm": p_text(row[ADJUSTED["population"]]),
                "interval": interval(row["low_population"], row["high_population"], sign=True),
            },
            "family": "the paper's" if ours else "further",
            "verdicts": verdicts,
        }
        for row, ours, *verdicts in zip(
            comparisons.to_dict("records"), of_paper(comparisons), *found.values(), strict=True
        )
    ]
    titles = {task: settings.get("title", task) for task, settings in tasks.items()}
    return [{"title": titles[task], "rows": [row for row in rows if row["task"] == task]} for task in tasks]


def worth_groups(worth: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n: transfer's AUC, and the n that each other model needs for the same AUC.

    `overtakes` is the n from which transfer is not below the linear model.  Tasks with one n have no curve and are left
    out.
    """
    groups = []
    for task in tasks:
        mine = worth[worth["task"] == task]
        sizes = mine["n"].dropna()
        if sizes.nunique() < 2:
            continue
        ends = int(sizes.min()), int(sizes.max())
        rows = []
        for n, part in mine.dropna(subset=["n"]).groupby("n"):
            by_question = part.set_index("question")
            row: dict[str, Any] = {"n": int(n), "auc": f"{part['auc'].iloc[0]:.3f}"}
            for other in ("baseline", "linear"):
                if f"{other} needs" in by_question.index:
                    row[other] = scans_text(by_question.loc[f"{other} needs"], *ends)
            rows.append(row)
        passing = mine[mine["question"] == "transfer overtakes linear"]
        overtakes = overtaking_text(passing.iloc[0], *ends) if len(passing) else None
        groups.append({"title": tasks[task].get("title", task), "rows": rows, "overtakes": overtakes})
    return groups


def scans_text(row: pd.Series, smallest: int, largest: int) -> dict[str, str]:
    """A number of scans and its interval as texts, for example "not reached by 500" and "180 to > 500"."""

    def end(value: float) -> str:
        if pd.isna(value):
            return MISSING
        if value == float("inf"):
            return f"> {largest:,}"
        return f"≤ {smallest:,}" if value <= smallest else f"{value:,.0f}"

    value = f"not reached by {largest:,}" if row["scans"] == float("inf") else end(row["scans"])
    low, high = end(row["low"]), end(row["high"])
    return {"value": value, "interval": low if low == high else f"{low} to {high}"}


def overtaking_text(row: pd.Series, smallest: int, largest: int) -> dict[str, str]:
    """The n from which transfer is not below the linear model, as a sentence, and the certainty of this n.

    Parameters
    ----------
    row : of worth.tsv: `scans` (infinite if transfer is below at the largest n), `low`, `high` and `reached`
    """
    if row["scans"] == float("inf"):
        sentence = f"Transfer is still below the linear model at the largest n, {largest:,}"
    elif row["scans"] <= smallest:
        sentence = f"Transfer is not below the linear model at any n, from {smallest:,} to {largest:,}"
    else:
        sentence = f"Transfer is not below the linear model from about n = {row['scans']:,.0f} on"
    between = scans_text(row, smallest, largest)["interval"]
    draws = f"not below at {largest:,} in {100 * row['reached']:.0f} % of draws"
    return {"sentence": sentence, "certainty": f"{draws}; 95 % interval of that n: {between}"}


def search_groups(search: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n and model: ties, optimism, and the number of settings that would have been enough."""
    groups = []
    for task in tasks:
        rows = [
            {
                "n": row["n"],
                "model": row["model"],
                "validation": f"{row['validation_auc']:.3f}",
                "test": f"{row['test_auc']:.3f}",
                "optimism": signed(row["optimism"]),
                "interval": interval(row["optimism_low"], row["optimism_high"], sign=True),
                "tied": f"{100 * row['tied']:.0f} %",
                "gain": signed(row["all_settings"] - row["one_setting"]),
                "enough": f"{row['enough']} of {row['settings']}",
            }
            for row in search[(search["task"] == task) & (search["settings"] > 1)].to_dict("records")
        ]
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def alternative(medians: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Figure 2 in words, for screen readers."""
    parts = []
    for task in tasks:
        rows = medians[medians["task"] == task].sort_values("n")
        if rows.empty:
            continue
        ends = rows["n"].iloc[0], rows["n"].iloc[-1]
        curves = []
        for model in marks_of(medians["model"]):
            values = rows.loc[rows["model"] == model, "median"]
            if len(values):
                more = f" to {values.iloc[-1]:.2f}" if len(values) > 1 else ""
                curves.append(f"{model} {values.iloc[0]:.2f}{more}")
        span = f"from n = {ends[0]} to n = {ends[1]}" if ends[0] != ends[1] else f"at n = {ends[0]}"
        parts.append(f"{tasks[task].get('title', task)}, {span}: {', '.join(curves)}")
    return f"Test AUC against the number of training images, one panel per task. Medians: {'; '.join(parts)}."


def missing_fits(
    medians: pd.DataFrame, config: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """The number of configured test AUCs of the compared models (`planned`), and of those without a fit (`missing`)."""
    sizes, replicates = config["resampling"]["n"], config["resampling"]["replicates"]
    models = [*MODELS, *further_arms(config["models"])]
    planned = len(tasks) * len(sizes) * replicates * len(models)
    counted = medians[medians["model"].isin(models) & medians["task"].isin(list(tasks))]
    found = int(counted.loc[counted["n"].isin(sizes), "replicates"].clip(upper=replicates).sum())
    return {"missing": planned - found, "planned": planned}
