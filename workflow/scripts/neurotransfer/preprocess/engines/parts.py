"""The seconds that each part of FastSurfer's work on an image took, from what it prints.

Goes in: the console's text, and when it grew (processes.py writes it down).  Comes out: seconds by part, in the
order of study.demands.PARTS.  FastSurfer's lines have no times of their own, except the network's and the statistics'.
The lines are those of 2.4.0-dev.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

# The line with which each part begins; the first one begins with the command.  The masks' begins with the end of the
# last view, because the labels are split by hemisphere before the next line, on the CPU.
BEGINS = {
    "import": r"FastSurferCNN/run_prediction\.py.* --",
    "networks": r"Checking or downloading default checkpoints",
    "conform": r"Successfully loaded image from",
    "network": r"Run \w+ prediction",
    "masks": r"(?s:.*) inference on [^\n]* finished in [\d.]+ seconds|Creating brainmask based on segmentation",
    "bias field": r"Running N4 bias-field correction",
    "statistics": r"FastSurferCNN/segstats\.py.* --",
}
VIEW = re.compile(r"(?:Axial|Coronal|Sagittal) inference on .* finished in ([\d.]+) seconds")
LABELS = re.compile(r"Partial volume stats .*\n.*Calculation took ([\d.]+) seconds")


def seconds_of_parts(text: bytes, growth: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Seconds by part; a part whose first line is missing counts in the one before it.

    Parameters
    ----------
    text : what one run of FastSurfer has printed
    growth : seconds since the run's start and bytes of `text` at that time, in order; the last one is the run's end

    Returns
    -------
    empty if nothing was printed, or if no part but the first was found
    """
    if not growth:
        return {}
    sizes = [size for _, size in growth]
    begun, at = [("start", 0.0)], 0
    for part, pattern in BEGINS.items():
        found = re.compile(pattern.encode(), re.MULTILINE).search(text, at)
        if found:
            at = found.end()
            # a line's time is that of the first look at which its last byte was there
            begun.append((part, growth[min(bisect_left(sizes, at), len(growth) - 1)][0]))
    if len(begun) == 1:
        return {}
    ends = [*(seconds for _, seconds in begun[1:]), growth[-1][0]]
    return {part: round(end - start, 2) for (part, start), end in zip(begun, ends, strict=True)}


def seconds_in_log(text: str) -> dict[str, float]:
    """The seconds that FastSurfer itself prints, of an image whose console was not timed: network and statistics."""
    found = {}
    if views := VIEW.findall(text):
        found["network"] = sum(map(float, views))
    if labels := LABELS.search(text):
        found["statistics"] = float(labels[1])
    return found
