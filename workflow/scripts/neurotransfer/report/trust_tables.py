"""The report's tables on trust: an account of every image, resamples, chosen settings, versions, configuration.

Ledgers and tables of all stages go in, texts and counts come out, without names of participants or images, without
paths, and without counts of fewer people than `report.smallest_cell`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
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
from ..text import number, words
from .cells import hidden_roles, is_told, shown, shown_grid, shown_row

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "nibabel", "SimpleITK", "nilearn", "matplotlib")
LOST = {"failed": "failed", "excluded": "left out by quality control"}  # statuses lost after the manifest
SECRET = "participants_key"  # of the configuration: the path of the study key
EXCLUDED = "beyond a limit of quality.exclude, see results/quality"


def accounting(
    ledger: pd.DataFrame,
    excluded: pd.DataFrame,
    images: pd.DataFrame,
    smallest: int = 1,
    *,
    without_total: bool = False,
) -> dict[str, Any]:
    """The number of images by stage and reason, and whether the stages add up.

    A total is hidden if a number of few people would follow from it and the next one.

    Parameters
    ----------
    smallest : number of people; the images of fewer are counted as "< 5"
    without_total : whether the number of images found is hidden in any case, because that of a cohort is

    Returns
    -------
    `rows` (`text`, `images` and `level` of indentation) and `complete`
    """
    usable = int((ledger["status"] == "ok").sum())
    lost: dict[str, pd.DataFrame] = {}
    for status, name in LOST.items():
        lost |= _named(name, ledger[ledger["status"] == status])
    names = {"train": "pretraining: training", "validation": "pretraining: validation", "test": "never pretrained on"}
    roles = {name: images[images["role"] == role] for role, name in names.items()}
    stages = (
        ("T1-weighted images found", len(excluded) + len(ledger), _named("left out of the manifest", excluded)),
        ("in the manifest", len(ledger), lost),
        ("preprocessed and cached", usable, roles | _named("unused", images[images["role"] == "unused"])),
    )
    told = [is_told(*_counts(parts), smallest) for _, _, parts in stages]
    rows = []
    for at, (name, total, parts) in enumerate(stages):
        # the totals before a hidden one are hidden, too: they are its sum with rows that are shown
        hidden = any(told[at:]) or (without_total and at < 2)
        rows += [_row(name, "hidden" if hidden else total), *_rows_of(parts, smallest)]
    known = int(images["role"].isin([*names, "unused"]).sum())
    return {"rows": rows, "complete": usable == len(images) == known}


def _row(text: str, images: int | str, level: int = 0) -> dict[str, Any]:
    return {"text": text, "images": images, "level": level}


def _named(name: str, images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Images by reason, the most frequent first, under what a row of the account says of them."""
    return {f"{name}: {words(reason)}": group for reason, group in _by(images, "reason")}


def _rows_of(parts: Mapping[str, pd.DataFrame], smallest: int) -> list[dict[str, Any]]:
    """Rows of parts whose sum stands above or below them, so that never a single one is hidden beside others."""
    return [_row(name, cell, 1) for name, cell in shown_row(*_counts(parts), smallest).items()]


def _counts(parts: Mapping[str, pd.DataFrame]) -> tuple[dict[str, int], dict[str, int]]:
    """Images and people of each part."""
    return {name: len(part) for name, part in parts.items()}, {name: _people(part) for name, part in parts.items()}


def _people(images: pd.DataFrame) -> int:
    """The participants of images, or of files that the manifest leaves out; a file without a label counts as one."""
    if "image_id" in images:
        return int(images["image_id"].map(participant_of).nunique())
    labels = images["file"].str.extract(r"(sub-[^/_]+)")[0].fillna(images["file"])
    return int((images["cohort"] + " " + labels).nunique())


def _by(table: pd.DataFrame, column: str) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by a column, the largest first; missing values are a group, too."""
    return sorted(table.groupby(column, dropna=False), key=_size)


def _size(group: tuple[Any, pd.DataFrame]) -> int:
    """The place of a group among others, the largest first."""
    return -len(group[1])


def failure_rows(ledger: pd.DataFrame, reasons: Mapping[str, str], smallest: int = 1) -> list[dict[str, Any]]:
    """Failed and excluded images by reason and cohort, with the meaning of the reason; of few people no number.

    The sums of rows and columns are known, by the account and by the table of cohorts.
    """
    lost = ledger[ledger["status"] != "ok"]
    groups = {
        str(at): group
        for at, (_, group) in enumerate(sorted(lost.groupby(["status", "reason"], dropna=False), key=_size))
    }
    parts = {
        at: {str(cohort): group[group["cohort"] == cohort] for cohort in lost["cohort"].unique()}
        for at, group in groups.items()
    }
    counts, people = ({at: _counts(mine)[part] for at, mine in parts.items()} for part in (0, 1))
    cells, _ = shown_grid(counts, people, smallest)
    # as in the account, which has the sum of them all
    totals = shown_row(*_counts(groups), smallest)
    rows = []
    for at, group in groups.items():
        by_cohort = sorted(((cohort, count) for cohort, count in counts[at].items() if count), key=lambda one: -one[1])
        listed = ", ".join(f"{cohort} {number(cells[at][cohort])}" for cohort, _ in by_cohort)
        reason = group["reason"].iloc[0]
        known = EXCLUDED if (group["status"] == "excluded").all() else "no reason was recorded"
        meaning = reasons.get(str(reason), known)
        rows.append({"reason": words(reason), "meaning": meaning, "images": totals[at], "cohorts": listed})
    return rows


def cohort_rows(
    images: pd.DataFrame, ledger: pd.DataFrame, excluded: pd.DataFrame, smallest: int = 1
) -> list[dict[str, Any]]:
    """Per cohort: images found, left out and failed, and images by role; of few people no number.

    The sums of rows and columns are known: of columns, by the account of all images.  Counts by role are hidden as on
    the page of the certificate.
    """
    counts, people, whole = {}, {}, {}
    for cohort in dict.fromkeys([*images["cohort"], *ledger["cohort"], *excluded["cohort"]]):
        mine, done = images[images["cohort"] == cohort], ledger[ledger["cohort"] == cohort]
        parts = {"left_out": excluded[excluded["cohort"] == cohort], "failed": done[done["status"] != "ok"]}
        parts |= {role: mine[mine["role"] == role] for role in ROLES}
        counts[cohort], people[cohort] = _counts(parts)
        everyone, found = mine["participant_id"].nunique(), len(done) + len(parts["left_out"])
        whole[cohort] = {
            "participants": shown(everyone, everyone, smallest),
            "found": shown(found, _people(done), smallest),
        }
    roles = {cohort: {role: mine[role] for role in ROLES} for cohort, mine in people.items()}
    cells, told = shown_grid(counts, people, smallest, hidden_roles(roles, smallest))
    for cohort, mine in whole.items():
        if cohort in told:
            mine["found"] = "hidden"
        few = [people[cohort][role] for role in ROLES if isinstance(cells[cohort][role], str)]
        if few and (len(few) == 1 or sum(few) < smallest):
            mine["participants"] = "hidden"
    return [{"cohort": cohort, **mine, **cells[cohort]} for cohort, mine in whole.items()]


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


def version_rows(ledger: pd.DataFrame, weights: Mapping[str, Any], smallest: int = 1) -> list[tuple[str, str]]:
    """Software and versions: of this report, the weights, the engines of usable images, and the installed packages."""
    rows = [
        ("neurotransfer (this report)", __version__),
        ("neurotransfer (weights)", str(weights.get("version", "unknown"))),
    ]
    usable = ledger[ledger["status"] == "ok"]
    groups = list(usable.groupby(["engine", "engine_version"], dropna=False))
    counts = shown_row(*_counts({str(at): group for at, (_, group) in enumerate(groups)}), smallest)
    for ((engine, version), _), count in zip(groups, counts.values(), strict=True):
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
