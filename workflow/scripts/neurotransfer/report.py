"""One self-contained page from the tables: the answer first, then figures, trust and methods.

It names no participant and no image, so it can be mailed, and it needs nothing beside itself: figures are in
it, and nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from . import __version__
from .certificate import duplicates_in_words
from .conclusions import Verdict, answer, verdicts
from .figures import FAINT, INK, MODELS, PAPER, SOFT
from .files import read_table
from .methods import REFERENCES, methods

# The figures' inks on a dark page; the files beside the page stay as they are
DARK = {INK: "#E6EDF3", SOFT: "#9AA7B4", FAINT: "#30363D", PAPER: "#161B22", MODELS["linear"][0]: "#56B4E9"}
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "nibabel", "SimpleITK", "nilearn", "matplotlib")
MISSING = "–"
LOST = {"failed": "failed", "excluded": "left out by quality control"}  # between the manifest and the index
EXCLUDED = "beyond a limit of quality.exclude, see results/quality"


def content(
    tables: Mapping[str, pd.DataFrame],
    *,
    ledger: pd.DataFrame,
    certificate: Mapping[str, Any],
    weights: Mapping[str, Any],
    figures: Mapping[str, str],
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    tasks: Mapping[str, Mapping[str, Any]],
    run: str,
    reasons: Mapping[str, str],
    seen: Collection[str] | None = None,
    withdrawn: int | None = 0,
    unknown: str = "",
) -> dict[str, Any]:
    """Everything that the page shows, as plain texts and numbers for the template.

    Parameters
    ----------
    tables : images (of the split), excluded, metrics, medians, comparisons, settings and resamples
    ledger : of preprocessing, all jobs' together, with a column `cohort`
    certificate : of the split
    weights : metadata of the pretrained weights
    figures : by name ("figure1", "figure2"), a data address
    config, defaults : the study's configuration, and the paper's to compare it with
    tasks : the configuration's tasks that are on
    run : "multitask", or "given" where weights took the place of pretraining
    reasons : what the codes of failed images mean
    seen : this study's participants who are behind given weights; None where that can't be known
    withdrawn : how many people who have withdrawn are behind the weights; None where nothing can tell
    unknown : why whom they have seen can't be known
    """
    gone = ledger["status"] == "withdrawn"
    ledger = ledger[~gone]
    medians, comparisons = tables["medians"], tables["comparisons"]
    chosen = {name: config["statistics"][name] for name in ("alpha", "statistic")}
    found = verdicts(comparisons, **chosen)
    replicates = sorted(set(medians["replicates"]))
    return {
        "study": config["study"],
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
        "metrics": metric_groups(tables["metrics"]),
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
    return environment.get_template(template).render(version=__version__, **content)


def embed(path: str | Path) -> str:
    """An SVG file as a data address whose inks follow the reader's light or dark theme."""
    svg = Path(path).read_text(encoding="utf-8")
    rules = [
        f'[style*="{name}: {light.lower()}"]{{{name}:{dark}!important}}'
        for light, dark in DARK.items()
        for name in ("fill", "stroke")
    ]
    style = f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"
    head, tag, rest = svg.partition("<defs>")
    return "data:image/svg+xml;base64," + base64.b64encode(f"{head}{style}{tag}{rest}".encode()).decode()


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
            for model in MODELS:
                if (task, n, model) in auc.index:
                    row = auc.loc[(task, n, model)]
                    # of one replicate there is no interval
                    between = interval(row["low"], row["high"]) if row["replicates"] > 1 else MISSING
                    models[model] = {"median": f"{row['median']:.3f}", "interval": between}
            highest = max((cell["median"] for cell in models.values()), default=None)
            for cell in models.values():
                cell["highest"] = cell["median"] == highest
            tests = {other: verdict.get((task, n, other)) for other in ("baseline", "linear")}
            rows.append({"n": int(n), "models": models, "tests": tests})
        groups.append({"title": tasks[task].get("title", task), "rows": rows})
    return groups


def comparison_groups(
    comparisons: pd.DataFrame, found: Sequence[Verdict], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Per task, a row per n and pair of models: differences, interval, p-values and the verdict."""
    rows = [
        row
        | {
            "mean": signed(row["mean_difference"]),
            "median": signed(row["median_difference"]),
            "interval": interval(row["low"], row["high"], sign=True),
            "p": p_text(row["p_two_sided"]),
            "holm": p_text(row["p_holm"]),
            "verdict": verdict,
        }
        for row, verdict in zip(comparisons.to_dict("records"), found, strict=True)
    ]
    titles = {task: settings.get("title", task) for task, settings in tasks.items()}
    return [{"title": titles[task], "rows": [row for row in rows if row["task"] == task]} for task in tasks]


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


def metric_groups(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, its metrics on validation and on unseen cohorts beside the dummy's, ready to show."""
    labels = {"mae": "MAE", "rmse": "RMSE", "r": "R", "auc": "AUC", "accuracy": "accuracy"}
    units = {"age": "years", "bmi": "kg/m²"}
    groups = []
    for target, mine in metrics.groupby("target", sort=False):
        rows = []
        for metric, part in mine.groupby("metric", sort=False):
            unit = f", {units[target]}" if target in units and metric in ("mae", "rmse") else ""
            row: dict[str, Any] = {"metric": labels.get(metric, metric) + unit}
            for found in part.to_dict("records"):
                value, dummy = (
                    MISSING if pd.isna(found[name]) else f"{found[name]:.3f}" for name in ("value", "dummy")
                )
                cell = {"value": value, "dummy": dummy, "interval": interval(found["low"], found["high"])}
                row[found["split"]] = cell
            rows.append(row)
        name = words(target)
        sizes = mine.drop_duplicates("split").set_index("split")[["observations", "participants"]]
        groups.append({"target": "BMI" if name == "bmi" else name, "rows": rows, "sizes": sizes.to_dict("index")})
    return groups


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
    return sorted(groups, key=lambda group: list(MODELS).index(group["model"]))


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
