"""Which T1-weighted images of a session are taken.

Goes in: a cohort's rule (column `t1w` of cohorts.tsv) and the scans of one session.  Comes out: those taken, and the
others with the reason.

A rule is ``all``, or words that are tried in turn: ``first``, ``last``, ``defaced`` or entities such as ``acq-mprage``
or ``acq-mprage_rec-norm``.  The first word that fits any scan decides; of several that it fits the first one is taken,
or the last one if the rule has the word ``last``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from .bids import PROCESSED, Exclusion, Scan

WORDS = ("first", "last", "defaced")


def rule_mistake(rule: Sequence[str]) -> str | None:
    """What is wrong with a rule, as the end of a sentence; None if it can be followed."""
    if "all" in rule and len(rule) > 1:
        return "'all' stands alone"
    for word in rule:
        if word not in (*WORDS, "all") and not re.fullmatch(r"[a-z]+-[^-_\s;:]+(_[a-z]+-[^-_\s;:]+)*", word):
            return f"{word!r} is neither first, last, all, defaced nor entities such as acq-mprage"
    for earlier, later in pairwise(rule):
        if earlier in ("first", "last"):
            return f"{later!r} is never reached, because {earlier!r} fits every image"
    return None


def entities_named(rule: Sequence[str]) -> set[str]:
    """The entities that a rule's words name, such as {"acq", "rec"}; plain words such as first are among them."""
    return {part.split("-", 1)[0] for word in rule for part in word.split("_")}


def choose_scans(scans: Sequence[Scan], rule: Sequence[str]) -> tuple[list[Scan], list[Exclusion]]:
    """Divide the scans of one session into those that the rule takes and those that it leaves out.

    Scans are in the natural order of their entities: run-2 before run-10, and one without an entity before one
    with it.  A scan with a contrast agent (``ce-``) is taken only if the rule names that entity.
    """
    scans = sorted(scans, key=natural_order)
    excluded = []
    if not any("ce-" in word for word in rule):
        detail = "an image with a contrast agent is taken only if the column t1w names it, as ce-<label>"
        excluded = [Exclusion(scan.path, "contrast_agent", detail) for scan in scans if "ce" in scan.labels]
        scans = [scan for scan in scans if "ce" not in scan.labels]
    named = entities_named(rule)
    made = [scan for scan in scans if _is_processed(scan) and not named & set(PROCESSED)]
    detail = "a program has made it of a scan; it is taken only if the column t1w names it, as desc-<label>"
    excluded += [Exclusion(scan.path, "processed", detail) for scan in made]
    scans = [scan for scan in scans if scan not in made]
    if "all" in rule or not scans:
        return scans, excluded
    fitting = next((fitting for word in rule if (fitting := [scan for scan in scans if fits(scan, word)])), [])
    text = ", ".join(rule)
    if not fitting:
        detail = f"no image of the session fits the rule {text!r}"
        return [], excluded + [Exclusion(scan.path, "no_fit", detail) for scan in scans]
    taken = fitting[-1 if "last" in rule else 0]
    name = taken.path.rpartition("/")[2]
    detail = f"by the rule {text!r} the session's image is {name}"
    return [taken], excluded + [Exclusion(scan.path, "not_chosen", detail) for scan in scans if scan is not taken]


def _is_processed(scan: Scan) -> bool:
    """Whether the name says that a program has made it: another space, a mask applied; a removed face is no reason."""
    labels = {entity: label for entity, label in scan.labels.items() if entity in PROCESSED}
    return bool(labels) and not (labels.keys() == {"desc"} and "deface" in labels["desc"].lower())


def fits(scan: Scan, word: str) -> bool:
    """Whether a scan is one that a word of a rule means."""
    if word in ("first", "last"):
        return True
    if word == "defaced":
        return any("deface" in scan.labels.get(entity, "").lower() for entity in ("acq", "rec", "desc", "proc"))
    wanted = dict(part.split("-", 1) for part in word.split("_"))
    return all(scan.labels.get(entity) == label for entity, label in wanted.items())


def natural_order(scan: Scan) -> list[str | int]:
    """A key that sorts scans by their entities, with numbers as numbers."""
    parts = re.split(r"(\d+)", scan.entities)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]
