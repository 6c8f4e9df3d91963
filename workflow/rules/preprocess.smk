# T1-weighted images -> FastSurfer's file layout and a ledger that accounts for every image.


def all_ledgers(wildcards):
    return [f"results/preprocessed/{shard.name}/{job}.tsv" for shard in study.shards.values() for job in shard.jobs]


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
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: (10 + 2 * study.shards[wc.shard].images_of_job(wc.job)) * attempt,
    params:
        images_per_job=lambda wc: study.shards[wc.shard].images_per_job,
        preprocessing=config["preprocessing"],
        subjects="results/preprocessed/subjects",
    script:
        "../scripts/preprocess.py"
