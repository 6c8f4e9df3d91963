"""The jobs that Snakemake repeats if some preprocessing jobs are repeated.

Goes in: the plan of a study and the preprocessing jobs.  Comes out: every job that depends on them, from the plan
alone, because a user needs the list before any file is deleted.  It mirrors workflow/rules; a test compares it with
Snakemake's own dry run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from .plan import CNNS, FROZEN, MODELS, Study
from .rules import OF_ALL_COHORTS, OF_COHORT, PAGES, SECOND_SEED, STATISTICS
from .same_people import People


def jobs_after(study: Study, preprocessing: Mapping[str, Collection[str]]) -> list[str]:
    """All jobs that are repeated if some preprocessing jobs are, in the order of the data.

    Parameters
    ----------
    study : the plan
    preprocessing : jobs ("0000", ...) by shard

    Returns
    -------
    each job in Snakemake's words: "cache shard=A-0001"
    """
    return list(_jobs_after(study, preprocessing)) if preprocessing else []


def _jobs_after(study: Study, preprocessing: Mapping[str, Collection[str]]) -> Iterator[str]:
    for shard, jobs in preprocessing.items():
        yield from (f"preprocess shard={shard}, job={job}" for job in sorted(jobs))
    yield from (f"cache shard={shard}" for shard in preprocessing)
    cohorts = list(dict.fromkeys(study.shards[shard].cohort for shard in preprocessing))
    for rule in OF_COHORT:
        yield from (f"{rule} cohort={cohort}" for cohort in cohorts)
    yield from OF_ALL_COHORTS
    tasks = [task for task in study.tasks if set(study.cohorts_of(task)) & set(cohorts)]
    yield from _jobs_after_splits(study, cohorts, tasks)


def jobs_after_people(study: Study, people: People) -> list[str]:
    """All jobs that are repeated if other people than the study's have several names.

    Parameters
    ----------
    people : those of the next manifest
    """
    if people.digest == study.people.digest:
        return []
    cohorts, tasks = [], []
    for cohort, roles in study.roles.items():
        parts = [some.for_split(cohort).digest for some in (study.people, people)]
        if "pretraining" in roles and parts[0] != parts[1]:
            cohorts.append(cohort)
    for task in study.tasks:
        has = study.cohorts_of(task)
        drawn = [some.among(has).digest for some in (study.people, people)]
        if drawn[0] != drawn[1] or set(has) & set(cohorts):
            tasks.append(task)
    first = [*(f"split cohort={cohort}" for cohort in cohorts), "certificate"]
    return [*first, *_jobs_after_splits(study, cohorts, tasks)]


def _jobs_after_splits(study: Study, cohorts: Collection[str], tasks: Collection[str]) -> Iterator[str]:
    """What follows other splits of some cohorts, and other resamples of some tasks, which are all that have them."""
    roles = set().union(*(study.roles[cohort] for cohort in cohorts))
    pretrains = study.run == "multitask" and "pretraining" in roles
    if pretrains:
        yield "pretrain"
    if roles & {"pretraining", "holdout"}:
        yield f"evaluate run={study.run}"
    yield from (f"features cohort={name}" for name in study.cohorts_with_features() if pretrains or name in cohorts)
    yield from _replicates(study, "resample", tasks)
    on_weights = ("transfer", "linear") if FROZEN in study.further else ("transfer",)  # the job linear fits frozen, too
    for model in MODELS:
        yield from _replicates(study, model, study.tasks if model in on_weights and pretrains else tasks)
    for model in CNNS:
        yield from _second_seeds(study, model, study.tasks if model in on_weights and pretrains else tasks)
    if tasks or pretrains:
        yield from STATISTICS
    yield from PAGES


def _replicates(study: Study, rule: str, tasks: Iterable[str]) -> Iterator[str]:
    for task in tasks:
        for n in study.n:
            for replicate in study.replicates:
                yield f"{rule} task={task}, n={n}, replicate={replicate}"


def _second_seeds(study: Study, model: str, tasks: Iterable[str]) -> Iterator[str]:
    for task in tasks:
        for n in study.n:
            for replicate in study.second_seeds:
                yield f"{SECOND_SEED} task={task}, n={n}, replicate={replicate}, model={model}"


def counts_by_rule(jobs: Iterable[str]) -> dict[str, int]:
    """How many jobs there are of each rule, in order."""
    return dict(Counter(job.partition(" ")[0] for job in jobs))


def listed_by_rule(jobs: Iterable[str]) -> str:
    """As text: "preprocess 2, cache 1, ..."."""
    return ", ".join(f"{rule} {count:,}" for rule, count in counts_by_rule(jobs).items())
