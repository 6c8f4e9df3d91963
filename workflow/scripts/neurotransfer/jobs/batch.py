"""Several replicates in one job (`models.replicates_per_job`), each with its own files, log, lease and failure.

A rule's script does the work of one replicate in a function; `each_replicate` calls it for each replicate of the job.
"""

from __future__ import annotations

import csv
import logging
import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..files import written_whole
from ..study import layout
from ..study.rules import RULES, base_name
from .job import Stopped, began, job, set_up_logging

logger = logging.getLogger("neurotransfer")
OF_REPLICATE = ("resample", "fit")  # inputs of which each replicate has its own


def each_replicate(
    snakemake: Any,
    work: Callable[[Any], None],
    *,
    lease: str | None = None,
    is_finished: Callable[[Any], bool] | None = None,
) -> None:
    """Do the work of every replicate of a job; one that fails does not stop the others, and fails the job at its end.

    Parameters
    ----------
    snakemake : Snakemake's object in a script, of a rule with the wildcard `replicate` or of a rule for several
        (`study.rules.name_for_batch`)
    work : makes the outputs of one replicate, from Snakemake's object as the replicate's own job would have it
    lease : the name of the output that two processes must not write at once
    is_finished : whether the existing outputs of a replicate are those that `work` would make; only of a job with
        several, because Snakemake removes the outputs of others before they start

    Raises
    ------
    SystemExit
        if a replicate failed, or the job was stopped
    """
    if hasattr(snakemake.wildcards, "replicate"):
        with job(snakemake, lease=lease and getattr(snakemake.output, lease)):
            work(snakemake)
        return
    lines: list[str] = []
    failed = 0
    for one in _replicates(snakemake):
        start = (time.time(), sum(os.times()[:2])) if lines else (began(), 0.0)  # the first one begins with the process
        name = one.wildcards.replicate
        try:
            if is_finished and all(map(os.path.exists, one.output)) and is_finished(one):
                lines.append(f"replicate {name}: finished before, kept")
                continue
            with job(one, lease=lease and getattr(one.output, lease)):
                work(one)
            lines.append(f"replicate {name}: done in {_write_benchmark(one, *start):.1f} s")
        except Stopped:
            raise
        except SystemExit as error:
            if not error.code:
                lines.append(f"replicate {name}: done by the process that held its lease")
                continue
            failed += 1
            lines.append(f"replicate {name}: failed, see {one.log[0]}")
    set_up_logging(snakemake.log[0])
    for line in lines:
        logger.info("%s", line)
    if failed:
        raise SystemExit(1)


class _Files(list):
    """The files of one replicate, by position and by name, as Snakemake's own lists have them."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        super().__init__(file for value in named.values() for file in ([value] if isinstance(value, str) else value))
        self.named = dict(named)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["named"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:
        return self.named[key] if isinstance(key, str) else super().__getitem__(key)

    def get(self, name: str, default: Any = None) -> Any:
        """The file or files of this name; the default if there are none."""
        return self.named.get(name, default)


def _replicates(snakemake: Any) -> Iterator[SimpleNamespace]:
    """Snakemake's object for each replicate of a job, whose outputs and inputs OF_REPLICATE are lists in order."""
    name = base_name(snakemake.rule)
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(RULES[name].result))
    outputs = dict(snakemake.output.items())
    (result,) = [files for files in outputs.values() if re.fullmatch(pattern, files[0])]
    for at, path in enumerate(result):
        found = re.fullmatch(pattern, path)
        assert found, path
        values = found.groupdict()
        inputs = {key: files[at] if key in OF_REPLICATE else files for key, files in snakemake.input.items()}
        yield SimpleNamespace(
            input=_Files(inputs),
            output=_Files({key: files[at] for key, files in outputs.items()}),
            wildcards=_Files(values),
            log=[layout.log(name, *_parts(values))],
            **{key: getattr(snakemake, key) for key in ("params", "resources", "threads", "rule", "config")},
        )


def _parts(values: Mapping[str, str]) -> list[str]:
    """The parts of the paths of a replicate's log and costs."""
    return [f"n{value}" if key == "n" else value for key, value in values.items()]


def _write_benchmark(one: Any, start: float, used: float) -> float:
    """Write what a replicate has cost, as Snakemake does for a job of its own; its seconds by the clock.

    The peak of the memory is the whole process's so far.

    Parameters
    ----------
    start, used : when the replicate began, in seconds since 1970, and the process's CPU seconds by then
    """
    path = Path(layout.benchmark(base_name(one.rule), *_parts(one.wildcards.named)))
    seconds, cpu = time.time() - start, sum(os.times()[:2]) - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
    with written_whole(path, "w") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["s", "max_rss", "cpu_time"])
        writer.writerow([f"{seconds:.4f}", f"{memory:.2f}", f"{cpu:.2f}"])
    return seconds
