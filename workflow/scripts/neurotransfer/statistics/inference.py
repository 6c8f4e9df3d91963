"""Test scores of all replicates in; what holds in the population, and what pretraining is worth in scans, out.

The comparisons of aggregation.py are about this pool.  Here they get company: the test about the population that the
pool comes from, two figures beside it that decide nothing, and learning curves with bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError
from ..seeds import seed_from
from ..study import layout
from .aggregation import holm_by_family, of_paper
from .learning_curves import monotone, percentile_interval, size_from_which, worth_in_scans
from .populations import Draws, SecondSeeds, bootstrap_test, draw_participants, expected_value, seed_variance
from .tests import corrected_t_test

NULLS = {  # by test, the null that it speaks to; the order is that of the columns
    "sign_flip": "this pool",
    "population": "the population",
    "participants": "the population",
}
PRIMARY = ("sign_flip", "population")  # the one test of each question; the verdicts are theirs alone
P_VALUES = {"sign_flip": "p_two_sided"} | {test: f"p_{test}" for test in list(NULLS)[1:]}
ADJUSTED = {"sign_flip": "p_holm"} | {test: f"holm_{test}" for test in list(NULLS)[1:]}


@dataclass(frozen=True)
class CellOfTask:
    """One task and n under draws of participants.

    Attributes
    ----------
    models : in the order of `aucs` and `curves`
    aucs : mean AUC over replicates, [models]
    curves : the same under draws of participants and of replicates, [models, draws]
    """

    models: tuple[str, ...]
    aucs: np.ndarray
    curves: np.ndarray


def infer(
    medians: pd.DataFrame,
    comparisons: pd.DataFrame,
    predictions: pd.DataFrame,
    pools: pd.DataFrame,
    *,
    draws: int,
    seed: int,
    second: pd.DataFrame | None = None,
    alpha: float | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, int], CellOfTask]]:
    """Add to the tables about this pool what holds in the population.

    Parameters
    ----------
    medians, comparisons : from aggregation.summarise and aggregation.compare
    predictions, pools : from aggregation.number_participants
    draws : of participants; more are taken if Holm's adjustment needs smaller p-values (`draws_for`)
    second : test scores of the fits with a second seed, as predictions; None if there are none
    alpha : the threshold of an adjusted p; None takes no more draws than `draws`

    Returns
    -------
    medians : with `expected_low` and `expected_high`, the 95 % interval of the mean AUC over pools, and `seed_sd`, the
        standard deviation of a replicate's AUC over random starts (NaN without second seeds)
    comparisons : with `p_`, `holm_`, `low_` and `high_` of each test about the population (the keys of NULLS); the
        corrected t test's p and interval; and `seed_sd` of the difference
    cells : per task and n, for `curves` and `worth`

    Raises
    ------
    InputError
        if a model's scores are missing
    """
    known = pools.set_index(["task", "n"])
    draws = draws if alpha is None else max(draws, draws_for(comparisons, alpha))
    again = {} if second is None else dict(list(second.groupby(["task", "n"], sort=False)))
    expected, tests, cells = [], [], {}
    for (task, n), group in predictions.groupby(["task", "n"], sort=False):
        models = tuple(medians.loc[(medians["task"] == task) & (medians["n"] == n), "model"])
        pool = known.loc[(task, n)]
        seed_of_task = seed_from("participants", seed, task)
        found = draw_scores(group, models, int(pool["participants"]), draws, seed_of_task)
        seconds = None
        if (task, n) in again:
            seconds = second_fits(found, models, group, again[task, n], int(pool["participants"]), draws, seed_of_task)
        for at, model in enumerate(models):
            mine = _at(seconds, at)
            value = expected_value(found.aucs[at], found.drawn[at], pool["overlap"], second=mine)
            low, high = np.clip((value.low, value.high), 0, 1)
            row = {"task": task, "n": n, "model": model, "expected_low": float(low), "expected_high": float(high)}
            expected.append(row | {"seed_sd": _seed_sd(found.aucs[at], found.drawn[at], mine)})
        pairs = comparisons[(comparisons["task"] == task) & (comparisons["n"] == n)]
        for first, other in pairs[["first", "second"]].itertuples(index=False):
            row = {"task": task, "n": n, "first": first, "second": other}
            tests.append(row | _tests(found, seconds, models.index(first), models.index(other), pool))
        generator = np.random.default_rng(seed_from("curves", seed, task, n))
        cells[task, int(n)] = CellOfTask(models, found.aucs.mean(1), drawn_replicates(found, generator))
    medians = medians.merge(pd.DataFrame(expected), on=["task", "n", "model"], how="left", validate="one_to_one")
    keys = ["task", "n", "first", "second"]
    comparisons = comparisons.merge(pd.DataFrame(tests), on=keys, how="left", validate="one_to_one")
    for test in list(NULLS)[1:]:
        place = comparisons.columns.get_loc(f"p_{test}") + 1
        comparisons.insert(place, f"holm_{test}", holm_by_family(comparisons, f"p_{test}"))
    return medians, comparisons, cells


def draws_for(comparisons: pd.DataFrame, alpha: float) -> int:
    """The fewest draws with which the bootstrap's smallest two-sided p, 2 / (draws + 1), survives Holm at `alpha`."""
    families = of_paper(comparisons)
    largest = max(families.sum(), (~families).sum())
    return int(np.floor(2 * largest / alpha))


def second_fits(
    found: Draws,
    models: Sequence[str],
    scores: pd.DataFrame,
    second: pd.DataFrame,
    participants: int,
    draws: int,
    seed: int,
) -> SecondSeeds:
    """The second fits of one task and n under the same draws of participants: `aucs` and `drawn` by model.

    A model without second fits has no random start: its first fits stand in.

    Parameters
    ----------
    found : of the first fits
    scores, second : test scores of the first and second fits
    """
    order = {replicate: at for at, replicate in enumerate(pd.factorize(scores["replicate"])[1])}
    at = np.array([order[replicate] for replicate in pd.factorize(second["replicate"])[1]])
    refitted = [model for model in models if model in second and not second[model].isna().any()]
    again = draw_scores(second, refitted, participants, draws, seed)
    aucs, drawn = found.aucs[:, at].copy(), found.drawn[:, :, at].copy()
    for position, model in enumerate(refitted):
        aucs[models.index(model)], drawn[models.index(model)] = again.aucs[position], again.drawn[position]
    return SecondSeeds(at, aucs, drawn)


def _at(second: SecondSeeds | None, first: int, other: int | None = None) -> SecondSeeds | None:
    """The second fits of one model, or of the difference of two."""
    if second is None:
        return None
    if other is None:
        return SecondSeeds(second.replicates, second.aucs[first], second.drawn[first])
    gaps = (values[first] - values[other] for values in (second.aucs, second.drawn))
    return SecondSeeds(second.replicates, *gaps)


def _seed_sd(aucs: np.ndarray, drawn: np.ndarray, second: SecondSeeds | None) -> float:
    return np.nan if second is None else float(np.sqrt(max(0.0, seed_variance(aucs, drawn, second))))


def draw_scores(scores: pd.DataFrame, models: Sequence[str], participants: int, draws: int, seed: int) -> Draws:
    """Draws of a task's participants at one n; the same seed draws the same people at every n."""
    missing = [model for model in models if model not in scores or scores[model].isna().any()]
    if missing:
        what = f"scores of {missing[0]} are missing for {scores['task'].iloc[0]}, n = {scores['n'].iloc[0]}"
        raise InputError(layout.PREDICTIONS, missing[0], what, "finish the missing fits")
    return draw_participants(
        scores[list(models)].to_numpy(float).T,
        scores["label"].to_numpy(),
        scores["person"].to_numpy(),
        pd.factorize(scores["replicate"])[0],
        people=participants,
        draws=draws,
        seed=seed,
    )


def _tests(found: Draws, seconds: SecondSeeds | None, first: int, other: int, pool: pd.Series) -> dict[str, float]:
    gap, drawn = found.aucs[first] - found.aucs[other], found.drawn[first] - found.drawn[other]
    second = _at(seconds, first, other)
    tests = {
        "population": expected_value(gap, drawn, pool["overlap"], second=second),
        "participants": bootstrap_test(found, first, other),
        "corrected_t": corrected_t_test(found.aucs[first], found.aucs[other], train=pool["train"], test=pool["test"]),
    }
    row = {"seed_sd": _seed_sd(gap, drawn, second)}
    for name, test in tests.items():
        row |= {f"p_{name}": test.two_sided, f"low_{name}": test.low, f"high_{name}": test.high}
    return row


def drawn_replicates(found: Draws, generator: np.random.Generator) -> np.ndarray:
    """Mean AUCs where participants and, on top, replicates are drawn anew: [models, draws]."""
    _, draws, replicates = found.drawn.shape
    times = generator.multinomial(replicates, np.full(replicates, 1 / replicates), size=draws)
    times = times * np.isfinite(found.drawn[0])
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(found.drawn) * times).sum(-1, dtype=float) / times.sum(-1)


def curves(cells: Mapping[tuple[str, int], CellOfTask]) -> pd.DataFrame:
    """Monotone curves of the mean AUC by n, with 95 % percentile bands.

    Returns
    -------
    task, model, n, auc, low, high
    """
    rows = []
    for task in dict.fromkeys(task for task, _ in cells):
        sizes, models = _sizes(cells, task)
        for model in models:
            values, drawn = _curve(cells, task, sizes, model)
            for place, n in enumerate(sizes):
                low, high = np.quantile(monotone(drawn)[:, place], (0.025, 0.975))
                row = {"task": task, "model": model, "n": n, "auc": monotone(values)[place]}
                rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def worth(cells: Mapping[tuple[str, int], CellOfTask]) -> pd.DataFrame:
    """How many scans training from scratch, or the linear model, needs for what the pretrained network reaches.

    Returns
    -------
    task, question ("baseline needs": the n at which the baseline has transfer's AUC at n; "transfer overtakes
    linear": the n from which on transfer is not below, on a row of its own without n), n, auc, scans, low, high
    (95 %, percentiles over draws of participants and replicates), reached (the share of draws in which it happens by
    the largest n).  `scans` is infinite if it is not reached by the largest n, and the smallest n means "at most
    that".
    """
    rows = []
    for task in dict.fromkeys(task for task, _ in cells):
        sizes, models = _sizes(cells, task)
        found = {model: _curve(cells, task, sizes, model) for model in models}
        for other in ("baseline", "linear"):
            if "transfer" not in found or other not in found:
                continue
            level, needed = worth_in_scans(sizes, found["transfer"][0], found[other][0])
            _, drawn = worth_in_scans(sizes, found["transfer"][1], found[other][1])
            for place, n in enumerate(sizes):
                row = {"task": task, "question": f"{other} needs", "n": n, "auc": level[place]}
                rows.append(row | _with_interval(needed[place], drawn[:, place]))
        if "transfer" in found and "linear" in found:
            from_which, drawn = (
                size_from_which(sizes, *(monotone(found[model][part]) for model in ("transfer", "linear")))
                for part in (0, 1)
            )
            row = {"task": task, "question": "transfer overtakes linear", "n": None, "auc": None}
            rows.append(row | _with_interval(float(from_which), drawn))
    columns = ["task", "question", "n", "auc", "scans", "low", "high", "reached"]
    return pd.DataFrame(rows, columns=columns).astype({"n": "Int64"})


def _with_interval(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = percentile_interval(drawn)
    return {"scans": float(value), "low": low, "high": high, "reached": float(np.isfinite(drawn).mean())}


def _sizes(cells: Mapping[tuple[str, int], CellOfTask], task: str) -> tuple[list[int], list[str]]:
    """A task's n, ascending, and the models that are there at each."""
    sizes = sorted(n for name, n in cells if name == task)
    first = cells[task, sizes[0]].models
    return sizes, [model for model in first if all(model in cells[task, n].models for n in sizes)]


def _curve(
    cells: Mapping[tuple[str, int], CellOfTask], task: str, sizes: Sequence[int], model: str
) -> tuple[np.ndarray, np.ndarray]:
    """A model's mean AUC by n, [sizes], and under the draws that are defined at every n, [draws, sizes]."""
    curves_of_model = [(cells[task, n], cells[task, n].models.index(model)) for n in sizes]
    drawn = np.stack([cell.curves[at] for cell, at in curves_of_model], axis=-1)
    whole = np.all([np.isfinite(cells[task, n].curves).all(0) for n in sizes], axis=0)  # the same draws for all models
    return np.array([cell.aucs[at] for cell, at in curves_of_model]), drawn[whole]
