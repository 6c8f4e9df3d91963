"""Labels that a table writes otherwise than the folders: of people, and of sessions that it has no row for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping


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


def near_label(key: str, others: Mapping[str, str]) -> str:
    """A hint if participants.tsv has a person's label in another form; "" if not.

    Parameters
    ----------
    others : the table's labels by their folded form
    """
    other = others.get(folded(key))
    why = "have its leading zeros been lost?" if other == key.lstrip("0") else "write it as the folder"
    return f" (it has sub-{other}: {why})" if other else ""
