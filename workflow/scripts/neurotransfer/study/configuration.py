"""The configuration: config/config.yaml overlaid with a study's own files, checked before any job runs.

Goes in: YAML or JSON files.  Comes out: one dict, or one line per mistake that names the file, the key and
the fix.  Neither pandas nor Snakemake is imported, because the check runs at every start of Snakemake.
"""

from __future__ import annotations

import copy
import difflib
import functools
import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, raise_all
from ..text import counted
from .container_names import is_file_reference
from .documents import has_huge_number, read_document
from .plan import ARMS, CNNS, FROZEN

MOST_MISTAKES = 20  # of one document that are listed
MOST_SETTINGS = 1_000  # of one model; the paper's study has 9
MOST_RESAMPLES = 100_000  # of one study; the paper's has 1,000
NO_BRACES = r"^(?![\s\S]*[{}\x00-\x1f])"  # as the schema writes it, of paths: Snakemake takes {x} for a wildcard
COMMAND_LINE = "--config"  # the source of a value that is in no file
KINDS = {  # JSON Schema's names of types, in words
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a group of keys",
    "null": "null",
}


class Mistake(NamedTuple):
    """One mistake in a document: the keys that lead to it, the mistake, and the fix."""

    path: tuple[str | int, ...]
    what: str
    fix: str


def load_config(repository: str | Path, overlays: Sequence[str | Path] = ()) -> dict[str, Any]:
    """The repository's config/config.yaml with overlays merged in, as Snakemake merges ``--configfile``.

    Groups of keys merge, key by key; lists, values and null replace the earlier value; the last overlay wins.

    Raises
    ------
    InputError
        if a file is missing or is not YAML
    """
    ours: dict[str, Any] = {}
    for overlay in overlays:
        merge(ours, read_document(overlay))
    return with_defaults(repository, ours)


def with_defaults(repository: str | Path, ours: Mapping[str, Any]) -> dict[str, Any]:
    """The repository's config/config.yaml with a study's own keys merged in; neither of the two is changed."""
    # Snakemake starts from the overlays and merges them again at the end, which decides the order of the keys
    config = copy.deepcopy(dict(ours))
    merge(config, read_document(Path(repository) / "config/config.yaml"))
    merge(config, ours)
    return copy.deepcopy(config)


def merge(config: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Merge `overlay` into `config`, in place, as snakemake.utils.update_config does."""
    for key, value in overlay.items():
        if not isinstance(value, Mapping):
            config[key] = value
        elif value and not isinstance(config.get(key), Mapping):
            config[key] = {}
            merge(config[key], value)
        elif value:
            merge(config[key], value)
        else:
            config.setdefault(key, {})  # an empty group replaces nothing there, not even null


def check_config(config: Mapping[str, Any], schemas: str | Path, files: Iterable[str | Path]) -> None:
    """Check a merged configuration by its schema, and by rules that a schema cannot express.

    Parameters
    ----------
    config : the merged configuration; it is not changed
    schemas : the folder with config.schema.yaml
    files : the files that it was merged from, in any order of overlays; the repository's own may be among them

    Raises
    ------
    InputError
        one line for each mistake: its file, the key, the mistake, and the fix
    """
    schemas = Path(schemas)
    mistakes = _first(_odd_keys(config))
    mistakes = mistakes or _first(schema_mistakes(config, read_document(schemas / "config.schema.yaml")))
    mistakes = mistakes or _first(_cross_mistakes(config))
    if mistakes:
        layers = _layers(files, schemas.parent.parent / "config/config.yaml")
        raise_all([InputError(_holder(m.path, config, layers), _dotted(m.path), m.what, m.fix) for m in mistakes])


def _first(mistakes: Iterator[Mistake]) -> list[Mistake]:
    """The first mistakes, and a last one that says so if there are more."""
    found = list(itertools.islice(mistakes, MOST_MISTAKES + 1))
    if len(found) > MOST_MISTAKES:
        found[-1] = Mistake((), "it has more mistakes than these", "correct these first")
    return found


def schema_mistakes(document: object, schema: Mapping[str, Any]) -> Iterator[Mistake]:
    """The mistakes that a JSON schema (Draft 2020-12) finds in a document, in words."""
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            # 100.0 is an integer for JSON Schema, but not for Python
            "integer": lambda checker, value: isinstance(value, int) and _is_number(value),
            "number": lambda checker, value: _is_number(value),
        }
    )
    of_list = Draft202012Validator.VALIDATORS["uniqueItems"]

    def unique_items(validator: Any, unique: bool, items: Any, schema: Mapping) -> Any:  # its time grows by the square
        too_many = isinstance(items, list) and len(items) > schema.get("maxItems", math.inf)
        return () if too_many else of_list(validator, unique, items, schema)

    validator = validators.extend(Draft202012Validator, {"uniqueItems": unique_items}, type_checker=types)(schema)
    seen: set[Mistake] = set()
    for error in sorted(validator.iter_errors(document), key=lambda error: [str(key) for key in error.absolute_path]):
        for mistake in _in_words(error):
            if mistake not in seen:
                seen.add(mistake)
                yield mistake


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; an integer may be larger than any."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _in_words(error: Any) -> Iterator[Mistake]:
    if error.validator in ("additionalProperties", "required", "dependentRequired"):
        yield from _mistakes_of_keys(error)
    else:
        yield _mistake_of_value(error)


def _mistakes_of_keys(error: Any) -> Iterator[Mistake]:
    path, given, rule, schema = tuple(error.absolute_path), error.instance, error.validator_value, error.schema
    match error.validator:
        case "additionalProperties":
            yield from _unknown_keys(path, given, schema)
        case "required":
            for key in rule:
                if key not in given:
                    yield Mistake((*path, key), "this key is missing", _fix_of_missing(schema, key))
        case "dependentRequired":
            for key, needed in rule.items():
                for other in needed if key in given else ():
                    if other not in given:
                        yield Mistake((*path, key), f"it needs {other!r} beside it", f"fill in {other}")


def _mistake_of_value(error: Any) -> Mistake:
    path, given, rule, schema = tuple(error.absolute_path), error.instance, error.validator_value, error.schema
    shown = _shown(given)
    match error.validator:
        case "type":
            kinds = [rule] if isinstance(rule, str) else rule
            expected = " or ".join(KINDS[kind] for kind in kinds)
            return Mistake(path, f"it is {shown} but must be {expected}", _fix_of_type(given, kinds))
        case "enum" | "const":
            words = [str(word) for word in (rule if error.validator == "enum" else [rule])]
            near = difflib.get_close_matches(str(given), words, 1)
            hint = f"did you mean {near[0]!r}? " if near and len(words) > 1 else ""
            return Mistake(path, f"it is {shown}", f"{hint}write {' or '.join(repr(word) for word in words)}")
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            bounds = {"minimum": "at least", "maximum": "at most"}
            bounds |= {"exclusiveMinimum": "more than", "exclusiveMaximum": "less than"}
            return Mistake(path, f"it is {shown}", f"it must be {bounds[error.validator]} {rule}")
        case "minItems" | "maxItems":
            exact = schema.get("minItems") == schema.get("maxItems")
            wanted = "" if exact else "at least " if error.validator == "minItems" else "at most "
            return Mistake(path, f"it has {counted(len(given), 'entry', 'entries')}", f"give {wanted}{rule}")
        case "uniqueItems":
            return Mistake(path, f"it holds an entry twice: {shown}", "remove one of them")
        case "minLength" | "minProperties":
            return Mistake(path, "it is empty", "fill it in, or remove the line")
        case "maxLength":
            return Mistake(path, f"it has {len(given):,} characters", f"write at most {rule:,}")
        case "pattern" if rule == NO_BRACES:
            return Mistake(path, f"it is {shown}, with a brace or a control character", "rename the file")
        case "pattern":
            return Mistake(path, f"it is {shown}", f"expected: {_description(schema)}")
        case _:
            return Mistake(path, error.message[:200], "correct it")


def _unknown_keys(path: tuple, given: Mapping, schema: Mapping) -> Iterator[Mistake]:
    known, patterns = list(schema.get("properties", {})), list(schema.get("patternProperties", {}))
    for key in given:
        if key in known or any(re.search(pattern, str(key)) for pattern in patterns):
            continue
        near = difflib.get_close_matches(str(key), known, 1)
        if near:
            yield Mistake((*path, key), "there is no such key", f"did you mean {near[0]!r}?")
        elif known:
            yield Mistake((*path, key), "there is no such key", f"here there are: {', '.join(known)}")
        else:
            fix = "rename it: letters, digits and _ only, and neither pretraining nor holdout"
            yield Mistake((*path, key), "this name is not allowed", fix)


def _fix_of_type(given: object, kinds: Sequence[str]) -> str:
    if isinstance(given, str | float) and {"integer", "number"} & set(kinds):
        try:
            number = float(given)
        except ValueError:
            return "write a number"
        if math.isfinite(number) and (number.is_integer() or "number" in kinds):
            quotes = ", without quotes" if isinstance(given, str) else ""
            return f"write {int(number) if 'number' not in kinds else number!r}{quotes}"
    if isinstance(given, int) and not isinstance(given, bool) and {"integer", "number"} & set(kinds):
        return "write a smaller number"
    if given is None:
        return "give a value, or remove the line"
    if "string" in kinds and not isinstance(given, Mapping | list):
        return "put it in quotes"
    return f"write {' or '.join(KINDS[kind] for kind in kinds)}"


def _shown(value: object) -> str:
    """A value as JSON, in which "1" differs from 1; cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fix_of_missing(schema: Mapping, key: str) -> str:
    """What to add, with a value if one stands for any, and what the key is for."""
    of_key = schema.get("properties", {}).get(key, {})
    value = json.dumps(of_key["enum"][0]) if "enum" in of_key else of_key.get("minimum")
    description = _description(of_key)
    return f"add {key}{'' if value is None else f': {value}'}" + (f" ({description})" if description else "")


def _description(schema: Mapping) -> str:
    text = schema.get("description", "")
    return " ".join(text.split()).rstrip(".")


def _odd_keys(document: object, path: tuple = ()) -> Iterator[Mistake]:
    """Keys that YAML does not read as text, such as 1 or yes, and numbers that can't be shown as text."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if has_huge_number(key):
                yield Mistake(path, "a key is a whole number of thousands of digits", "remove it")
                continue
            if not isinstance(key, str):
                fix = "put it in quotes" + ("; a decimal number has a point, as 0.4" if isinstance(key, int) else "")
                yield Mistake((*path, str(key)), f"YAML reads this key as {type(key).__name__}", fix)
            yield from _odd_keys(value, (*path, str(key)))
    elif isinstance(document, list):
        for at, value in enumerate(document):
            yield from _odd_keys(value, (*path, at))
    elif has_huge_number(document):
        yield Mistake(path, "it is a whole number of thousands of digits", "write a smaller number")


def _cross_mistakes(config: Mapping[str, Any]) -> Iterator[Mistake]:
    """Mistakes beyond a schema: keys that do not fit each other, and files that do not exist."""
    yield from _task_mistakes(config["tasks"])
    for at, name in enumerate(config["confounding"]["waived"]):
        if name not in config["tasks"]:
            near = difflib.get_close_matches(name, config["tasks"], 1)
            fix = f"did you mean {near[0]!r}?" if near else f"tasks are: {', '.join(config['tasks'])}"
            yield Mistake(("confounding", "waived", at), f"there is no task {name!r}", fix)
    yield from _network_mistakes(config)
    yield from _quality_mistakes(config["quality"]["exclude"])
    yield from _resampling_mistakes(config["resampling"], sum(task is not None for task in config["tasks"].values()))
    yield from _grid_mistakes(config["models"])
    for path, settings in ((("pretrain",), config["pretrain"]), (("models", "cnn"), config["models"]["cnn"])):
        yield from _schedule_mistakes((*path, "schedule"), settings["schedule"])
    if not any(target["weight"] > 0 for target in config["targets"].values()):
        yield Mistake(("targets",), "every weight is 0", "give one target at least a weight above 0")
    if config["preprocessing"]["engine"] == "fastsurfer":
        yield from _fastsurfer_mistakes(config["preprocessing"])
    yield from _features_mistakes(config["models"]["features"])
    files: list[tuple[str, ...]] = [("pretrain", "weights"), ("report", "truth")]
    for keys in [*files, *(("models", "features", name) for name in config["models"]["features"])]:
        file: Any = functools.reduce(lambda values, key: values[key], keys, config)
        if file is not None and not Path(file).is_file():
            what = f"there is no file {file} (looked for from {Path.cwd()})"
            yield Mistake(keys, what, "correct the path, or write null")


def _schedule_mistakes(path: tuple[str, ...], schedule: Mapping[str, Any]) -> Iterator[Mistake]:
    """A step schedule needs factor and every; the others have neither."""
    for key in ("factor", "every"):
        if schedule["kind"] == "step" and key not in schedule:
            yield Mistake(
                (*path, key), "a schedule of the kind step needs it", "add it, such as factor: 0.3, every: 30"
            )
        elif schedule["kind"] != "step" and key in schedule:
            what = f"a schedule of the kind {schedule['kind']} has no such key"
            yield Mistake((*path, key), what, "remove it, or write kind: step beside it")


def _task_mistakes(tasks: Mapping[str, Any]) -> Iterator[Mistake]:
    if all(task is None for task in tasks.values()):
        yield Mistake(("tasks",), "every task is null", "keep one task at least")
    for name, task in tasks.items():
        both = sorted(set(task["positive"]) & set(task["negative"])) if task is not None else []
        if both:
            yield Mistake(("tasks", name), f"{both[0]!r} is in positive and in negative", "keep it in one of them")


def _network_mistakes(config: Mapping[str, Any]) -> Iterator[Mistake]:
    blocks = len(config["network"]["channels"])
    smallest = min(config["cache"]["crop"])
    if smallest < 2**blocks:
        what = f"{smallest} voxels are too few for {blocks} blocks, each of which halves them"
        yield Mistake(("cache", "crop"), what, f"give at least {2**blocks} each, or fewer network.channels")
    if config["cache"]["crop_rule"] == "pyment" and any(size % 2 for size in config["cache"]["crop"]):
        yield Mistake(("cache", "crop"), "crop_rule pyment is for even sizes", "write even numbers of voxels")
    for model in CNNS:
        for at, setting in enumerate(config["models"][model]["settings"]):
            frozen = setting.get("freeze", 0)
            counts = [count for count in (frozen if isinstance(frozen, list) else [frozen]) if count != "trunk"]
            if max(counts, default=0) > blocks:
                fix = f"write at most {blocks}, or trunk"
                yield Mistake(("models", model, "settings", at, "freeze"), f"the network has {blocks} blocks", fix)


def _features_mistakes(features: Mapping[str, str]) -> Iterator[Mistake]:
    """Names of further arms are columns of tables beside the models and the keys of a resample."""
    taken = {*ARMS, FROZEN, "task", "n", "replicate", "position", "person", "label"}
    taken |= {"fit", "get", "items", "keys", *dir(list)}  # of Snakemake's lists of files
    for name in features:
        if name in taken:
            yield Mistake(("models", "features", name), "this name is taken", "choose another name for these features")


def _quality_mistakes(exclude: Mapping[str, Any]) -> Iterator[Mistake]:
    for figure, limits in exclude.items():
        low, high = limits.get("min"), limits.get("max")
        if low is not None and high is not None and low > high:
            what = f"min {low:g} is above max {high:g}, so every image would be left out"
            yield Mistake(("quality", "exclude", figure), what, "exchange them")


def _grid_mistakes(models: Mapping[str, Any]) -> Iterator[Mistake]:
    """A fit tries each combination of a grid's lists; few lists make many of them."""
    for model in ("linear", "covariates", *CNNS):
        tried = 0
        for at, entry in enumerate(models[model]["settings"]):
            tried += math.prod(len(value) for value in entry.values() if isinstance(value, list))
            if tried > MOST_SETTINGS:
                what = f"with this grid a fit tries {_many(tried)} settings"
                yield Mistake(("models", model, "settings", at), what, f"leave at most {MOST_SETTINGS:,} in all")
                break


def _many(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "more than 10^15"


def _resampling_mistakes(resampling: Mapping[str, Any], tasks: int) -> Iterator[Mistake]:
    """Sets that are too small for their classes, and more resamples than a workflow can have jobs."""
    resamples = tasks * len(resampling["n"]) * resampling["replicates"]
    if resamples > MOST_RESAMPLES:
        what = f"tasks, n and replicates make {resamples:,} resamples"
        yield Mistake(("resampling", "replicates"), what, f"leave at most {MOST_RESAMPLES:,}")
    fewest = 2 * resampling["min_per_class"]
    for position, n in enumerate(resampling["n"]):
        sets = {key: round(n * resampling[key]) for key in ("validation_share", "test_share")}
        key, size = min([("n", n), *sets.items()], key=lambda item: item[1])
        if size < fewest:
            what = f"{n} training images make a set of {size} ({key}), too few for {fewest // 2} of each class"
            yield Mistake(("resampling", "n", position), what, "raise n or that share, or lower min_per_class")


def _fastsurfer_mistakes(settings: Mapping[str, Any]) -> Iterator[Mistake]:
    """Checks of FastSurfer's settings that any machine can make: its voxels, and the version of its image.

    Its files and programs are checked on the machines that run the jobs.
    """
    at, own = ("preprocessing", "fastsurfer"), settings["fastsurfer"]
    if settings["voxel_size"] > 1:
        what = f"FastSurfer conforms to voxels of at most 1 mm, not {settings['voxel_size']:g}"
        yield Mistake(("preprocessing", "voxel_size"), what, "write 1.0, or take the engine builtin")
    image = own["image"]
    if own["runs_in"] != "native" and image:
        if not is_file_reference(image):
            yield from _tag_mistakes((*at, "image"), image, own["version"], settings["gpus"])
        elif own["runs_in"] == "docker":
            yield Mistake((*at, "image"), "Docker runs no image from a file", "write a name and its tag")


def _tag_mistakes(path: tuple, image: str, version: str, gpus: int) -> Iterator[Mistake]:
    name, _, tag = image.rpartition("/")[2].partition(":")
    if tag.partition("@")[0].split("-")[-1] in ("", "latest", "dev", "stable") and "@sha256" not in image:
        what = f"{image} can be another image from one day to the next"
        yield Mistake(path, what, f"name its version, such as {name}:{'cuda' if gpus else 'cpu'}-v{version}")
    found = re.search(r"\d+\.\d+\.\d+", tag)
    if found and found[0] != version:
        what = f"{image} is version {found[0]}, and preprocessing.fastsurfer.version is {version}"
        yield Mistake(path, what, "correct one of the two")
    if gpus and tag.startswith("cpu"):
        yield Mistake(path, f"{image} does not use a GPU", "name the image for cuda, or set preprocessing.gpus to 0")


def _layers(files: Iterable[str | Path], base: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The configuration files with their contents, the repository's own first, in any given order."""
    paths = [Path(file) for file in files]
    paths.sort(key=lambda path: path.resolve() != base.resolve())
    return [(path, read_document(path)) for path in paths]


def _holder(path: tuple, config: Mapping[str, Any], layers: Sequence[tuple[Path, dict[str, Any]]]) -> str | Path:
    """The last file that holds the value at `path`; for a missing key, the last that holds the group it belongs to."""
    while path:
        missing = object()
        value = _value_at(config, path, missing)
        for file, document in reversed(layers):
            found = _value_at(document, path, missing)
            same = (
                found == value
                or (found != found and value != value)
                or (isinstance(found, Mapping) and isinstance(value, Mapping))
            )
            if found is not missing and same:
                return _near(file)
        if value is not missing:
            return COMMAND_LINE
        path = path[:-1]
    return _near(layers[-1][0]) if layers else ""


def _value_at(document: object, path: tuple, missing: object) -> object:
    for key in path:
        try:
            document = document[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return missing
    return document


def _near(path: Path) -> Path:
    """The path relative to the current folder if it is inside, which is shorter."""
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


def _dotted(path: tuple) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key[:100]}" for key in path).lstrip(".")
