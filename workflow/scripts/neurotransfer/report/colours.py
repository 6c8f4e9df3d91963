"""The colours of pages and figures, and the names by which a page finds parts of a figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..study.plan import further_models


class Mark(NamedTuple):
    """A model's colour and matplotlib marker."""

    colour: str
    marker: str


# Okabe & Ito's palette (2008), which people with a colour-vision deficiency tell apart; the shape repeats the colour
MARKS = {"linear": Mark("#0072B2", "s"), "baseline": Mark("#E69F00", "D"), "transfer": Mark("#009E73", "o")}
# Of further arms, in their order; again from the first if there are more
FURTHER = (Mark("#CC79A7", "v"), Mark("#D55E00", "^"), Mark("#56B4E9", "P"), Mark("#8C6D31", "X"))
INK, SOFT, FAINT, PAPER = "#1F2328", "#59636E", "#D1D9E0", "#FFFFFF"
# The same inks on a dark page; the figures' files keep the light ones
DARK = {INK: "#E6EDF3", SOFT: "#9AA7B4", FAINT: "#30363D", PAPER: "#161B22", MARKS["linear"].colour: "#56B4E9"}
PUBLISHED = "published"  # prefix of the SVG ids of the overlay of published medians, which is hidden at first


def marks_of(models: Iterable[str]) -> dict[str, Mark]:
    """The marks of those of these models that are compared: the paper's first, then further arms in their order."""
    known = dict.fromkeys(models)
    marks = {model: mark for model, mark in MARKS.items() if model in known}
    return marks | {model: FURTHER[place % len(FURTHER)] for place, model in enumerate(further_models(known))}
