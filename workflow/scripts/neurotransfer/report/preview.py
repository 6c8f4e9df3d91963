"""A preliminary page from the finished fits, while others still run.

Goes in: the plan of a study and its folder, which is only read.  Comes out: one page of AUCs with the numbers of
missing fits.  It shows no test, because a p-value that is inspected until it is small has no meaning.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import pages
from ..study import layout
from ..study.imported_weights import is_unchecked
from ..study.plan import MODELS, Study
from ..text import MISSING, fixed, signed
from .public import check_public, private_names

PAIRS = (("transfer", "baseline"), ("transfer", "linear"), ("linear", "baseline"))


def finished_fits(study: Study, results: str | Path = layout.RESULTS) -> tuple[dict[tuple, float], Counter]:
    """The test AUCs of the finished fits, and the number of unusable fits by reason.

    A fit that is older than its resample or its weights is left out, because the workflow will make it again.  Whether
    it was made with the present configuration is checked only at the end of the run.

    Returns
    -------
    aucs : by (task, n, replicate, model)
    left_out : by reason
    """
    weights = _time_of(layout.within(results, layout.weights(study.run)))
    aucs: dict[tuple[str, int, str, str], float] = {}
    left_out: Counter[str] = Counter()
    for task in study.tasks:
        for n in study.n:
            for replicate in study.replicates:
                resample = _time_of(layout.within(results, layout.resample(task, n, replicate)))
                for model in MODELS:
                    path = layout.within(results, layout.fit(task, n, replicate, model))
                    made = _time_of(path)
                    if made is None:
                        continue
                    needed = [resample, weights] if model == "transfer" else [resample]
                    if any(time is None or time > made for time in needed):
                        left_out["older than its resample or weights"] += 1
                        continue
                    try:
                        aucs[task, n, replicate, model] = float(json.loads(path.read_text())["test_auc"])
                    except (OSError, ValueError, KeyError, TypeError):
                        left_out["not readable as a fit"] += 1
    return aucs, left_out


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def preview_rows(study: Study, aucs: Mapping[tuple, float]) -> list[dict[str, Any]]:
    """Per task and n: by model the number of fits and the median AUC, by pair of models the mean difference.

    A difference is over the replicates of which both fits are finished.
    """
    rows = []
    for task in study.tasks:
        for n in study.n:
            found = {m: {r: aucs[task, n, r, m] for r in study.replicates if (task, n, r, m) in aucs} for m in MODELS}
            models = {
                model: {"count": len(known), "median": statistics.median(known.values()) if known else None}
                for model, known in found.items()
            }
            pairs = {}
            for first, second in PAIRS:
                gaps = [found[first][r] - found[second][r] for r in found[first] if r in found[second]]
                pairs[f"{first} − {second}"] = {"count": len(gaps), "mean": statistics.fmean(gaps) if gaps else None}
            rows.append({"task": task, "n": n, "models": models, "pairs": pairs})
    return rows


def _cells(
    row: Mapping[str, Any], part: str, name: str, text: Callable[[float], str]
) -> tuple[str, int, list[tuple[str, int]]]:
    """A row of a table: task, n, and for each column its number as text and of how many replicates it is."""
    return (
        row["task"],
        row["n"],
        [(MISSING if cell[name] is None else text(cell[name]), cell["count"]) for cell in row[part].values()],
    )


def _are_unchecked(study: Study, results: str | Path) -> bool:
    """Whether the given weights were imported, and nothing has shown that they predict what was published."""
    path = layout.within(results, layout.weights(study.run))
    if study.run != "given" or not path.exists():
        return False
    from ..pretrain.weight_file import read_checked

    return is_unchecked(read_checked(path)[1])


def preview_html(config: Mapping[str, Any], study: Study, results: str | Path = layout.RESULTS) -> str:
    """The page as HTML, without names of participants or images.

    Raises
    ------
    InputError
        if a title or the study's name would name a person, a path or a user
    """
    aucs, left_out = finished_fits(study, results)
    failures = Counter(path.parent.name for path in layout.within(results, layout.FAILURES).glob("*/*.json"))
    total = len(study.tasks) * len(study.n) * len(study.replicates)
    done = Counter(model for *_, model in aucs)
    rows = preview_rows(study, aucs)
    content = {
        "study": config["study"],
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "done": {model: done[model] for model in MODELS},
        "total": total,
        "missing": total * len(MODELS) - len(aucs),
        "left_out": left_out,
        "failures": failures,
        "rows": rows,
        "medians": [_cells(row, "models", "median", fixed) for row in rows],
        "differences": [_cells(row, "pairs", "mean", signed) for row in rows],
        "replicates": len(study.replicates),
        "titles": {name: task["title"] for name, task in study.tasks.items()},
        "pretrained": layout.within(results, layout.weights(study.run)).exists(),
        "unchecked": _are_unchecked(study, results),
    }
    page = pages.render(content, "preview.html.j2")
    check_public("the preview", page, private_names(config, Path(results).parent))
    return page
