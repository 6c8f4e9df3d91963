"""The plan of a study: which shards, cohorts, tasks and replicates there are, and which needs which.

Goes in: the configuration and `results/manifest/shards.tsv`.  Comes out: what the Snakefile needs to
lay out every job.  Standard library only, since the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError

SHARDS_TABLE = "results/manifest/shards.tsv"
MODELS = ("linear", "baseline", "transfer")
ARMS = (*MODELS, "covariates")  # what is fitted on each resample: the paper's models, and what confounding predicts


@dataclass(frozen=True)
class Shard:
    """One cache file of up to `images_per_shard` images, all of one cohort."""

    name: str
    cohort: str
    images: int
    images_per_job: int

    @property
    def jobs(self) -> list[str]:
        """Names of its preprocessing jobs, in order: "0000", "0001", ..."""
        return [f"{job:04d}" for job in range(-(-self.images // self.images_per_job))]

    def images_of_job(self, job: str) -> int:
        """How many images the job handles: the last one may have fewer."""
        return min(self.images_per_job, self.images - int(job) * self.images_per_job)


@dataclass(frozen=True)
class Study:
    """What there is to do.

    `roles` maps a cohort to the set of its roles (`pretraining`, `holdout`, names of tasks), and
    `pretraining_shares` to the share of its participants that may pretrain (1 or 0 but for cohorts
    that stand on both sides).
    """

    shards: Mapping[str, Shard]
    roles: Mapping[str, frozenset[str]]
    pretraining_shares: Mapping[str, float]
    tasks: Mapping[str, Mapping[str, object]]
    n: tuple[int, ...]
    replicates: tuple[str, ...]
    run: str

    def shards_of(self, cohort: str) -> list[str]:
        """Names of a cohort's shards, in order."""
        return [shard.name for shard in self.shards.values() if shard.cohort == cohort]

    def cohorts_of(self, *roles: str) -> list[str]:
        """Names of the cohorts that have any of these roles (`pretraining`, `holdout` or a task), in order."""
        return [cohort for cohort, has in self.roles.items() if has & set(roles)]

    @property
    def cohorts(self) -> list[str]:
        """Names of all cohorts, in order."""
        return list(self.roles)


def digest_of_cohorts(path: str | Path) -> str:
    """SHA-256 of the cohort table's bytes; `shards.tsv` keeps it so that a stale manifest is noticed."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_study(config: Mapping, table: str | Path = SHARDS_TABLE) -> Study:
    """Read the plan of a study from its configuration and the compiled manifest.

    Raises
    ------
    InputError
        where the manifest is missing, or older than the cohort table, or a task has no cohort
    """
    cohorts = Path(config["cohorts"])
    if not cohorts.is_file():
        raise InputError(cohorts, "", "there is no such cohort table", "write one, or correct the key 'cohorts'")
    if not Path(table).is_file():
        raise InputError(table, "", "the manifest has not been compiled", "run neurotransfer manifest")
    with Path(table).open(encoding="utf-8", newline="") as file:
        facts = json.loads(file.readline().lstrip("# "))
        rows = list(csv.DictReader(file, delimiter="\t"))
    if facts["cohorts_sha256"] != digest_of_cohorts(cohorts):
        raise InputError(table, "", f"{cohorts} has changed since it was compiled", "run neurotransfer manifest")
    shards = {
        row["shard"]: Shard(row["shard"], row["cohort"], int(row["images"]), int(row["images_per_job"])) for row in rows
    }
    roles = {cohort: frozenset(has) for cohort, has in facts["roles"].items()}
    tasks = {name: task for name, task in config["tasks"].items() if task is not None}
    for name in tasks:
        if not any(name in has for has in roles.values()):
            fix = f"add the role {name!r} to a cohort, or set tasks.{name} to null"
            raise InputError(cohorts, "roles", f"no cohort has the role {name!r}, the pool of that task", fix)
    count = config["resampling"]["replicates"]
    return Study(
        shards=shards,
        roles=roles,
        pretraining_shares=facts["pretraining_shares"],
        tasks=tasks,
        n=tuple(config["resampling"]["n"]),
        replicates=tuple(f"{replicate:03d}" for replicate in range(1, count + 1)),
        run="given" if config["pretrain"]["weights"] else "multitask",
    )
