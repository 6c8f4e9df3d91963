"""Every path of results/ and logs/, the analysis plan and the configuration of predict, relative to the study's folder.

No other module spells one.

Names in braces are wildcards, as Snakemake writes them; the functions fill them in.  Standard library only, because
the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

from pathlib import Path

RESULTS = "results"
LOGS = "logs"
ANALYSIS_PLAN = "analysis-plan.md"
PREDICTION = "predict.yaml"  # the configuration that predict writes into its folder

MANIFEST = f"{RESULTS}/manifest"
IMAGES = f"{MANIFEST}/images.tsv"
SHARDS = f"{MANIFEST}/shards.tsv"
EXCLUDED = f"{MANIFEST}/excluded.tsv"
SCANNERS = f"{MANIFEST}/scanners.tsv"
SAME_PEOPLE = f"{MANIFEST}/same_people.tsv"
SHARD_TABLES = f"{MANIFEST}/shards"
PREPROCESSED = f"{RESULTS}/preprocessed"
LEDGER = f"{PREPROCESSED}/{{shard}}/{{job}}.tsv"
SUBJECTS = f"{PREPROCESSED}/subjects"
OUTCOMES = f"{PREPROCESSED}/outcomes.log"
CACHE = f"{RESULTS}/cache"
CACHED = f"{CACHE}/{{shard}}.tsv"
QUALITY = f"{RESULTS}/quality"
JUDGED = f"{QUALITY}/{{cohort}}.tsv"
QUALITY_PAGE = f"{QUALITY}/quality.html"
INDEX = f"{RESULTS}/index"
INDEXED = f"{INDEX}/{{cohort}}.tsv"
SPLIT = f"{RESULTS}/split"
COHORT_SPLITS = f"{SPLIT}/cohorts"
COHORT_SPLIT = f"{COHORT_SPLITS}/{{cohort}}.tsv"
SPLIT_IMAGES = f"{SPLIT}/images.tsv"
CERTIFICATE = f"{SPLIT}/certificate.json"
CERTIFICATE_PAGE = f"{SPLIT}/certificate.html"
DUPLICATES = f"{RESULTS}/duplicates"
HEADS = f"{DUPLICATES}/heads/{{cohort}}.npy"
PAIRS = f"{DUPLICATES}/pairs.tsv"
PRETRAIN = f"{RESULTS}/pretrain"
WEIGHTS = f"{PRETRAIN}/{{run}}/weights.safetensors"
METRICS = f"{PRETRAIN}/{{run}}/metrics.tsv"
CHECKPOINTS = f"{RESULTS}/checkpoints/pretrain/multitask"
PREDICTED = f"{RESULTS}/predict/{{shard}}.tsv"
FEATURES = f"{RESULTS}/features/{{cohort}}.npy"
RESAMPLES = f"{RESULTS}/resamples"
RESAMPLE = f"{RESAMPLES}/{{task}}/n{{n}}/{{replicate}}.tsv"
FITS = f"{RESULTS}/fits"
FIT = f"{FITS}/{{task}}/n{{n}}/{{replicate}}/{{model}}.json"
NETWORK = f"{FITS}/{{task}}/n{{n}}/{{replicate}}/{{model}}.safetensors"
SECOND_SEEDS = f"{RESULTS}/second_seeds"
SECOND_SEED = f"{SECOND_SEEDS}/{{task}}/n{{n}}/{{replicate}}/{{model}}.json"
BEST = f"{RESULTS}/best/{{task}}.safetensors"
FINAL = f"{RESULTS}/final/{{task}}.safetensors"
STATISTICS = f"{RESULTS}/statistics"
AUCS = f"{STATISTICS}/aucs.tsv"
PREDICTIONS = f"{STATISTICS}/predictions.tsv"
MEDIANS = f"{STATISTICS}/medians.tsv"
COMPARISONS = f"{STATISTICS}/comparisons.tsv"
CLASSIFIERS = f"{STATISTICS}/classifiers.tsv"
CONFOUNDING = f"{STATISTICS}/confounding.tsv"
FIGURE2 = f"{RESULTS}/report/figures/figure2.svg"
REPORT = f"{RESULTS}/report/report.html"
FAILURES = f"{RESULTS}/failures"
BENCHMARKS = f"{RESULTS}/benchmarks"
SLURM_LOGS = f"{LOGS}/slurm"


def within(results: str | Path, path: str) -> Path:
    """A path of this module in a folder of results that may have another name than ``results``."""
    return Path(results, Path(path).relative_to(RESULTS))


def ledger(shard: str, job: str) -> str:
    """The ledger that one preprocessing job writes."""
    return LEDGER.format(shard=shard, job=job)


def index(cohort: str) -> str:
    """A cohort's usable images."""
    return INDEXED.format(cohort=cohort)


def cohort_split(cohort: str) -> str:
    """The roles of a cohort's images."""
    return COHORT_SPLIT.format(cohort=cohort)


def weights(run: str) -> str:
    """The weights of a run: ``multitask`` (pretrained here) or ``given``."""
    return WEIGHTS.format(run=run)


def resample(task: str, n: int | str, replicate: str) -> str:
    """Who trains, validates and tests in one replicate."""
    return RESAMPLE.format(task=task, n=n, replicate=replicate)


def fit(task: str, n: int | str, replicate: str, model: str) -> str:
    """The record of one fit."""
    return FIT.format(task=task, n=n, replicate=replicate, model=model)


def failure(rule: str, key: str) -> str:
    """The cause that a job left when it failed."""
    return f"{FAILURES}/{rule}/{key}.json"


def benchmark(rule: str, *parts: str) -> str:
    """What a job has cost, by its wildcards, n with its letter."""
    return "/".join((BENCHMARKS, rule, *parts)) + ".tsv"


def log(rule: str, *parts: str) -> str:
    """The log of a job, by the parts of its benchmark file's path or its wildcards."""
    return "/".join((LOGS, rule, *parts)) + ".log"
