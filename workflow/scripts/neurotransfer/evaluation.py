"""How well the pretrained network predicts: metrics per target, against the dummy, with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .seeds import seed_from
from .targets import Target

METRICS = {"continuous": ("mae", "rmse", "r"), "binary": ("auc", "accuracy")}
PREDICTIONS = ["image_id", "participant_id", "cohort", "split", "target", "truth", "prediction"]
CHUNK = 200  # bootstrap resamples computed together, to bound memory


def weighted_metrics(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Metrics under many weightings of the observations at once.

    Parameters
    ----------
    truth, predicted : [observations]; of a binary target classes 0 or 1 and probabilities
    weights : [weightings, observations], not negative

    Returns
    -------
    by metric, [weightings]; NaN where it is not defined (one class, no variance)
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
    """
    people, person = np.unique(participants, return_inverse=True)
    generator = np.random.default_rng(seed)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in METRICS[kind]}
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        times = generator.multinomial(len(people), np.full(len(people), 1 / len(people)), size=count)
        for name, values in weighted_metrics(truth, predicted, times[:, person].astype(float), kind).items():
            draws[name].append(values)
    rows = []
    for name, value in point_metrics(truth, predicted, kind).items():
        values = np.concatenate(draws[name])
        low, high = np.nanquantile(values, (0.025, 0.975)) if np.isfinite(values).any() else (np.nan, np.nan)
        rows.append({"metric": name, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


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
