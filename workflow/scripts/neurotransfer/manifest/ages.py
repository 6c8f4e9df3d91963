"""Ages as tables write them, and as days tell them.

Goes in: the text of a cell, its unit, and days of birth and of scans.  Comes out: years.
"""

from __future__ import annotations

import re
from datetime import date

from .bids_tables import day_of

DAYS_PER_YEAR = 365.2425  # of the Gregorian calendar
PER_YEAR = {"years": 1.0, "months": 12.0, "weeks": DAYS_PER_YEAR / 7, "days": DAYS_PER_YEAR}
# What sidecars call them, in lower case and without a trailing "s".
UNITS = {
    **dict.fromkeys(("y", "yr", "year", "a", "annum"), "years"),
    **dict.fromkeys(("mo", "mon", "month"), "months"),
    **dict.fromkeys(("w", "wk", "week"), "weeks"),
    **dict.fromkeys(("d", "day"), "days"),
}
CAPPED = re.compile(r"(?:(?:>=?|≥)\s*)?(?P<number>[^\s>≥+]+?)\s*(?:\+)?")


def unit_named(text: str) -> str | None:
    """The unit that a sidecar means by words such as "years", "Year", "yrs" or "month(s)"; None for anything else."""
    word = text.strip().lower().replace("(s)", "").rstrip(".")
    return UNITS.get(word) or UNITS.get(word.removesuffix("s"))


def uncapped(text: str) -> str:
    """The number of an age with an upper bound, as BIDS writes those of 89 and more ("89+"), or ``> 89``."""
    found = CAPPED.fullmatch(text)
    return found["number"] if found else text


def birth_day(text: str) -> date | None:
    """A day of birth: a date, or the middle of a month (1950-06) or of a year (1950); None where it is neither."""
    if re.fullmatch(r"\d{4}", text):
        return day_of(f"{text}-07-02")
    return day_of(f"{text}-15") if re.fullmatch(r"\d{4}-\d\d", text) else day_of(text)


def years_between(earlier: date, later: date) -> float:
    """Years from one day to another."""
    return (later - earlier).days / DAYS_PER_YEAR
