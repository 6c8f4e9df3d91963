# T1-weighted images -> FastSurfer's file layout and a ledger that accounts for every image.

# What later stages depend on: settings that only change how it is done repeat no fit.
PREPROCESSING = demands.identity(config["preprocessing"])


def ledgers_of(*roles):
    """The ledgers of the cohorts that have one of these roles; of all cohorts where none is named."""
    cohorts = study.cohorts_of(*roles) if roles else study.cohorts
    shards = [study.shards[name] for cohort in cohorts for name in study.shards_of(cohort)]
    return [f"results/preprocessed/{shard.name}/{job}.tsv" for shard in shards for job in shard.jobs]


rule preprocess:
    """One job's images through the engine, each by itself; a bad one gets its row and stops nobody."""
    input:
        images="results/manifest/shards/{shard}.tsv",
    output:
        ledger="results/preprocessed/{shard}/{job}.tsv",
    log:
        "logs/preprocess/{shard}/{job}.log",
    benchmark:
        "results/benchmarks/preprocess/{shard}/{job}.tsv"
    threads: config["preprocessing"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: demands.mem_mb(config["preprocessing"], attempt),
        runtime=lambda wc, attempt: demands.runtime(
            config["preprocessing"], study.shards[wc.shard].images_of_job(wc.job), attempt
        ),
        gpu=int(demands.has_gpu(config["preprocessing"])),
    params:
        images_per_job=lambda wc: study.shards[wc.shard].images_per_job,
        preprocessing=PREPROCESSING,
        subjects="results/preprocessed/subjects",
    script:
        "../scripts/preprocess.py"
