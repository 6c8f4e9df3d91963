"""A model card for exported weights: what they are, from whom, how good, for what, and under which licence.

It has no name of any person, and no count of fewer than 5 people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import __version__
from ..cache.provenance import named_engines
from ..files import read_table
from ..pretrain.training_people import FEWEST
from ..study.imported_weights import is_unchecked
from ..study.targets import CLASSES, UNITS, learnt_targets
from ..text import MISSING, is_missing

SETS = {"validation": "validation: people of the training cohorts who did not train", "holdout": "unseen cohorts"}
CITATIONS = (
    "Leonardsen EH, Wolfers T, Wang Y, Westlye LT. On the Utility of Large-Scale Pretrained Convolutional Neural"
    " Networks in Clinical Neuroimaging, 2025.",
    "Peng H et al. Accurate brain age prediction with lightweight deep neural networks. Medical Image Analysis 2021;"
    " 68: 101871.",
)


def card(metadata: Mapping[str, Any], about: Mapping[str, Any], *, licence: str, metrics: Path) -> str:
    """The card in Markdown.

    Parameters
    ----------
    metadata : of the file of weights
    about : of the export: `file`, `sha256`, `form`, `source`, `checked` (images) and `largest` (difference)
    metrics : the table that evaluation has written, with groups.tsv beside it; it may be missing
    """
    sections = {
        f"Model card: {about['file']}": _what(metadata, about),
        "Input": _input(metadata),
        "Output": _output(metadata, about["form"]),
        "Intended use and limits": _limits(),
        "Training data": _training(metadata),
        "Metrics": _metrics(metadata, metrics),
        "Licence": _licence(metadata, licence),
        "Citation": [f"- {line}" for line in (*CITATIONS, *_source(metadata), f"neurotransfer {__version__}")],
    }
    parts = []
    for at, (title, lines) in enumerate(sections.items()):
        parts.append("\n".join([f"{'#' if at == 0 else '##'} {title}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _what(metadata: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    network = metadata["network"]
    task = metadata.get("task")
    names = ", ".join(name.replace("_", " ") for name in learnt_targets(metadata))
    what = task["title"] if task else names
    yield f"A 3D convolutional network (SFCN) that predicts {what} from a T1-weighted brain MRI."
    yield ""
    widths = ", ".join(map(str, network["channels"]))
    yield f"- blocks of {widths} channels, bottleneck of {network['bottleneck']}, global pooling: {network['pooling']}"
    yield f"- SHA-256: `{about['sha256']}`"
    yield (
        f"- checked against the weights {about['source']} on {about['checked']} images: the largest difference is"
        f" {about['largest']:.1e}"
    )


def _input(metadata: Mapping[str, Any]) -> Iterator[str]:
    crop, made = metadata["crop"], metadata.get("preprocessing", {})
    known = metadata.get("images_made_by")
    size = made.get("voxel_size", MISSING)
    yield f"float32 `[N, 1, {crop[0]}, {crop[1]}, {crop[2]}]`, intensities 0 to 255, 0 outside the brain."
    yield ""
    yield f"- made by: {named_engines(known) if known else 'not recorded'} (conformed image times brain mask)"
    size = " to ".join(map(str, size)) if isinstance(size, list) else size
    yield f"- voxels: {size} mm; axes: left, inferior, anterior"
    yield f"- crop: around the bounding box of the mask, rule {metadata.get('crop_rule', 'bounding_box')}"
    if metadata.get("scaling") == "mean":
        yield "- scaling: the network divides each image by its mean; an ONNX file does so itself"


def _output(metadata: Mapping[str, Any], form: str) -> Iterator[str]:
    yield "`features`, which are pooled, and `predictions`:" if form == "onnx" else "The head's outputs, in this order:"
    yield ""
    yield "| target | value |"
    yield "|---|---|"
    learnt = learnt_targets(metadata)
    for target in metadata["targets"]:
        name = target["name"]
        if name not in learnt:
            value = "none: no training image had it"
        elif target["kind"] == "binary":
            value = f"probability of {_class_1(metadata, name)}"
            value = value if form == "onnx" else f"logit of the {value}"
        elif target.get("bins") and form != "onnx":
            value = f"{target['bins'][2]} logits of bins from {target['bins'][0]}, {target['bins'][1]} wide"
        else:
            value = UNITS.get(name, "points")
        yield f"| {name.replace('_', ' ')} | {value} |"
    if bias := metadata.get("age_bias"):
        yield ""
        line = f"(age − {bias['intercept']:.4f}) / {bias['slope']:.4f}"
        yield (
            f"Age without the age bias: {line}, fitted to {bias['images']} validation images (Cole et al., 2018,"
            " doi:10.1038/mp.2017.62)."
        )


def _class_1(metadata: Mapping[str, Any], name: str) -> str:
    task = metadata.get("task")
    if not task:
        return CLASSES.get(name, "1")
    return f"{' or '.join(task['positive'])} against {' or '.join(task['negative'])}"


def _limits() -> list[str]:
    return [
        "For research: predictions of groups, features for other models, a start for further training.",
        "",
        "- It is no medical device, and no basis for a decision about a person.",
        "- It holds for images that are preprocessed as above, of people like those below. Check others before use.",
        "- Probabilities hold for classes as frequent as in training.",
        "- Weights can hold traces of the images that they learnt from. Those who gave the images decide whether the"
        " weights may be passed on.",
    ]


def _training(metadata: Mapping[str, Any]) -> Iterator[str]:
    training, people = metadata.get("training", {}), metadata.get("people")
    if {"images", "participants"} <= training.keys() and training["participants"] >= FEWEST:
        yield f"{training['images']:,} images of {training['participants']:,} people."
        yield ""
    safe = [cell for cell in people or () if cell["participants"] >= FEWEST]
    if not safe:
        yield "By cohort and age: not recorded in the file of weights."
        return
    yield "| cohort | age (years) | people | images |"
    yield "|---|---|--:|--:|"
    for cell in safe:
        yield f"| {cell['cohort']} | {cell['ages']} | {cell['participants']:,} | {cell['images']:,} |"


def _metrics(metadata: Mapping[str, Any], path: Path) -> list[str]:
    lines = list(_of_task(metadata.get("training", {}))) if "task" in metadata else []
    if is_unchecked(metadata):
        lines += ["Imported and unchecked: nothing has shown that it predicts what was published.", ""]
    if "task" not in metadata and path.is_file():
        table = read_table(path)
        for split, words in SETS.items():
            lines += _table(words, table[table["split"] == split], ["target"])
        groups = path.with_name("groups.tsv")
        if groups.is_file():
            table = read_table(groups)
            table = table[(table["split"] == "holdout") & (table["by"] == "cohort")]
            lines += _table("each unseen cohort", table, ["group", "target"])
    return lines or [f"Not known here: there was no {path.name} of the evaluation beside the file of weights."]


def _table(title: str, table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Metrics with 95 % bootstrap intervals over people; rows of fewer than 5 people are left out."""
    table = table[table["participants"] >= FEWEST]
    if table.empty:
        return []
    lines = [f"{title[0].upper()}{title[1:]} (95 % bootstrap intervals over people):", ""]
    header = " | ".join([*names, "metric", "value", "interval", "people"])
    lines += [f"| {header} |", f"|{'---|' * len(names)}---|--:|--:|--:|"]
    for row in table.to_dict("records"):
        bounds = [MISSING if is_missing(row[end]) else f"{row[end]:.3f}" for end in ("low", "high")]
        cells = [str(row[name]).replace("_", " ") for name in names]
        cells += [row["metric"], f"{row['value']:.3f}", " to ".join(bounds), f"{row['participants']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _of_task(training: Mapping[str, Any]) -> Iterator[str]:
    if expected := training.get("expected_test_auc"):
        yield (
            "Not tested itself, because it has learnt from every image. The"
            f" {expected['replicates']} replicates that trained on {expected['n']} images have a median test AUC of"
            f" {expected['median']:.3f}; 95 % of them lie between {expected['low']:.3f} and {expected['high']:.3f}."
        )
    elif "test_auc" in training:
        yield (
            f"One fit on {training['n']} images drawn with replacement: validation AUC"
            f" {training['validation_auc']:.3f}, test AUC {training['test_auc']:.3f}. One fit has no interval."
        )


def _licence(metadata: Mapping[str, Any], licence: str) -> Iterator[str]:
    yield f"{licence}, chosen by those who exported the file."
    if source := metadata.get("source", {}).get("licence"):
        yield ""
        yield f"The weights were imported from a source under: {source}. Its conditions hold, too."


def _source(metadata: Mapping[str, Any]) -> list[str]:
    citation = metadata.get("source", {}).get("citation")
    return [citation] if citation else []
