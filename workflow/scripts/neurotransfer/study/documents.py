"""Reading of YAML and JSON files that a person or another program wrote, with bounds on what they may hold.

A few lines of YAML can stand for billions of values, because an alias repeats a group.  Values and levels are
therefore counted, aliases written out, before anything is built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_bytes

MOST_BYTES = 1_000_000
MOST_LEVELS = 40  # groups and lists within each other
MOST_VALUES = 20_000  # keys, values, groups and lists together
MOST_ENTRIES = 5_000  # of one group or list
MOST_CHARACTERS = 10_000  # of one value
MOST_BITS = 13_000  # of a whole number; Python writes at most 4,300 digits, and YAML reads 1:59:59 as one number
# what constructors of YAML raise for values such as 2026-13-45, !!int "" and !!timestamp x
NO_VALUE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def read_document(path: str | Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file of keys and values.

    Raises
    ------
    InputError
        if there is no such file, if it is too large, if it is not YAML, or if it has no keys at its top level
    """
    path = Path(path)
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "", "there is no such configuration file", "correct --configfile") from None
    except UnicodeDecodeError:
        raise InputError(path, "", "it is not UTF-8 text", "save it as UTF-8") from None
    try:
        document = _read_json(path, text)
    except InputError:
        raise
    except ValueError:
        document = _read_yaml(path, text)
    if not isinstance(document, dict):
        raise InputError(path, "", "it has no keys at its top level", "write lines such as 'seed: 1'")
    if has_huge_number(document):
        raise InputError(path, "", "it has a whole number of thousands of digits", "write a smaller number")
    return document


def has_huge_number(value: object) -> bool:
    """Whether a value is, or holds, a whole number of so many digits that it can't be shown in a message."""
    if isinstance(value, dict):
        return any(has_huge_number(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set):
        return any(map(has_huge_number, value))
    return isinstance(value, int) and value.bit_length() > MOST_BITS


def _read_json(path: Path, text: str) -> Any:
    """The value of a JSON text; ValueError if it is not JSON, InputError if it is too large."""

    def group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InputError(path, "", f"the key {key!r} stands twice in one group", "keep one of them")
            seen.add(key)
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=group)
    except RecursionError:
        raise _too_large(path, "", f"more than {MOST_LEVELS} levels") from None
    waiting, count = [(document, 0)], 0
    while waiting:
        value, level = waiting.pop()
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += 1
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InputError(path, "", f"half a character is in {value[:40]!r}", "correct it")  # "\ud800" in JSON
        entries = len(value) if isinstance(value, dict | list) else 0
        _check_size(path, "", level, count, entries, len(value) if isinstance(value, str) else 0)
        waiting += [(part, level + 1) for part in inner]
    return document


def _read_yaml(path: Path, text: str) -> Any:
    """The value of a YAML text; InputError if it is not YAML, or too large."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(path, yaml.parse(text, Loader=loader))
        reader = loader(text)
        root = reader.get_single_node()
        _refuse_repeated_keys(path, root, reader)
        return None if root is None else reader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else ""
        what = f"it is not YAML ({getattr(error, 'problem', None) or error})"
        raise InputError(path, where, what, "check indentation, colons and quotes there") from None
    except InputError:
        raise
    except NO_VALUE as error:
        why = f" ({error})" if isinstance(error, ValueError) else ", because it does not fit its tag"
        raise InputError(path, "", f"a value cannot be read{why[:100]}", "correct it, or put it in quotes") from None


def _check_events(path: Path, events: Any) -> None:
    """Refuse a YAML document that is too large with its aliases written out, or whose alias leads back to itself."""
    opened: list[list[Any]] = []  # groups and lists that have not ended: anchor, values, levels, entries
    anchors: dict[str, tuple[int, int] | None] = {}  # values and levels; None until the anchor's group has ended
    for event in events:
        kind, where, characters = type(event).__name__, f"line {event.start_mark.line + 1}", 0
        anchor, values, levels = getattr(event, "anchor", None), 1, 0
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            _check_size(path, where, len(opened), 1, 0, 0)
            opened.append([anchor, 1, 1, 0])
            if anchor:
                anchors[anchor] = None
            continue
        if kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, values, levels, _ = opened.pop()
        elif kind == "AliasEvent":
            found = anchors.get(anchor or "", (1, 0))
            if found is None:
                raise InputError(path, where, f"the alias *{anchor} leads back to itself", "write its values out")
            anchor, (values, levels) = None, found
        elif kind == "ScalarEvent":
            characters = len(event.value)
        else:
            continue
        if anchor:
            anchors[anchor] = (values, levels)
        if opened:
            group = opened[-1]
            group[1:] = group[1] + values, max(group[2], levels + 1), group[3] + 1
            _check_size(path, where, len(opened) + levels, group[1], group[3] // 2, characters)


def _check_size(path: Path, where: str, levels: int, values: int, entries: int, characters: int) -> None:
    if levels > MOST_LEVELS:
        raise _too_large(path, where, f"more than {MOST_LEVELS} levels")
    if values > MOST_VALUES:
        raise _too_large(path, where, f"more than {MOST_VALUES:,} values, counted with aliases written out")
    if entries > MOST_ENTRIES:
        raise _too_large(path, where, f"more than {MOST_ENTRIES:,} entries in one group or list")
    if characters > MOST_CHARACTERS:
        raise _too_large(path, where, f"a value of more than {MOST_CHARACTERS:,} characters")


def _too_large(path: Path, where: str, what: str) -> InputError:
    return InputError(path, where, f"it has {what}", "shorten it; a study needs some hundred values")


def _refuse_repeated_keys(path: Path, root: Any, reader: Any) -> None:
    """Refuse a key that stands twice in one group: YAML keeps the last one and says nothing.

    Parameters
    ----------
    root : of the composed document; None if it is empty
    reader : makes values of nodes; of YAML, yes and true are one key
    """
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias leads to a node that was looked at
            continue
        seen.add(id(node))
        if node.id == "sequence":
            waiting += node.value
        if node.id != "mapping":
            continue
        lines: dict[object, int] = {}
        for key, value in node.value:
            if key.id == "scalar" and key.value != "<<":
                here = key.start_mark.line + 1
                for name in {key.value, reader.construct_object(key)}:
                    if name in lines:
                        where = f"and in line {lines[name]}" if lines[name] != here else "twice"
                        what = f"the key {key.value!r} stands here {where}"
                        raise InputError(path, f"line {here}", what, "keep one of them")
                lines |= dict.fromkeys((key.value, reader.construct_object(key)), here)
            waiting.append(value)
