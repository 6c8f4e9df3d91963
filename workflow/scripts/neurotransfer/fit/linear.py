"""The linear model: logistic regression on regional volumes, each setting fitted, one chosen.

Volumes (or other features) of a resample go in, a record per setting and the chosen one's test scores come out.
"""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..errors import InputError
from ..files import read_json
from ..preprocess.volumes import ETIV, MASK_VOLUME
from ..text import counted
from .features import rows_of_index
from .settings import choose, fingerprint_of_fit, fit_record

logger = logging.getLogger("neurotransfer")


def read_volumes(
    resample: pd.DataFrame,
    matrices: Sequence[str | Path],
    names: Sequence[str | Path],
    structures: Sequence[str] | None = None,
) -> np.ndarray:
    """Volumes of a resample's images, by its rows, in mm³.

    Parameters
    ----------
    resample : with `cohort` and `index_row`
    matrices, names : of each cohort of the task, ``<cohort>.volumes.npy`` and ``<cohort>.volumes.json``
    structures : names of those to take; None for all

    Returns
    -------
    float64 [rows, structures], the mask's volume first, without the eTIV; the structures are those of any cohort,
    and one that a cohort's atlas does not list is missing (NaN) there

    Raises
    ------
    InputError
        if no cohort has a structure of that name, a matrix is shorter than its index, or an image has no volumes
    """
    cohorts, listed = _by_cohort(matrices, names)
    ids = {cohort: [None if seg_id == ETIV else seg_id for seg_id in one["seg_ids"]] for cohort, one in listed.items()}
    if structures is not None:
        known = {
            name: seg_id
            for one in listed.values()
            for name, seg_id in zip(one["names"], one["seg_ids"], strict=True)
            if seg_id != ETIV
        }
        for name in structures:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                fix = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
                raise InputError("configuration", "models.linear.structures", f"no cohort has {name!r}", fix)
        chosen = {MASK_VOLUME, *(known[name] for name in structures)}
        ids = {cohort: [seg_id if seg_id in chosen else None for seg_id in found] for cohort, found in ids.items()}
    taken = (seg_id for cohort in cohorts for seg_id in ids[cohort] if seg_id is not None)
    columns = list(dict.fromkeys([MASK_VOLUME, *taken]))
    volumes = np.full((len(resample), len(columns)), np.nan)
    for cohort, rows in resample.groupby("cohort").groups.items():
        index_rows = resample.loc[rows, "index_row"].to_numpy(int)
        matrix = rows_of_index(cohorts[cohort], index_rows)
        regions = [at for at, seg_id in enumerate(listed[cohort]["seg_ids"]) if seg_id not in (MASK_VOLUME, ETIV)]
        without = index_rows[np.isnan(matrix[:, regions]).all(axis=1)]
        if len(without):
            lack = counted(len(without), "image has", "images have")
            what = f"{lack} no regional volumes, the first in row {without[0]}"
            fix = f"delete results/preprocessed/{cohort}-*/*.tsv and run snakemake again"
            raise InputError(cohorts[cohort], "", what, fix)
        positions = [place for place, seg_id in enumerate(ids[cohort]) if seg_id is not None]
        at = [columns.index(ids[cohort][place]) for place in positions]
        volumes[np.ix_(resample.index.get_indexer(rows), at)] = matrix[:, positions]
    return volumes


def _by_cohort(matrices: Sequence[str | Path], names: Sequence[str | Path]) -> tuple[dict[str, Path], dict[str, Any]]:
    """The files of volumes, and what their columns are, by cohort."""
    listed = {Path(path).name.removesuffix(".volumes.json"): read_json(path) for path in names}
    return {Path(path).name.removesuffix(".volumes.npy"): Path(path) for path in matrices}, listed


def read_etiv(resample: pd.DataFrame, matrices: Sequence[str | Path], names: Sequence[str | Path]) -> np.ndarray:
    """The estimated total intracranial volume (mm³) of a resample's images, by its rows; NaN for one without it.

    Parameters
    ----------
    resample, matrices, names : as for `read_volumes`
    """
    cohorts, listed = _by_cohort(matrices, names)
    found = np.full(len(resample), np.nan)
    for cohort, rows in resample.groupby("cohort").groups.items():
        if ETIV in listed[cohort]["seg_ids"]:
            matrix = rows_of_index(cohorts[cohort], resample.loc[rows, "index_row"].to_numpy(int))
            found[resample.index.get_indexer(rows)] = matrix[:, listed[cohort]["seg_ids"].index(ETIV)]
    return found


def normalised(volumes: np.ndarray, roles: np.ndarray, how: str = "mask", etiv: np.ndarray | None = None) -> np.ndarray:
    """Regional volumes with the head's size taken out of them, or as they are.

    Parameters
    ----------
    volumes : float [rows, 1 + structures] in mm³, the mask's volume first
    roles : "train", "validation" or "test" per row
    how : "mask", shares of the mask's volume; "etiv", shares of the eTIV; "residual", what a line through the
        training rows, structure by mask volume, leaves over (mm³); "none", as they are (mm³)
    etiv : float [rows] in mm³, for "etiv"

    Returns
    -------
    float [rows, structures]

    Raises
    ------
    InputError
        if an image has no volume of the kind that it is divided by or regressed on
    """
    if how == "none":
        return volumes[:, 1:]
    if how == "etiv":
        assert etiv is not None
        fix = "FreeSurfer writes it; choose mask, residual or none for images without it"
        return volumes[:, 1:] / _sizes(etiv, "eTIV", "models.linear.normalise", fix)
    masks = _sizes(volumes[:, 0], "mask volume", "mask volume", "preprocess these images again")
    if how == "residual":
        return residuals(volumes[:, 1:], masks[:, 0], roles == "train")
    return volumes[:, 1:] / masks


def _sizes(sizes: np.ndarray, name: str, place: str, fix: str) -> np.ndarray:
    """Sizes of heads as a column, all above 0; without one, an image's share of everything would be infinite."""
    empty = ~(sizes > 0)
    if empty.any():
        without = counted(int(empty.sum()), "image has", "images have")
        what = f"{without} no {name}, the first in row {int(np.flatnonzero(empty)[0])}"
        raise InputError("resample", place, what, fix)
    return sizes[:, None]


def residuals(values: np.ndarray, sizes: np.ndarray, train: np.ndarray) -> np.ndarray:
    """What least-squares lines, value by size, leave over; the lines are learnt from the training rows alone.

    The residual method that Voevodskaya et al. (2014, doi:10.3389/fnagi.2014.00264) compare with shares.

    Parameters
    ----------
    values : float [rows, columns]; a missing one (NaN) stays missing, and its line is learnt from the others
    sizes : float [rows]
    train : bool [rows]
    """
    left = np.full(values.shape, np.nan)
    for column, of_column in enumerate(values.T):
        known = train & ~np.isnan(of_column)
        if not known.any():
            continue  # no line; what no training image has is filled in by a constant
        mean, size = of_column[known].mean(), sizes[known].mean()
        spread = ((sizes[known] - size) ** 2).sum()
        slope = ((sizes[known] - size) * (of_column[known] - mean)).sum() / spread if spread else 0.0
        left[:, column] = of_column - mean - slope * (sizes - size)
    return left


def pipeline(c: float, max_iterations: int, penalty: str = "l2") -> Pipeline:
    """Impute, standardise and regress; all three learn from the training set alone.

    Parameters
    ----------
    c : inverse strength of the penalty
    penalty : of the coefficients: "l2", their squares (ridge), or "l1", their sizes (lasso), with which some are 0
    """
    if penalty == "l1":
        solver = {"l1_ratio": 1.0, "solver": "saga", "random_state": 0}  # it visits the images in a random order
    else:
        solver = {"l1_ratio": 0.0, "solver": "lbfgs"}
    regression = LogisticRegression(C=c, max_iter=max_iterations, **solver)
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), regression)


def fit_settings(
    features: np.ndarray, labels: np.ndarray, roles: np.ndarray, settings: Sequence[Mapping[str, Any]], iterations: int
) -> tuple[list[dict[str, Any]], int, np.ndarray, np.ndarray]:
    """Fit every setting on the training rows, choose on the validation rows, score the test rows once.

    Parameters
    ----------
    features : float [rows, features]
    labels : 0 or 1 per row
    roles : "train", "validation" or "test" per row
    settings : dictionaries with `c` and, if it is not "l2", `penalty`

    Returns
    -------
    records : values, status, validation AUC and loss per setting
    chosen : position of the chosen one
    scores, validated : its probabilities for the test rows and for the validation rows, in their order
    """
    train, validation, test = (roles == role for role in ("train", "validation", "test"))
    records, models, validated = [], [], []
    for values in settings:
        model = pipeline(values["c"], iterations, values.get("penalty", "l2"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, once and with its setting
            model.fit(features[train], labels[train])
        if model[-1].n_iter_.max() >= iterations:
            logger.warning("setting %s did not converge in %d iterations; its last step is used", values, iterations)
        scores = model.predict_proba(features[validation])[:, 1]
        record: dict[str, Any] = {"values": dict(values), "status": "ok", "epoch": None}
        record["validation_auc"] = float(roc_auc_score(labels[validation], scores))
        record["validation_loss"] = float(log_loss(labels[validation], scores, labels=[0, 1]))
        records.append(record)
        models.append(model)
        validated.append(scores)
    chosen = choose(records)
    return records, chosen, models[chosen].predict_proba(features[test])[:, 1], validated[chosen]


def fit(
    model: str,
    features: np.ndarray,
    resample: pd.DataFrame,
    facts: Mapping[str, Any],
    path: str | Path,
    fitting: Mapping[str, Any],
    made_of: str | Path | None = None,
) -> dict[str, Any]:
    """One replicate of a logistic regression, from its features to its record.

    Parameters
    ----------
    model : its name in the record
    features : float [rows of the resample, features]
    facts : of the resample
    path : its file
    fitting : `settings` and `max_iterations`
    made_of : the file that the features come from, if it is no index: weights, or a table of the user's

    Returns
    -------
    see selection.fit_record; the test images' scores are probabilities
    """
    labels, roles = resample["label"].to_numpy(), resample["role"].to_numpy(str)
    found = fit_settings(features, labels, roles, fitting["settings"], fitting["max_iterations"])
    records, chosen, scores, validated = found
    test = np.flatnonzero(roles == "test")
    return fit_record(
        facts=facts,
        model=model,
        settings=records,
        chosen=chosen,
        test_auc=float(roc_auc_score(labels[test], scores)),
        test={"position": test.tolist(), "label": labels[test].tolist(), "score": scores.tolist()},
        seeds={},
        fingerprint=fingerprint_of_fit(model, fitting, path, made_of),
        validation={"label": labels[roles == "validation"].tolist(), "score": validated.tolist()},
    )
