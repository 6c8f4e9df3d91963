# FastSurfer's file layout -> uint8 shards -> one index and one table of volumes per cohort.


def ledgers(wildcards):
    return study.ledgers_of([wildcards.shard])


rule cache:
    """orig x mask, cropped around the mask's bounding box, one row per image; with volumes, small images and slices."""
    input:
        images="results/manifest/shards/{shard}.tsv",
        ledgers=ledgers,
    output:
        images="results/cache/{shard}.npy",
        small="results/cache/{shard}.small.npy",
        table="results/cache/{shard}.tsv",
        volumes="results/cache/{shard}.volumes.tsv",
        slices="results/cache/{shard}.slices.npy",
    log:
        "logs/cache/{shard}.log",
    benchmark:
        "results/benchmarks/cache/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: (5 + study.shards[wc.shard].images // 10) * attempt,
    params:
        **CROP_RULE,
        crop=config["cache"]["crop"],
        voxel_size=config["preprocessing"]["voxel_size"],
        subjects="results/preprocessed/subjects",
    script:
        "../scripts/cache.py"


rule index:
    """Every usable image of a cohort that passes quality control, with its cache row and its regional volumes."""
    input:
        shards=shards_of_cohort("manifest/shards"),
        caches=shards_of_cohort("cache"),
        images=shards_of_cohort("cache", "npy"),
        volumes=shards_of_cohort("cache", "volumes.tsv"),
        quality="results/quality/{cohort}.tsv",
    output:
        index="results/index/{cohort}.tsv",
        volumes="results/index/{cohort}.volumes.npy",
        names="results/index/{cohort}.volumes.json",
    log:
        "logs/index/{cohort}.log",
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: (5 + len(study.shards_of(wc.cohort)) // 5) * attempt,
    script:
        "../scripts/index.py"
