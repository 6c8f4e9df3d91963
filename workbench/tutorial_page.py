"""docs/tutorial.md: its commands, and the blocks that hold what they print.

A block of output is fenced and stands below a comment that names its command, and where it is cut:

    <!-- output: neurotransfer look data/ds002748 -->
    <!-- output up to "data type": neurotransfer rehearse --configfile my-study.yaml -->
    <!-- output from "(100%) done": snakemake --configfile my-study.yaml -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/tutorial.md"
BLOCK = re.compile(
    r'(?P<head><!-- output(?: (?P<side>up to|from) "(?P<place>[^"\n]+)")?: (?P<command>[^\n]+) -->\n```text\n)'
    r"(?P<text>.*?)(?P<end>```\n)",
    re.DOTALL,
)
MADE = re.compile(r"(?<=<!-- made -->\n).*?(?=\n\n)", re.DOTALL)
OMITTED = "[...]"


@dataclass(frozen=True)
class Block:
    """A command, and the part of its output that the page shows."""

    command: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of output in their order."""
    return [Block(found["command"], found["text"]) for found in BLOCK.finditer(page)]


def commands(page: str) -> list[str]:
    """The lines to copy: those that are indented by four spaces, without their comments."""
    lines = [line[4:] for line in re.sub(r"```.*?```", "", page, flags=re.DOTALL).splitlines() if line[:4] == "    "]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def tidy(output: str) -> str:
    """An output without white space at the ends of its lines."""
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


def with_outputs(page: str, run: Callable[[str], str]) -> str:
    """The page with each block made by its command; `run` gives a command's output, and is called in their order."""

    def made(found: re.Match[str]) -> str:
        lines = tidy(run(found["command"])).splitlines()
        return f"{found['head']}{chr(10).join(_cut(lines, found['side'], found['place']))}\n{found['end']}"

    return BLOCK.sub(made, page)


def _cut(lines: list[str], side: str | None, place: str | None) -> list[str]:
    """The lines up to, or from, the first one that contains `place`.

    Raises
    ------
    ValueError
        if no line contains it
    """
    if side is None or place is None:
        return lines
    at = next((number for number, line in enumerate(lines) if place in line), None)
    if at is None:
        raise ValueError(f"no line of the output contains {place!r}: {lines[-5:]}")
    return [*lines[: at + 1], OMITTED] if side == "up to" else [OMITTED, *lines[at:]]
