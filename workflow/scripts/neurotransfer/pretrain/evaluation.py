"""How well the pretrained network predicts: metrics per target, against the dummy, with intervals.

Overall, by cohort, age band and sex; and whether the probabilities of binary targets are what they say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..seeds import seed_from

if TYPE_CHECKING:  # torch, which jobs on predictions alone do without
    from .targets import Target

METRICS = {"continuous": ("mae", "rmse", "r", "bias"), "binary": ("auc", "accuracy")}
PREDICTIONS = ["image_id", "participant_id", "cohort", "split", "target", "truth", "prediction"]
CHUNK = 200  # bootstrap resamples computed together, to bound memory
FEWEST = 10  # participants of a group; one of fewer says nothing, and nearly names them
BAND = 10  # years
BINS = 10  # of equally many predictions, at most
GROUPS = ["split", "target", "by", "group", "metric", "value", "low", "high", "observations", "participants"]
CALIBRATION = ["split", "target", "bin", "predicted", "observed", "low", "high", "observations", "participants"]


def is_metric(column: str) -> bool:
    """Whether a column of the history is a target's validation metric, such as ``validation_age_mae``."""
    return column.startswith("validation_") and column != "validation_loss"


def weighted_metrics(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Metrics under many weightings of the observations at once.

    Parameters
    ----------
    truth, predicted : [observations]; of a binary target classes 0 or 1 and probabilities
    weights : [weightings, observations], not negative

    Returns
    -------
    by metric, [weightings]; NaN if it is not defined (one class, no variance).  Bias is the mean of prediction
    minus truth.
    """
    total = weights.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind == "continuous":
            error = predicted - truth
            x, y = ((values - (weights @ values / total)[:, None]) for values in (truth, predicted))
            spread = np.sqrt((weights * x**2).sum(1) * (weights * y**2).sum(1))
            return {
                "mae": weights @ np.abs(error) / total,
                "rmse": np.sqrt(weights @ error**2 / total),
                "r": np.where(spread > 1e-12, (weights * x * y).sum(1) / spread, np.nan),
                "bias": weights @ error / total,
            }
        correct = (predicted > 0.5) == (truth > 0.5)
        return {"auc": weighted_auc(truth, predicted, weights), "accuracy": weights @ correct / total}


def weighted_auc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve under many weightings: the share of pairs in the right order, ties by half."""
    order = np.argsort(predicted, kind="stable")
    starts = np.flatnonzero(np.diff(predicted[order], prepend=np.nan) != 0)  # of runs of equal predictions
    positive, negative = (
        np.add.reduceat((weights * of_class)[:, order], starts, axis=1) for of_class in (truth > 0.5, truth <= 0.5)
    )
    below = np.cumsum(negative, axis=1) - negative / 2
    return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


def point_metrics(truth: np.ndarray, predicted: np.ndarray, kind: str) -> dict[str, float]:
    """Metrics of all observations, each counting once."""
    found = weighted_metrics(truth, predicted, np.ones((1, len(truth))), kind)
    return {name: float(value[0]) for name, value in found.items()}


def metrics_with_intervals(
    truth: np.ndarray, predicted: np.ndarray, participants: np.ndarray, kind: str, *, resamples: int, seed: int
) -> pd.DataFrame:
    """Metrics with 95 % percentile bootstrap intervals over participants.

    Images of one person are no independent observations, so people are drawn, with all their images.

    Examples
    --------
    The AUC of twelve images of six people, two each:

    >>> truth = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    >>> predicted = np.array([0.1, 0.2, 0.4, 0.3, 0.6, 0.2, 0.5, 0.9, 0.3, 0.7, 0.8, 0.6])
    >>> people = np.repeat(np.arange(6), 2)
    >>> metrics = metrics_with_intervals(truth, predicted, people, "binary", resamples=500, seed=1)
    >>> metrics.set_index("metric").loc["auc"].round(2).to_dict()
    {'value': 0.89, 'low': 0.73, 'high': 1.0}
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in METRICS[kind]}
    for weights in participant_weights(participants, resamples, seed):
        for name, values in weighted_metrics(truth, predicted, weights, kind).items():
            draws[name].append(values)
    rows = []
    for name, value in point_metrics(truth, predicted, kind).items():
        values = np.concatenate(draws[name])
        low, high = np.nanquantile(values, (0.025, 0.975)) if np.isfinite(values).any() else (np.nan, np.nan)
        rows.append({"metric": name, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def participant_weights(participants: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image counts when its people are drawn with replacement: [some resamples, images] at a time."""
    people, person = np.unique(participants, return_inverse=True)
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        times = generator.multinomial(len(people), np.full(len(people), 1 / len(people)), size=count)
        yield times[:, person].astype(float)


def evaluate(predictions: pd.DataFrame, targets: list[Target], *, resamples: int, seed: int) -> pd.DataFrame:
    """Metrics per split and target, beside those of the dummy.

    The dummy predicts the training set's mean, or its larger class, for everybody; its AUC is 0.5 and its
    correlation 0.  A metric that is not defined, such as the AUC of one class, has no row.

    Parameters
    ----------
    predictions : long form: participant_id, split, target, truth, prediction

    Returns
    -------
    split, target, metric, value, low, high, dummy, observations, participants
    """
    rows = []
    for target in targets:
        for split in ("validation", "holdout"):
            part = predictions[(predictions["split"] == split) & (predictions["target"] == target.name)]
            if part.empty:
                continue
            truth, people = part["truth"].to_numpy(float), part["participant_id"].to_numpy(str)
            predicted, seed_here = part["prediction"].to_numpy(float), seed_from("metrics", seed, split, target.name)
            found = metrics_with_intervals(truth, predicted, people, target.kind, resamples=resamples, seed=seed_here)
            found = found[np.isfinite(found["value"])]
            dummy = point_metrics(truth, np.full(len(truth), target.mean), target.kind) | {"r": 0.0, "auc": 0.5}
            found.insert(0, "target", target.name)
            found.insert(0, "split", split)
            found["dummy"] = found["metric"].map(dummy)
            rows.append(found.assign(observations=len(part), participants=len(set(people))))
    columns = ["split", "target", "metric", "value", "low", "high", "dummy", "observations", "participants"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def with_means_of(predictions: pd.DataFrame, targets: list[Target]) -> list[Target]:
    """Targets whose dummy predicts the evaluated images' own mean: published weights do not say their training set's.

    Parameters
    ----------
    predictions : long form: target, truth
    """
    means = predictions.groupby("target")["truth"].mean()
    return [replace(target, mean=float(means.get(target.name, target.mean))) for target in targets]


def evaluate_groups(
    predictions: pd.DataFrame, images: pd.DataFrame, targets: list[Target], *, resamples: int, seed: int
) -> pd.DataFrame:
    """Metrics per split and target by cohort, age band and sex; bias by age band is the age bias by age.

    Parameters
    ----------
    predictions : long form, the columns `PREDICTIONS`
    images : `image_id`, `age` (years) and `sex` (0 female, 1 male), missing if unknown

    Returns
    -------
    the columns `GROUPS`; groups of fewer than `FEWEST` participants have no row, nor have metrics that are not defined
    """
    about = images.drop_duplicates("image_id").set_index("image_id")
    cases = predictions.reset_index(drop=True)
    low = cases["image_id"].map(about["age"]).astype(float) // BAND * BAND
    sex = cases["image_id"].map(about["sex"]).astype(float)
    labels = {
        "cohort": cases["cohort"],
        "age band": low.map(lambda start: f"{start:.0f} to {start + BAND - 1:.0f}", na_action="ignore"),
        "sex": sex.map({0.0: "female", 1.0: "male"}),
    }
    order = {"age band": lambda name: float(str(name).split(" ", maxsplit=1)[0])}
    kinds = {target.name: target.kind for target in targets}
    rows = []
    for (split, target), part in cases.groupby(["split", "target"], sort=False):
        for by, label in labels.items():
            groups = part.groupby(label[part.index], sort=True)
            for group, mine in sorted(groups, key=lambda found: order.get(by, str)(found[0])):
                people = mine["participant_id"].to_numpy(str)
                if len(set(people)) < FEWEST or target not in kinds:
                    continue
                found = metrics_with_intervals(
                    mine["truth"].to_numpy(float),
                    mine["prediction"].to_numpy(float),
                    people,
                    kinds[target],
                    resamples=resamples,
                    seed=seed_from("groups", seed, split, target, by, group),
                )
                facts = {"split": split, "target": target, "by": by, "group": group}
                counts = {"observations": len(mine), "participants": len(set(people))}
                rows += [facts | row | counts for row in found[np.isfinite(found["value"])].to_dict("records")]
    return pd.DataFrame(rows, columns=GROUPS)


def calibration(predictions: pd.DataFrame, targets: list[Target], *, resamples: int, seed: int) -> pd.DataFrame:
    """Predicted probabilities of binary targets against how often it was so, in bins of equally many predictions.

    Returns
    -------
    the columns `CALIBRATION`: `predicted` is the mean probability in a bin, `observed` the share of class 1 with its
    95 % bootstrap interval over participants; bins of fewer than `FEWEST` participants are left out
    """
    rows = []
    for target in targets:
        if target.kind != "binary":
            continue
        for split, part in predictions[predictions["target"] == target.name].groupby("split", sort=False):
            truth, predicted = part["truth"].to_numpy(float), part["prediction"].to_numpy(float)
            people = part["participant_id"].to_numpy(str)
            count = max(1, min(BINS, len(part) // FEWEST))
            edges = np.unique(np.quantile(predicted, np.linspace(0, 1, count + 1)[1:-1]))
            place = np.searchsorted(edges, predicted, side="right")
            inside = (place[:, None] == np.arange(len(edges) + 1)).astype(float)  # [images, bins]
            drawn = []
            for weights in participant_weights(people, resamples, seed_from("calibration", seed, split, target.name)):
                with np.errstate(invalid="ignore", divide="ignore"):
                    drawn.append((weights * truth) @ inside / (weights @ inside))
            shares = np.concatenate(drawn)
            for at in range(inside.shape[1]):
                mine = place == at
                if len(set(people[mine])) < FEWEST:
                    continue
                low, high = np.nanquantile(shares[:, at], (0.025, 0.975))
                row = {"split": split, "target": target.name, "bin": at + 1, "predicted": predicted[mine].mean()}
                row |= {"observed": truth[mine].mean(), "low": low, "high": high}
                rows.append(row | {"observations": int(mine.sum()), "participants": len(set(people[mine]))})
    return pd.DataFrame(rows, columns=CALIBRATION)


def long_form(table: pd.DataFrame, values: np.ndarray, targets: list[Target], split: str) -> pd.DataFrame:
    """Predictions of a table's images: the columns `PREDICTIONS`, a row per image and target that it has.

    Parameters
    ----------
    values : [rows, targets] in the targets' units, of binary ones probabilities
    """
    parts = []
    for column, target in enumerate(targets):
        part = table[["image_id", "participant_id", "cohort"]].copy()
        part["split"], part["target"] = split, target.name
        part["truth"], part["prediction"] = table[target.name].astype(float), values[:, column]
        parts.append(part.dropna(subset=["truth"]))
    return pd.concat(parts, ignore_index=True)
