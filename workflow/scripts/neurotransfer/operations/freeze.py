"""The analysis plan of a study, written before its first fit as one Markdown file that a person can register.

Goes in: the configuration, the manifest and, if there is one, the certificate.  Comes out: `analysis-plan.md` in the
study's folder, text for people with the facts as JSON at its end.  It names no person, no image and no folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..files import digest_of_file, read_json, write_text
from ..fit.covariates import in_words
from ..fit.settings import all_settings
from ..report.analysis_plan import CLASSES, facts_of_study, pool_counts
from ..report.public import check_public, private_names
from ..report.verdicts import TEST_NAMES, listed
from ..split.resampling import sizes
from ..statistics.aggregation import PAIRS, pairs_of
from ..study import layout
from ..study.plan import MODELS, Study, seconds_of
from ..text import number
from .plan import images_of_manifest, roles_of

DIFFERENCE = " − "


def freeze(config: Mapping[str, Any], study: Study, now: datetime | None = None) -> str:
    """Write the analysis plan of the study in the current folder.

    Parameters
    ----------
    now : the time that the plan states; by default that of the call, in UTC

    Returns
    -------
    what a person does next

    Raises
    ------
    InputError
        if there is a plan or a fit already, or if the plan would name a person, a path or a user
    """
    path = Path(layout.ANALYSIS_PLAN)
    if path.exists():
        what = "there is an analysis plan already"
        raise InputError(path, "", what, "keep it: the report says what has changed since; or move it away first")
    if found := next(_results(), None):
        what = "a fit has been made, so a plan written now would not be from before the first one"
        raise InputError(found, "", what, "go on without a plan, or freeze a new study in a folder of its own")
    certificate = read_json(layout.CERTIFICATE) if Path(layout.CERTIFICATE).is_file() else None
    images = images_of_manifest()
    images["role"] = roles_of(images, study, config)
    facts = facts_of_study(config, certificate, pool_counts(images, study, config))
    facts["written"] = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    text = plan_text(config, study, facts)
    check_public(path, text, private_names(config))
    write_text(path, text)
    return (
        f"written: {path}\nSHA-256: {digest_of_file(path)}\n"
        "register this file, such as on osf.io or with your ethics committee, before you run snakemake"
    )


def _results() -> Iterator[Path]:
    """Fits, and what is made from them."""
    fits = chain.from_iterable(Path(folder).rglob("*.json") for folder in (layout.FITS, layout.SECOND_SEEDS))
    return chain(fits, (Path(path) for path in (layout.AUCS, layout.REPORT) if Path(path).is_file()))


def plan_text(config: Mapping[str, Any], study: Study, facts: Mapping[str, Any]) -> str:
    """The plan as Markdown.

    Parameters
    ----------
    facts : from `facts_of_study`, with `written`
    """
    parts = [
        f"# Analysis plan: {_inline(config['study'])}",
        f"Written on {facts['written']} by neurotransfer {__version__}, when the study's folder held no fit.",
        "## Question",
        "Is a network that was pretrained (transfer) better than the same network from random weights (baseline), and "
        "than logistic regression on regional volumes (linear), in tasks with few training images?",
        "## Tasks",
        *_tasks(study, facts),
        "## Fits",
        *_fits(config, study),
        "## Primary comparisons",
        *_primary(config, study),
        "## Secondary",
        *_secondary(config, study),
        "## Who is left out",
        "\n".join(f"- {line}" for line in _exclusions(config)),
        "## Digests",
        "\n".join(f"- {line}" for line in _digests(facts)),
        "## The same for a program",
        f"```json\n{json.dumps(facts, indent=1, sort_keys=True, allow_nan=False)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _inline(text: object) -> str:
    """A text of the configuration on one line, without what Markdown would take for a table or for code."""
    return " ".join(str(text).split()).replace("|", "/").replace("`", "'")


def _tasks(study: Study, facts: Mapping[str, Any]) -> Iterator[str]:
    rows = ["| task | positive | negative | images | participants |", "|---|---|---|---|---|"]
    for name, task in study.tasks.items():
        classes = [_inline(", ".join(map(str, task[kind]))) for kind in CLASSES]  # type: ignore[call-overload]
        pool = facts["pools"][name]
        counts = [" + ".join(number(pool[what][kind]) for kind in CLASSES) for what in ("images", "participants")]
        title = f"{_inline(task.get('title', name))} ({name})"
        rows.append(f"| {' | '.join((title, *classes, *counts))} |")
    yield "\n".join(rows)
    counted = (
        "the certified images" if facts["certificate_sha256"] else "the manifest: images that fail will be missing"
    )
    yield f"Images and participants of each pool, positive + negative, counted from {counted}."


def _fits(config: Mapping[str, Any], study: Study) -> Iterator[str]:
    resampling, models = config["resampling"], config["models"]
    drawn = ", ".join(f"{n} ({sizes(n, resampling)[1]}, {sizes(n, resampling)[2]})" for n in study.n)
    count = len(study.replicates)
    yield (
        f"Training images n (validation, test images): {drawn}. {number(count)} replicates of each task and n: "
        "training images with replacement, the others without, from participants not drawn yet, of those that "
        "pretraining never saw."
    )
    options = {
        "by": "Test sets by participant" if resampling["by"] == "participant" else "Test sets of cohorts of their own",
        "one": "one image of each participant in a replicate" if resampling["per_participant"] == "one" else "",
        "stratify": "each set with the pool's share of positive images" if resampling["stratify"] else "",
    }
    yield f"{', '.join(text for text in options.values() if text)}."
    tried = listed(f"{len(all_settings(models[model]['settings']))} ({model})" for model in MODELS)
    seconds = seconds_of(count, resampling["second_seeds"])
    again = f" The networks of {seconds} replicates are fitted once more with another seed." if seconds else ""
    yield (
        f"Settings tried in each fit: {tried}. The one with the highest validation AUC is scored once on the test "
        f"images; the outcome is its test AUC.{again}"
    )


def _primary(config: Mapping[str, Any], study: Study) -> Iterator[str]:
    statistics = config["statistics"]
    comparisons = len(study.tasks) * len(study.n) * len(PAIRS)
    yield (
        f"For each task and each n: {listed(DIFFERENCE.join(pair) for pair in PAIRS)}. These are {comparisons} "
        "comparisons, the primary family. Each question has one test, two-sided, adjusted by Holm over the family:"
    )
    yield (
        "| question | test | of the replicates' differences in AUC |\n|---|---|---|\n"
        f"| this pool of images | {TEST_NAMES['sign_flip']}, {statistics['permutations']:,} sign patterns at most | "
        f"{statistics['statistic']} |\n"
        f"| the population that it comes from | {TEST_NAMES['population']}, Student's t | mean |"
    )
    yield (
        f"Better or worse: an adjusted p below {statistics['alpha']:g}. Anything else is “not distinguishable”. "
        f"Intervals are at 95 %, by {statistics['bootstrap']:,} bootstrap draws or more."
    )


def _secondary(config: Mapping[str, Any], study: Study) -> Iterator[str]:
    further = [pair for pair in pairs_of([*MODELS, *study.further]) if pair not in PAIRS]
    if further:
        yield (
            f"Further arms: {listed(study.further)}. For each task and n: "
            f"{listed(DIFFERENCE.join(pair) for pair in further)}. These "
            f"{len(study.tasks) * len(study.n) * len(further)} comparisons are a second family, adjusted apart by the "
            "same tests."
        )
    yield (
        f"Described beside them, without a verdict: logistic regression on {in_words(config['models']['covariates'])} "
        "(covariates) and on cohort and scanner (site), gains over the covariates, AUCs within strata and subgroups, "
        "calibration, thresholds, and learning curves with their worth in scans."
    )


def _plain(value: float) -> str:
    """A limit without an exponent and with separators of thousands: 0.05, 2,800,000."""
    return number(int(value) if float(value).is_integer() else value)


def _exclusions(config: Mapping[str, Any]) -> Iterator[str]:
    yield "People and images of the list of withdrawals, whenever they withdraw."
    yield "Images without a diagnosis of the task or a row in their cohort's table, or that preprocessing fails on."
    for figure, limits in config["quality"]["exclude"].items():
        set_limits = [f"{name} {_plain(value)}" for name, value in limits.items() if value is not None]
        if set_limits:
            yield f"Images beyond a limit of {figure}: {', '.join(set_limits)}."
    yield "From the tasks: participants who pretrain. From pretraining: diagnoses other than " + (
        f"{listed(map(_inline, config['split']['healthy']))}." if config["split"]["healthy"] else "missing ones."
    )
    if config["manifest"]["converters"] == "exclude":
        yield "Participants with images of both classes of a task."
    else:
        yield "Nobody for a diagnosis that changes: each image has that of its session."
    confounding, waived = config["confounding"], config["confounding"]["waived"]
    yield (
        f"Tasks whose label cohort or scanner predict with an AUC of {confounding['refused_from']:g} or more"
        f"{f', except {listed(waived)}' if waived else ''}."
    )


def _digests(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"SHA-256 of the configuration, as listed below: `{facts['configuration_sha256']}`"
    certificate = facts["certificate_sha256"]
    yield (
        f"SHA-256 of the digests of all certified files: `{certificate}`"
        if certificate
        else "There was no certificate of the split yet, so the plan does not fix which images are used."
    )
    for key, digest in facts["files_sha256"].items():
        yield f"SHA-256 of the file that {key} names: `{digest}`"
