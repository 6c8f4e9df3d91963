"""The last check of what can be mailed: no name of a person, no path and no user name of the study is in it.

Goes in: the content of a page, a table or a figure, and the names of the study.  Comes out: nothing, or an error.
Files inside a page are checked as well.  A name is found as a whole word or between the hyphens and underscores of one.
"""

from __future__ import annotations

import base64
import getpass
import gzip
import html
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import rows_if_any
from ..manifest.withdrawal import read_withdrawn
from ..pages import TEMPLATES
from ..study import layout

WORD = re.compile(r"[\w-]+")
EMBEDDED = re.compile(r"data:[\w/+.-]*(?:;[\w=-]+)*;base64,([A-Za-z0-9+/=]+)")
SVG_NAMES = re.compile(r"""\b(?:id|clip-path|(?:xlink:)?href)="(?:url\()?#?[\w.-]*\)?\"""")  # matplotlib's own
HOME = re.compile(r"/(?:home|Users|users)/([^/\s\"']+)")
TELLING = 5  # characters of a label with a letter and a digit; a shorter one is a number or a word, too


@dataclass(frozen=True)
class Private:
    """What must not leave the site: `names` of people, images and their files, `paths`, and names of `users`."""

    names: frozenset[str]
    paths: tuple[str, ...]
    users: frozenset[str]


def private_names(config: Mapping[str, Any], folder: str | Path = ".") -> Private:
    """Every name of a study: participants, images and labels of its manifest, folders of its data, and users.

    Parameters
    ----------
    folder : of the study; its manifest may be missing
    """
    folder = Path(folder)
    names: set[str] = set()
    folders: set[str] = set()
    for row in rows_if_any(folder / layout.IMAGES):
        names |= {row.get("image_id", ""), row.get("participant_id", "")} | _labels(row.get("t1w", ""))
    for row in rows_if_any(folder / layout.EXCLUDED):
        names |= _labels(row.get("file", ""))
    path = config.get("withdrawn")
    if path and (folder / path).is_file():
        for withdrawn in read_withdrawn(folder / path).rows:
            names |= {withdrawn.participant or "", withdrawn.image or ""}
    for row in rows_if_any(folder / str(config.get("cohorts", ""))):
        folders |= {value for name, value in row.items() if name in ("path", "derivatives") and value}
    folders |= {str(value) for value in _texts(config)}
    folders |= {str(path) for path in (Path.home(), folder.absolute(), folder.resolve(), Path(__file__).resolve())}
    absolute = {os.path.normpath(os.path.expanduser(text)) for text in folders if text.startswith(("/", "~"))}
    users = {getpass.getuser(), *(name for text in absolute for name in HOME.findall(text))}
    # two levels, because what lies below them has them in its path
    paths = {"/".join(text.split("/")[:3]) for text in absolute if text.count("/") >= 2}
    return Private(frozenset(names - {""}), tuple(sorted(paths)), frozenset(users))


def check_public(name: str | Path, content: str | bytes, private: Private) -> None:
    """Refuse content that would name a person, a path or a user.

    Parameters
    ----------
    name : of the file, for the message
    content : HTML, SVG, a table or JSON; base64 in it is decoded, compressed or not

    Raises
    ------
    InputError
        with the first name that was found
    """
    text = content if isinstance(content, str) else content.decode("utf-8", errors="replace")
    for data in EMBEDDED.findall(text):
        inner = base64.b64decode(data + "=" * (-len(data) % 4))
        inner = gzip.decompress(inner) if inner.startswith(b"\x1f\x8b") else inner
        if not inner.startswith(b"\x89PNG"):
            check_public(name, inner, private)
    text = html.unescape(SVG_NAMES.sub("", EMBEDDED.sub("", text)))
    found = next((part for part in _parts(text, private.names) if part in private.names), None)
    kind = "the name of a person or an image"
    if found is None and private.paths:
        paths = re.search("|".join(rf"{re.escape(path)}(?![\w-])" for path in private.paths), text)
        found, kind = (paths[0] if paths else None), "a path of the study"
    if found is None and (users := re.search(_users(private.users), text)):
        found, kind = users[0], "the name of a user"
    if found is not None:
        fix = "take it out of the names, titles and texts of the configuration and of the cohort table"
        raise InputError(name, "", f"it can be mailed, and would contain {kind}, {found!r}", fix)


def check_public_files(paths: Iterable[str | Path], private: Private) -> None:
    """Check files, and those in a ZIP file; the text of a PNG file is also in the SVG file of its figure.

    Raises
    ------
    InputError
        as `check_public`
    """
    for path in map(Path, paths):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in (name for name in archive.namelist() if not name.endswith(".png")):
                    check_public(f"{path}: {name}", archive.read(name), private)
        elif path.suffix != ".png":
            check_public(path, path.read_bytes(), private)


def _labels(path: str) -> set[str]:
    """``sub-<label>`` of a path, and the label if it is no mere word or number."""
    found = set(re.findall(r"\bsub-[A-Za-z0-9]+", path))
    labels = {name.removeprefix("sub-") for name in found}
    mixed = re.compile("[A-Za-z].*[0-9]|[0-9].*[A-Za-z]")
    return found | {label for label in labels if len(label) >= TELLING and mixed.search(label)}


def _texts(value: Any) -> Iterator[str]:
    """Every text in a configuration."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _parts(text: str, names: frozenset[str]) -> Iterator[str]:
    """The words of a text, and what lies between the hyphens and underscores in them."""
    longest = max((len(re.findall("[_-]", name)) + 1 for name in names), default=1)
    for word in set(WORD.findall(text)):
        parts = re.split("([_-])", word)
        for start in range(0, len(parts), 2):
            for end in range(start + 1, min(len(parts), start + 2 * longest - 1) + 1, 2):
                yield "".join(parts[start:end])


def _users(users: frozenset[str]) -> str:
    """A pattern of user names: as a word, or only in a path or an address if the pages themselves use the word."""
    words = [re.escape(name) for name in users if name.lower() not in _vocabulary()]
    patterns = [rf"(?<![\w-])(?:{'|'.join(words)})(?![\w-])"] if words else []
    names = "|".join(map(re.escape, sorted(users)))
    patterns += [rf"(?:~|/(?:home|Users|users)/)(?:{names})(?![\w-])", rf"(?<![\w-])(?:{names})@\w"]
    return "|".join(patterns)


@cache
def _vocabulary() -> frozenset[str]:
    """The words that this library's own pages may use."""
    sources = [*TEMPLATES.glob("*"), *Path(__file__).parents[1].rglob("*.py")]
    return frozenset(word for path in sources for word in WORD.findall(path.read_text(encoding="utf-8").lower()))
