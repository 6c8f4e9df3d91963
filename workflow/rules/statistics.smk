# Fits -> test AUCs in long form -> medians, intervals and paired comparisons.


def all_resamples(wildcards):
    return expand(
        "results/resamples/{task}/n{n}/{replicate}.tsv", task=study.tasks, n=study.n, replicate=study.replicates
    )


def all_fits(wildcards):
    return expand(
        "results/fits/{task}/n{n}/{replicate}/{model}.json",
        task=study.tasks,
        n=study.n,
        replicate=study.replicates,
        model=MODELS,
    )


rule aggregate:
    """Every fit's test AUC, and the table of settings; refuses fits of another configuration."""
    input:
        fits=all_fits,
        resamples=all_resamples,
        weights=f"results/pretrain/{study.run}/weights.safetensors",
        participants="results/pretrain/multitask/participants.tsv" if study.run == "multitask" else [],
        indices=of_cohorts("index", *study.tasks),
        splits=of_cohorts("split/cohorts", *study.tasks, *["pretraining"][: study.run == "multitask"]),
        certificate=ancient("results/split/certificate.json"),
    output:
        aucs="results/statistics/aucs.tsv",
        settings="results/statistics/settings.tsv",
        resamples="results/statistics/resamples.tsv",
    log:
        "logs/aggregate.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        fitting=FITTING,
        drawing=DRAWING,
    script:
        "../scripts/aggregate.py"


rule compare:
    """Medians with intervals, and the paired permutation test of each pair of models per task and n."""
    input:
        aucs="results/statistics/aucs.tsv",
    output:
        medians="results/statistics/medians.tsv",
        comparisons="results/statistics/comparisons.tsv",
    log:
        "logs/compare.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        seed=config["seed"],
        statistics=config["statistics"],
    script:
        "../scripts/compare.py"
