"""Patterns of paths that lead to the existing outputs of each image.

Goes in: a pattern such as ``derivatives/fastsurfer/sub-{participant}[_ses-{session}]``, and an image's labels.  Comes
out: a path.  A part in square brackets is left out if one of its placeholders has no value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

PLACEHOLDERS = ("participant", "session", "run", "image_id")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


def pattern_mistake(pattern: str) -> str | None:
    """What is wrong with a pattern, as the end of a sentence; None if it can be filled in."""
    unknown = [name for name in PLACEHOLDER.findall(pattern) if name not in PLACEHOLDERS]
    if unknown:
        return f"{{{unknown[0]}}} is no placeholder (there are: {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)})"
    if re.search(r"[{}]", PLACEHOLDER.sub("", pattern)) or re.search(r"[\[\]]", OPTIONAL.sub("", pattern)):
        return "a bracket has no partner"
    if not PLACEHOLDER.search(pattern):
        return "it has no placeholder, so that every image would have the same folder"
    return None


def fill_in(pattern: str, labels: Mapping[str, str]) -> str:
    """The path of one image.

    Raises
    ------
    ValueError
        if a placeholder outside square brackets has no value, or a label would lead out of its folder
    """

    def optional(found: re.Match[str]) -> str:
        return found[1] if all(labels[name] for name in PLACEHOLDER.findall(found[1])) else ""

    def label(found: re.Match[str]) -> str:
        if not labels[found[1]]:
            raise ValueError(f"it has no {found[1]}")
        return labels[found[1]]

    shape = OPTIONAL.sub(optional, pattern)
    path = PLACEHOLDER.sub(label, shape)
    if path.count("/") != shape.count("/") or PurePosixPath(path).parts.count("..") != shape.split("/").count(".."):
        raise ValueError("one of its labels would lead out of the folder")
    return path
