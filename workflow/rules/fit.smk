# A resample -> three models, each with its settings, chosen on validation and tested once; and covariates alone.

from neurotransfer.fit.settings import all_settings


def settings_of(model):
    return {"settings": all_settings(config["models"][model]["settings"])}


CNN = {
    "seed": config["seed"],
    "recipe": RECIPE,
    "network": identity(config, "network"),
    "training": identity(config, "models.cnn", ["gpus"]),
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
        "preprocessing": PREPROCESSING,
    },
}


def volumes_of_task(ending):
    return lambda wildcards: [f"results/index/{cohort}.volumes.{ending}" for cohort in study.cohorts_of(wildcards.task)]


rule linear:
    """Logistic regression on regional volumes; and on age, sex and mask volume, which is too short for a job."""
    input:
        resample="results/resamples/{task}/n{n}/{replicate}.tsv",
        indices=lambda wc: of_cohorts("index", wc.task),
        volumes=volumes_of_task("npy"),
        names=volumes_of_task("json"),
    output:
        fit="results/fits/{task}/n{n}/{replicate}/linear.json",
        covariates="results/fits/{task}/n{n}/{replicate}/covariates.json",
    log:
        "logs/linear/{task}/n{n}/{replicate}.log",
    benchmark:
        "results/benchmarks/linear/{task}/n{n}/{replicate}.tsv"
    retries: 0  # the profile groups it, and Snakemake repeats a group whole, with its finished members
    threads: config["models"]["linear"]["threads"]
    resources:
        mem_mb=2000,
        runtime=10,
        in_group=1,  # the profile limits the sum over a group's running members, and so the group's resources
    params:
        fitting=FITTING["linear"],
        covariates=FITTING["covariates"],
    script:
        "../scripts/linear.py"


rule baseline:
    """The binary network from random weights."""
    input:
        resample="results/resamples/{task}/n{n}/{replicate}.tsv",
        certificate=ancient("results/split/certificate.json"),  # before any GPU hour: no participant is in two sets
    output:
        fit="results/fits/{task}/n{n}/{replicate}/baseline.json",
    log:
        "logs/baseline/{task}/n{n}/{replicate}.log",
    benchmark:
        "results/benchmarks/baseline/{task}/n{n}/{replicate}.tsv"
    threads: config["models"]["cnn"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: (8000 + 10 * int(wc.n)) * attempt,
        runtime=lambda wc, attempt: (15 + int(wc.n) // 5) * attempt,
        gpu=config["models"]["cnn"]["gpus"],
    params:
        fitting=FITTING["baseline"],
    script:
        "../scripts/baseline.py"


rule transfer:
    """The same network, data order and settings, from the pretrained weights."""
    input:
        resample="results/resamples/{task}/n{n}/{replicate}.tsv",
        weights=f"results/pretrain/{study.run}/weights.safetensors",
        participants=PRETRAINED_PARTICIPANTS,
    output:
        fit="results/fits/{task}/n{n}/{replicate}/transfer.json",
    log:
        "logs/transfer/{task}/n{n}/{replicate}.log",
    benchmark:
        "results/benchmarks/transfer/{task}/n{n}/{replicate}.tsv"
    threads: config["models"]["cnn"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: (8000 + 10 * int(wc.n)) * attempt,
        runtime=lambda wc, attempt: (15 + int(wc.n) // 5) * attempt,
        gpu=config["models"]["cnn"]["gpus"],
    params:
        fitting=FITTING["transfer"],
    script:
        "../scripts/transfer.py"
