"""What a clinician asks of a classifier besides its AUC: calibration, thresholds, rare classes, and subgroups.

Goes in: the test scores of all replicates, and each fit's validation scores.  Comes out: tables by task, n and model.
Figures of a replicate are averaged over replicates, with bootstrap intervals over these: they are about this pool.
Calibration and subgroups are over all replicates together, with bootstrap intervals over participants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, brier_score_loss, roc_curve

from ..pretrain.evaluation import calibration, participant_weights
from ..seeds import seed_from
from ..study.plan import CNNS
from .populations import draw_participants
from .tests import bootstrap_interval

SPECIFICITY = 0.9  # [assumed] on validation images, at which the threshold for the sensitivity is set
NEAREST = 1e-6  # a probability is moved so far from 0 and 1 for its logit
KEY = ["task", "n", "replicate"]
CELL = ["task", "n", "model"]
FIGURES = [*CELL, "metric", "replicates", "value", "low", "high"]
BINS = [*CELL, "bin", "predicted", "observed", "low", "high", "observations", "participants"]
GROUPS = [*CELL, "by", "group", "replicates", "value", "low", "high", "participants", "positive_participants"]
SLOPE, INTERCEPT = "calibration slope", "calibration intercept"
LINES = 200  # draws of participants, at most, behind the interval of a calibration line, which is fitted in each
SHARES = ("sensitivity", "specificity", "balanced accuracy")  # at a threshold
STEPS, SMALL = 50, 1e-9  # of Newton's method, at most, and the step at which it has converged


def probabilities(model: str, scores: np.ndarray) -> np.ndarray:
    """The scores that a fit records as probabilities: networks record logits, all others probabilities."""
    return expit(scores) if model in CNNS else np.asarray(scores, float)


def calibration_line(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Slope and intercept of logistic regression of the label on the logit of the predicted probability (Cox, 1958).

    The intercept is that of calibration in the large, with the slope at 1 (Steyerberg, 2009): above 0, predictions are
    too low on average.  A slope below 1 means that predictions are too extreme.

    Parameters
    ----------
    labels : 0 or 1 per image
    predicted : probabilities
    weights : how often each image counts; None for once

    Returns
    -------
    slope, intercept : NaN if the labels are of one class, or the predictions separate them
    """
    x = logit(np.clip(predicted, NEAREST, 1 - NEAREST))
    w = np.ones(len(x)) if weights is None else weights
    nothing = float("nan"), float("nan")
    if not (w[labels == 1].sum() and w[labels == 0].sum()):
        return nothing
    slope = _newton(np.column_stack([np.ones(len(x)), x]), labels, w, np.zeros(len(x)))
    large = _newton(np.ones((len(x), 1)), labels, w, x)
    return nothing[0] if slope is None else float(slope[1]), nothing[1] if large is None else float(large[0])


def _newton(design: np.ndarray, labels: np.ndarray, weights: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
    """Coefficients of a weighted logistic regression with an offset and no penalty; None if there are none."""
    found = np.zeros(design.shape[1])
    for _ in range(STEPS):
        p = expit(design @ found + offset)
        curvature = (design * (weights * p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, design.T @ (weights * (labels - p)))
        except np.linalg.LinAlgError:
            return None
        found = found + np.clip(step, -5, 5)
        if np.abs(step).max() < SMALL:
            return found
    return None


def thresholds(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Thresholds from validation images, at or above which an image counts as positive.

    Returns
    -------
    balanced : with the highest balanced accuracy (Youden, 1950)
    specific : with the highest sensitivity among those with a specificity of at least SPECIFICITY

    Both lie half-way to the next lower score, because a threshold at a score itself would favour the validation images.
    Among equals the higher one is taken.
    """
    false, true, cuts = roc_curve(labels, scores, drop_intermediate=False)
    lower = np.append(np.sort(np.unique(scores))[::-1], np.nan)[1:]
    middles = np.append(np.inf, np.where(np.isnan(lower), cuts[1:], (cuts[1:] + lower) / 2))
    allowed = np.flatnonzero(1 - false >= SPECIFICITY - 1e-12)
    return float(middles[np.argmax(true - false)]), float(middles[allowed[np.argmax(true[allowed])]])


def figures_of_replicate(
    labels: np.ndarray, predicted: np.ndarray, cuts: tuple[float, float] | None
) -> dict[str, float]:
    """Figures of one replicate's test images.

    Parameters
    ----------
    predicted : probabilities
    cuts : from `thresholds` of the validation images' probabilities; None if they were not kept
    """
    found = {
        "Brier score": float(brier_score_loss(labels, predicted)),
        "PR-AUC": float(average_precision_score(labels, predicted)),
        "share of positive images": float(np.mean(labels)),
    }
    if cuts is not None:
        balanced, specific = (predicted >= cut for cut in cuts)
        found["balanced accuracy"] = float(np.mean(shares_recognised(labels, balanced)))
        found["sensitivity"], found["specificity"] = shares_recognised(labels, specific)
    return found


def shares_recognised(labels: np.ndarray, called: np.ndarray) -> tuple[float, float]:
    """Shares of the positive images that are called positive, and of the negative ones that are not.

    scikit-learn's functions give the same numbers and look through their inputs for 3 ms at each call, of thousands.

    Parameters
    ----------
    labels : 0 or 1 per image, of both classes
    called : bool per image
    """
    return float(called[labels == 1].mean()), float((~called[labels == 0]).mean())


def telling_shares(figures: Mapping[str, float], labels: np.ndarray, smallest: int) -> set[str]:
    """The figures of one replicate that tell a number of fewer images than the smallest cell, but not of none.

    A sensitivity of 0.97 of 33 positive images tells that one was missed.

    >>> labels = np.repeat([0, 1], [40, 33])
    >>> sorted(telling_shares({"sensitivity": 32 / 33, "specificity": 0.75, "balanced accuracy": 0.8}, labels, 5))
    ['balanced accuracy', 'sensitivity']
    """
    sizes = {"sensitivity": int((labels == 1).sum()), "specificity": int((labels == 0).sum())}
    of_all = {"PR-AUC", "share of positive images", *SHARES}  # an average over few people of a class, or their number
    found = set(of_all) if any(0 < size < smallest for size in sizes.values()) else set()
    for name, size in sizes.items():
        having = round(figures.get(name, 0.0) * size)
        if 0 < having < smallest or 0 < size - having < smallest:
            found |= {name, "balanced accuracy"}
    return found & figures.keys()


def classifier_figures(
    predictions: pd.DataFrame,
    validation: Mapping[tuple[str, int, str, str], Mapping[str, Sequence[float]]],
    *,
    bootstrap: int,
    seed: int,
    smallest: int = 1,
) -> pd.DataFrame:
    """Means over replicates of each figure, and the calibration line of all replicates' test images together.

    Parameters
    ----------
    predictions : from aggregation.number_participants
    validation : `label` and `score` of the validation images, by task, n, replicate and model, of fits that keep them
    smallest : people in the smallest cell; a single replicate's shares that tell fewer are left out

    Returns
    -------
    FIGURES; `low` and `high` are 95 % bootstrap intervals, over participants for calibration and over replicates for
    the others; `sensitivity` and `specificity` are those at the threshold with SPECIFICITY on validation images
    """
    rows = []
    for (task, n), group in predictions.groupby(["task", "n"], sort=False):
        labels, people = group["label"].to_numpy(), group["person"].to_numpy()
        for model in models_of(group):
            cell = {"task": task, "n": n, "model": model}
            predicted = probabilities(model, group[model].to_numpy(float))
            found = []
            for replicate, indices in group.groupby("replicate", sort=False).indices.items():
                kept = validation.get((task, n, replicate, model))
                cuts = None
                if kept is not None:
                    scores = probabilities(model, np.asarray(kept["score"], float))
                    cuts = thresholds(np.asarray(kept["label"]), scores)
                found.append(figures_of_replicate(labels[indices], predicted[indices], cuts))
            table = pd.DataFrame(found)
            if len(table) == 1:
                table = table.drop(columns=list(telling_shares(table.iloc[0].to_dict(), labels, smallest)))
            for metric in table:
                values = table[metric].dropna().to_numpy()
                names = ("classifier", seed, task, n, model, metric)
                low, high = bootstrap_interval(values, statistic="mean", resamples=bootstrap, seed=seed_from(*names))
                row = {"metric": metric, "replicates": len(values), "value": values.mean(), "low": low, "high": high}
                rows.append(cell | row)
            value = calibration_line(labels, predicted)
            drawn = np.array([
                calibration_line(labels, predicted, weights)
                for chunk in participant_weights(people, min(bootstrap, LINES), seed_from("line", seed, task, n, model))
                for weights in chunk
            ])  # fmt: skip
            for place, metric in enumerate((SLOPE, INTERCEPT)):
                known = drawn[np.isfinite(drawn[:, place]), place]
                low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
                row = {"metric": metric, "replicates": len(table), "value": value[place], "low": low, "high": high}
                rows.append(cell | row)
    return pd.DataFrame(rows, columns=FIGURES)


def subgroups_of(
    predictions: pd.DataFrame,
    resamples: Mapping[tuple[str, int, str], pd.DataFrame],
    images: pd.DataFrame,
    age_band: float,
) -> pd.DataFrame:
    """The age band and the sex of each row's image, as names; missing if unknown.

    Parameters
    ----------
    predictions : task, n, replicate and `position`, the row of the resample
    resamples : by task, n and replicate
    images : `age` (years) and `sex` (0 female, 1 male) by image_id
    age_band : years

    Returns
    -------
    `age` and `sex`, with the index of `predictions`
    """
    names = pd.Series(index=predictions.index, dtype=object)
    for key, indices in predictions.groupby(KEY, sort=False).indices.items():
        rows = resamples[key]["image_id"].to_numpy()
        names.iloc[indices] = rows[predictions["position"].to_numpy()[indices]]
    about = images.loc[names, ["age", "sex"]].astype(float).set_axis(predictions.index)
    band = np.floor(about["age"] / age_band) * age_band
    said = band.map(lambda low: f"{low:g} to {low + age_band:g} years", na_action="ignore")
    return pd.DataFrame({"age": said, "sex": about["sex"].map({0.0: "female", 1.0: "male"})})


def models_of(predictions: pd.DataFrame) -> list[str]:
    """The models that have a score for every image of a table of predictions."""
    known = [name for name in predictions if name not in (*KEY, "position", "person", "label")]
    return [name for name in known if predictions[name].notna().all()]


def calibration_curves(predictions: pd.DataFrame, smallest: int, *, bootstrap: int, seed: int) -> pd.DataFrame:
    """Predicted probabilities against how often it was so, in bins of equally many predictions of all replicates.

    Bins of fewer participants than `smallest` are left out.

    Returns
    -------
    BINS; `low` and `high` are a 95 % bootstrap interval over participants
    """
    parts = []
    for (task, n), group in predictions.groupby(["task", "n"], sort=False):
        models = models_of(group)
        about = {"split": str(n), "participant_id": group["person"].astype(str), "truth": group["label"]}
        columns = {model: probabilities(model, group[model].to_numpy(float)) for model in models}
        long = pd.concat([pd.DataFrame({**about, "target": model, "prediction": p}) for model, p in columns.items()])
        targets: list[Any] = [SimpleNamespace(name=model, kind="binary") for model in models]
        table = calibration(long, targets, resamples=bootstrap, seed=seed_from("curve", seed, task, n))
        parts.append(table.rename(columns={"target": "model"}).assign(task=task, n=n))
    table = pd.concat(parts, ignore_index=True)
    return table.loc[table["participants"] >= smallest, BINS].reset_index(drop=True)


def subgroup_aucs(
    predictions: pd.DataFrame,
    groups: pd.DataFrame,
    participants: Mapping[str, int],
    smallest: int,
    *,
    bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """The mean AUC within replicates among test images of one subgroup.

    Replicates whose test set has one class of the subgroup have no AUC in it; `replicates` counts the others.

    Parameters
    ----------
    predictions : from aggregation.number_participants
    groups : a column of names for each kind of subgroup (such as sex), with the rows of `predictions`
    participants : number of people in each task's pool
    smallest : people of each class that a subgroup needs in all replicates together

    Returns
    -------
    GROUPS; `low` and `high` are a 95 % percentile interval over draws of participants.  If groups of few people are
    left out, the smallest other group of the kind has no numbers of people, because theirs would follow from them.
    """
    rows = []
    left_out: dict[tuple[Any, ...], list[pd.Series]] = {}
    for kind in groups:
        keys = [predictions["task"], predictions["n"], groups[kind]]
        for (task, n, name), group in predictions.groupby(keys, sort=False):
            both = group.groupby("replicate")["label"].transform("nunique") == 2
            part, models = group[both], models_of(predictions[predictions["task"] == task])
            people = part.groupby("label")["person"].nunique().reindex([0, 1], fill_value=0)
            if people.min() < max(1, smallest):
                left_out.setdefault((task, n, kind), []).append(people)
                continue
            found = draw_participants(
                part[models].to_numpy(float).T,
                part["label"].to_numpy(),
                part["person"].to_numpy(),
                pd.factorize(part["replicate"])[0],
                people=participants[task],
                draws=bootstrap,
                seed=seed_from("subgroup", seed, task, n, kind, name),
            )
            about = {"by": kind, "group": name, "replicates": found.aucs.shape[1]}
            about |= {"participants": part["person"].nunique(), "positive_participants": people[1]}
            for model, aucs, drawn in zip(models, found.aucs, found.averages(), strict=True):
                known = drawn[np.isfinite(drawn)]
                low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
                row = {"task": task, "n": n, "model": model, "value": aucs.mean(), "low": low, "high": high}
                rows.append(row | about)
    table = pd.DataFrame(rows, columns=GROUPS)
    for (task, n, kind), few in left_out.items():
        mine = table[(table["task"] == task) & (table["n"] == n) & (table["by"] == kind)]
        if len(mine) and (len(few) == 1 or sum(few).min() < smallest):
            counts = ["participants", "positive_participants"]
            table = table.astype(dict.fromkeys(counts, "Int64"))
            table.loc[mine.index[mine["participants"] == mine["participants"].min()], counts] = pd.NA
    return table
