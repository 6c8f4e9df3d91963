# As many empty jobs as the study has: Snakemake's own time and memory, to compare the workflow's with.

import csv

with open("results/manifest/shards.tsv") as file:
    SHARDS = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
JOBS = {row["shard"]: -(-int(row["images"]) // int(row["images_per_job"])) for row in SHARDS}
COHORTS = sorted({row["cohort"] for row in SHARDS})
RESAMPLES = expand("{task}/n{n}/{replicate}", task=["a", "b"], n=range(5), replicate=range(100))


wildcard_constraints:
    shard="[A-Za-z0-9]+-[0-9]+",
    cohort="[A-Za-z0-9]+",
    job="[0-9]+",


rule all:
    input:
        "bare/report.html",


rule preprocess:
    output:
        "bare/preprocessed/{shard}/{job}.tsv",
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=1,
    shell:
        "preprocess {wildcards.shard} {wildcards.job}"


rule cache:
    input:
        lambda wildcards: [f"bare/preprocessed/{wildcards.shard}/{job}.tsv" for job in range(JOBS[wildcards.shard])],
    output:
        "bare/cache/{shard}.npy",
        "bare/cache/{shard}.tsv",
    shell:
        "cache"


rule index:
    input:
        lambda wildcards: [f"bare/cache/{row['shard']}.tsv" for row in SHARDS if row["cohort"] == wildcards.cohort],
    output:
        "bare/index/{cohort}.tsv",
    shell:
        "index"


rule pretrain:
    input:
        expand("bare/index/{cohort}.tsv", cohort=COHORTS),
    output:
        "bare/weights",
    shell:
        "pretrain"


rule resample:
    input:
        f"bare/index/{COHORTS[0]}.tsv",
    output:
        "bare/resamples/{resample}.tsv",
    shell:
        "resample"


rule fit:
    input:
        "bare/resamples/{resample}.tsv",
        "bare/weights",
    output:
        "bare/fits/{resample}/{model}.json",
    shell:
        "fit"


rule report:
    input:
        expand("bare/fits/{resample}/{model}.json", resample=RESAMPLES, model=["linear", "baseline", "transfer"]),
    output:
        "bare/report.html",
    shell:
        "report"
