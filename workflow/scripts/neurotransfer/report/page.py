"""The report: one self-contained page from the tables; the answer first, then figures, trust and methods.

It names no participant and no image, and no cell of its tables is of few people, so it can be sent by mail.  Figures
and their files are inside the page; it loads nothing, and its Content-Security-Policy forbids the browser to load
anything.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from .. import pages
from ..files import read_table
from ..fit.covariates import in_words
from ..split.certificate import duplicates_in_words, statement
from ..split.roles import ROLES
from ..statistics.aggregation import of_paper
from ..statistics.inference import PRIMARY
from ..study import layout
from ..study.plan import further_models
from . import answer_tables, classifier_tables, confounding_tables, pretraining_tables, trust_tables
from .cells import sample, shown
from .colours import DARK, PUBLISHED
from .counts import hidden_in_report
from .methods_text import methods
from .references import bibliography
from .verdicts import answer, verdicts

MIME = {"svg": "image/svg+xml", "png": "image/png", "tsv": "text/tab-separated-values", "tsv.gz": "application/gzip"}
LEAST_TEXT = 12  # CSS pixels, which are 9 points
# sheets by the CSS pixels of a figure's width and height on them: A4 upright and across, beside caption and title
SHEETS = {"upright": (718, 800), "across": (1062, 590)}
LARGEST_SHEET = "large"  # A3
LARGE = 2**20  # bytes; larger tables are compressed in the page


def report_content(
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
    plan: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    rules: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The variables of the page's template: texts and numbers.

    Parameters
    ----------
    tables : images (of the split), excluded, metrics, groups, calibration, medians, comparisons, worth, search,
        settings, resamples, confounding, within, gains, sets, classifiers, calibration_curves, subgroups and
        published (the paper's numbers, with their source)
    ledger : of all preprocessing jobs, with a column `cohort`, see `read_ledgers`
    certificate : of the split
    weights : metadata of the pretrained weights
    figures : by name ("figure1" to "figure3"), from `embed`
    config, defaults : the study's configuration, and the paper's for comparison
    tasks : the configuration's enabled tasks
    run : "multitask", or "given" if the weights were given instead of pretrained
    reasons : the meaning of each failure code
    seen : this study's participants on whom given weights were trained; None if unknown
    withdrawn : number of withdrawn participants on whom the weights were trained; None if unknown
    unknown : the reason why `seen` is unknown
    plan : whether the results follow the analysis plan, from analysis_plan.conformity; None if there is none
    stages, rules : the costs, from costs.by_stage and costs.summary
    """
    several = certificate.get("same_people", {})
    gone = ledger["status"] == "withdrawn"
    ledger = ledger[~gone]
    medians, comparisons = tables["medians"], tables["comparisons"]
    chosen = {name: config["statistics"][name] for name in ("alpha", "statistic")}
    smallest = config["report"]["smallest_cell"]
    found = {test: verdicts(comparisons, **chosen, test=test) for test in PRIMARY}
    replicates = sorted(set(medians["replicates"]))
    of_images = (tables["images"], ledger, tables["excluded"])
    hidden = hidden_in_report(*of_images, smallest)
    metrics = pretraining_tables.without_rare_class(tables["metrics"], tables["images"], smallest)
    without = {role for role in ROLES if ("role", role) in hidden}
    left = {
        "images": shown(int(gone.sum()), int(gone.sum()), smallest),  # of how many people is not known any more
        "behind_weights": None if withdrawn is None else shown(withdrawn, withdrawn, smallest),
        "weights": weights_name(config, run),
    }
    counted = trust_tables.are_engines_counted(ledger, smallest, all_shown=("usable",) not in hidden)
    paragraphs, cited = methods(config, run, weights, tasks, ledger, without if counted else {*without, "engines"})
    return {
        "study": config["study"],
        "missing": answer_tables.missing_fits(medians, config, tasks),
        "given": run == "given",
        "seen": None if seen is None else len(seen),
        "published": trust_tables.published_weights(weights),
        "withdrawn": left,
        "unknown": unknown,
        "plan": plan,
        "simulated": bool(config["report"]["truth"]),
        "replicates": " to ".join(str(count) for count in dict.fromkeys((replicates[0], replicates[-1]))),
        **chosen,
        "sentences": answer(comparisons, medians, tasks, **chosen),
        "results": answer_tables.result_groups(
            pd.concat([medians, confounding_tables.site_alone(tables["confounding"])]), found, tasks
        ),
        "sites": confounding_tables.site_groups(
            certificate.get("confounding", {}), config["confounding"], tasks, smallest
        ),
        "within": confounding_tables.within_groups(tables["confounding"], tasks),
        "differences_within": confounding_tables.difference_groups(tables["within"], tasks),
        "strata": confounding_tables.names_of_strata(tables["confounding"]),
        "gains": confounding_tables.gain_groups(tables["gains"], tasks),
        "sets": confounding_tables.set_groups(tables["sets"], tasks, smallest),
        "covariates": in_words(config["models"]["covariates"]),
        "age_band": config["split"]["age_band"],
        "classifiers": classifier_tables.figure_groups(tables["classifiers"], tasks),
        "subgroup_aucs": classifier_tables.subgroup_rows(tables["subgroups"], tasks),
        "curves": classifier_tables.curve_groups(tables["calibration_curves"], tasks),
        "files_of_classifiers": classifier_tables.files(tables),
        "comparisons": answer_tables.comparison_groups(comparisons, found, tasks),
        "count": int(of_paper(comparisons).sum()),
        "further": further_models(medians["model"]),
        "further_count": int((~of_paper(comparisons)).sum()),
        "exact": bool(comparisons["exact"].all()),
        "permutations": int(comparisons["permutations"].max()),
        "figures": figures,
        "alt": answer_tables.alternative(medians, tasks),
        "worth": answer_tables.worth_groups(tables["worth"], tasks),
        "search": answer_tables.search_groups(tables["search"], tasks),
        "seed_sd": answer_tables.noise_of_starts(medians),
        "metrics": pretraining_tables.metric_groups(
            metrics, tables["published"], smallest, pretraining_tables.sizes_hidden(tables["images"], smallest, without)
        ),
        "sources": sorted({text.partition(",")[0] for text in tables["published"]["source"]}),
        "known": pretraining_tables.known_targets(
            tables["images"], [name for name in config["targets"] if name in tables["images"]], smallest, without
        ),
        "subgroups": pretraining_tables.subgroups(
            pretraining_tables.shown_groups(tables["groups"], tables["metrics"], tables["images"], smallest), smallest
        ),
        "calibration": pretraining_tables.calibration_groups(tables["calibration"], smallest),
        "certificate": certificate,
        "samples": {role: sample(known, smallest, role in without) for role, known in certificate["counts"].items()},
        "statement": statement(
            certificate["counts"], certificate["waived_scans"], smallest, several.get("people", 0), without
        ),
        "smallest": smallest,
        "duplicates": duplicates_in_words(
            certificate["duplicates"], several.get("pairs", 0), smallest, is_hidden=("usable",) in hidden
        ),
        "accounting": trust_tables.accounting(ledger, tables["excluded"], tables["images"], smallest, hidden),
        "failures": trust_tables.failure_rows(ledger, reasons, smallest, hidden),
        "cohorts": trust_tables.cohort_rows(*of_images, smallest, hidden),
        "resamples": trust_tables.resample_groups(tables["resamples"], tasks),
        "settings": trust_tables.setting_groups(tables["settings"]),
        "versions": trust_tables.version_rows(ledger, weights, smallest, all_shown=("usable",) not in hidden),
        "mixed": trust_tables.mixed_versions(ledger, weights),
        "seeds": [("study", config["seed"]), *((task["title"], task["seed"]) for task in tasks.values())],
        "configuration": trust_tables.configuration_lines(config, defaults),
        "methods": paragraphs,
        "cited": cited,
        "bibliography": pages.address(bibliography(cited).encode(), "application/x-bibtex"),
        "stages": stages,
        "rules": rules,
        "retries": sum(stage["retried"] for stage in stages),
    }


def weights_name(config: Mapping[str, Any], run: str) -> str:
    """The weights' file as shown on the page, without its folder."""
    return Path(config["pretrain"]["weights"]).name if run == "given" else layout.weights(run)


def read_ledgers(paths: Iterable[str | Path], quality: Iterable[str | Path] = ()) -> pd.DataFrame:
    """The ledgers of preprocessing, ``<cohort>-<number>/<job>.tsv``, as one table with a column `cohort`.

    Images that the tables in `quality` exclude get the status "excluded", with the rule as their reason.
    """
    parts = [read_table(path).assign(cohort=Path(path).parent.name.rpartition("-")[0]) for path in paths]
    ledger = pd.concat(parts, ignore_index=True).astype({"reason": object})
    for path in quality:
        judged = read_table(path)
        rules = judged[judged["status"] == "excluded"].set_index("image_id")["reason"]
        rows = ledger["image_id"].isin(rules.index)
        ledger.loc[rows, "status"], ledger.loc[rows, "reason"] = "excluded", ledger.loc[rows, "image_id"].map(rules)
    return ledger


def report_html(content: Mapping[str, Any]) -> str:
    """The report's page; its Content-Security-Policy names the digest of the only script that may run."""
    return pages.render({"inks": DARK, **content}, "report.html.j2", "report.js")


def embed(stem: str | Path) -> dict[str, Any]:
    """A figure for the page: its drawing as markup, and ``<stem>.svg``, ``.png`` and ``.tsv`` as data addresses.

    Returns
    -------
    viewbox : of the drawing
    least_width : CSS pixels from which on its smallest text has LEAST_TEXT
    paper : the sheet on which its smallest text has LEAST_TEXT when it is printed: upright, across or large
    drawing : the content of the ``<svg>`` element; its ids begin with the figure's name, so they are unique in the page
    overlay : whether the drawing has published medians, which are hidden until a reader shows them
    files : `name`, `ending` and data `address` of each file; a large table is compressed
    numbers : what is drawn except single replicates, from summary_rows
    """
    stem = Path(stem)
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", stem.with_suffix(".svg").read_text("utf-8"), flags=re.S)
    head, _, body = text.partition("</style>")  # the end of matplotlib's only style, which the page's own replaces
    viewbox = re.search(r'viewBox="([-\d. ]+)"', head)[1]  # type: ignore[index]  # matplotlib writes one
    sizes = [100 * float(scale) for scale in re.findall(r"scale\((0\.\d+) -0\.\d+\)", body)]  # of texts, in units of it
    width, height = map(float, viewbox.split()[2:])
    least_width = math.ceil(width * LEAST_TEXT / min(sizes, default=LEAST_TEXT))
    least_height = least_width * height / width
    paper = next((name for name, (w, h) in SHEETS.items() if least_width <= w and least_height <= h), LARGEST_SHEET)
    body = body.removeprefix("\n").lstrip().removeprefix("</defs>").rpartition("</svg>")[0]
    body = body.replace('style="display: none"', f'class="{PUBLISHED}"')
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{stem.name}-", body)
    files = []
    for ending in ("svg", "png", "tsv"):
        data = stem.with_suffix(f".{ending}").read_bytes()
        if ending == "tsv" and len(data) > LARGE:
            ending, data = "tsv.gz", gzip.compress(data, mtime=0)
        files.append({"name": f"{stem.name}.{ending}", "ending": ending, "address": pages.address(data, MIME[ending])})
    overlay = f'class="{PUBLISHED}"' in body
    numbers = summary_rows(read_table(stem.with_suffix(".tsv")))
    known = {"viewbox": viewbox, "least_width": least_width, "paper": paper, "drawing": Markup(body)}
    return {**known, "overlay": overlay, "files": files, "numbers": numbers}


def summary_rows(table: pd.DataFrame) -> dict[str, list[Any]]:
    """A figure's table for reading: `columns` that hold anything, and `rows` as texts; without single replicates."""
    if "replicate" in table:
        table = table[table["replicate"].isna()]
    table = table.dropna(axis="columns", how="all")
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return {"columns": [name.replace("_", " ") for name in table], "rows": rows}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:.4g}".replace("inf", "∞").replace("-", "−")
