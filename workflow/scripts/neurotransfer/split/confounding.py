"""Whether a task's label is known from where the image comes from: its cohort, or its scanner.

Goes in: a task's pool.  Comes out: people by label and site, and how well the site alone predicts the label.  A network
can learn the site, and where it is the label its AUC says nothing about the disease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ..errors import InputError, raise_all
from ..manifest.scanners import with_scanner
from .resampling import pool_of_task

SITES = ("cohort", "scanner")
FOLDS = 5
CONFOUNDED = "confounding.waived"  # the key that waives a task


def site_model() -> Pipeline:
    """Logistic regression on the names of sites; a site that training has not seen adds nothing to the score."""
    return make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())


def site_auc(labels: np.ndarray, sites: np.ndarray, people: np.ndarray) -> float:
    """Cross-validated AUC of the label from the site alone: the mean over folds, whose participants differ.

    Parameters
    ----------
    labels : 0 or 1 per image
    sites : name of the site per image
    people : participant per image

    Returns
    -------
    0.5 if all images are of one site; NaN if a class has fewer than two participants
    """
    if len(set(sites)) < 2:
        return 0.5
    fewest = min(len(set(people[labels == label])) for label in (0, 1))
    if fewest < 2:
        return float("nan")
    numbers, known = pd.factorize(people)
    first = np.unique(numbers, return_index=True)[
        1
    ]  # an image of each participant, whose label stands for the person's
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    values, names = [], np.asarray(sites, dtype=object)[:, None]
    for _, tested in folds.split(known, labels[first]):
        test = np.isin(numbers, tested)
        train = ~test
        if len(set(labels[train])) == 2 == len(set(labels[test])):
            scores = site_model().fit(names[train], labels[train]).decision_function(names[test])
            values.append(roc_auc_score(labels[test], scores))
    return float(np.mean(values)) if values else float("nan")


def confounding_of(pool: pd.DataFrame) -> dict[str, Any]:
    """How a task's label depends on the site.

    Parameters
    ----------
    pool : a row per image: `participant_id`, `label`, `cohort` and, if any scanner is known, `scanner`

    Returns
    -------
    by kind of site (`cohort`, `scanner`): `auc` (see `site_auc`; None if it is not defined) and `sites`, a list of
    `site` with `positive` and `negative` (participants) and `positive_images` and `negative_images`
    """
    found = {}
    for kind in (kind for kind in SITES if kind in pool):
        sites = []
        for site, part in pool.groupby(kind, sort=True):
            row: dict[str, Any] = {"site": str(site)}
            for name, label in (("positive", 1), ("negative", 0)):
                mine = part[part["label"] == label]
                row |= {name: int(mine["participant_id"].nunique()), f"{name}_images": len(mine)}
            sites.append(row)
        columns = (pool[name].to_numpy() for name in ("label", kind, "participant_id"))
        auc = site_auc(*columns)
        found[kind] = {"auc": None if np.isnan(auc) else auc, "sites": sites}
    return found


def check_confounding(task: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[InputError]:
    """A line for each kind of site that predicts a task's label too well, if the configuration does not waive the task.

    Parameters
    ----------
    found : from `confounding_of`
    settings : the configuration's `confounding`: `refused_from` (an AUC) and `waived` (names of tasks)
    """
    if task in settings["waived"]:
        return []
    return [
        InputError(
            "configuration",
            f"tasks.{task}",
            f"the {kind} alone predicts the label with a cross-validated AUC of {site['auc']:.2f} (limit "
            f"{settings['refused_from']:g}), so a network may learn the {kind} in place of the disease",
            f"add cohorts that have both classes, or waive it: {CONFOUNDED}: [{task}]",
        )
        for kind, site in found.items()
        if site["auc"] is not None and site["auc"] >= settings["refused_from"]
    ]


def confounding_of_tasks(
    indices: Sequence[pd.DataFrame],
    splits: Sequence[pd.DataFrame],
    roles: Mapping[str, Collection[str]],
    scanners: pd.DataFrame,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """How each task's label depends on the site, see `confounding_of`; refuses a task whose label is the site.

    Parameters
    ----------
    indices, splits : by cohort, in the order of `roles`
    scanners : from manifest.scanners.scanners_of
    config : the study's: `tasks`, `manifest` and `confounding`

    Raises
    ------
    InputError, InputErrors
        a line for each task and kind of site that predicts its label too well
    """
    found: dict[str, Any] = {}
    wrong: list[InputError] = []
    for name, task in config["tasks"].items():
        mine = [place for place, has in enumerate(roles.values()) if name in has]
        if task is None or not mine:
            continue
        of_indices, of_splits = ([tables[place] for place in mine] for tables in (indices, splits))
        pool = pool_of_task(of_indices, of_splits, task, config["manifest"]["converters"])
        found[name] = confounding_of(with_scanner(pool, scanners))
        wrong += check_confounding(name, found[name], config["confounding"])
    raise_all(wrong)
    return found


def in_words(task: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Lines for a terminal: people by label and site, and the AUCs from `shown_from` on."""
    lines = []
    for kind, site in found.items():
        counts = "; ".join(f"{row['site']} {row['positive']:,} and {row['negative']:,}" for row in site["sites"])
        lines.append(f"{task}: positive and negative participants by {kind}: {counts}")
        if site["auc"] is not None and site["auc"] >= settings["shown_from"]:
            waived = f", waived by {CONFOUNDED}" if task in settings["waived"] else ""
            lines.append(f"{task}: the {kind} alone predicts the label, cross-validated AUC {site['auc']:.2f}{waived}")
    return lines
