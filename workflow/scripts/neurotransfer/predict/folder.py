"""The folder of a prediction: scans laid out as a small study, which the workflow's rules or one process work on.

Goes in: scans, weights and a configuration.  Comes out: a manifest of one cohort, and a file of overrides with the
engine, voxel size, crop and network of the weights.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..cache.provenance import BOUNDING_BOX, PYMENT
from ..errors import InputError
from ..files import digest_of_file, read_facts, table_text, write_text
from ..manifest.compile import COLUMNS, assign_shards, read_assignments
from ..preprocess.engines import EngineInput, open_engine
from ..preprocess.engines.fastsurfer import OPTIONS
from ..pretrain.weights import SCALING, check_made_by, check_weights, read_weights
from ..study import layout
from ..study.configuration import check_config, load_config, merge
from ..study.demands import images_per_job
from ..study.documents import read_document
from ..study.plan import digest_of_cohorts
from ..study.targets import TARGETS

COHORT = "scans"
CONFORMED = 1.0  # mm, the voxel size if weights know a range of them
PER_SHARD = 64  # scans in one cache file, and so in one job of each rule
ACCEPT = "or, if other images will do, give a --configfile with pretrain: {accept_other_preprocessing: true}"


@dataclass(frozen=True)
class Request:
    """What is asked for: the weights' metadata, the whole configuration, and the part of it that the weights decide."""

    metadata: Mapping[str, Any]
    config: dict[str, Any]
    overrides: Mapping[str, Any]


def read_request(
    repository: Path, overlays: Sequence[Path], weights: Path, scans: pd.DataFrame, engine: str | None
) -> Request:
    """The configuration of a prediction, checked against the weights.

    Parameters
    ----------
    overlays : the user's files; what they say of crop, voxel size or engine must be what the weights were made with
    weights : the file
    engine : asked for; None for the one that the weights learnt from, or existing outputs if the scans name them

    Raises
    ------
    InputError
        if the weights do not know the engine, the crop or the voxel size
    """
    if not weights.is_file():
        raise InputError(weights, "", "there is no such file of weights", "correct --weights")
    _, metadata = read_weights(weights)
    if (
        not isinstance(metadata.get("crop"), list)
        or not {"voxel_size", "grid"} <= metadata.get("preprocessing", {}).keys()
    ):
        what = "its metadata does not say crop, voxel size and grid"
        raise InputError(weights, "", what, "pretrain or import the weights with this version")
    own: dict[str, Any] = {}
    for overlay in overlays:
        merge(own, read_document(overlay))
    _check_own(own, metadata, weights)
    overrides = _overrides(own, metadata, weights, _engine(metadata, weights, scans, engine, own))
    config = load_config(repository, overlays)
    merge(config, overrides)
    if config["preprocessing"]["engine"] != "derivatives":
        _check_version(config, metadata, weights)
    check_config(config, repository / "workflow/schemas", [repository / "config/config.yaml", *overlays])
    return Request(metadata, config, overrides)


def _check_version(config: Mapping[str, Any], metadata: Mapping[str, Any], weights: Path) -> None:
    """Refuse the configured engine if the weights do not know it, or know other versions of it only."""
    engine, version = open_engine(config["preprocessing"]).made_by(EngineInput("", Path()))
    accept = config["pretrain"]["accept_other_preprocessing"]
    try:
        check_made_by(metadata, [[engine, version]], weights, accept=accept)
    except InputError as error:
        known = metadata.get("images_made_by") or ()
        versions = [other for name, other in known if name == engine and _runs(other)]
        fix = "give --derivatives for outputs of an engine that they know"
        if versions and engine == "fastsurfer":
            fix = f"give a --configfile with preprocessing: {{fastsurfer: {{version: {versions[0]}}}}}"
        elif others := sorted({name for name, _ in known} & {"builtin", "fastsurfer"} - {engine}):
            fix = f"give --engine {others[0]}"
        raise InputError(weights, "images_made_by", error.what, f"{fix}; {ACCEPT}") from None


def _runs(version: str) -> bool:
    """Whether this program runs a version of FastSurfer; the authors' 2.0.1 is too old."""
    return version.rpartition(".")[0] in OPTIONS


def _check_own(own: Mapping[str, Any], metadata: Mapping[str, Any], weights: Path) -> None:
    """Refuse a crop or a voxel size of the user's that the weights were not made with."""
    expected: dict[str, Any] = {}
    if crop := own.get("cache", {}).get("crop"):
        expected["crop"] = list(crop)
    if asked := own.get("preprocessing", {}).get("voxel_size"):
        expected["preprocessing.voxel_size"] = asked
    check_weights(metadata, expected, weights)


def _engine(
    metadata: Mapping[str, Any], weights: Path, scans: pd.DataFrame, asked: str | None, own: Mapping[str, Any]
) -> str:
    has_outputs = scans["derivatives"].notna()
    asked = asked or own.get("preprocessing", {}).get("engine")
    if asked == "derivatives" and not has_outputs.all():
        missing = scans.loc[~has_outputs, "image_id"].iloc[0]
        fix = "give --derivatives, such as derivatives/sub-{participant}, or a list with the column derivatives"
        raise InputError("--engine", "derivatives", f"no folder of outputs is named for {missing}", fix)
    if asked or has_outputs.all():
        return asked or "derivatives"
    known = sorted({name for name, _ in metadata.get("images_made_by") or ()} & {"builtin", "fastsurfer"})
    if len(known) == 1:
        return known[0]
    pairs = ", ".join(" ".join(pair) for pair in metadata.get("images_made_by") or ()) or "engines they do not name"
    fix = "give --engine fastsurfer or builtin, or --derivatives for existing outputs"
    raise InputError(weights, "images_made_by", f"the weights learnt from images of {pairs}", fix)


def _overrides(own: Mapping[str, Any], metadata: Mapping[str, Any], weights: Path, engine: str) -> dict[str, Any]:
    size, grid = metadata["preprocessing"]["voxel_size"], metadata["preprocessing"]["grid"]
    if isinstance(size, list):  # the smallest and the largest
        size = own.get("preprocessing", {}).get("voxel_size") or min(max(size[0], CONFORMED), size[1])
    preprocessing: dict[str, Any] = {"voxel_size": size, "grid": list(grid), "engine": engine}
    settings = own.get("preprocessing", {}).get("fastsurfer", {})
    known = metadata.get("images_made_by") or ()
    versions = {version for name, version in known if name == "fastsurfer" and _runs(version)}
    if engine == "fastsurfer" and len(versions) == 1 and "version" not in settings:
        preprocessing["fastsurfer"] = {"version": versions.pop()}
    for name in ("image", "script", "license"):
        if settings.get(name) and Path(settings[name]).exists():
            preprocessing.setdefault("fastsurfer", {})[name] = str(Path(settings[name]).absolute())
    return {
        "study": "predictions",
        "cohorts": "cohorts.tsv",
        "withdrawn": None,
        "same_people": None,
        "manifest": {"images_per_shard": PER_SHARD},
        "preprocessing": preprocessing,
        "cache": {"crop": list(metadata["crop"]), "crop_rule": _crop_rule(own, metadata, weights)},
        "network": {name: metadata["network"][name] for name in ("channels", "bottleneck", "pooling")}
        | {"scaling": metadata.get("scaling", SCALING)},
        "pretrain": {"weights": str(weights.absolute())},
    }


def _crop_rule(own: Mapping[str, Any], metadata: Mapping[str, Any], weights: Path) -> str:
    """The weights' own; the default if this program has no such rule and the configuration accepts another one."""
    rule = metadata.get("crop_rule", BOUNDING_BOX)
    if rule in (BOUNDING_BOX, PYMENT):
        return rule
    accept = own.get("pretrain", {}).get("accept_other_preprocessing", False)
    check_weights(metadata, {"crop_rule": BOUNDING_BOX}, weights, accept=accept)
    return BOUNDING_BOX


def lay_out(folder: Path, scans: pd.DataFrame, request: Request, source: Path) -> Path:
    """Write the manifest and the overrides into the folder; the path of the overrides.

    Scans of an earlier run keep their shards.  Files that would not change keep their times, so the same command goes
    on from where it stopped.  What was made with other weights, or another engine, voxel size or crop, is removed.
    """
    import yaml

    config, overrides = request.config, request.overrides
    _remove_stale(folder, overrides)
    previous, numbers = read_assignments(folder / layout.MANIFEST)
    rows = scans.assign(cohort=COHORT).reindex(columns=[name for name in COLUMNS if name != "shard"])
    rows = rows.astype(dict.fromkeys(TARGETS, "float64"))
    images = assign_shards(rows, previous, numbers, PER_SHARD)
    task = next(name for name, task in config["tasks"].items() if task is not None)  # a study has one; it is not used
    per_job = images_per_job(config)
    table = [(shard, COHORT, len(part), per_job, 0) for shard, part in images.groupby("shard", sort=False)]
    shards = pd.DataFrame(table, columns=["shard", "cohort", "images", "images_per_job", "withdrawn"])
    texts = {"cohorts.tsv": f"cohort\tpath\troles\n{COHORT}\t{source}\t{task}\n"}
    texts[layout.IMAGES] = table_text(images)
    texts[layout.EXCLUDED] = table_text(pd.DataFrame(columns=["cohort", "file", "reason", "detail"]))
    for shard, part in images.groupby("shard", sort=False):
        texts[f"{layout.SHARD_TABLES}/{shard}.tsv"] = table_text(part)
    others = {name: None for name in config["tasks"] if name != task}
    texts[layout.PREDICTION] = yaml.safe_dump({**overrides, "tasks": others}, sort_keys=False)
    config["tasks"] |= others
    for name, text in texts.items():
        _write_changed(folder / name, text)
    facts: dict[str, Any] = {"cohorts_sha256": digest_of_cohorts(folder / "cohorts.tsv"), "withdrawn_sha256": None}
    facts |= {"roles": {COHORT: [task]}, "pretraining_shares": {COHORT: 0.0}}
    facts["derivatives"] = [COHORT] if config["preprocessing"]["engine"] == "derivatives" else []
    if "contrast" not in (request.metadata.get("quality") or {}):
        facts["without_volumes"] = [COHORT]  # the statistics would only give a contrast that is compared with nothing
    _write_changed(folder / layout.SHARDS, table_text(shards, facts))
    return folder / layout.PREDICTION


def _write_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _remove_stale(folder: Path, overrides: Mapping[str, Any]) -> None:
    """Remove results of other weights, or of another engine, voxel size or crop."""
    before: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        before = read_document(folder / layout.PREDICTION)
    if before and any(before.get(name) != overrides[name] for name in ("preprocessing", "cache")):
        for name in (layout.CACHE, layout.PREPROCESSED):
            shutil.rmtree(folder / name, ignore_errors=True)
    digest = digest_of_file(overrides["pretrain"]["weights"])
    for path in folder.glob(layout.PREDICTED.format(shard="*")):
        if read_facts(path).get("weights_sha256") != digest:
            path.unlink()
