"""Errors that a user can fix: one line each, with the place, the mistake and the fix."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .text import printable

# the page that explains the mistakes which a room of the library finds, or one of its modules
PAGES = {
    "study": "config/README.md",
    "manifest": "docs/bids.md",
    "preprocess": "docs/failures.md",
    "cache": "docs/quality.md",
    "quality": "docs/quality.md",
    "split": "docs/participants.md",
    "split.confounding": "docs/confounding.md",
    "network": "docs/pretraining.md",
    "pretrain": "docs/pretraining.md",
    "exchange": "docs/weights.md",
    "predict": "docs/predict.md",
    "statistics": "docs/statistics.md",
    "validation": "docs/statistics.md",
    "report": "docs/results.md",
    "operations": "docs/running.md",
    "operations.freeze": "docs/trust.md#a-plan-from-before-the-first-fit",
    "report.analysis_plan": "docs/trust.md#a-plan-from-before-the-first-fit",
}
ANY_PAGE = "docs/when-something-fails.md"


class InputError(ValueError):
    """A mistake in a file, a table or the configuration that a user can fix.

    Its text is one line: the file, the row or key, the mistake, and the fix.  Commands and jobs print
    that line and stop, without a traceback.  Nothing in it controls a terminal.

    Parameters
    ----------
    file : the file (or folder) that holds the mistake; empty if there is none
    where : the row, column or key within it; may be empty
    what : the mistake
    fix : how to correct it
    """

    def __init__(self, file: object, where: str, what: str, fix: str) -> None:
        place = ": ".join(part for part in (str(file), where) if part)
        line = f"{place}: {what}" if place else what
        super().__init__(printable(" ".join(f"{line}; {fix}".split())))
        self.file, self.where, self.what, self.fix = str(file), where, what, fix
        self.page = _page()

    def __reduce__(self) -> tuple[Any, ...]:
        # pickled as it is: from another process it would be made of its text alone, which ends the pool
        return _as_it_was, (type(self), self.args, vars(self))

    def explained(self) -> str:
        """The text with the page of the documentation that explains it."""
        return f"{self} ({self.page})"


class InputErrors(InputError):
    """Several mistakes that were found together; its text has one line for each.

    Parameters
    ----------
    errors : the mistakes, at least one, in the order in which they are printed
    """

    def __init__(self, errors: Sequence[InputError]) -> None:
        first = errors[0]
        super().__init__(first.file, first.where, first.what, first.fix)
        self.errors = tuple(errors)
        self.lines = [str(error) for error in errors]
        self.args = ("\n".join(self.lines),)
        self.page = first.page

    def explained(self) -> str:
        """A line for each mistake, the last one with the page of the documentation that explains it."""
        return "\n".join([*self.lines[:-1], f"{self.lines[-1]} ({self.page})"])


def _as_it_was(kind: type[InputError], args: tuple[Any, ...], values: Mapping[str, Any]) -> InputError:
    error = kind.__new__(kind, *args)
    vars(error).update(values)
    return error


def _page() -> str:
    """The page for the room of the library that raises the error, or that has a file read which is wrong."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__") in (__name__, f"{__package__}.files", "contextlib"):
        frame = frame.f_back
    _, _, room = str(frame.f_globals.get("__name__", "")).partition("neurotransfer.")
    return PAGES.get(room) or PAGES.get(room.partition(".")[0], ANY_PAGE)


class Mistakes:
    """Collects mistakes, each once, and only the first few of each kind; `raise_if_any` raises them together.

    `causes` are no mistakes by themselves, and may be behind some: they are raised with them.
    """

    ALIKE = 10  # mistakes of one kind that are listed: a column with another coding has one in each of 50,000 rows

    def __init__(self) -> None:
        self._alike: dict[tuple[str, ...], dict[str, InputError]] = {}
        self._more: dict[tuple[str, ...], int] = {}
        self.causes: list[InputError] = []

    def add(self, error: InputError, *alike: str) -> None:
        """Add a mistake; `alike` names its kind, such as a folder and a column in its tables."""
        kind = alike or (str(error),)
        seen = self._alike.setdefault(kind, {})
        if str(error) in seen:
            return
        if len(seen) < self.ALIKE:
            seen[str(error)] = error
        else:
            self._more[kind] = self._more.get(kind, 0) + 1

    def __len__(self) -> int:
        return sum(map(len, self._alike.values()))

    def raise_if_any(self) -> None:
        """Raise all of them together, if there are any.

        Raises
        ------
        InputError
            the mistake, or `InputErrors` if there are several
        """
        errors: list[InputError] = []
        for kind, seen in self._alike.items():
            errors += seen.values()
            if kind in self._more:
                what = f"{self._more[kind]} more like the last line"
                errors.append(InputError(kind[0], "", what, "fix them in the same way"))
        raise_all([*errors, *self.causes] if errors else [])


def raise_all(errors: Sequence[InputError]) -> None:
    """Raise nothing for no error, the error itself for one, `InputErrors` for several."""
    if errors:
        raise errors[0] if len(errors) == 1 else InputErrors(errors)


class ImageError(ValueError):
    """One image cannot be used, for a reason from a fixed list; the other images are not affected.

    Parameters
    ----------
    reason : a short code for tables, such as ``truncated`` (the list is in preprocess/run.py)
    detail : one line of text
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, printable(" ".join(detail.split()))
        super().__init__(f"{reason}: {self.detail}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)  # for pickle, between processes


class TryAlone(ImageError):
    """An image failed because memory was short; it may succeed if it is processed alone."""


class InstallationError(InputError):
    """Something is missing on this machine that every image needs; the job stops and no image counts as failed."""
