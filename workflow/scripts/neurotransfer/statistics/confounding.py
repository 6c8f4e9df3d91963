"""What else than the disease could give the AUCs: the site, and differences of age, sex and size between the classes.

Goes in: test scores, resamples and what is known of each image.  Comes out: the AUC of the site alone on the same
resamples, each model's AUC among images of one site, age band, sex or size, the differences between models there, and
each model's gain over the covariates alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ..seeds import seed_from
from ..split.confounding import SITES, site_model
from ..split.roles import SETS
from .aggregation import pairs_of, summarise
from .populations import pairs_in_order
from .tests import bootstrap_interval, holm, paired_comparison

SITE = "site"  # the arm of the site alone
COVARIATES = "covariates"
THIRDS = 3  # groups of size, with equally many images of a task
KEY = ["task", "n", "replicate"]
MEASURES = ["task", "n", "model", "strata", "replicates", "median", "low", "high", "pairs"]
DIFFERENCES = ["task", "n", "first", "second", "strata", "replicates", "mean_difference", "low", "high"]
GAINS = ["task", "n", "model", "mean_gain", "low", "high", "p_two_sided", "p_holm"]
NUMBERS = ("images", "participants", "positive_share", "age_mean", "age_sd", "female_share", "scans_per_person")


def stratified_auc(labels: np.ndarray, scores: np.ndarray, strata: np.ndarray) -> tuple[float, float]:
    """The AUC over pairs of a positive and a negative image of the same stratum.

    It is the mean of the strata's AUCs, weighted by their pairs: a covariate-adjusted AUC (Janes & Pepe, Biometrika
    2009), with these weights.  An image without a stratum is in no pair.

    Parameters
    ----------
    labels : 0 or 1 per image
    scores : higher for positive ones
    strata : name or number per image; missing if unknown

    Returns
    -------
    auc : NaN if no stratum has both classes
    share : of all pairs that are within a stratum
    """
    codes = pd.factorize(strata)[0]  # -1 for missing
    positive, negative = labels == 1, labels == 0
    same = (codes[positive][:, None] == codes[negative]) & (codes[negative] >= 0)
    if not same.any():
        return float("nan"), 0.0
    return float(pairs_in_order(scores[positive], scores[negative])[same].mean()), float(same.mean())


def strata_of(images: pd.DataFrame, age_band: float) -> pd.DataFrame:
    """The strata of a task's images: `cohort`, `scanner` (if any is known), `age band`, `sex` and `size`.

    Parameters
    ----------
    images : `cohort`, `age` (years), `sex`, `mask_volume_mm3` and perhaps `scanner`
    age_band : years

    Returns
    -------
    a column for each, as text, with the index of `images`; missing if unknown
    """
    found = images[[kind for kind in SITES if kind in images]].astype(object)
    band = np.floor(images["age"].astype(float) / age_band)
    found["age band"] = band.map("{:g}".format, na_action="ignore")
    found["sex"] = images["sex"].astype(float).map("{:g}".format, na_action="ignore")
    volumes = images["mask_volume_mm3"].astype(float)
    edges = np.unique(volumes.quantile(np.arange(1, THIRDS) / THIRDS).dropna())
    thirds = pd.Series(np.searchsorted(edges, volumes), volumes.index)
    found["size"] = thirds.where(volumes.notna()).map("{:g}".format, na_action="ignore")
    return found


def site_scores(resample: pd.DataFrame, strata: pd.DataFrame) -> np.ndarray:
    """Scores of a resample's test images by logistic regression on cohort and scanner alone, from its training set.

    Parameters
    ----------
    resample : `image_id`, `role` and `label`
    strata : from `strata_of`, by image_id
    """
    names = strata.loc[resample["image_id"], [kind for kind in SITES if kind in strata]].to_numpy(object)
    train, test = ((resample["role"] == role).to_numpy() for role in (SETS[0], SETS[2]))
    return site_model().fit(names[train], resample["label"].to_numpy()[train]).decision_function(names[test])


def confounding(
    predictions: pd.DataFrame,
    resamples: Mapping[tuple[str, int, str], pd.DataFrame],
    strata: Mapping[str, pd.DataFrame],
    *,
    bootstrap: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The site alone on each resample, each model's AUC within strata, and the differences between models there.

    Parameters
    ----------
    predictions : from aggregation.number_participants: KEY, `position`, `person`, `label` and each model's scores
    resamples : by KEY
    strata : by task, from `strata_of`, by image_id

    Returns
    -------
    site : KEY, `model` (SITE) and `auc`, a row per resample
    measures : MEASURES; `strata` is "all" for the site alone, else the name of the strata; `median` over replicates
        with its bootstrap interval, and `pairs`, the mean share of pairs that are within a stratum
    differences : DIFFERENCES, see `differences_within`
    """
    models = [name for name in predictions if name not in (*KEY, "position", "person", "label")]
    alone, within = [], []
    for (task, n, replicate), part in predictions.groupby(KEY, sort=False):
        key = {"task": task, "n": n, "replicate": replicate}
        resample = resamples[task, n, replicate]
        labels = part["label"].to_numpy()
        tested = resample.iloc[part["position"]]
        order = (resample["role"] == SETS[2]).to_numpy().cumsum()[part["position"]] - 1
        alone.append(key | {"model": SITE, "auc": roc_auc_score(labels, site_scores(resample, strata[task])[order])})
        groups = strata[task].loc[tested["image_id"]]
        for name in groups:
            for model in models:
                if part[model].notna().all():
                    auc, pairs = stratified_auc(labels, part[model].to_numpy(float), groups[name].to_numpy(object))
                    within.append(key | {"model": model, "strata": name, "auc": auc, "pairs": pairs})
    site = pd.DataFrame(alone)
    rows = summarise(site, bootstrap=bootstrap, seed=seed).assign(strata="all", pairs=1.0)[MEASURES].to_dict("records")
    stratified = pd.DataFrame(within)
    for (task, n, model, name), part in stratified.groupby(["task", "n", "model", "strata"], sort=False):
        known = part.dropna(subset="auc")
        row = {"task": task, "n": n, "model": model, "strata": name, "replicates": len(known)}
        row |= {"median": known["auc"].median(), "low": np.nan, "high": np.nan, "pairs": part["pairs"].mean()}
        if len(known):
            seed_here = seed_from("within", seed, task, n, model, name)
            row["low"], row["high"] = bootstrap_interval(
                known["auc"].to_numpy(), statistic="median", resamples=bootstrap, seed=seed_here
            )
        rows.append(row)
    differences = differences_within(stratified, bootstrap=bootstrap, seed=seed)
    return site, pd.DataFrame(rows, columns=MEASURES), differences


def differences_within(stratified: pd.DataFrame, *, bootstrap: int, seed: int) -> pd.DataFrame:
    """How far the models that are compared differ in their AUCs within strata, replicate by replicate.

    It describes: nothing is tested, and the comparisons of the whole test sets alone decide.

    Parameters
    ----------
    stratified : KEY, `model`, `strata` and `auc`, NaN for a replicate without a pair within a stratum

    Returns
    -------
    DIFFERENCES: first minus second, the mean over the replicates that have both, with its bootstrap interval, about
    this pool
    """
    rows = []
    for (task, n, name), part in stratified.groupby(["task", "n", "strata"], sort=False):
        wide = part.pivot(index="replicate", columns="model", values="auc")
        for first, second in pairs_of(wide[list(dict.fromkeys(part["model"]))]):
            known = (wide[first] - wide[second]).dropna().to_numpy()
            row = {"task": task, "n": n, "first": first, "second": second, "strata": name, "replicates": len(known)}
            row |= dict.fromkeys(("mean_difference", "low", "high"), np.nan)
            if len(known):
                seed_here = seed_from("difference within", seed, task, n, first, second, name)
                row["mean_difference"] = known.mean()
                row["low"], row["high"] = bootstrap_interval(
                    known, statistic="mean", resamples=bootstrap, seed=seed_here
                )
            rows.append(row)
    return pd.DataFrame(rows, columns=DIFFERENCES)


def gains(
    aucs: pd.DataFrame, models: Sequence[str], *, statistic: str, permutations: int, bootstrap: int, seed: int
) -> pd.DataFrame:
    """Each model's gain over the covariates alone: the paired sign-flip test of their AUCs, about this pool.

    Parameters
    ----------
    aucs : task, n, replicate, model, auc
    models : that are compared with the model of covariates alone

    Returns
    -------
    GAINS; `low` and `high` are the bootstrap interval of the tested statistic, and `p_holm` is adjusted over all rows
    """
    rows = []
    for (task, n), group in aucs.groupby(["task", "n"], sort=False):
        wide = group.pivot(index="replicate", columns="model", values="auc")
        for model in (model for model in models if model in wide and COVARIATES in wide):
            both = wide[[model, COVARIATES]].dropna()
            names = (seed, task, n, model)
            test, (low, high) = paired_comparison(
                both[model],
                both[COVARIATES],
                statistic=statistic,
                permutations=permutations,
                bootstrap=bootstrap,
                seeds=(seed_from("gain", *names), seed_from("interval of a gain", *names)),
            )
            gain = (both[model] - both[COVARIATES]).to_numpy().mean()
            row = {"task": task, "n": n, "model": model, "mean_gain": gain, "low": low, "high": high}
            rows.append(row | {"p_two_sided": test.two_sided})
    table = pd.DataFrame(rows, columns=[name for name in GAINS if name != "p_holm"])
    return table.assign(p_holm=holm(table["p_two_sided"]) if len(table) else [])[GAINS]


def describe_sets(
    resamples: Mapping[tuple[str, int, str], pd.DataFrame], images: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Who is in the sets of a task's resamples, by n: means over replicates.

    Parameters
    ----------
    resamples : by task, n and replicate; `image_id`, `participant_id`, `role` and `label`
    images : by task, its images by image_id: `age` (years) and `sex` (0 female, 1 male)

    Returns
    -------
    task, n, role, NUMBERS; images count as often as they are drawn; `scans_per_person` are distinct images
    """
    rows = []
    for (task, n, _), resample in resamples.items():
        about = images[task].loc[resample["image_id"], ["age", "sex"]].astype(float)
        for role in SETS:
            mine = (resample["role"] == role).to_numpy()
            part, known = resample[mine], about[mine]
            people = part["participant_id"].nunique()
            values = [len(part), people, part["label"].mean(), known["age"].mean(), known["age"].std(ddof=0)]
            values += [1 - known["sex"].mean(), part["image_id"].nunique() / max(1, people)]
            rows.append({"task": task, "n": n, "role": role, **dict(zip(NUMBERS, values, strict=True))})
    return pd.DataFrame(rows).groupby(["task", "n", "role"], sort=False, as_index=False).mean()
