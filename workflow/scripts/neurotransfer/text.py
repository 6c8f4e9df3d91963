"""Numbers, codes and tables as text, for a page or a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MISSING = "–"


def printable(text: str) -> str:
    """A line of text in which nothing controls a terminal: what cannot be printed is written as its escape sequence.

    >>> printable("a\x1b[31m b")
    'a\\\\x1b[31m b'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def without_accents(text: str) -> str:
    """A text with plain letters in place of accented ones.

    >>> without_accents("Größe é")
    'Grosse e'
    """
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def is_missing(value: object) -> bool:
    """Whether a cell of a table is missing: None, NaN or pandas' NA (which raises TypeError as a truth value)."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def interval(low: float, high: float, *, sign: bool = False) -> str:
    """An interval in words, "0.81 to 0.86"; missing ends are a dash."""
    if is_missing(low) or is_missing(high):
        return MISSING
    return f"{signed(low)} to {signed(high)}" if sign else f"{fixed(low)} to {fixed(high)}"


def fixed(value: float) -> str:
    """A value with three decimals; missing is a dash."""
    return MISSING if is_missing(value) else f"{value:.3f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference with its sign, a real minus."""
    return f"{value:+.3f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p-value with three or four decimals, or "< 0.0001"; never zero."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def words(code: object) -> str:
    """A code of a table as words; "unknown" if it is missing."""
    return "unknown" if is_missing(code) else str(code).replace("_", " ")


def number(value: float | str | None) -> str:
    """A count with separators of thousands; missing is a dash, and text, such as "< 5", stays as it is."""
    return value if isinstance(value, str) else MISSING if is_missing(value) else f"{value:,}"


def counted(count: int, one: str, several: str | None = None) -> str:
    """A count with its noun, "1 job" or "1,200 jobs".

    Parameters
    ----------
    one, several : the words after 1 and after another number, also with a verb; by default `several` is `one` with an s
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def duration(seconds: float) -> str:
    """A duration in a suitable unit: "90 s", "12 min", "3.4 h", "2.1 days"."""
    for size, digits, unit in ((86_400, 1, "days"), (3600, 1, "h"), (60, 0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def byte_size(count: float) -> str:
    """A number of bytes in a suitable unit: "830 B", "12 kB", "1.1 TB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def aligned(rows: Sequence[Sequence[str]], sides: str = "", rest: str = "r") -> str:
    """Rows of cells as lines of text with aligned columns.

    Parameters
    ----------
    sides : per column "l" for left-aligned or "r" for right-aligned cells
    rest : the same for the columns after those of `sides`
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = sides.ljust(len(widths), rest)
    lines = []
    for row in rows:
        cells = zip(row, widths, sides, strict=True)
        lines.append("  ".join(cell.ljust(width) if side == "l" else cell.rjust(width) for cell, width, side in cells))
    return "\n".join(line.rstrip() for line in lines)
