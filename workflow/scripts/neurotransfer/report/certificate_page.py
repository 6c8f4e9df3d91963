"""The split certificate as a self-contained page without names of participants or images, and without small cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import pages
from ..cache.provenance import named_engines
from ..errors import InputError
from ..files import read_bytes
from ..split.certificate import duplicates_in_words, statement
from .cells import sample, shown, shown_row
from .colours import DARK
from .confounding_tables import site_groups

# in pages of earlier versions: ages of the youngest and the oldest person, and plain digests of lists of people
TELLING = re.compile(r"<td>\d+\.\d \(\d+\.\d to \d+\.\d\)</td>|>SHA-256 of each set's")


def certificate_html(certificate: Mapping[str, Any], study: str, smallest: int, config: Mapping[str, Any]) -> str:
    """The page as HTML.

    Parameters
    ----------
    certificate : from split.certificate.certify, with `duplicates` (summary of duplicates.find_pairs) and `files`
    study : its name
    smallest : number of people in the smallest cell of a table
    config : the study's `tasks` and `confounding`
    """
    names = {"train": "training", "validation": "validation", "test": "test", "unused": "not used"}
    shared = []
    for cohort in certificate["shared_cohorts"]:
        people = {role: known["participants"] for role, known in certificate["cohorts"][cohort].items()}
        sides = (people["train"] + people["validation"], people["test"])
        shared.append((cohort, *(shown(count, count, smallest) for count in sides)))
    cohorts = {}
    for cohort, known in certificate["cohorts"].items():
        images, people = ({role: has[name] for role, has in known.items()} for name in ("images", "participants"))
        cells = [shown_row(counts, people, smallest) for counts in (images, people)]
        cohorts[cohort] = {role: [cell[role] for cell in cells] for role in known}
    engines = [(names[role], named_engines(pairs)) for role, pairs in certificate["engines"].items() if pairs]
    several = certificate.get("same_people", {})
    content = {
        "study": study,
        "inks": DARK,
        "names": names,
        "shared": shared,
        "engines": engines,
        "duplicates": duplicates_in_words(certificate["duplicates"], several.get("pairs", 0)),
        "certificate": certificate,
        "statement": statement(certificate["counts"], certificate["waived_scans"], smallest, several.get("people", 0)),
        "samples": {role: sample(known, smallest) for role, known in certificate["counts"].items()},
        "cohorts": cohorts,
        "sites": site_groups(certificate.get("confounding", {}), config["confounding"], config["tasks"], smallest),
        "smallest": smallest,
    }
    return pages.render(content, "certificate.html.j2")


def check_page(path: str | Path) -> None:
    """Refuse a page of an earlier version that has exact ages, or digests of people that can be guessed.

    Parameters
    ----------
    path : the page; it may be missing

    Raises
    ------
    InputError
        with the command that makes the page again; nothing that depends on the certificate is repeated
    """
    if Path(path).is_file() and TELLING.search(read_bytes(path).decode("utf-8", errors="replace")):
        what = "an earlier version wrote it, with exact ages or plain digests of people: do not mail it"
        raise InputError(path, "", what, "run snakemake --forcerun certificate, with the profile of your other runs")
