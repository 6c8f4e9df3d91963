"""The report's tables on trust: an account of every image, resamples, chosen settings, versions, configuration.

Ledgers and tables of all stages go in, texts and counts come out, without names of participants or images, without
paths, and without counts of fewer people than `report.smallest_cell`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from .. import __version__
from ..manifest.withdrawal import participant_of
from ..split.roles import ROLES
from ..study.container_names import is_file_reference
from ..study.imported_weights import FACT, PASSED
from ..study.plan import MODELS, further_models
from ..text import is_missing, number, words
from .cells import cell, hidden_parts
from .counts import LEFT, Name, hidden_in_report, people_of_files

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "nibabel", "SimpleITK", "nilearn", "matplotlib")
LOST = {"failed": "failed", "excluded": "left out by quality control"}  # statuses lost after the manifest
SECRET = "participants_key"  # of the configuration: the path of the study key
Part = tuple[Name, pd.DataFrame]  # the name of a count, and its images
EXCLUDED = "beyond a limit of quality.exclude, see results/quality"


def accounting(
    ledger: pd.DataFrame,
    excluded: pd.DataFrame,
    images: pd.DataFrame,
    smallest: int = 1,
    hidden: Collection[Name] | None = None,
) -> dict[str, Any]:
    """The number of images by stage and reason, and whether the stages add up.

    Parameters
    ----------
    smallest : number of people; the images of fewer are counted as "< 5"
    hidden : counts that are not shown; None: from counts.hidden_in_report

    Returns
    -------
    `rows` (`text`, `images` and `level` of indentation) and `complete`
    """
    if hidden is None:
        hidden = hidden_in_report(images, ledger, excluded, smallest)
    usable = int((ledger["status"] == "ok").sum())
    lost: dict[str, Part] = {}
    for status, name in LOST.items():
        lost |= _named(name, status, ledger[ledger["status"] == status])
    names = {"train": "pretraining: training", "validation": "pretraining: validation", "test": "never pretrained on"}
    roles = {text: (("role", role), images[images["role"] == role]) for role, text in names.items()}
    roles |= _named("unused", "unused", images[images["role"] == "unused"])
    stages = (
        ("T1-weighted images found", "found", len(excluded) + len(ledger)),
        ("in the manifest", "manifest", len(ledger)),
        ("preprocessed and cached", "usable", usable),
    )
    parts = (_named("left out of the manifest", LEFT, excluded), lost, roles)
    rows = []
    for (text, name, total), mine in zip(stages, parts, strict=True):
        rows.append(_row(text, cell(total, total, smallest, (name,) in hidden)))
        rows += [_row(part, cell(len(of), _people(of), smallest, key in hidden), 1) for part, (key, of) in mine.items()]
    known = int(images["role"].isin([*names, "unused"]).sum())
    return {"rows": rows, "complete": usable == len(images) == known}


def _row(text: str, images: int | str, level: int = 0) -> dict[str, Any]:
    return {"text": text, "images": images, "level": level}


def _named(name: str, status: str, images: pd.DataFrame) -> dict[str, Part]:
    """Images by reason, the most frequent first, with the names of their counts, under what a row says of them."""
    return {
        f"{name}: {words(reason)}": (("account", status, None if is_missing(reason) else str(reason)), group)
        for reason, group in _by(images, "reason")
    }


def _people(images: pd.DataFrame) -> int:
    """The participants of images, or of files that the manifest leaves out; a file without a label counts as one."""
    if "image_id" in images:
        return int(images["image_id"].map(participant_of).nunique())
    return int(people_of_files(images).nunique())


def _by(table: pd.DataFrame, column: str) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by a column, the largest first; missing values are a group, too."""
    return sorted(table.groupby(column, dropna=False), key=_size)


def _size(group: tuple[Any, pd.DataFrame]) -> int:
    """The place of a group among others, the largest first."""
    return -len(group[1])


def failure_rows(
    ledger: pd.DataFrame, reasons: Mapping[str, str], smallest: int = 1, hidden: Collection[Name] = ()
) -> list[dict[str, Any]]:
    """Failed and excluded images by reason and cohort, with the meaning of the reason; of few people no number.

    Parameters
    ----------
    hidden : counts that are not shown, from counts.hidden_in_report
    """
    lost = ledger[ledger["status"] != "ok"]
    rows = []
    for (status, reason), group in sorted(lost.groupby(["status", "reason"], dropna=False), key=_size):
        name = ("account", status, None if is_missing(reason) else str(reason))
        listed = ", ".join(
            f"{cohort} {number(cell(len(part), _people(part), smallest, (*name, str(cohort)) in hidden))}"
            for cohort, part in _by(group, "cohort")
            if len(part)
        )
        known = EXCLUDED if status == "excluded" else "no reason was recorded"
        count = cell(len(group), _people(group), smallest, name in hidden)
        meaning = reasons.get(str(reason), known)
        rows.append({"reason": words(reason), "meaning": meaning, "images": count, "cohorts": listed})
    return rows


def cohort_rows(
    images: pd.DataFrame,
    ledger: pd.DataFrame,
    excluded: pd.DataFrame,
    smallest: int = 1,
    hidden: Collection[Name] | None = None,
) -> list[dict[str, Any]]:
    """Per cohort: images found, left out and failed, and images by role; of few people no number.

    Parameters
    ----------
    hidden : counts that are not shown; None: from counts.hidden_in_report
    """
    if hidden is None:
        hidden = hidden_in_report(images, ledger, excluded, smallest)
    rows = []
    for cohort in dict.fromkeys([*images["cohort"], *ledger["cohort"], *excluded["cohort"]]):
        mine, done = images[images["cohort"] == cohort], ledger[ledger["cohort"] == cohort]
        left, lost = excluded[excluded["cohort"] == cohort], done[done["status"] != "ok"]
        people, name = mine["participant_id"].nunique(), str(cohort)
        found = cell(len(done) + len(left), _people(done) + _people(left), smallest, ("found", name) in hidden)
        row = {"cohort": cohort, "participants": cell(people, people, smallest, ("people", name) in hidden)}
        row |= {"found": found}
        for kind, part in {LEFT: left, "failed": lost, **{role: mine[mine["role"] == role] for role in ROLES}}.items():
            row[kind] = cell(len(part), _people(part), smallest, ("cohort", name, kind) in hidden)
        rows.append(row)
    return rows


def resample_groups(resamples: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, a row per n: distinct training images and their participants, sizes of the sets, redraws."""
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
    """Per model, the number of fits in which each setting was chosen, and in which it diverged."""
    groups = []
    for model, mine in settings.groupby("model", sort=False):
        fits = int(mine["chosen"].sum())
        listed = {text: json.loads(text) for text in dict.fromkeys(mine["values"])}
        names = dict.fromkeys(name for values in listed.values() for name in values)
        keys = sorted(names, key=lambda name: (name != "learning_rate", name != "weight_decay", name))
        fixed = [key for key in keys if len({json.dumps(values.get(key)) for values in listed.values()}) == 1]
        shown = [key for key in keys if key not in fixed] or fixed
        rows = []
        for text, part in mine.groupby("values", sort=False):
            values = ", ".join(f"{words(key)} {listed[text][key]:g}" for key in shown if key in listed[text])
            chosen, diverged = int(part["chosen"].sum()), int((part["status"] == "diverged").sum())
            share = 100 * chosen / max(1, fits)
            rows.append({"values": values, "chosen": chosen, "share": share, "diverged": diverged})
        first = next(iter(listed.values()))
        always = ", ".join(f"{words(key)} {first[key]:g}" for key in fixed if key not in shown)
        groups.append({"model": model, "fits": fits, "always": always, "rows": rows})
    order = [*MODELS, *further_models(settings["model"]), *dict.fromkeys(settings["model"])]
    return sorted(groups, key=lambda group: order.index(group["model"]))


def are_engines_counted(ledger: pd.DataFrame, smallest: int, *, all_shown: bool) -> bool:
    """Whether the usable images of every engine and version can be counted in a text: none of few people.

    Parameters
    ----------
    all_shown : whether the number of usable images is shown
    """
    usable = ledger[ledger["status"] == "ok"]
    groups = usable.groupby(["engine", "engine_version"], dropna=False)
    return all_shown and all(_people(group) >= smallest for _, group in groups)


def version_rows(
    ledger: pd.DataFrame, weights: Mapping[str, Any], smallest: int = 1, *, all_shown: bool = True
) -> list[tuple[str, str]]:
    """Software and versions: of this report, the weights, the engines of usable images, and the installed packages.

    Parameters
    ----------
    all_shown : whether the number of usable images is shown
    """
    rows = [
        ("neurotransfer (this report)", __version__),
        ("neurotransfer (weights)", str(weights.get("version", "unknown"))),
    ]
    usable = ledger[ledger["status"] == "ok"]
    groups = list(usable.groupby(["engine", "engine_version"], dropna=False))
    people = {at: _people(group) for at, (_, group) in enumerate(groups)}
    few = hidden_parts(people, smallest) if all_shown else set(people)
    for at, ((engine, version), group) in enumerate(groups):
        count = cell(len(group), people[at], smallest, at in few)
        rows.append((f"engine {words(engine)}", f"{words(version)} ({number(count)} images)"))
    rows.append(("Python", platform.python_version()))
    for name in PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return rows


def published_weights(weights: Mapping[str, Any]) -> dict[str, str] | None:
    """Licence, origin and check of weights that were imported; None for this program's own.

    Parameters
    ----------
    weights : their metadata
    """
    source, answers = weights.get("source"), weights.get(FACT, {})
    if not source and not answers:
        return None
    checked = ""
    if answers.get("state") == PASSED:
        checked = (
            f"They predicted {answers['predictions']:,} published values of {answers['images']:,} images within "
            f"{answers['tolerance']:g} (largest difference {answers['largest_difference']:.2g})."
        )
    source = source or {}
    origin = {name: str(source.get(name) or "not stated") for name in ("licence", "citation")}
    return {**origin, "checked": checked}


def mixed_versions(ledger: pd.DataFrame, weights: Mapping[str, Any]) -> bool:
    """Whether the results come from several versions of an engine or of neurotransfer."""
    return len(ledger[["engine", "engine_version"]].drop_duplicates()) > 1 or weights.get("version") != __version__


def configuration_lines(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None, indent: int = 0
) -> list[dict[str, Any]]:
    """The configuration as lines of YAML, compared with the paper's, without names of people and without folders.

    Returns
    -------
    `text`, `differs` and `paper` (the paper's value as text, or None) of each line, in order; keys that only the
    paper's configuration has are left out
    """
    lines = []
    for key, value in config.items():
        name = f"{'  ' * indent}{flow(key)}:"
        known = defaults is not None and key in defaults
        there = (defaults or {}).get(key)
        if isinstance(value, Mapping) and value and (isinstance(there, Mapping) or not known):
            lines.append({"text": name, "differs": not known, "paper": None})
            lines += configuration_lines(value, there, indent + 1)
        else:
            differs = not known or value != there
            public = public_value(key, value) if differs or key == SECRET else value
            paper = flow(public_value(key, there)) if known else None
            lines.append({"text": f"{name} {flow(public)}", "differs": differs, "paper": paper})
    return lines


def public_value(key: Any, value: Any) -> Any:
    """A value of the configuration without names of people and without folders."""
    if key == SECRET:
        return "not shown"
    if key == "waived_duplicates":
        return f"{len(value)} pairs, not shown" if value else value
    if isinstance(value, list):
        return [public_value(key, part) for part in value]
    if isinstance(value, Mapping):
        return {name: public_value(name, part) for name, part in value.items()}
    registry = key == "image" and isinstance(value, str) and not is_file_reference(value)
    return f"…/{Path(value).name}" if isinstance(value, str) and "/" in value and not registry else value


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
