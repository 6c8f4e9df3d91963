"""What the search over settings did: which settings won, what was gained, and how far validation flatters.

Only the chosen setting is ever tested, so what more settings bring can be measured on validation images alone, on which
the best of many looks better than it is; `optimism` says by how much.
"""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd

from ..seeds import seed_from
from .tests import bootstrap_interval

ENOUGH = 0.95  # share of the whole search's gain with which a smaller search counts as enough
FITS = ["task", "n", "replicate", "model"]


def winners(settings: pd.DataFrame) -> pd.DataFrame:
    """How often each setting won: task, n, model, setting, values, fits, chosen, share, diverged."""
    groups = settings.groupby(["task", "n", "model", "setting", "values"], sort=False)
    table = groups.agg(
        fits=("chosen", "size"),
        chosen=("chosen", "sum"),
        diverged=("status", lambda status: int((status == "diverged").sum())),
    ).reset_index()
    table.insert(table.columns.get_loc("chosen") + 1, "share", table["chosen"] / table["fits"])
    return table


def best_of(validation: np.ndarray) -> np.ndarray:
    """The expected best validation AUC of k settings drawn at random, for k = 1 to all of them.

    The j-th smallest of m is the best of k in C(j - 1, k - 1) of C(m, k) draws.

    Parameters
    ----------
    validation : of each setting, [settings]
    """
    ordered = np.sort(np.asarray(validation, dtype=float))
    count = len(ordered)
    chances = np.array([[comb(place, k - 1) / comb(count, k) for place in range(count)] for k in range(1, count + 1)])
    return chances @ ordered


def search_table(aucs: pd.DataFrame, settings: pd.DataFrame, *, bootstrap: int, seed: int) -> pd.DataFrame:
    """Per task, n and model: ties, optimism and how much of the search was needed.

    Returns
    -------
    task, n, model, fits, settings; tied (share of fits in which several settings share the best validation AUC);
    validation_auc and test_auc (means of the chosen ones); optimism (validation minus test), optimism_low and
    optimism_high (95 % bootstrap over replicates); one_setting and all_settings (expected best validation AUC of one
    random setting and of all); enough (the fewest settings, drawn at random, with 95 % of the gain between them).
    A setting that diverged counts as one whose AUC is a half.
    """
    rows = []
    for (task, n, model), group in settings.groupby(["task", "n", "model"], sort=False):
        wide = group.pivot(index="replicate", columns="setting", values="validation_auc").to_numpy(float)
        usable = group.pivot(index="replicate", columns="setting", values="status").to_numpy() == "ok"
        known = np.where(usable & np.isfinite(wide), wide, 0.5)
        best = known.max(1, keepdims=True)
        fits = aucs[(aucs["task"] == task) & (aucs["n"] == n) & (aucs["model"] == model)]
        optimism = (fits["validation_auc"] - fits["auc"]).to_numpy()
        seed_here = seed_from("optimism", seed, task, n, model)
        low, high = bootstrap_interval(optimism, statistic="mean", resamples=bootstrap, seed=seed_here)
        expected = np.mean([best_of(row) for row in known], axis=0)
        gain = expected[-1] - expected[0]
        enough = int(np.argmax(expected - expected[0] >= ENOUGH * gain - 1e-12)) + 1
        row = {"task": task, "n": n, "model": model, "fits": len(wide), "settings": wide.shape[1]}
        row |= {"tied": float(((known == best).sum(1) > 1).mean())}
        row |= {"validation_auc": fits["validation_auc"].mean(), "test_auc": fits["auc"].mean()}
        row |= {"optimism": optimism.mean(), "optimism_low": low, "optimism_high": high}
        rows.append(row | {"one_setting": expected[0], "all_settings": expected[-1], "enough": enough})
    return pd.DataFrame(rows)
