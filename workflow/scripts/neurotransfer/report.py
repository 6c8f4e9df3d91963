"""One self-contained page from the tables: the answer first, then figures, trust and methods.

It names no participant and no image, so it can be mailed, and it needs nothing beside itself: figures and their
files are in it, and nothing is fetched from anywhere; the page itself forbids its reader's browser to.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from . import __version__
from .certificate import duplicates_in_words
from .conclusions import Verdict, answer, verdicts
from .figures import FAINT, INK, MODELS, PAPER, PUBLISHED, SOFT
from .files import read_table
from .inference import ADJUSTED, NULLS
from .methods import BIBLIOGRAPHY, REFERENCES, methods

# The figures' inks on a dark page; the files beside the page and in it stay as they are
DARK = {INK: "#E6EDF3", SOFT: "#9AA7B4", FAINT: "#30363D", PAPER: "#161B22", MODELS["linear"][0]: "#56B4E9"}
MIME = {"svg": "image/svg+xml", "png": "image/png", "tsv": "text/tab-separated-values", "tsv.gz": "application/gzip"}
LARGE = 2**20  # bytes of a table above which the page carries it compressed
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "nibabel", "SimpleITK", "nilearn", "matplotlib")
MISSING = "–"
LOST = {"failed": "failed", "excluded": "left out by quality control"}  # between the manifest and the index
EXCLUDED = "beyond a limit of quality.exclude, see results/quality"
SPLITS = {"validation": "validation", "holdout": "unseen cohorts"}
TESTS = {  # what each test is called on the page; inference.NULLS says which null it speaks to
    "sign_flip": "paired sign-flip",
    "corrected_t": "corrected t",
    "participants": "participants drawn anew",
    "population": "participants and overlap",
}


def content(
    tables: Mapping[str, pd.DataFrame],
    *,
    ledger: pd.DataFrame,
    certificate: Mapping[str, Any],
    weights: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    tasks: Mapping[str, Mapping[str, Any]],
    run: str,
    reasons: Mapping[str, str],
    seen: Collection[str] | None = None,
    withdrawn: int | None = 0,
    unknown: str = "",
    stages: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Everything that the page shows, as plain texts and numbers for the template.

    Parameters
    ----------
    tables : images (of the split), excluded, metrics, groups, calibration, medians, comparisons, worth, search,
        settings, resamples and published (the paper's numbers, with their source)
    ledger : of preprocessing, all jobs' together, with a column `cohort`
    certificate : of the split
    weights : metadata of the pretrained weights
    figures : by name ("figure1" to "figure3"), as `embed` gives them
    config, defaults : the study's configuration, and the paper's to compare it with
    tasks : the configuration's tasks that are on
    run : "multitask", or "given" where weights took the place of pretraining
    reasons : what the codes of failed images mean
    seen : this study's participants who are behind given weights; None where that can't be known
    withdrawn : how many people who have withdrawn are behind the weights; None where nothing can tell
    unknown : why whom they have seen can't be known
    stages : see costs.by_stage
    """
    gone = ledger["status"] == "withdrawn"
    ledger = ledger[~gone]
    medians, comparisons = tables["medians"], tables["comparisons"]
    chosen = {name: config["statistics"][name] for name in ("alpha", "statistic")}
    found = verdicts(comparisons, **chosen)
    replicates = sorted(set(medians["replicates"]))
    return {
        "study": config["study"],
        "missing": missing_fits(medians, config, tasks),
        "given": run == "given",
        "seen": None if seen is None else len(seen),
        "withdrawn": {"images": int(gone.sum()), "behind_weights": withdrawn, "weights": weights_name(config, run)},
        "unknown": unknown,
        "simulated": bool(config["report"]["truth"]),
        "replicates": " to ".join(str(count) for count in dict.fromkeys((replicates[0], replicates[-1]))),
        **chosen,
        "sentences": answer(comparisons, medians, tasks, **chosen),
        "results": result_groups(medians, found, tasks),
        "comparisons": comparison_groups(comparisons, found, tasks),
        "count": len(comparisons),
        "exact": bool(comparisons["exact"].all()),
        "permutations": int(comparisons["permutations"].max()),
        "figures": figures,
        "alt": alternative(medians, tasks),
        "worth": worth_groups(tables["worth"], tasks),
        "search": search_groups(tables["search"], tasks),
        "tests": [(TESTS[test], NULLS[test]) for test in NULLS],
        "metrics": metric_groups(tables["metrics"], tables["published"]),
        "sources": sorted({text.partition(",")[0] for text in tables["published"]["source"]}),
        "known": known_targets(tables["images"], [name for name in config["targets"] if name in tables["images"]]),
        "subgroups": subgroups(tables["groups"]),
        "calibration": calibration_groups(tables["calibration"]),
        "certificate": certificate,
        "duplicates": duplicates_in_words(certificate["duplicates"]),
        "accounting": accounting(ledger, tables["excluded"], tables["images"]),
        "failures": failure_rows(ledger, reasons),
        "cohorts": cohort_rows(tables["images"], ledger, tables["excluded"]),
        "resamples": resample_groups(tables["resamples"], tasks),
        "settings": setting_groups(tables["settings"]),
        "versions": version_rows(ledger, weights),
        "mixed": mixed_versions(ledger, weights),
        "seeds": [("study", config["seed"]), *((task["title"], task["seed"]) for task in tasks.values())],
        "configuration": configuration_lines(config, defaults),
        "methods": methods(config, run, weights, tasks),
        "references": REFERENCES,
        "bibliography": address(BIBLIOGRAPHY.encode(), "application/x-bibtex"),
        "stages": stages,
        "retries": sum(stage["retried"] for stage in stages),
    }


def weights_name(config: Mapping[str, Any], run: str) -> str:
    """What a person knows the weights by."""
    return str(config["pretrain"]["weights"]) if run == "given" else f"results/pretrain/{run}/weights.safetensors"


def read_ledgers(paths: Iterable[str | Path], quality: Iterable[str | Path] = ()) -> pd.DataFrame:
    """The ledgers of preprocessing, ``<cohort>-<number>/<job>.tsv``, as one table with a column `cohort`.

    Images that the tables of `quality` exclude have that status here, with the rule as their reason.
    """
    parts = [read_table(path).assign(cohort=Path(path).parent.name.rpartition("-")[0]) for path in paths]
    ledger = pd.concat(parts, ignore_index=True).astype({"reason": object})
    for path in quality:
        judged = read_table(path)
        rules = judged[judged["status"] == "excluded"].set_index("image_id")["reason"]
        rows = ledger["image_id"].isin(rules.index)
        ledger.loc[rows, "status"], ledger.loc[rows, "reason"] = "excluded", ledger.loc[rows, "image_id"].map(rules)
    return ledger


def render(content: Mapping[str, Any], template: str = "report.html.j2") -> str:
    """A page of one of the templates; every text in `content` is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, autoescape=True, **options)
    environment.filters["number"] = lambda value: MISSING if value is None or pd.isna(value) else f"{value:,}"
    environment.filters |= {"p": p_text, "signed": signed}
    script = Markup((Path(__file__).parent / "templates/report.js").read_text(encoding="utf-8"))
    # the one script that a browser may run in the page, by its digest
    given = {"version": __version__, "script": script, "inks": DARK}
    given["digest"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(**given, **content)


def embed(stem: str | Path) -> dict[str, Any]:
    """A figure for the page: its drawing as markup, and ``<stem>.svg``, ``.png`` and ``.tsv`` as data addresses.

    Returns
    -------
    viewbox : of the drawing
    drawing : what is inside the ``<svg>`` element; the names in it begin with the figure's, so that those of several
        figures do not meet in one page
    overlay : whether published medians are in it, which are shown when a reader asks for them
    files : name, ending and data address of each file; a large table is compressed
    """
    stem = Path(stem)
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", stem.with_suffix(".svg").read_text("utf-8"), flags=re.S)
    head, _, body = text.partition("</style>")  # matplotlib's only style, which the page's own takes the place of
    viewbox = re.search(r'viewBox="([-\d. ]+)"', head)[1]
    body = body.removeprefix("\n").lstrip().removeprefix("</defs>").rpartition("</svg>")[0]
    body = body.replace('style="display: none"', f'class="{PUBLISHED}"')
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{stem.name}-", body)
    files = []
    for ending in ("svg", "png", "tsv"):
        data = stem.with_suffix(f".{ending}").read_bytes()
        if ending == "tsv" and len(data) > LARGE:
            ending, data = "tsv.gz", gzip.compress(data, mtime=0)
        files.append({"name": f"{stem.name}.{ending}", "ending": ending, "address": address(data, MIME[ending])})
    overlay = f'class="{PUBLISHED}"' in body
    return {"viewbox": viewbox, "drawing": Markup(body), "overlay": overlay, "files": files}


def address(data: bytes, kind: str) -> str:
    """Bytes as a data address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def result_groups(
    medians: pd.DataFrame, found: Sequence[Verdict], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Per task, a row per n: each model's median and interval, and what transfer's two tests say."""
    auc = medians.set_index(["task", "n", "model"])
    verdict = {(v.task, v.n, v.second): v for v in found if v.first == "transfer"}
    groups = []
    for task in tasks:
        rows = []
        for n in sorted(medians.loc[medians["task"] == task, "n"].unique()):
            models = {}
            for model in (*MODELS, "covariates"):
                if (task, n, model) in auc.index:
                    row = auc.loc[(task, n, model)]
                    # of one replicate there is no interval
                    between = interval(row["low"], row["high"]) if row["replicates"] > 1 else MISSING
                    models[model] = {"median": f"{row['median']:.3f}", "interval": between}
            highest = max((cell["median"] for model, cell in models.items() if model in MODELS), default=None)
            for model, cell in models.items():
                cell["highest"] = cell["median"] == highest and model in MODELS
            tests = {other: verdict.get((task, n, other)) for other in ("baseline", "linear")}
            rows.append({"n": int(n), "models": models, "tests": tests})
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def comparison_groups(
    comparisons: pd.DataFrame, found: Sequence[Verdict], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Per task, a row per n and pair of models: differences, intervals, p-values of every test and the verdict."""
    rows = [
        row
        | {
            "mean": signed(row["mean_difference"]),
            "median": signed(row["median_difference"]),
            "interval": interval(row["low"], row["high"], sign=True),
            "p": p_text(row["p_two_sided"]),
            "holm": p_text(row["p_holm"]),
            "won": f"{100 * row['wins']:.0f} %",
            "won_interval": f"{100 * row['wins_low']:.0f} to {100 * row['wins_high']:.0f} %",
            "population": [
                {
                    "p": p_text(row[ADJUSTED[test]]),
                    "interval": interval(row[f"low_{test}"], row[f"high_{test}"], sign=True),
                }
                for test in list(NULLS)[1:]
            ],
            "verdict": verdict,
        }
        for row, verdict in zip(comparisons.to_dict("records"), found, strict=True)
    ]
    titles = {task: settings.get("title", task) for task, settings in tasks.items()}
    return [{"title": titles[task], "rows": [row for row in rows if row["task"] == task]} for task in tasks]


def worth_groups(worth: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n: transfer's AUC and the n that each other model needs for it; and where transfer passes."""
    groups = []
    for task in tasks:
        mine = worth[worth["task"] == task]
        sizes = mine["n"].dropna()
        if sizes.empty:
            continue
        ends = int(sizes.min()), int(sizes.max())
        rows = []
        for n, part in mine.dropna(subset=["n"]).groupby("n"):
            by_question = part.set_index("question")
            row: dict[str, Any] = {"n": int(n), "auc": f"{part['auc'].iloc[0]:.3f}"}
            for other in ("baseline", "linear"):
                if f"{other} needs" in by_question.index:
                    row[other] = scans_text(by_question.loc[f"{other} needs"], *ends)
            rows.append(row)
        passing = mine[mine["question"] == "transfer overtakes linear"]
        overtakes = scans_text(passing.iloc[0], *ends) if len(passing) else None
        groups.append({"title": tasks[task].get("title", task), "rows": rows, "overtakes": overtakes})
    return groups


def scans_text(row: pd.Series, smallest: int, largest: int) -> dict[str, str]:
    """A number of scans and its interval in words, such as "not reached by 500" and "180 to more than 500"."""

    def words_of(value: float) -> str:
        if pd.isna(value):
            return MISSING
        if value == float("inf"):
            return f"more than {largest:,}"
        return f"{smallest:,} or fewer" if value <= smallest else f"{value:,.0f}"

    value = f"not reached by {largest:,}" if row["scans"] == float("inf") else words_of(row["scans"])
    low, high = words_of(row["low"]), words_of(row["high"])
    between = low if low == high else f"{low} to {high}"
    return {"value": value, "interval": between, "reached": f"{100 * row['reached']:.0f} %"}


def search_groups(search: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n and model: ties, optimism and how much of the search was needed."""
    groups = []
    for task in tasks:
        rows = [
            {
                "n": row["n"],
                "model": row["model"],
                "validation": f"{row['validation_auc']:.3f}",
                "test": f"{row['test_auc']:.3f}",
                "optimism": signed(row["optimism"]),
                "interval": interval(row["optimism_low"], row["optimism_high"], sign=True),
                "tied": f"{100 * row['tied']:.0f} %",
                "gain": signed(row["all_settings"] - row["one_setting"]),
                "enough": f"{row['enough']} of {row['settings']}",
            }
            for row in search[(search["task"] == task) & (search["settings"] > 1)].to_dict("records")
        ]
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def interval(low: float, high: float, *, sign: bool = False) -> str:
    """An interval in words, "0.81 to 0.86"; missing ends are a dash."""
    if pd.isna(low) or pd.isna(high):
        return MISSING
    return f"{signed(low)} to {signed(high)}" if sign else f"{low:.3f} to {high:.3f}"


def signed(value: float) -> str:
    """A difference with its sign, a real minus."""
    return f"{value:+.3f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p-value with two digits that say something; never a bare zero."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def alternative(medians: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Figure 2 in words, for those who do not see it."""
    parts = []
    for task in tasks:
        rows = medians[medians["task"] == task].sort_values("n")
        if rows.empty:
            continue
        ends = rows["n"].iloc[0], rows["n"].iloc[-1]
        said = []
        for model in MODELS:
            values = rows.loc[rows["model"] == model, "median"]
            if len(values):
                more = f" to {values.iloc[-1]:.2f}" if len(values) > 1 else ""
                said.append(f"{model} {values.iloc[0]:.2f}{more}")
        span = f"from n = {ends[0]} to n = {ends[1]}" if ends[0] != ends[1] else f"at n = {ends[0]}"
        parts.append(f"{tasks[task].get('title', task)}, {span}: {', '.join(said)}")
    return f"Test AUC against the number of training images, one panel per task. Medians: {'; '.join(parts)}."


def missing_fits(
    medians: pd.DataFrame, config: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """How many of the configured test AUCs of the three models are not in the medians: `missing` of `planned`."""
    sizes, replicates = config["resampling"]["n"], config["resampling"]["replicates"]
    planned = len(tasks) * len(sizes) * replicates * len(MODELS)
    counted = medians[medians["model"].isin(list(MODELS)) & medians["task"].isin(list(tasks))]
    found = int(counted.loc[counted["n"].isin(sizes), "replicates"].clip(upper=replicates).sum())
    return {"missing": planned - found, "planned": planned}


def known_targets(images: pd.DataFrame, targets: Collection[str]) -> list[dict[str, Any]]:
    """Per target and role, the images whose value is known.

    Parameters
    ----------
    images : `role` and a column per target, of every image of the split
    """
    rows = []
    for target in targets:
        cells = []
        for role in (role for role in ("train", "validation", "test", "unused") if (images["role"] == role).any()):
            values = images.loc[images["role"] == role, target]
            share = 100 * values.notna().mean()
            cells.append({"role": role, "known": int(values.notna().sum()), "images": len(values), "share": share})
        rows.append({"target": "BMI" if target == "bmi" else words(target), "cells": cells})
    return rows


def metric_groups(metrics: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, its metrics on validation and on unseen cohorts beside the dummy's and the published, to show."""
    paper = published[published["quantity"] == "metric"].set_index(["task", "split", "metric"])["value"]
    labels = {"mae": "MAE", "rmse": "RMSE", "r": "R", "auc": "AUC", "bias": "mean error"}
    units = {"age": "years", "bmi": "kg/m²"}
    groups = []
    for target, mine in metrics.groupby("target", sort=False):
        rows = []
        for metric, part in mine.groupby("metric", sort=False):
            unit = f", {units[target]}" if target in units and metric in ("mae", "rmse", "bias") else ""
            row: dict[str, Any] = {"metric": labels.get(metric, metric) + unit}
            for found in part.to_dict("records"):
                value, dummy = (
                    MISSING if pd.isna(found[name]) else f"{found[name]:.3f}" for name in ("value", "dummy")
                )
                cell = {"value": value, "dummy": dummy, "interval": interval(found["low"], found["high"])}
                cell["paper"] = paper.get((target, found["split"], metric))
                row[found["split"]] = cell
            rows.append(row)
        name = words(target)
        sizes = mine.drop_duplicates("split").set_index("split")[["observations", "participants"]]
        groups.append({"target": "BMI" if name == "bmi" else name, "rows": rows, "sizes": sizes.to_dict("index")})
    return groups


def subgroups(groups: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, its error (MAE or AUC) and mean error by cohort, age band and sex, of the rows that there are."""
    found = []
    for target, mine in groups.groupby("target", sort=False):
        main = "auc" if (mine["metric"] == "auc").any() else "mae"
        rows = []
        for (by, group, split), part in mine.groupby(["by", "group", "split"], sort=False):
            cells = part.set_index("metric")
            row = {"by": by, "group": group, "split": SPLITS[split]}
            row |= {name: int(part[name].iloc[0]) for name in ("observations", "participants")}
            for name, metric in (("main", main), ("bias", "bias")):
                known = metric in cells.index
                row[name] = f"{cells.loc[metric, 'value']:.3f}".replace("-", "−") if known else MISSING
                bounds = (cells.loc[metric, "low"], cells.loc[metric, "high"]) if known else (None, None)
                row[f"{name}_interval"] = interval(*bounds, sign=metric == "bias")
            rows.append(row)
        found.append({"target": words(target), "main": main.upper(), "binary": main == "auc", "rows": rows})
    return found


def calibration_groups(calibration: pd.DataFrame) -> list[dict[str, Any]]:
    """Per binary target and split: predicted and observed shares by bin."""
    found = []
    for (target, split), mine in calibration.groupby(["target", "split"], sort=False):
        rows = [
            {
                "predicted": f"{row['predicted']:.3f}",
                "observed": f"{row['observed']:.3f}",
                "interval": interval(row["low"], row["high"]),
                "observations": row["observations"],
            }
            for row in mine.to_dict("records")
        ]
        found.append({"target": words(target), "split": SPLITS[split], "rows": rows})
    return found


def words(code: object) -> str:
    """A code of a table as words; "unknown" where there is none."""
    return "unknown" if code is None or pd.isna(code) else str(code).replace("_", " ")


def accounting(ledger: pd.DataFrame, excluded: pd.DataFrame, images: pd.DataFrame) -> dict[str, Any]:
    """Where every image that was found has gone, stage by stage, and whether the stages add up.

    Returns
    -------
    `rows` (what, images, level of indentation) and `complete`
    """
    usable = int((ledger["status"] == "ok").sum())
    rows: list[tuple[str, int, int]] = [("T1-weighted images found", len(excluded) + len(ledger), 0)]
    rows += [(f"left out of the manifest: {words(reason)}", len(g), 1) for reason, g in _by(excluded, "reason")]
    rows.append(("in the manifest", len(ledger), 0))
    for status, said in LOST.items():
        lost = ledger[ledger["status"] == status]
        rows += [(f"{said}: {words(reason)}", len(group), 1) for reason, group in _by(lost, "reason")]
    rows.append(("preprocessed and cached", usable, 0))
    names = {"train": "pretraining: training", "validation": "pretraining: validation", "test": "never pretrained on"}
    rows += [(name, int((images["role"] == role).sum()), 1) for role, name in names.items()]
    unused = images[images["role"] == "unused"]
    rows += [(f"unused: {words(reason)}", len(group), 1) for reason, group in _by(unused, "reason")]
    known = int(images["role"].isin([*names, "unused"]).sum())
    return {"rows": rows, "complete": usable == len(images) == known}


def _by(table: pd.DataFrame, column: str) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by a column, missing values too, the largest first."""
    return sorted(table.groupby(column, dropna=False), key=lambda group: -len(group[1]))


def failure_rows(ledger: pd.DataFrame, reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """Failed and excluded images by reason and cohort, with what the reason means."""
    rows = []
    for reason, group in _by(ledger[ledger["status"] != "ok"], "reason"):
        counts = group["cohort"].value_counts()
        cohorts = ", ".join(f"{cohort} {count:,}" for cohort, count in counts.items())
        known = EXCLUDED if (group["status"] == "excluded").all() else "no reason was recorded"
        meaning = reasons.get(str(reason), known)
        rows.append({"reason": words(reason), "meaning": meaning, "images": len(group), "cohorts": cohorts})
    return rows


def cohort_rows(images: pd.DataFrame, ledger: pd.DataFrame, excluded: pd.DataFrame) -> list[dict[str, Any]]:
    """Per cohort: found, left out, failed, and its images by role."""
    rows = []
    for cohort in dict.fromkeys([*images["cohort"], *ledger["cohort"], *excluded["cohort"]]):
        mine, done = images[images["cohort"] == cohort], ledger[ledger["cohort"] == cohort]
        left_out = int((excluded["cohort"] == cohort).sum())
        row = {"cohort": cohort, "participants": mine["participant_id"].nunique(), "found": len(done) + left_out}
        row |= {"left_out": left_out, "failed": int((done["status"] != "ok").sum())}
        rows.append(
            row | {role: int((mine["role"] == role).sum()) for role in ("train", "validation", "test", "unused")}
        )
    return rows


def resample_groups(resamples: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n: distinct training images and participants, sizes of the sets, redraws."""
    groups = []
    for task in tasks:
        rows = []
        for n, part in resamples[resamples["task"] == task].groupby("n"):
            row: dict[str, Any] = {"n": n, "redraws": int(part["redraws"].sum()), "replicates": len(part)}
            for name in ("train_distinct_images", "train_participants", "validation_images", "test_images"):
                low, high = int(part[name].min()), int(part[name].max())
                row[name] = f"{part[name].median():.0f}" + (f" ({low} to {high})" if low != high else "")
            rows.append(row)
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def setting_groups(settings: pd.DataFrame) -> list[dict[str, Any]]:
    """Per model, how often each setting had the best validation AUC, and how often it diverged."""
    groups = []
    for model, mine in settings.groupby("model", sort=False):
        fits = int(mine["chosen"].sum())
        listed = {text: json.loads(text) for text in dict.fromkeys(mine["values"])}
        keys = dict.fromkeys(name for values in listed.values() for name in values)
        keys = sorted(keys, key=lambda name: (name != "learning_rate", name != "weight_decay", name))
        fixed = [key for key in keys if len({json.dumps(values.get(key)) for values in listed.values()}) == 1]
        shown = [key for key in keys if key not in fixed] or fixed
        rows = []
        for text, part in mine.groupby("values", sort=False):
            told = ", ".join(f"{words(key)} {listed[text][key]:g}" for key in shown if key in listed[text])
            chosen, diverged = int(part["chosen"].sum()), int((part["status"] == "diverged").sum())
            rows.append({"values": told, "chosen": chosen, "share": 100 * chosen / max(1, fits), "diverged": diverged})
        first = next(iter(listed.values()))
        always = ", ".join(f"{words(key)} {first[key]:g}" for key in fixed if key not in shown)
        groups.append({"model": model, "fits": fits, "always": always, "rows": rows})
    order = [*MODELS, *dict.fromkeys(settings["model"])]
    return sorted(groups, key=lambda group: order.index(group["model"]))


def version_rows(ledger: pd.DataFrame, weights: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What made the results: this report's version, the weights', the engines', and the packages here."""
    rows = [
        ("neurotransfer (this report)", __version__),
        ("neurotransfer (weights)", str(weights.get("version", "unknown"))),
    ]
    for (engine, version), group in ledger.groupby(["engine", "engine_version"], dropna=False):
        rows.append((f"engine {words(engine)}", f"{words(version)} ({len(group):,} images)"))
    rows.append(("Python", platform.python_version()))
    for name in PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return rows


def mixed_versions(ledger: pd.DataFrame, weights: Mapping[str, Any]) -> bool:
    """Whether results of several versions, of an engine or of neurotransfer, stand beside each other."""
    return len(ledger[["engine", "engine_version"]].drop_duplicates()) > 1 or weights.get("version") != __version__


def configuration_lines(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None, indent: int = 0
) -> list[dict[str, Any]]:
    """The configuration as lines of YAML; where it differs from the paper's, `paper` holds that value.

    Returns
    -------
    `text`, `differs` and `paper` (text, or None) of each line, in order; keys that only the paper's has are left out
    """
    lines = []
    for key, value in config.items():
        name = f"{'  ' * indent}{_flow(key)}:"
        known = isinstance(defaults, Mapping) and key in defaults
        there = defaults[key] if known else None
        if isinstance(value, Mapping) and value and (isinstance(there, Mapping) or not known):
            lines.append({"text": name, "differs": not known, "paper": None})
            lines += configuration_lines(value, there, indent + 1)
        else:
            differs = not known or value != there
            lines.append(
                {"text": f"{name} {_flow(value)}", "differs": differs, "paper": _flow(there) if known else None}
            )
    return lines


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
