"""Thousands of fits into a few tables: AUCs and test scores in long form, settings, resamples, medians, comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ..errors import InputError, raise_all
from ..files import digest_of_file, fingerprint, read_facts, read_json, read_table
from ..fit.settings import choose, fingerprint_of_second
from ..seeds import seed_from
from ..split.resampling import drawing_of
from ..study import layout
from ..study.plan import CNNS, FROZEN, MODELS, further_models
from .populations import overlap
from .tests import bootstrap_interval, holm, paired_comparison, superiority

PAIRS = (("transfer", "baseline"), ("transfer", "linear"), ("linear", "baseline"))  # [paper]
AGAIN = "delete it, then run the same command again"


def read_fits(
    paths: Iterable[str | Path], fitting: Mapping[str, Any], weights: str | Path, resamples: str | Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """All fits as three tables: test AUCs, every setting tried, and test scores.

    A fit is refused if it was made with another configuration, resample or weights than those of today,
    if it stands under another name than its own, if its AUC is not that of its scores, or if its
    setting is not the one that validation chooses.

    Parameters
    ----------
    fitting : by model, the parameters that its fits depend on
    weights : the weights that transfer starts from
    resamples : the folder of resamples

    Returns
    -------
    aucs : task, n, replicate, model, auc, validation_auc, setting
    settings : task, n, replicate, model, setting, values (JSON), status, validation_auc, validation_loss,
        epoch, chosen (0 or 1)
    scores : task, n, replicate, position (row of the resample), label, and a column of scores per model

    Raises
    ------
    InputError, InputErrors
        naming every refused file
    """
    aucs, settings, wrong = [], [], []
    scores: dict[tuple, dict[str, Any]] = {}
    digests: dict[Path, str] = {}
    weights_digest = digest_of_file(weights)
    for path in map(Path, paths):
        try:
            fit = _read_fit(path)
            key = {name: fit[name] for name in ("task", "n", "replicate", "model")}
            chosen, tested = fit["settings"][fit["chosen"]], fit["test"]
            resample = Path(resamples, key["task"], f"n{key['n']}", f"{key['replicate']}.tsv")
            if path.parts[-4:] != (key["task"], f"n{key['n']}", key["replicate"], f"{key['model']}.json"):
                raise InputError(path, "", f"it holds the fit {key}, not the one of its name", AGAIN)
            if resample not in digests:
                digests[resample] = digest_of_file(resample)
            if (recipe := fitting[key["model"]].get("recipe")) and fit.get("recipe", 1) != recipe:
                what = f"recipe {fit.get('recipe', 1)} trained it, and this version trains by recipe {recipe}"
                raise InputError(path, "recipe", what, AGAIN)
            facts = {"model": key["model"], "parameters": fitting[key["model"]], "resample": digests[resample]}
            facts["weights"] = _digest_of_source(key["model"], fitting[key["model"]], weights_digest, digests)
            if fit["fingerprint"] != fingerprint(facts):
                raise InputError(path, "", "it was made with another configuration, resample or weights", AGAIN)
            if fit["chosen"] != choose(fit["settings"]):
                raise InputError(path, "chosen", "it is not the setting that validation chooses", AGAIN)
            if not math.isclose(roc_auc_score(tested["label"], tested["score"]), fit["test_auc"], abs_tol=1e-9):
                raise InputError(path, "test_auc", "it is not the AUC of the scores beside it", AGAIN)
            images = {name: tested[name] for name in ("position", "label")}
            columns = scores.setdefault((key["task"], key["n"], key["replicate"]), images)
            if any(columns[name] != tested[name] for name in images):
                raise InputError(path, "test", "its test images are not those of its resample's other fits", AGAIN)
            columns[key["model"]] = tested["score"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            what = f"it can't be read as a fit ({error})"
            wrong.append(error if isinstance(error, InputError) else InputError(path, "", what, AGAIN))
            continue
        aucs.append(
            key | {"auc": fit["test_auc"], "validation_auc": chosen["validation_auc"], "setting": fit["chosen"]}
        )
        for position, setting in enumerate(fit["settings"]):
            row = {"setting": position, "values": json.dumps(setting["values"], sort_keys=True)}
            row |= {name: setting[name] for name in ("status", "validation_auc", "validation_loss", "epoch")}
            settings.append(key | row | {"chosen": int(position == fit["chosen"])})
    raise_all(wrong)
    parts = [
        pd.DataFrame(columns).assign(task=task, n=n, replicate=name) for (task, n, name), columns in scores.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    leading = ["task", "n", "replicate", "position", "label"]
    table = table[[*leading, *(name for name in table if name not in leading)]]
    return pd.DataFrame(aucs), pd.DataFrame(settings), table


def read_second_seeds(paths: Iterable[str | Path], fits: str | Path, predictions: pd.DataFrame) -> pd.DataFrame:
    """Test scores of the fits with a second seed, as a table like `predictions`.

    Parameters
    ----------
    paths : of their records, ``<task>/n<n>/<replicate>/<model>.json``
    fits : the folder of the first fits, which `read_fits` has accepted
    predictions : from `number_participants`

    Raises
    ------
    InputError, InputErrors
        naming every file that is not the second fit of the first one that is there now
    """
    wrong: list[InputError] = []
    known = dict(list(predictions.groupby(["task", "n", "replicate"], sort=False)))
    columns = ["task", "n", "replicate", "position", "person", "label"]
    tables: dict[tuple, pd.DataFrame] = {}
    for path in map(Path, paths):
        try:
            fit = _read_fit(path)
            key, model, tested = (fit["task"], fit["n"], fit["replicate"]), fit["model"], fit["test"]
            place = Path(key[0], f"n{key[1]}", key[2], f"{model}.json")
            if path.parts[-4:] != place.parts:
                raise InputError(path, "", f"it holds the fit {place}, not the one of its name", AGAIN)
            first = _read_fit(Path(fits, place))
            if fit["fingerprint"] != fingerprint_of_second(first["fingerprint"], first["chosen"]):
                raise InputError(path, "", "it is the second fit of another first one than that there now", AGAIN)
            if not math.isclose(roc_auc_score(tested["label"], tested["score"]), fit["test_auc"], abs_tol=1e-9):
                raise InputError(path, "test_auc", "it is not the AUC of the scores beside it", AGAIN)
            table = tables.setdefault(key, known[key][columns].reset_index(drop=True))
            if any(table[name].tolist() != tested[name] for name in ("position", "label")):
                raise InputError(path, "test", "its test images are not those of its first fit", AGAIN)
            table[model] = tested["score"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            what = f"it can't be read as a fit ({error})"
            wrong.append(error if isinstance(error, InputError) else InputError(path, "", what, AGAIN))
    raise_all(wrong)
    return pd.concat(tables.values(), ignore_index=True)


def _read_fit(path: Path) -> Any:
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(path, "", f"it can't be read as a fit ({error.what})", AGAIN) from None


def _digest_of_source(model: str, parameters: Mapping[str, Any], weights: str, digests: dict[Path, str]) -> str | None:
    """The digest of what a fit starts from besides its resample: weights, a table of features, or nothing.

    Parameters
    ----------
    weights : their digest
    digests : of the files read so far; a table is added, because every replicate has the same
    """
    if model in ("transfer", FROZEN):
        return weights
    if "file" not in parameters:
        return None
    path = Path(parameters["file"])
    if path not in digests:
        digests[path] = digest_of_file(path)
    return digests[path]


def check_resamples(
    paths: Iterable[str | Path],
    *,
    seed: int,
    tasks: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    converters: str,
) -> None:
    """Refuse resamples that were drawn with another configuration than today's, or stand under another's name.

    Raises
    ------
    InputError, InputErrors
        naming every refused file
    """
    wrong = []
    for path in map(Path, paths):
        facts = read_facts(path)
        key: dict[str, Any] = {name: facts.get(name) for name in ("task", "n", "replicate")}
        if path.parts[-3:] != (key["task"], f"n{key['n']}", f"{key['replicate']}.tsv"):
            wrong.append(InputError(path, "", f"it holds the resample {key}, not the one of its name", AGAIN))
        elif facts.get("fingerprint") != drawing_of(key, seed, tasks[key["task"]], settings, converters):
            wrong.append(InputError(path, "", "it was drawn with another configuration", AGAIN))
    raise_all(wrong)


def read_resamples(paths: Iterable[str | Path]) -> dict[tuple[str, int, str], pd.DataFrame]:
    """The rows of resamples by task, n and replicate."""
    facts = {path: read_facts(path) for path in paths}
    return {(f["task"], f["n"], f["replicate"]): read_table(path) for path, f in facts.items()}


def describe_resamples(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Per resample: redraws, distinct training images and participants, validation and test images."""
    rows = []
    for path in paths:
        facts, table = read_facts(path), read_table(path)
        train = table[table["role"] == "train"]
        row = {name: facts[name] for name in ("task", "n", "replicate", "redraws")}
        row |= {
            "train_distinct_images": train["image_id"].nunique(),
            "train_participants": train["participant_id"].nunique(),
        }
        rows.append(row | {f"{role}_images": int((table["role"] == role).sum()) for role in ("validation", "test")})
    return pd.DataFrame(rows)


def number_participants(scores: pd.DataFrame, paths: Iterable[str | Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Who is behind each test score, as a number instead of a name, and what each task's pool is to its replicates.

    Parameters
    ----------
    scores : from `read_fits`
    paths : all resamples

    Returns
    -------
    predictions : `scores` with `person`, a number within the task
    pools : task, n, replicates, train and test (images of a replicate, means), participants (in any resample of the
        task), overlap (of two replicates' training sets: see populations.overlap)
    """
    drawn: dict[tuple, pd.DataFrame] = {}
    for path in paths:
        facts = read_facts(path)
        drawn[facts["task"], facts["n"], facts["replicate"]] = read_table(path)[["participant_id", "role"]]
    names: dict[str, set[str]] = {}
    for (task, *_), table in drawn.items():
        names.setdefault(task, set()).update(table["participant_id"])
    numbers = {task: {name: number for number, name in enumerate(sorted(people))} for task, people in names.items()}
    parts, rows = [], []
    for (task, n), group in scores.groupby(["task", "n"], sort=False):
        mine = {replicate: table for (*place, replicate), table in drawn.items() if place == [task, n]}
        counts = np.zeros((len(mine), len(numbers[task])))
        for table, row in zip(mine.values(), counts, strict=True):
            people = table["participant_id"].map(numbers[task]).to_numpy()
            np.add.at(row, people[table["role"] == "train"], 1)
        for replicate, part in group.groupby("replicate", sort=False):
            people = mine[replicate]["participant_id"].map(numbers[task]).to_numpy()
            parts.append(part.assign(person=people[part["position"]]))
        sizes = {role: sum((table["role"] == role).sum() for table in mine.values()) / len(mine)
                 for role in ("train", "test")}  # fmt: skip
        about = {"task": task, "n": n, "replicates": len(mine), **sizes, "participants": len(numbers[task])}
        rows.append(about | {"overlap": overlap(counts)})
    predictions = pd.concat(parts, ignore_index=True)
    predictions.insert(predictions.columns.get_loc("position") + 1, "person", predictions.pop("person"))
    return predictions, pd.DataFrame(rows)


def _check_complete(aucs: pd.DataFrame) -> None:
    """Refuse replicates without an AUC, and replicates that are there twice."""
    names = ["task", "n", "replicate", "model"]
    for wrong, what in ((~np.isfinite(aucs["auc"]), "it has no AUC"), (aucs.duplicated(names), "it is there twice")):
        if wrong.any():
            names_of_wrong = ", ".join(f"{name} {aucs.loc[wrong, name].iloc[0]}" for name in names)
            fix = f"delete {layout.AUCS}, then run the same command again"
            raise InputError(layout.AUCS, names_of_wrong, what, fix)


def summarise(aucs: pd.DataFrame, *, bootstrap: int, seed: int) -> pd.DataFrame:
    """Median, mean and quartiles of the AUCs per task, n and model.

    `low` and `high` are the 95 % percentile bootstrap interval of the median over replicates; `q025` and `q975` hold
    95 % of the replicates' AUCs between them.

    Raises
    ------
    InputError
        if a replicate has no AUC or is there twice
    """
    _check_complete(aucs)
    rows = []
    for (task, n, model), group in aucs.groupby(["task", "n", "model"], sort=False):
        values = group["auc"].to_numpy()
        seed_here = seed_from("median", seed, task, n, model)
        low, high = bootstrap_interval(values, statistic="median", resamples=bootstrap, seed=seed_here)
        row = {"task": task, "n": n, "model": model, "replicates": len(values), "median": group["auc"].median()}
        shares = {"q1": 0.25, "q3": 0.75, "q025": 0.025, "q975": 0.975}
        row |= {"mean": values.mean()} | {name: group["auc"].quantile(share) for name, share in shares.items()}
        rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def compare(aucs: pd.DataFrame, *, statistic: str, permutations: int, bootstrap: int, seed: int) -> pd.DataFrame:
    """Each pair of models per task and n: differences and the paired permutation test, all about this pool.

    `low` and `high` are the bootstrap interval of the tested statistic of the differences; `wins` is the
    probability that the first model beats the second in a replicate; `p_holm` is the two-sided p adjusted by
    Holm over all rows of the same family, and `p_error` the Monte Carlo standard error of the two-sided p.  Pairs
    with a further arm are a family of their own; with them the table has a column `family`, paper or further.

    Raises
    ------
    InputError
        if a replicate has no AUC or is there twice, or two models do not have the same replicates
    """
    _check_complete(aucs)
    rows = []
    for (task, n), group in aucs.groupby(["task", "n"], sort=False):
        wide = group.pivot(index="replicate", columns="model", values="auc")
        for first, second in pairs_of(group["model"]):
            if wide[[first, second]].isna().any(axis=None):
                what = f"{first} and {second} do not have the same replicates for {task}, n = {n}"
                raise InputError("aucs", "replicate", what, "finish the missing fits")
            differences = (wide[first] - wide[second]).to_numpy()
            names = (seed, task, n, first, second)
            seeds = (seed_from("flip", *names), seed_from("difference", *names))
            test, (low, high) = paired_comparison(
                wide[first],
                wide[second],
                statistic=statistic,
                permutations=permutations,
                bootstrap=bootstrap,
                seeds=seeds,
            )
            row = {"task": task, "n": n, "first": first, "second": second, "mean_difference": differences.mean()}
            row |= {"median_difference": float(pd.Series(differences).median()), "low": low, "high": high}
            row |= dict(zip(("wins", "wins_low", "wins_high"), superiority(wide[first], wide[second]), strict=True))
            row |= {"p_two_sided": test.two_sided, "p_greater": test.greater, "p_less": test.less}
            rows.append(row | {"p_error": test.error, "exact": int(test.exact), "permutations": test.permutations})
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p_less") + 1, "p_holm", holm_by_family(table, "p_two_sided"))
    if not (ours := of_paper(table)).all():
        table.insert(table.columns.get_loc("second") + 1, "family", np.where(ours, "paper", "further"))
    return table


def pairs_of(models: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs that are compared: the paper's, and of each further arm transfer against it and it against the others.

    Parameters
    ----------
    models : those with fits, in any order, also several times
    """
    known = dict.fromkeys(models)
    pairs = [
        *PAIRS,
        *(pair for arm in further_models(known) for pair in (("transfer", arm), (arm, "linear"), (arm, "baseline"))),
    ]
    return [(first, second) for first, second in pairs if first in known and second in known]


def of_paper(comparisons: pd.DataFrame) -> np.ndarray:
    """Which rows of a table of comparisons are between the paper's models; the others are the second family."""
    return (comparisons["first"].isin(MODELS) & comparisons["second"].isin(MODELS)).to_numpy()


def holm_by_family(comparisons: pd.DataFrame, column: str) -> np.ndarray:
    """A column of p-values, adjusted by Holm within the paper's comparisons and within all others apart.

    Further arms therefore change no adjusted p of the paper's comparisons.
    """
    ours = of_paper(comparisons)
    adjusted = np.empty(len(comparisons))
    for family in (ours, ~ours):
        if family.any():
            adjusted[family] = holm(comparisons.loc[family, column])
    return adjusted


def headline(medians: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """The answer as plain text: median test AUC per task, n and model, and transfer's two comparisons."""
    p = comparisons.set_index(["task", "n", "first", "second"])
    auc = medians.set_index(["task", "n", "model"])["median"]
    width = max(12, *(len(task) + 2 for task in medians["task"]))
    head = f"{'task':<{width}}{'n':>5}   {'linear':>7}{'baseline':>10}{'transfer':>10}"
    head += f"   {'p vs baseline (Holm)':>22}{'p vs linear (Holm)':>22}"
    lines = [
        "Median test AUC, and the paired permutation test of transfer against each in this pool of images:",
        "",
        head,
    ]
    for task, n in medians[["task", "n"]].drop_duplicates().itertuples(index=False):
        line = f"{task:<{width}}{n:>5}   " + f"{auc[task, n, 'linear']:>7.3f}"
        line += "".join(f"{auc[task, n, model]:>10.3f}" for model in CNNS) + "   "
        for other in ("baseline", "linear"):
            row = p.loc[(task, n, "transfer", other)]
            line += f"{row['p_two_sided']:>13.4f} ({row['p_holm']:.3f})"
            line += " "
        lines.append(line.rstrip())
    return "\n".join(lines)
