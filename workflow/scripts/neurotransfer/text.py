"""Numbers and codes as a person reads them in the report."""

from __future__ import annotations

MISSING = "–"


def is_missing(value: object) -> bool:
    """Whether a cell of a table has no value: None, NaN or pandas' NA, which has no truth value."""
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
    """A p-value with two digits that say something; never a bare zero."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def words(code: object) -> str:
    """A code of a table as words; "unknown" where there is none."""
    return "unknown" if is_missing(code) else str(code).replace("_", " ")


def number(value: float | None) -> str:
    """A count with its thousands marked off; missing is a dash."""
    return MISSING if is_missing(value) else f"{value:,}"
