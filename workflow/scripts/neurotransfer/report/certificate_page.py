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
from .cells import cell, sample
from .confounding_tables import site_groups
from .counts import SIDES, hidden_in_certificate

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
    hidden = hidden_in_certificate(certificate["cohorts"], smallest)
    people = people_by_role(certificate)
    names = {"train": "training", "validation": "validation", "test": "test", "unused": "not used"}
    shared = []
    for cohort in certificate["shared_cohorts"]:
        sums = {roles: sum(people[cohort][role] for role in roles) for roles in SIDES}
        cells = [cell(count, count, smallest, ("cohort", cohort, *roles) in hidden) for roles, count in sums.items()]
        train = people[cohort]["train"]
        counted = cells[0] == "hidden" and train >= smallest and ("cohort", cohort, "train") not in hidden
        shared.append((cohort, *cells, train if counted else None))
    cohorts: dict[str, dict[str, list[int | str]]] = {}
    for cohort, known in certificate["cohorts"].items():
        cohorts[cohort] = {}
        for role, has in known.items():
            one, counts = has["participants"], [has[name] for name in ("images", "participants")]
            is_hidden = ("cohort", cohort, role) in hidden
            cohorts[cohort][role] = [cell(count, one, smallest, is_hidden) for count in counts]
    any_hidden = any("hidden" in cell for known in cohorts.values() for cell in known.values())
    without = {role for role in certificate["counts"] if ("role", role) in hidden}
    engines = [(names[role], named_engines(pairs)) for role, pairs in certificate["engines"].items() if pairs]
    several = certificate.get("same_people", {})
    content = {
        "study": study,
        "names": names,
        "shared": shared,
        "engines": engines,
        "duplicates": duplicates_in_words(
            certificate["duplicates"], several.get("pairs", 0), smallest, is_hidden=("usable",) in hidden
        ),
        "is_total_hidden": ("usable",) in hidden,
        "certificate": certificate,
        "statement": statement(
            certificate["counts"], certificate["waived_scans"], smallest, several.get("people", 0), without
        ),
        "samples": {role: sample(known, smallest, role in without) for role, known in certificate["counts"].items()},
        "cohorts": cohorts,
        "any_hidden": any_hidden,
        "sites": site_groups(certificate.get("confounding", {}), config["confounding"], config["tasks"], smallest),
        "smallest": smallest,
    }
    return pages.render(content, "certificate.html.j2")


def people_by_role(certificate: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The number of people by cohort and role."""
    return {
        cohort: {role: has["participants"] for role, has in known.items()}
        for cohort, known in certificate["cohorts"].items()
    }


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
