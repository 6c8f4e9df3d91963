"""Self-contained HTML pages from one Jinja environment; files are embedded as data URLs.

Goes in: the content of a page, and the name of its template in ``templates/``.  Comes out: HTML with every text
escaped, which loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

from . import __version__
from .text import number, p_text, signed

# a browser loads nothing, sends no form and runs no script of a page, whatever text stands in it
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # jobs that write no page import this module for its constants

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


def render(content: Mapping[str, Any], template: str, script: str | None = None) -> str:
    """A page as HTML; its Content-Security-Policy forbids all but its own styles and images, and one script.

    Parameters
    ----------
    content : the template's variables; `version` is added
    template : a file's name in ``templates/``, which extends ``base.html.j2``
    script : the file in ``templates/`` with the only script that the page may run; None for none

    Raises
    ------
    jinja2.UndefinedError
        if the template needs a variable that `content` does not have
    """
    from markupsafe import Markup

    text = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = f"{POLICY}; script-src 'sha256-{digest}'" if script else POLICY
    page = {"version": __version__, "policy": Markup(policy), "script": Markup(text), **content}
    return _environment().get_template(template).render(page)


def address(data: bytes, kind: str) -> str:
    """Bytes as a data URL of a media type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
