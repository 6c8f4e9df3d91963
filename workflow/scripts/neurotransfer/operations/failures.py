"""Failed jobs and their causes: those that jobs recorded, and those of jobs that were killed before they could.

Goes in: ``results/failures/``, and Slurm's logs of jobs that left neither a result nor a cause.  Comes out: text by
cause, with the last informative lines and the command that repeats each job.  Read only; standard library.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import is_number, opened, read_json
from ..study import layout
from ..study.rules import RULES, base_name, first_of_batch, target_of
from ..text import counted, printable

SUMMARY = layout.AUCS  # it needs every fit, so asking for it repeats the fits that a group did not make
LINES = 4  # of a log that are shown
# lines of Slurm, the kernel or Python in the log of a job that was killed
KILLED = (
    (re.compile(r"oom-kill|out[ -]of[ -]memory|exceeded (job )?memory limit|memory limit.*exceeded", re.I),
     "killed: it used more memory than it asked for; the next attempt asks for more (mem_mb)"),
    (re.compile(r"DUE TO TIME LIMIT", re.I), "killed: its time limit was reached; the next attempt has more (runtime)"),
    (re.compile(r"DUE TO NODE FAILURE|NODE_FAIL|node failure", re.I), "its node failed; it runs again on another one"),
    (re.compile(r"DUE TO PREEMPTION", re.I), "preempted by another job; it runs again"),
    (re.compile(r"CANCELLED AT", re.I), "cancelled (scancel)"),
    (re.compile(r"No space left on device|Disk quota exceeded", re.I), "no space left on the disk; free some"),
)  # fmt: skip
# lines of a log without information on a cause
NOISE = re.compile(
    r"^[\s^~]*$|INFO|srun: Job step aborted|Trying to restart|^\[\w{3} \w{3}"
    r"|^(Complete log|Shutting down|Exiting because|Elapsed|Storing output|At least one job|WorkflowError:|--keep-inc)"
    r"|^ +(input|output|log|jobid|benchmark|wildcards|resources|message): "
)
NUMBERS = re.compile(r"\d[\d.]*")
GROUP = re.compile(r"group_([A-Za-z]+)")


@dataclass(frozen=True)
class Failure:
    """One job that failed when it was last tried."""

    rule: str
    key: str
    cause: str
    target: str
    lines: tuple[str, ...]
    time: float


def failures_of(folder: str | Path = ".", results: str | Path | None = None) -> list[Failure]:
    """Every job that failed when it was last tried, the newest first.

    Parameters
    ----------
    results : the folder of the study's results, if it is not ``results`` in `folder`
    """
    folder = Path(folder)
    found = {failure.target: failure for failure in _killed(folder)}
    found |= {failure.target: failure for failure in _recorded(folder, Path(results or folder / layout.RESULTS))}
    return sorted(found.values(), key=lambda failure: -failure.time)


def report(failures: Sequence[Failure], count: int, options: Sequence[str] = ()) -> str:
    """Failures by cause, the most frequent first, at most `count` of them in full.

    Parameters
    ----------
    options : of the snakemake command that repeats a job, such as ``--profile`` and ``--configfile``
    """
    if not failures:
        return "no job has failed; for images that could not be used, see: neurotransfer status"
    ordered = by_kind(failures)
    share = max(1, count // len(ordered))
    parts = [f"{counted(len(failures), 'job')} failed when last tried, of {counted(len(ordered), 'kind')}"]
    for group in ordered:
        first = group[0]
        parts.append(f"\n{len(group)} × {first.rule}: {first.cause}")
        for failure in group[:share]:
            parts.append(f"  {failure.key}")
            parts += [f"    | {line}" for line in failure.lines]
            parts.append("    " + shlex.join(["snakemake", failure.target, *options]))
        if len(group) > share:
            parts.append(f"  and {len(group) - share} more like these")
    return "\n".join(parts)


def kind_of(failure: Failure) -> str:
    """The rule and the cause without numbers and paths; failures with the same kind are counted together."""
    cause = re.sub(r"\S*/\S*", "PATH", failure.cause)
    return f"{failure.rule} {NUMBERS.sub('N', cause)}"


def by_kind(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Failures in groups of one kind, the most frequent first."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(kind_of(failure), []).append(failure)
    return sorted(groups.values(), key=len, reverse=True)


def _recorded(folder: Path, results: Path) -> Iterator[Failure]:
    for path in layout.within(results, layout.FAILURES).glob("*/*.json"):
        try:
            facts = read_json(path)
        except (OSError, ValueError):
            continue
        if not _is_failure(facts):
            continue
        rule, key, cause = ("\n".join(map(printable, facts[name].splitlines())) for name in ("rule", "key", "cause"))
        parts = facts.get("wildcards") or _parts(rule, key)
        log = folder / facts["log"] if facts.get("log") else None
        yield Failure(rule, key, cause, printable(target_of(rule, parts)), _last_lines(log, cause), facts["time"])


def _is_failure(facts: object) -> bool:
    """Whether a JSON value is what a job that failed leaves (jobs/job.py)."""
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), str) for name in ("rule", "key", "cause")):
        return False
    when, log, parts = facts.get("time"), facts.get("log"), facts.get("wildcards")
    listed = parts is None or (isinstance(parts, list) and all(isinstance(part, str) for part in parts))
    return listed and is_number(when) and (log is None or isinstance(log, str))


def _parts(rule: str, key: str) -> list[str]:
    """A key's wildcards, which are joined by dashes; a shard's name has a dash of its own."""
    if rule in RULES and "shard" in RULES[rule].wildcards:
        shard = re.match(r"[A-Za-z0-9]+-\d+", key)
        return [shard[0], *key[shard.end() + 1 :].split("-")] if shard else [key]
    return key.split("-")


def _killed(folder: Path) -> Iterator[Failure]:
    """Jobs and groups whose newest Slurm log ends with a kill, and whose result is missing or older."""
    for logs in folder.glob(f"{layout.SLURM_LOGS}/group_*"):
        log = max(logs.glob("*.log"), key=lambda path: path.stat().st_mtime, default=None)
        cause = _cause_of_kill(log) if log else None
        aucs = folder / SUMMARY
        if log and cause and not (aucs.exists() and aucs.stat().st_mtime >= log.stat().st_mtime):
            group = GROUP.match(logs.name)
            name = f"group of {group[1]} fits" if group else logs.name
            yield Failure(name, f"Slurm job {log.stem}", cause, SUMMARY, _last_lines(log), log.stat().st_mtime)
    for logs in folder.glob(f"{layout.SLURM_LOGS}/rule_*"):
        name = logs.name.removeprefix("rule_")
        rule, first = base_name(name), first_of_batch(name)
        newest: dict[Path, Path] = {}
        for log in logs.rglob("*.log"):
            if log.parent not in newest or log.stat().st_mtime > newest[log.parent].stat().st_mtime:
                newest[log.parent] = log
        for parent, log in newest.items():
            parts = [] if parent == logs else _wildcards(parent.relative_to(logs), rule, first)
            target = target_of(rule, parts)
            if (folder / target).exists():
                continue
            cause = _cause_of_kill(log)
            if cause:
                yield Failure(rule, "-".join(parts) or "all", cause, target, _last_lines(log), log.stat().st_mtime)


def _cause_of_kill(log: Path) -> str | None:
    text = _tail(log)
    return next((cause for pattern, cause in KILLED if pattern.search(text)), None)


def _wildcards(path: Path, rule: str, first: str | None) -> list[str]:
    """The wildcards in the name that the plugin gives a log's folder: joined by _, which a task's name may hold too.

    Parameters
    ----------
    first : the first replicate of a job of several, whose folder does not name it
    """
    names = RULES[rule].wildcards if rule in RULES else ()
    kinds = {"task": "(.+)", "n": r"(\d+)", "replicate": r"(\d+)"}
    found = re.fullmatch(
        "_".join(kinds.get(name, "([^_]+)") for name in names if not (first and name == "replicate")), str(path)
    )
    parts = list(found.groups()) if found else str(path).split("_")
    if first and "replicate" in names:
        parts.insert(names.index("replicate"), first)
    return parts


def _tail(path: Path, size: int = 20_000) -> str:
    with opened(path) as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - size))
        return file.read().decode(errors="replace")


def _last_lines(path: Path | None, skip: str = "") -> tuple[str, ...]:
    if path is None or not path.is_file():
        return ()
    lines = [line.rstrip() for line in _tail(path).splitlines() if not NOISE.search(line)]
    return tuple(printable(line[:200]) for line in lines if not (skip and skip in line))[-LINES:]
