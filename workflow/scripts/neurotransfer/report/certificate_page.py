"""The split certificate as a self-contained page without names of participants or images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import pages
from ..cache.write import named_engines
from ..split.certificate import duplicates_in_words
from .style import DARK


def certificate_html(certificate: Mapping[str, Any], study: str) -> str:
    """The page as HTML.

    Parameters
    ----------
    certificate : from split.certificate.certify, with `duplicates` (summary of duplicates.find_pairs) and `files`
    study : its name
    """
    names = {"train": "training", "validation": "validation", "test": "test", "unused": "not used"}
    shared = [(cohort, certificate["cohorts"][cohort]) for cohort in certificate["shared_cohorts"]]
    engines = [(names[role], named_engines(pairs)) for role, pairs in certificate["engines"].items() if pairs]
    content = {
        "study": study,
        "inks": DARK,
        "names": names,
        "shared": shared,
        "engines": engines,
        "duplicates": duplicates_in_words(certificate["duplicates"]),
        "certificate": certificate,
    }
    return pages.render(content, "certificate.html.j2")
