"""One self-contained page from the tables: the answer first, then figures, trust and methods.

It names no participant and no image, so that it can be mailed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from . import __version__

MODELS = {"linear": "linear", "baseline": "baseline", "transfer": "transfer"}


def answer(medians: pd.DataFrame, comparisons: pd.DataFrame, tasks: Mapping[str, Any], alpha: float) -> list[str]:
    """Sentences, one per task, never more certain than the Holm-adjusted tests allow."""
    sentences = []
    for task, settings in tasks.items():
        parts = []
        for other, name in (("baseline", "training from scratch"), ("linear", "regional volumes")):
            chosen = (comparisons["task"] == task) & (comparisons["first"] == "transfer")
            rows = comparisons[chosen & (comparisons["second"] == other)]
            better = [str(row.n) for row in rows.itertuples() if row.p_holm < alpha and row.mean_difference > 0]
            worse = [str(row.n) for row in rows.itertuples() if row.p_holm < alpha and row.mean_difference < 0]
            said = []
            if better:
                said.append(f"was better than {name} at n = {_listed(better)}")
            if worse:
                said.append(f"was worse than {name} at n = {_listed(worse)}")
            parts.append(" and ".join(said) if said else f"was not distinguishable from {name} at any n")
        sentences.append(f"{settings.get('title', task)}: in this pool, pretraining {'; it '.join(parts)}.")
    return sentences


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def result_rows(medians: pd.DataFrame, comparisons: pd.DataFrame, tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per task and n: each model's median with its interval, and transfer's two comparisons."""
    auc = medians.set_index(["task", "n", "model"])
    tests = comparisons.set_index(["task", "n", "first", "second"])
    rows = []
    for task, n in medians[["task", "n"]].drop_duplicates().itertuples(index=False):
        row: dict[str, Any] = {"task": tasks[task].get("title", task), "n": n}
        best = max(MODELS, key=lambda model: auc.loc[(task, n, model), "median"])
        for model in MODELS:
            found = auc.loc[(task, n, model)]
            row[model] = f"{found['median']:.3f} ({found['low']:.2f} to {found['high']:.2f})"
        row["best"] = best
        for other in ("baseline", "linear"):
            test = tests.loc[(task, n, "transfer", other)]
            row[f"difference_{other}"] = f"{test['mean_difference']:+.3f}"
            row[f"p_{other}"] = f"{test['p_two_sided']:.4f} ({test['p_holm']:.3f})"
        rows.append(row)
    return rows


def ledger_rows(ledger: pd.DataFrame, excluded: pd.DataFrame) -> list[dict[str, Any]]:
    """Every image accounted for: how many went through, failed by reason, were left out by reason."""
    rows = [{"stage": "preprocessing", "state": "ok", "images": int((ledger["status"] == "ok").sum())}]
    for (state, reason), group in ledger[ledger["status"] != "ok"].groupby(["status", "reason"], dropna=False):
        rows.append({"stage": "preprocessing", "state": f"{state}: {reason}", "images": len(group)})
    for reason, group in excluded.groupby("reason"):
        rows.append({"stage": "manifest", "state": f"left out: {reason}", "images": len(group)})
    return rows


def resample_rows(resamples: pd.DataFrame, tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per task and n: distinct training images and participants (medians), sizes of the sets, redraws."""
    rows = []
    for (task, n), group in resamples.groupby(["task", "n"], sort=False):
        rows.append(
            {
                "task": tasks[task].get("title", task),
                "n": n,
                "distinct": f"{group['train_distinct_images'].median():.0f}",
                "participants": f"{group['train_participants'].median():.0f}",
                "validation": int(group["validation_images"].iloc[0]),
                "test": int(group["test_images"].iloc[0]),
                "redraws": int(group["redraws"].sum()),
            }
        )
    return rows


def setting_rows(settings: pd.DataFrame) -> list[dict[str, Any]]:
    """How often each setting was chosen, and how often it diverged, per model."""
    rows = []
    for (model, values), group in settings.groupby(["model", "values"], sort=False):
        diverged = int((group["status"] == "diverged").sum())
        rows.append({"model": model, "values": values, "chosen": int(group["chosen"].sum()), "diverged": diverged})
    return rows


def differences_from(config: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> list[dict[str, str]]:
    """Where a configuration differs from the paper's: key, value, the paper's value."""
    rows = []
    for key in [*config, *(key for key in defaults if key not in config)]:
        name, here, there = f"{prefix}{key}", config.get(key), defaults.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            rows += differences_from(here, there, f"{name}.")
        elif here != there:
            rows.append({"key": name, "value": _short(here), "paper": _short(there) if key in defaults else "none"})
    return rows


def _short(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()


def methods(config: Mapping[str, Any], run: str) -> str:
    """A paragraph for a paper, made from the configuration."""
    resampling, statistics = config["resampling"], config["statistics"]
    counts = ", ".join(map(str, resampling["n"]))
    trunk = "given weights" if run == "given" else "a multi-task network pretrained on the healthy participants"
    return (
        f"T1-weighted images were conformed, skull-stripped and segmented with the {config['preprocessing']['engine']} "
        f"engine of neurotransfer {__version__}, cropped to {' × '.join(map(str, config['cache']['crop']))} voxels of "
        f"{config['preprocessing']['voxel_size']} mm and used with their raw intensities. For each task and each n in "
        f"{{{counts}}}, {resampling['replicates']} resamples were drawn: n training images with replacement, then "
        f"{resampling['validation_share']:g} n validation and {resampling['test_share']:g} n test images of other "
        f"participants. On each, logistic regression on regional volumes (linear), a Simple Fully Convolutional Network "
        f"(Peng et al., 2021) from random weights (baseline) and the same network started from {trunk} (transfer) were "
        f"fitted with {len(config['models']['linear']['settings'])}, {len(config['models']['baseline']['settings'])} and "
        f"{len(config['models']['transfer']['settings'])} settings; the one with the best validation AUC was scored once "
        f"on the test images. Models were compared by two-sided paired sign-flip permutation tests of the "
        f"{statistics['statistic']} difference in AUC over resamples (Leonardsen et al., 2025), with Holm's adjustment "
        f"over all comparisons. The test speaks about this pool; about the population that it comes from it is too generous."
    )


def embed(path: str | Path) -> str:
    """An SVG file as a data address, so that the page needs nothing beside it."""
    return "data:image/svg+xml;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def render(content: Mapping[str, Any]) -> str:
    """The page; every text in `content` is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(version=__version__, **content)


def set_rows(images: pd.DataFrame) -> list[dict[str, Any]]:
    """Per role of the split: images, participants, mean age and share of males."""
    rows = []
    for role in ("train", "validation", "test", "unused"):
        part = images[images["role"] == role]
        row = {"role": role, "images": len(part), "participants": part["participant_id"].nunique()}
        row["age"] = f"{part['age'].mean():.1f}" if part["age"].notna().any() else "unknown"
        row["male"] = f"{part['sex'].mean():.0%}" if part["sex"].notna().any() else "unknown"
        rows.append(row)
    return rows


def content(
    tables: Mapping[str, pd.DataFrame],
    ledger: pd.DataFrame,
    certificate: Mapping[str, Any],
    figures: Sequence[str],
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    tasks: Mapping[str, Any],
    run: str,
) -> dict[str, Any]:
    """Everything that the page shows.

    Parameters
    ----------
    tables : images (of the split), excluded, metrics, medians, comparisons, settings, resamples
    figures : paths of figure1.svg and figure2.svg
    run : "multitask", or "given" where weights took the place of pretraining
    """
    alpha = config["statistics"]["alpha"]
    medians, comparisons = tables["medians"], tables["comparisons"]
    pictures = {Path(path).stem: embed(path) for path in figures}
    leaks = (
        "No participant is in two of training, validation and test: checked over all cohorts, and again in every fit."
    )
    if run == "given":
        leaks += " Whether participants of this study helped to make the given weights is unknown."
    return {
        "study": config["study"],
        "replicates": int(medians["replicates"].max()),
        "sentences": answer(medians, comparisons, tasks, alpha),
        "alpha": alpha,
        "results": result_rows(medians, comparisons, tasks),
        "comparisons": len(comparisons),
        "figure1": pictures["figure1"],
        "figure2": pictures["figure2"],
        "simulated": bool(config["report"]["truth"]),
        "metrics": tables["metrics"].to_dict("records"),
        "leaks": leaks,
        "overlaps": certificate,
        "sets": set_rows(tables["images"]),
        "ledger": ledger_rows(ledger, tables["excluded"]),
        "resamples": resample_rows(tables["resamples"], tasks),
        "settings": setting_rows(tables["settings"]),
        "differences": differences_from(config, defaults),
        "configuration": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        "methods": methods(config, run),
    }
