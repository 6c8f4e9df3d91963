"""Imaged sessions that a table has no row for, although it has rows for the same person's other sessions."""

from __future__ import annotations

import re
from collections.abc import Collection


def unmatched_sessions(imaged: Collection[str], listed: Collection[str]) -> dict[str, str | None]:
    """The imaged sessions without a row, each with the row's label that differs only in padding or case, if any.

    Parameters
    ----------
    imaged, listed : labels of sessions, without ``ses-``, of one person's images and table rows; a row that another
        imaged session has is nobody else's
    """
    free = {_folded(label): label for label in listed if label not in imaged}
    return {label: free.get(_folded(label)) for label in imaged if label not in listed}


def _folded(label: str) -> str:
    """A label without leading zeros of its numbers, and without case: M048 and m48 give m48."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", label.casefold())
