"""The plan of a study: its shards, cohorts, tasks and replicates, and how they depend on each other.

Goes in: the configuration and `results/manifest/shards.tsv`.  Comes out: all that the Snakefile needs to
define every job.  Standard library only, because the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import InputError
from ..files import opened, read_dicts, read_facts
from . import layout
from .demands import may_leave_volumes_out
from .same_people import NOBODY, People, read_people

CNNS = ("baseline", "transfer")
MODELS = ("linear", *CNNS)
ARMS = (*MODELS, "covariates")  # the fits of each resample: the paper's models, and a model of covariates alone
AGAIN = "run neurotransfer manifest"
SHARD_NAME = re.compile(r"[A-Za-z0-9]{1,100}-[0-9]{1,9}")
COUNT = re.compile(r"[0-9]{1,6}")
FROZEN = "frozen"  # the arm of logistic regression on the pretrained trunk's features


@dataclass(frozen=True)
class Shard:
    """One cache file of up to `images_per_shard` images, all of one cohort; `images` counts withdrawn ones too."""

    name: str
    cohort: str
    images: int
    images_per_job: int
    withdrawn: int = 0

    @property
    def jobs(self) -> list[str]:
        """Names of its preprocessing jobs, in order: "0000", "0001", ..."""
        return [f"{job:04d}" for job in range(-(-self.images // self.images_per_job))]

    def images_of_job(self, job: str) -> int:
        """How many images the job handles: the last one may have fewer."""
        return min(self.images_per_job, self.images - int(job) * self.images_per_job)


@dataclass(frozen=True)
class Study:
    """All that a study consists of.

    `roles` maps a cohort to the set of its roles (`pretraining`, `holdout`, names of tasks), and
    `pretraining_shares` to the share of its participants that may pretrain (1 or 0, except for cohorts
    with roles on both sides).  `derivatives` are the cohorts whose images are already preprocessed,
    `without_volumes` those whose images need no regional volumes, `further` the arms beyond the paper's,
    `second_seeds` the replicates whose networks are fitted once more with another seed, and `people` those with
    several participant ids.
    """

    shards: Mapping[str, Shard]
    roles: Mapping[str, frozenset[str]]
    pretraining_shares: Mapping[str, float]
    tasks: Mapping[str, Mapping[str, object]]
    n: tuple[int, ...]
    replicates: tuple[str, ...]
    run: str
    derivatives: frozenset[str] = frozenset()
    without_volumes: frozenset[str] = frozenset()
    further: tuple[str, ...] = ()
    second_seeds: tuple[str, ...] = ()
    people: People = NOBODY

    @property
    def arms(self) -> tuple[str, ...]:
        """The fits of each resample: the paper's models, further arms, and a model of covariates alone."""
        return (*MODELS, *self.further, *ARMS[len(MODELS) :])

    def cohorts_with_features(self) -> list[str]:
        """The cohorts whose images go through the pretrained trunk once: the pools of all tasks, for the arm frozen."""
        return self.cohorts_of(*self.tasks) if FROZEN in self.further else []

    def shards_of(self, cohort: str) -> list[str]:
        """Names of a cohort's shards, in order."""
        return self._shards_by_cohort.get(cohort, [])

    @cached_property
    def _shards_by_cohort(self) -> dict[str, list[str]]:
        by_cohort: dict[str, list[str]] = {}
        for shard in self.shards.values():
            by_cohort.setdefault(shard.cohort, []).append(shard.name)
        return by_cohort

    def ledgers_of(self, shards: Iterable[str]) -> list[str]:
        """Paths of the ledgers that the preprocessing jobs of some shards write, in order."""
        return [layout.ledger(shard, job) for shard in shards for job in self.shards[shard].jobs]

    def cohorts_of(self, *roles: str) -> list[str]:
        """Names of the cohorts that have any of these roles (`pretraining`, `holdout` or a task), in order."""
        return [cohort for cohort, has in self.roles.items() if has & set(roles)]

    @property
    def cohorts(self) -> list[str]:
        """Names of all cohorts, in order."""
        return list(self.roles)


def digest_of_cohorts(path: str | Path) -> str:
    """SHA-256 of the cohort table's bytes; `shards.tsv` holds it, which reveals a stale manifest."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_list(path: str | Path | None) -> str | None:
    """SHA-256 of the bytes of a list of people, held for the same reason; None if there is no list.

    Raises
    ------
    InputError
        if it is no regular file
    """
    return digest_of_cohorts(path) if path and Path(path).exists() else None


def read_study(config: Mapping, table: str | Path = layout.SHARDS, *, stale_too: bool = False) -> Study:
    """Read the plan of a study from its configuration and the compiled manifest.

    Parameters
    ----------
    stale_too : read the manifest even if its source tables have changed, which is enough for a display

    Raises
    ------
    InputError
        if the manifest is missing or older than its tables, or if a task has no cohort
    """
    if not stale_too:
        check_fresh(config, table)
    facts, rows = _read_shards(table)
    shards = {row["shard"]: _shard_of(table, row) for row in rows}
    roles = {cohort: frozenset(has) for cohort, has in facts["roles"].items()}
    tasks = {name: task for name, task in config["tasks"].items() if task is not None}
    for name in tasks:
        if not any(name in has for has in roles.values()):
            fix = f"add the role {name!r} to a cohort, or set tasks.{name} to null"
            raise InputError(config["cohorts"], "roles", f"no cohort has the role {name!r}, the pool of that task", fix)
    count, without = config["resampling"]["replicates"], facts.get("without_volumes", ())
    replicates = tuple(f"{replicate:03d}" for replicate in range(1, count + 1))
    return Study(
        shards=shards,
        roles=roles,
        pretraining_shares=facts["pretraining_shares"],
        tasks=tasks,
        n=tuple(config["resampling"]["n"]),
        replicates=replicates,
        run="given" if config["pretrain"]["weights"] else "multitask",
        derivatives=frozenset(facts.get("derivatives", ())),
        without_volumes=frozenset(without if without and may_leave_volumes_out(config) else ()),
        further=further_arms(config.get("models", {})),
        second_seeds=replicates[: seconds_of(count, config["resampling"].get("second_seeds", 0))],
        people=read_people(Path(table).with_name(Path(layout.SAME_PEOPLE).name)),
    )


def in_batches(replicates: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    """Replicates by the jobs that work on them, `size` of them in each; the last job may have fewer."""
    return [replicates[start : start + size] for start in range(0, len(replicates), size)]


def seconds_of(replicates: int, share: float) -> int:
    """How many replicates, the first ones, are fitted with a second seed: a share of all, rounded up."""
    return math.ceil(round(share * replicates, 6))


def further_arms(models: Mapping) -> tuple[str, ...]:
    """The arms that a configuration adds to the paper's: `frozen`, and one for each table of external features."""
    return (*([FROZEN] if models.get(FROZEN) else []), *models.get("features", {}))


def further_models(models: Iterable[str]) -> list[str]:
    """The arms beyond the paper's among the models of a table, each once, in their order."""
    return [model for model in dict.fromkeys(models) if model not in ARMS]


def check_fresh(config: Mapping, table: str | Path = layout.SHARDS) -> None:
    """Refuse a manifest that was not compiled from the present tables.

    Raises
    ------
    InputError
        if there is no cohort table, if the manifest is missing, or if a table has changed since
    """
    cohorts = Path(config["cohorts"])
    if not cohorts.is_file():
        raise InputError(cohorts, "", "there is no such cohort table", "write one, or correct the key 'cohorts'")
    facts, _ = _read_shards(table, with_rows=False)
    if facts["cohorts_sha256"] != digest_of_cohorts(cohorts):
        raise InputError(table, "", f"{cohorts} has changed since it was compiled", AGAIN)
    for name in ("withdrawn", "same_people"):
        if facts.get(f"{name}_sha256") != digest_of_list(config.get(name)):
            raise InputError(table, "", f"{config.get(name) or name} has changed since it was compiled", AGAIN)


def _shard_of(table: str | Path, row: Mapping[str, str]) -> Shard:
    """A row of shards.tsv; its names become parts of paths, and its numbers become jobs."""
    name, cohort = row["shard"], row["cohort"]
    counts = [row["images"], row["images_per_job"], row.get("withdrawn") or "0"]
    named = SHARD_NAME.fullmatch(name) is not None and name.rpartition("-")[0] == cohort
    if not named or not all(COUNT.fullmatch(count) for count in counts) or int(counts[1]) == 0:
        raise InputError(table, name[:80], "this row names no shard with its images", AGAIN)
    return Shard(name, cohort, *map(int, counts))


def _read_shards(table: str | Path, *, with_rows: bool = True) -> tuple[dict, list[dict]]:
    if not Path(table).exists():
        raise InputError(table, "", "the manifest has not been compiled", AGAIN)
    facts = read_facts(table)
    objects = (facts.get("roles"), facts.get("pretraining_shares"))
    if not all(isinstance(value, dict) for value in objects) or "cohorts_sha256" not in facts:
        raise InputError(table, "line 1", "it is no manifest's table of shards", AGAIN)
    columns = ("shard", "cohort", "images", "images_per_job")
    return facts, list(read_dicts(table, *columns)) if with_rows else []
