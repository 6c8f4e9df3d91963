"""Imaged sessions that a table has no row for, although it has rows for the same person's other sessions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection


def unmatched_sessions(imaged: Collection[str], listed: Collection[str]) -> dict[str, str | None]:
    """The imaged sessions without a row, each with the row's label that differs only in padding, case or
    prefix, if any.

    Parameters
    ----------
    imaged, listed : labels of sessions, without ``ses-``, of one person's images and table rows; a row that another
        imaged session has is nobody else's
    """
    free = {folded(label): label for label in listed if label not in imaged}
    return {label: free.get(folded(label)) for label in imaged if label not in listed}


def folded(label: str) -> str:
    """A label as people also write it: without case, prefix, punctuation, leading zeros or a spreadsheet's ".0".

    Examples
    --------
    >>> {folded(label) for label in ("M048", "m48", "ses-M48", "Session M-48")}, folded("1.0") == folded("01")
    ({'m48'}, True)
    """
    text = unicodedata.normalize("NFKC", label).casefold().strip()
    text = re.sub(r"^(?:ses|sub|session|subject)(?:[-_ .]+(?=.)|(?=\d))", "", text)
    text = re.sub(r"(?<=\d)\.0$", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", "", text))
