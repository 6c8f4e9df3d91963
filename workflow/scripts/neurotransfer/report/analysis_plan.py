"""The facts of an analysis plan, and whether a study's results follow the plan that was written before its first fit.

Goes in: a study's configuration, certificate and pools.  Comes out: facts as JSON, which `operations.freeze` writes
into the plan; later, what has changed since.  No name of a person or an image and no folder is among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .. import __version__
from ..errors import InputError
from ..files import MOST_BYTES, digest_of_file, fingerprint, read_bytes
from ..split.resampling import labelled
from ..study import demands
from ..study.plan import Study
from ..study.recipe import ADDED
from ..text import printable
from .cells import shown_row
from .trust_tables import flow, public_value

FORMAT = 1  # of the facts
CLASSES = ("positive", "negative")
BLOCK = re.compile(r"^```json\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
ABSENT = "not there"
# Keys that change where files lie, how jobs run or what a page shows, and no result beyond rounding.  The people whom
# `cohorts` and `withdrawn` name are in the certificate.
NO_RESULT = (
    *("study", "cohorts", "withdrawn", "readable_by", "manifest.images_per_shard", "manifest.images_per_job"),
    *("cache.compression", "quality.page", "report"),
    *("pretrain.participants_key", "pretrain.threads", "pretrain.gpus", "pretrain.checkpoint_minutes"),
    *("models.replicates_per_job", "models.linear.threads"),
    *("models.cnn.threads", "models.cnn.gpus", "models.cnn.keep"),
)


def planned_configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys on which results depend with their values, by their path, such as ``models.cnn.epochs``.

    The key of an entry of a list of settings has its place in it, as ``models.linear.settings[0].c``.
    """
    kept = dict(config) | {"preprocessing": demands.identity(config["preprocessing"])}
    values = dict(_flat(public_value("", kept)))
    return {path: value for path, value in values.items() if not _is_below(path, NO_RESULT)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        for at, part in enumerate(value):
            yield from _flat(part, f"{path}[{at}]")
    else:
        yield path, value


def _is_below(path: str, groups: tuple[str, ...]) -> bool:
    return any(path == group or path.startswith(f"{group}.") for group in groups)


def given_files(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files on whose content results depend, by the key that names each."""
    named = {"pretrain.weights": config["pretrain"]["weights"]}
    named |= {f"models.features.{arm}": file for arm, file in config["models"]["features"].items()}
    return {key: digest_of_file(file) for key, file in named.items() if file}


def pool_counts(images: pd.DataFrame, study: Study, config: Mapping[str, Any]) -> dict[str, Any]:
    """Images and participants of each task's pool by class, without cells of few people.

    Parameters
    ----------
    images : `image_id`, `participant_id`, `cohort`, `diagnosis` and `role` of every image
    """
    smallest, found = config["report"]["smallest_cell"], {}
    for name, task in study.tasks.items():
        unseen = images[images["cohort"].isin(study.cohorts_of(name)) & (images["role"] == "test")]
        pool = labelled(unseen, task, config["manifest"]["converters"])
        parts = {kind: pool[pool["label"] == label] for kind, label in zip(CLASSES, (1, 0), strict=True)}
        people = {kind: int(part["participant_id"].nunique()) for kind, part in parts.items()}
        images_of = {kind: len(part) for kind, part in parts.items()}
        found[name] = {
            "images": shown_row(images_of, people, smallest),
            "participants": shown_row(people, people, smallest),
        }
    return found


def facts_of_study(
    config: Mapping[str, Any], certificate: Mapping[str, Any] | None, pools: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is compared later, as JSON values.

    Parameters
    ----------
    certificate : of the split; None if there is none yet
    pools : from `pool_counts`
    """
    configuration = planned_configuration(config)
    return {
        "format": FORMAT,
        "study": config["study"],
        "version": __version__,
        "configuration": configuration,
        "configuration_sha256": fingerprint(configuration),
        # of the digests of all certified files, because one of a short table of names could be guessed
        "certificate_sha256": None if certificate is None else fingerprint(certificate["files"]),
        "files_sha256": given_files(config),
        "pools": pools,
    }


def read_plan(path: str | Path) -> dict[str, Any]:
    """The facts of a plan, which stand in its last block of JSON.

    Raises
    ------
    InputError
        if the file is no analysis plan
    """
    try:
        blocks = BLOCK.findall(read_bytes(path, MOST_BYTES // 100).decode("utf-8"))
        facts = json.loads(blocks[-1])
        groups = [facts[name] for name in ("configuration", "files_sha256", "pools")]
        texts = [facts[name] for name in ("written", "version")]
        valid = all(isinstance(group, dict) for group in groups) and all(text.isprintable() for text in texts)
        valid = valid and facts["format"] == FORMAT and isinstance(facts["certificate_sha256"], str | None)
    except InputError:
        raise
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        valid = False
    if not valid:
        what = "it is no analysis plan of neurotransfer freeze, or its JSON was edited"
        raise InputError(path, "", what, "restore it from where you have registered it, or move it away")
    return facts


def conformity(path: str | Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a study is still the one that its plan describes.

    Parameters
    ----------
    path : of the plan
    now : from `facts_of_study`, for the report

    Returns
    -------
    `written`, `version`, `sha256` of the plan's file, `certified` (whether the plan holds the certificate's digest),
    `changes`, a text for each difference, and `pools`, the pools that differ from those of a plan without certificate

    Raises
    ------
    InputError
        if the file is no analysis plan
    """
    plan = read_plan(path)
    changes = list(_changed_keys(plan["configuration"], now["configuration"]))
    for key in dict.fromkeys([*plan["files_sha256"], *now["files_sha256"]]):
        if plan["files_sha256"].get(key) != now["files_sha256"].get(key):
            changes.append(f"{key}: the content of the file")
    certified = plan["certificate_sha256"] is not None
    pools = list(_changed_pools(plan["pools"], now["pools"]))
    if certified and plan["certificate_sha256"] != now["certificate_sha256"]:
        changes += ["certificate: the certified images, or their roles", *pools]
    if plan["version"] != now["version"]:
        changes.append(f"neurotransfer: version {now['version']} (plan: {plan['version']})")
    return {
        "written": plan["written"],
        "version": plan["version"],
        "sha256": digest_of_file(path),
        "certified": certified,
        "changes": [printable(change) for change in changes],
        "pools": [] if certified else pools,
    }


def _changed_keys(plan: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A text for each key of which the value differs; a key that was added later had the value of `ADDED` before."""
    for key in dict.fromkeys([*now, *plan]):
        before, after = (values.get(key, ADDED.get(key, ABSENT)) for values in (plan, now))
        if before != after:
            yield f"{key}: {flow(after)} (plan: {flow(before)})"


def _changed_pools(plan: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for task in dict.fromkeys([*plan, *now]):
        if plan.get(task) != now.get(task):
            yield f"pool of {task}: {_pool(now.get(task))} (plan: {_pool(plan.get(task))})"


def _pool(counts: Any) -> str:
    """A pool's images in words."""
    try:
        return ", ".join(f"{counts['images'][kind]} {kind}" for kind in CLASSES) + " images"
    except (TypeError, LookupError):
        return ABSENT
