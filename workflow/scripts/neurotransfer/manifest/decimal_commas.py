"""Numbers as people write them: which decimal mark a whole column has.

A cell by itself can't say: 1,234 is a little more than one in Berlin and more than a thousand in Boston.  A column
can, if one of its cells is written in a way that only one of the two reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WITH_COMMA = re.compile(r"[+-]?(?P<whole>\d*),(?P<decimals>\d+)([eE][+-]?\d+)?")


def comma_problem(texts: Iterable[str]) -> str | None:
    """Why commas in a column cannot be read as decimal commas, as a sentence; None if they can.

    They are decimal commas if no cell has a point, every cell with a comma has one only, and at least one of
    those can't be a number with thousands marked off: without three digits after the comma, or with a zero, nothing
    or four digits and more before it.
    """
    texts = [text for text in texts if text]
    commas = [text for text in texts if "," in text]
    numbers = [found for text in commas if (found := WITH_COMMA.fullmatch(text))]
    if any("." in text and ("," in text or NUMBER.fullmatch(text)) for text in texts):
        return "the column has numbers with a point and with a comma"
    if any(text.count(",") > 1 and re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", text) for text in commas):
        return "its commas mark off thousands"
    if numbers and not any(_is_decimal(found["whole"], found["decimals"]) for found in numbers):
        return "its commas could be decimal ones or mark off thousands"
    return None


def _is_decimal(whole: str, decimals: str) -> bool:
    return len(decimals) != 3 or len(whole) > 3 or whole == "" or whole.startswith("0")
