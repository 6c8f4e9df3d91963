# A resample -> three models, each with its settings, chosen on validation and tested once; and covariates alone.

from neurotransfer.fit.settings import all_settings

WEIGHTS = f"results/pretrain/{study.run}/weights.safetensors"


def settings_of(model):
    return {"settings": all_settings(config["models"][model]["settings"])}


CNN = {
    "seed": config["seed"],
    "recipe": RECIPE,
    "network": identity(config, "network"),
    "training": identity(config, "models.cnn", ["gpus", "keep"]),
}
# Everything besides input files on which a model's fit depends; aggregate refuses fits made with other values.
FITTING = {
    "linear": {"seed": config["seed"], **identity(config, "models.linear"), **settings_of("linear")},
    "covariates": {"seed": config["seed"], **identity(config, "models.covariates"), **settings_of("covariates")},
    "baseline": {**CNN, **settings_of("baseline")},
    "transfer": {
        **CNN,
        **settings_of("transfer"),
        "crop": config["cache"]["crop"],
        **CROP_RULE,
        "preprocessing": PREPROCESSING,
    },
}
# The further arms have the linear model's settings; each fit depends on the weights or on the table, too.
REGRESSION = {"max_iterations": config["models"]["linear"]["max_iterations"], **settings_of("linear")}
FURTHER = {
    model: (
        {"layers": config["models"]["frozen"], "data_type": config["models"]["cnn"]["data_type"], **REGRESSION}
        if model == FROZEN
        else {"file": config["models"]["features"][model], **REGRESSION}
    )
    for model in study.further
}
FITTING |= FURTHER


KEEP = config["models"]["cnn"]["keep"]


def fits_of(model, batch):
    """A model's fits of the batch's replicates."""
    return made_by_batch(f"results/fits/{{task}}/n{{n}}/{{replicate}}/{model}.json", batch)


def kept_networks_of(model, batch):
    """The output of fits that keep their networks."""
    path = f"results/fits/{{task}}/n{{n}}/{{replicate}}/{model}.safetensors"
    return {"network": made_by_batch(path, batch)} if KEEP == "chosen" else {}


def minutes_of_fits(batch, share=1):
    """The time that a job of a network's fits asks for; a fit of few settings takes a share of it, as 1 / share."""
    return lambda wildcards, attempt: (15 + int(wildcards.n) // (5 * share) * len(batch or [0])) * attempt


def kept_networks(wildcards):
    """All networks that the configuration keeps."""
    if KEEP == "best_of_task":
        return expand("results/best/{task}.safetensors", task=study.tasks)
    path = "results/fits/{task}/n{n}/{replicate}/{model}.safetensors"
    every = {"task": study.tasks, "n": study.n, "replicate": study.replicates}
    return expand(path, **every, model=CNNS) if KEEP == "chosen" else []


def fits_of_largest_n(*models):
    path = f"results/fits/{{task}}/n{max(study.n)}/{{replicate}}/{{model}}.json"
    return lambda wildcards: expand(path, task=wildcards.task, replicate=study.replicates, model=models)


def images_of_task(task):
    return sum(study.shards[shard].images for cohort in study.cohorts_of(task) for shard in study.shards_of(cohort))


def volumes_of_task(ending):
    return lambda wildcards: [f"results/index/{cohort}.volumes.{ending}" for cohort in study.cohorts_of(wildcards.task)]


def features_of_task(task):
    return study.cohorts_of(task) if FROZEN in study.further else []


rule features:
    """The pretrained trunk's features of each image of a pool, once, for the arm frozen."""
    input:
        weights=WEIGHTS,
        index="results/index/{cohort}.tsv",
        split="results/split/cohorts/{cohort}.tsv",
        certificate=ancient("results/split/certificate.json"),
        shards=shards_of_cohort("cache", "npy"),
        participants=PRETRAINED_PARTICIPANTS,
    output:
        "results/features/{cohort}.npy",
    log:
        "logs/features/{cohort}.log",
    benchmark:
        "results/benchmarks/features/{cohort}.tsv"
    threads: config["models"]["cnn"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: 8000 * attempt,
        runtime=lambda wc, attempt: (30 + 20 * len(study.shards_of(wc.cohort))) * attempt,
        gpu=config["models"]["cnn"]["gpus"],
    params:
        **CROP_RULE,
        network=CNN["network"],
        crop=config["cache"]["crop"],
        preprocessing=PREPROCESSING,
        layers=config["models"]["frozen"] or "trunk",
        batch_size=config["models"]["cnn"]["batch_size"],
        device=config["models"]["cnn"]["device"],
        data_type=config["models"]["cnn"]["data_type"],
    script:
        "../scripts/features.py"


for BATCH in BATCHES:

    rule:
        """Logistic regression on regional volumes; on covariates; and on features, for the further arms."""
        name:
            rule_for("linear", BATCH)
        input:
            resample=of_batch("results/resamples/{task}/n{n}/{replicate}.tsv", BATCH),
            indices=lambda wc: of_cohorts("index", wc.task),
            volumes=volumes_of_task("npy"),
            names=volumes_of_task("json"),
            scanners=SCANNERS if config["models"]["covariates"]["site"] else [],
            features=lambda wc: [f"results/features/{name}.npy" for name in features_of_task(wc.task)],
            weights=WEIGHTS if FROZEN in study.further else [],
            tables=[fitting["file"] for fitting in FURTHER.values() if "file" in fitting],
        output:
            **{model: fits_of(model, BATCH) for model in FURTHER},
            fit=fits_of("linear", BATCH),
            covariates=fits_of("covariates", BATCH),
        log:
            log_of_batch("logs/linear/{task}/n{n}/{replicate}.log", BATCH),
        benchmark:
            benchmark_of_batch("results/benchmarks/linear/{task}/n{n}/{replicate}.tsv", BATCH)
        retries: 0  # the profile groups it, and Snakemake repeats a group whole, with its finished members
        threads: config["models"]["linear"]["threads"]
        resources:
            mem_mb=2000,
            runtime=10 + (len(BATCH or [0]) - 1) // 10,
            in_group=1,  # the profile limits the sum over a group's running members, and so the group's resources
        params:
            **({"further": FURTHER} if FURTHER else {}),
            fitting=FITTING["linear"],
            covariates=FITTING["covariates"],
        script:
            "../scripts/linear.py"

    rule:
        """The binary network from random weights."""
        name:
            rule_for("baseline", BATCH)
        input:
            resample=of_batch("results/resamples/{task}/n{n}/{replicate}.tsv", BATCH),
            certificate=ancient("results/split/certificate.json"),  # before any GPU hour: no participant is in two sets
        output:
            **kept_networks_of("baseline", BATCH),
            fit=fits_of("baseline", BATCH),
        log:
            log_of_batch("logs/baseline/{task}/n{n}/{replicate}.log", BATCH),
        benchmark:
            benchmark_of_batch("results/benchmarks/baseline/{task}/n{n}/{replicate}.tsv", BATCH)
        threads: config["models"]["cnn"]["threads"]
        resources:
            mem_mb=lambda wc, attempt: (8000 + 10 * int(wc.n)) * attempt,
            runtime=minutes_of_fits(BATCH),
            gpu=config["models"]["cnn"]["gpus"],
        params:
            fitting=FITTING["baseline"],
        script:
            "../scripts/baseline.py"

    rule:
        """The same network, data order and settings, from the pretrained weights."""
        name:
            rule_for("transfer", BATCH)
        input:
            resample=of_batch("results/resamples/{task}/n{n}/{replicate}.tsv", BATCH),
            weights=WEIGHTS,
            participants=PRETRAINED_PARTICIPANTS,
        output:
            **kept_networks_of("transfer", BATCH),
            fit=fits_of("transfer", BATCH),
        log:
            log_of_batch("logs/transfer/{task}/n{n}/{replicate}.log", BATCH),
        benchmark:
            benchmark_of_batch("results/benchmarks/transfer/{task}/n{n}/{replicate}.tsv", BATCH)
        threads: config["models"]["cnn"]["threads"]
        resources:
            mem_mb=lambda wc, attempt: (8000 + 10 * int(wc.n)) * attempt,
            runtime=minutes_of_fits(BATCH),
            gpu=config["models"]["cnn"]["gpus"],
        params:
            fitting=FITTING["transfer"],
        script:
            "../scripts/transfer.py"


for BATCH in SECOND_BATCHES:

    rule:
        """The chosen setting of a network's fit once more, with a second seed: how much a random start changes by itself."""
        name:
            rule_for("second_seed", BATCH)
        input:
            fit=of_batch("results/fits/{task}/n{n}/{replicate}/{model}.json", BATCH),
            resample=of_batch("results/resamples/{task}/n{n}/{replicate}.tsv", BATCH),
            weights=lambda wc: WEIGHTS if wc.model == "transfer" else [],
            participants=lambda wc: PRETRAINED_PARTICIPANTS if wc.model == "transfer" else [],
        output:
            again=made_by_batch("results/second_seeds/{task}/n{n}/{replicate}/{model}.json", BATCH),
        log:
            log_of_batch("logs/second_seed/{task}/n{n}/{replicate}/{model}.log", BATCH),
        benchmark:
            benchmark_of_batch("results/benchmarks/second_seed/{task}/n{n}/{replicate}/{model}.tsv", BATCH)
        wildcard_constraints:
            model="baseline|transfer",
        threads: config["models"]["cnn"]["threads"]
        resources:
            mem_mb=lambda wc, attempt: (8000 + 10 * int(wc.n)) * attempt,
            runtime=minutes_of_fits(BATCH, share=4),
            gpu=config["models"]["cnn"]["gpus"],
        params:
            fitting=lambda wc: FITTING[wc.model],
        script:
            "../scripts/second_seed.py"


rule best:
    """The network with the highest validation AUC among a task's fits of the largest n, trained again from its seeds."""
    input:
        fits=fits_of_largest_n(*CNNS),
        weights=WEIGHTS,
        participants=PRETRAINED_PARTICIPANTS,
    output:
        "results/best/{task}.safetensors",
    log:
        "logs/best/{task}.log",
    benchmark:
        "results/benchmarks/best/{task}.tsv"
    threads: config["models"]["cnn"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: (8000 + 10 * max(study.n)) * attempt,
        runtime=lambda wc, attempt: (15 + max(study.n) // 5) * attempt,
        gpu=config["models"]["cnn"]["gpus"],
    params:
        fitting={model: FITTING[model] for model in CNNS},
        task=lambda wc: study.tasks[wc.task],
    script:
        "../scripts/best.py"


rule final:
    """A task's network for use elsewhere: trained on all images of its pool, with the setting that won most often."""
    input:
        fits=fits_of_largest_n("transfer"),
        weights=WEIGHTS,
        participants=PRETRAINED_PARTICIPANTS,
        indices=lambda wc: of_cohorts("index", wc.task),
        splits=lambda wc: of_cohorts("split/cohorts", wc.task),
        certificate=ancient("results/split/certificate.json"),
    output:
        "results/final/{task}.safetensors",
    log:
        "logs/final/{task}.log",
    benchmark:
        "results/benchmarks/final/{task}.tsv"
    threads: config["models"]["cnn"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: 16000 * attempt,
        runtime=lambda wc, attempt: (30 + images_of_task(wc.task) // 10) * attempt,
        gpu=config["models"]["cnn"]["gpus"],
    params:
        fitting=FITTING["transfer"],
        task=lambda wc: study.tasks[wc.task],
        converters=config["manifest"]["converters"],
    script:
        "../scripts/final.py"
