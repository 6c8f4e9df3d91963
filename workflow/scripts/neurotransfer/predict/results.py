"""The predictions of all scans as one table, its description, and a summary for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import __version__
from ..cache.image_figures import FIGURES
from ..files import digest_of_file, read_table, read_tables, write_json, write_table
from ..manifest.bids import Exclusion
from ..preprocess.reasons import REASONS
from ..study import layout
from ..study.imported_weights import is_unchecked
from ..study.plan import Study
from ..study.targets import CLASSES, UNITS, learnt_targets
from ..text import MISSING, aligned, counted, is_missing
from .run import CORRECTED, OTHER_ENGINE, PREFIX

LEFT_OUT = "left out"
SHOWN = 25  # scans of which each has its line in the summary
REMEDIES = {OTHER_ENGINE: "use outputs of an engine that the weights know: neurotransfer weights show FILE"}


def gather(study: Study, left_out: Sequence[Exclusion], folder: Path = Path()) -> pd.DataFrame:
    """The predictions of all scans, in their order, and a row for each file that was left out.

    Parameters
    ----------
    folder : in which the scans were laid out
    """
    scans = read_table(folder / layout.IMAGES)[["image_id", "t1w"]]
    found = read_tables([folder / layout.PREDICTED.format(shard=shard) for shard in study.shards])
    details = read_tables([folder / path for path in study.ledgers_of(study.shards)])[["image_id", "detail"]]
    table = scans.merge(found, on="image_id", how="left", validate="one_to_one")
    table = table.merge(details, on="image_id", how="left", validate="one_to_one")
    others = pd.DataFrame([(Path(path).name, path, LEFT_OUT, reason, detail) for path, reason, detail in left_out])
    if len(others):
        others.columns = pd.Index(["image_id", "t1w", "status", "reason", "detail"])
        table = pd.concat([table, others], ignore_index=True)
    first = ["image_id", "t1w", "status", "reason", "detail"]
    predictions = [name for name in table if name.startswith(PREFIX)]
    last = ["engine", "engine_version", *FIGURES, "unusual", "why"]
    return table[[*first, *predictions, "flags", *last]]


def write_predictions(table: pd.DataFrame, path: Path, weights: Path, metadata: Mapping[str, Any]) -> None:
    """Write the table, and beside it what its columns mean, in the form of a BIDS sidecar (`.json`)."""
    write_table(table, path)
    write_json(path.with_suffix(".json"), describe(table, weights, metadata))


def describe(table: pd.DataFrame, weights: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What each column means, and what made the table."""
    columns: dict[str, dict[str, str]] = {
        "image_id": {"Description": "the scan"},
        "t1w": {"Description": "its file"},
        "status": {"Description": "ok; failed: see reason and detail; left out: the file is no usable scan"},
        "reason": {"Description": "a code, explained in docs/failures.md and docs/bids.md"},
        "detail": {"Description": "what the engine has noted of the scan"},
        "flags": {"Description": "limits that a figure of the image breaks, and figures unusual among the images that"
                  " the weights learnt from; the prediction of a flagged scan may be wrong"},
        "unusual": {"Description": "largest robust z-score of a figure among the images that the weights learnt from"},
        "why": {"Description": "the figure with this z-score"},
        "engine": {"Description": "what conformed, masked and segmented the scan"},
        "engine_version": {"Description": "its version"},
    }  # fmt: skip
    for target in metadata["targets"]:
        columns[f"{PREFIX}{target['name']}"] = _described_target(target, metadata)
    if CORRECTED in table:
        bias = metadata.get("age_bias")
        text = "(predicted_age - intercept) / slope; see docs/predict.md"
        how = (
            f"{text}; slope {bias['slope']:.4f}, intercept {bias['intercept']:.4f}" if bias else "the weights hold none"
        )
        columns[CORRECTED] = {"Description": f"predicted age without the age bias: {how}", "Units": "years"}
    for name, figure in FIGURES.items():
        columns[name] = {"Description": figure.title, "Units": "mm³" if name == "mask_volume_mm3" else "1"}
    about = {"file": weights.name, "sha256": digest_of_file(weights), "targets": len(metadata["targets"])}
    return {"made_by": {"neurotransfer": __version__, "weights": about}} | {name: columns[name] for name in table}


def _described_target(target: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, str]:
    name = target["name"]
    if name not in learnt_targets(metadata):
        return {"Description": f"{name.replace('_', ' ')} is not predicted, because no training image had it"}
    if target["kind"] == "continuous":
        unit = {"Units": UNITS[name]} if name in UNITS else {}
        return {"Description": f"predicted {name.replace('_', ' ')}", **unit}
    task = metadata.get("task")
    of_class = f"one of {', '.join(task['positive'])}" if task else CLASSES.get(name, "class 1")
    return {"Description": f"probability of {of_class}, if both were as frequent as among the training images"}


def summary(table: pd.DataFrame, out: Path, work: Path, metadata: Mapping[str, Any]) -> str:
    """What a person sees at the end: the scans, what was predicted, what is odd, and where the rest is.

    Parameters
    ----------
    metadata : of the weights
    """
    ok = table[table["status"] == "ok"]
    flagged = int(ok["flags"].notna().sum())
    counts = Counter(table["status"])
    words = [f"{counts['ok']} of {counted(len(table), 'scan')} {'has' if counts['ok'] == 1 else 'have'} predictions"]
    words += [f"{counts[name]} {name}" for name in ("failed", LEFT_OUT) if counts[name]]
    words += [f"{flagged} flagged"] if flagged else []
    lines = [", ".join(words)]
    if len(table) <= SHOWN:
        lines += ["", aligned(_rows(table), "l")]
    elif flagged:
        lines += ["", aligned(_rows(ok[ok["flags"].notna()].head(SHOWN)), "l")]
    lost = table[table["status"] != "ok"]
    if len(lost):
        reasons = [["reason", "scans", "first", "what to do"]]
        for reason, part in lost.groupby("reason", sort=False):
            remedy = (
                REASONS[reason].remedy if reason in REASONS else REMEDIES.get(str(reason), "see detail in the table")
            )
            reasons.append([str(reason), str(len(part)), part["image_id"].iloc[0], remedy])
        lines += ["", aligned(reasons, "lrll")]
    if is_unchecked(metadata):
        lines += [
            "",
            "the weights are unchecked: nothing has shown that they predict what was published (docs/weights.md)",
        ]
    if CORRECTED in table and not table[CORRECTED].notna().any() and len(ok):
        lines += ["", "the weights hold no age bias, so no age is corrected for it"]
    lines += ["", f"predictions: {out} (columns: {out.with_suffix('.json').name})"]
    lines.append(f"images and figures, which show heads: {work}; you can delete it")
    return "\n".join(lines)


def _heading(column: str) -> str:
    name = column.removeprefix(PREFIX)
    unit = CLASSES.get(name) or UNITS.get("age" if column == CORRECTED else name)
    return f"{name} ({unit})".replace("_", " ") if unit else name.replace("_", " ")


def _rows(table: pd.DataFrame) -> list[list[str]]:
    """A header and a line per scan, for a terminal."""
    predictions = [name for name in table if name.startswith(PREFIX) and table[name].notna().any()]
    header = ["scan", *map(_heading, predictions), "  quality"]
    rows = [header]
    for row in table.to_dict("records"):
        values = [MISSING if is_missing(row[name]) else f"{row[name]:.2f}" for name in predictions]
        if row["status"] != "ok":
            note = f"{row['status']}: {row['reason']}"
        else:
            note = MISSING if is_missing(row["flags"]) else str(row["flags"])
        rows.append([row["image_id"], *values, f"  {note}"])
    return [[*row[:-1], row[-1].ljust(max(len(other[-1]) for other in rows))] for row in rows]
