# Fits -> test AUCs and scores in long form -> medians, intervals, comparisons, and the worth of pretraining.


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
        model=study.arms,
    )


def all_second_seeds(wildcards):
    return expand(
        "results/second_seeds/{task}/n{n}/{replicate}/{model}.json",
        task=study.tasks,
        n=study.n,
        replicate=study.second_seeds,
        model=CNNS,
    )


# A study without second seeds has no table of them.
SECOND_SEEDS = {"second_seeds": "results/statistics/second_seeds.tsv"} if study.second_seeds else {}


rule aggregate:
    """Every fit's test AUC and scores, and the table of settings; refuses fits of another configuration."""
    input:
        fits=all_fits,
        second_seeds=all_second_seeds,
        resamples=all_resamples,
        weights=f"results/pretrain/{study.run}/weights.safetensors",
        participants=PRETRAINED_PARTICIPANTS,
        indices=of_cohorts("index", *study.tasks),
        splits=of_cohorts("split/cohorts", *study.tasks, *["pretraining"][: study.run == "multitask"]),
        certificate=ancient("results/split/certificate.json"),
    output:
        **SECOND_SEEDS,
        aucs="results/statistics/aucs.tsv",
        settings="results/statistics/settings.tsv",
        resamples="results/statistics/resamples.tsv",
        predictions="results/statistics/predictions.tsv",
        pools="results/statistics/pools.tsv",
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


def of_statistics(name, shows):
    """A table of results/statistics, with its place in Snakemake's own report."""
    return report(
        f"results/statistics/{name}.tsv",
        caption=f"../report/{name}.rst",
        category="Tables",
        labels={"table": shows},
    )


rule confounding:
    """The site alone on the same resamples, AUCs within strata, gains over the covariates, and who is in the sets."""
    input:
        aucs="results/statistics/aucs.tsv",
        predictions="results/statistics/predictions.tsv",
        resamples=all_resamples,
        indices=of_cohorts("index", *study.tasks),
        scanners=SCANNERS,
    output:
        measures="results/statistics/confounding.tsv",
        differences="results/statistics/within.tsv",
        site="results/statistics/site.tsv",
        gains="results/statistics/gains.tsv",
        sets="results/statistics/sets.tsv",
    log:
        "logs/confounding.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        seed=config["seed"],
        tasks=list(study.tasks),
        age_band=config["split"]["age_band"],
        statistics=identity(config, "statistics"),
    script:
        "../scripts/confounding.py"


rule classifiers:
    """Calibration, thresholds from validation, precision and recall, AUCs of subgroups: from the scores that fits keep."""
    input:
        predictions="results/statistics/predictions.tsv",
        pools="results/statistics/pools.tsv",
        fits=all_fits,
        resamples=all_resamples,
        indices=of_cohorts("index", *study.tasks),
    output:
        figures="results/statistics/classifiers.tsv",
        curves="results/statistics/calibration.tsv",
        subgroups="results/statistics/subgroups.tsv",
    log:
        "logs/classifiers.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        seed=config["seed"],
        age_band=config["split"]["age_band"],
        bootstrap=config["statistics"]["bootstrap"],
        smallest_cell=config["report"]["smallest_cell"],
    script:
        "../scripts/classifiers.py"


rule compare:
    """Medians with intervals, every pair of models by tests of both nulls, curves, selection and worth in scans."""
    input:
        **SECOND_SEEDS,
        aucs="results/statistics/aucs.tsv",
        settings="results/statistics/settings.tsv",
        predictions="results/statistics/predictions.tsv",
        pools="results/statistics/pools.tsv",
    output:
        medians=of_statistics("medians", "medians and intervals"),
        comparisons=of_statistics("comparisons", "every comparison"),
        curves="results/statistics/curves.tsv",
        worth=of_statistics("worth", "worth in scans"),
        selection="results/statistics/selection.tsv",
        search=of_statistics("search", "the search over settings"),
    log:
        "logs/compare.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        seed=config["seed"],
        statistics=identity(config, "statistics"),
    script:
        "../scripts/compare.py"
