"""Self-contained HTML pages from one Jinja environment; files are embedded as data URLs.

Goes in: the content of a page, and the name of its template in ``templates/``.  Comes out: HTML with every text
escaped, which loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from . import __version__
from .text import number, p_text, signed

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[[Any], str]] = {"number": number, "p": p_text, "signed": signed}
    environment.filters |= filters
    return environment


def render(content: Mapping[str, Any], template: str) -> str:
    """A page as HTML.

    Parameters
    ----------
    content : the template's variables; `version` is added
    template : a file's name in ``templates/``

    Raises
    ------
    jinja2.UndefinedError
        if the template needs a variable that `content` does not have
    """
    return _environment().get_template(template).render(version=__version__, **content)


def address(data: bytes, kind: str) -> str:
    """Bytes as a data URL of a media type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
