"""Which of the settings is used, from which seeds a fit runs, and the record that it leaves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..files import digest_of_file, fingerprint, read_json
from ..seeds import seed_from


def all_settings(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings that a configuration's list means: an entry in which keys have several values is their grid.

    The last such key changes fastest.
    """
    found = []
    for entry in entries:
        values = [value if isinstance(value, list) else [value] for value in entry.values()]
        found += [dict(zip(entry, combination, strict=True)) for combination in itertools.product(*values)]
    return found


def choose(settings: Sequence[Mapping[str, Any]]) -> int:
    """Position of the setting with the highest validation AUC.

    Ties go to the lower validation loss, then to the first.  Settings that diverged are never chosen, nor is
    one without a finite AUC and loss.

    Parameters
    ----------
    settings : records with `status` ("ok" or "diverged"), `validation_auc` and `validation_loss`

    Raises
    ------
    InputError
        if every setting diverged
    """
    usable = [position for position, setting in enumerate(settings) if _is_usable(setting)]
    if not usable:
        raise InputError("", "settings", "every setting diverged", "lower the learning rates of this model")
    return min(usable, key=lambda at: (-settings[at]["validation_auc"], settings[at]["validation_loss"], at))


def _is_usable(setting: Mapping[str, Any]) -> bool:
    """NaN compares as neither higher nor lower, so it would win or lose by its place in the list."""
    numbers = (setting["validation_auc"], setting["validation_loss"])
    return setting["status"] == "ok" and all(number is not None and math.isfinite(number) for number in numbers)


def seeds_of_fit(
    seed: int, task: str, n: int, replicate: str, model: str, setting: int, *, another: int = 0
) -> dict[str, int]:
    """Seeds of one setting of one fit: what they name decides them, never when the fit runs.

    Head, data order, augmentation and dropout follow from task, n, replicate and setting alone, so baseline
    and transfer share them; the random trunk's also names the model.

    Parameters
    ----------
    another : 0 for the fit itself; 1 for the fit that measures how much a random start changes, and more if it diverges
    """
    parts = (seed, task, n, replicate, setting, *([f"another {another}"] if another else []))
    shared = {name: seed_from(name, *parts) for name in ("head", "order", "augmentation", "dropout")}
    return shared | {"trunk": seed_from("trunk", *parts, model)}


def fingerprint_of_fit(
    model: str, parameters: Mapping[str, Any], resample: str | Path, weights: str | Path | None
) -> str:
    """What a fit depends on, as one SHA-256: its model, parameters, resample and first weights."""
    digest = digest_of_file(weights) if weights else None
    facts = {"model": model, "parameters": parameters, "resample": digest_of_file(resample), "weights": digest}
    return fingerprint(facts)


def fingerprint_of_second(first: str, position: int) -> str:
    """What a fit with a second seed depends on: the first fit, by its fingerprint, and the setting that it chose."""
    return fingerprint({"first": first, "setting": position, "seed": "second"})


def is_fit_of(
    path: str | Path,
    model: str,
    parameters: Mapping[str, Any],
    resample: str | Path,
    weights: str | Path | None = None,
) -> bool:
    """Whether a file holds the fit of these parameters on this resample, by its fingerprint; False without one."""
    found = _record_in(path).get("fingerprint")
    return found == fingerprint_of_fit(model, parameters, resample, weights)


def is_second_of(path: str | Path, first: str | Path) -> bool:
    """Whether a file holds the fit with a second seed of another file's fit; False without one."""
    fit = _record_in(first)
    return _record_in(path).get("fingerprint") == fingerprint_of_second(fit["fingerprint"], fit["chosen"])


def _record_in(path: str | Path) -> dict[str, Any]:
    """The record in a file; an empty one if none can be read."""
    try:
        record = read_json(path)
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


def fit_record(
    *,
    facts: Mapping[str, Any],
    model: str,
    settings: Sequence[Mapping[str, Any]],
    chosen: int,
    test_auc: float,
    test: Mapping[str, Sequence],
    seeds: Mapping[str, int],
    fingerprint: str,
    recipe: int | None = None,
    validation: Mapping[str, Sequence] | None = None,
) -> dict[str, Any]:
    """The content of ``results/fits/<task>/n<n>/<replicate>/<model>.json``.

    Parameters
    ----------
    facts : `task`, `n` and `replicate`, from the resample's first line
    settings : a record per setting: values, status, validation AUC and loss, epoch
    test : `position` (row in the resample), `label` and `score` of each test image
    validation : `label` and `score` of each validation image, for thresholds
    recipe : that a network was trained by (study/recipe.py); None for other models
    """
    record = {
        "task": facts["task"],
        "n": facts["n"],
        "replicate": facts["replicate"],
        "model": model,
        "settings": [{key: _json_number(value) for key, value in setting.items()} for setting in settings],
        "chosen": chosen,
        "test_auc": test_auc,
        "test": {key: list(values) for key, values in test.items()},
        "seeds": dict(seeds),
        "fingerprint": fingerprint,
        "version": __version__,
    }
    if validation is not None:
        record["validation"] = {key: list(values) for key, values in validation.items()}
    return record if recipe is None else record | {"recipe": recipe}


def _json_number(value: Any) -> Any:
    """NaN and infinity have no place in JSON: a diverged setting's numbers are null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
