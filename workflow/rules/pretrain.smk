# Shards of healthy people -> the six-target network -> how well it predicts, also where it never was.


def of_cohorts(folder, *roles):
    return [f"results/{folder}/{cohort}.tsv" for cohort in study.cohorts_of(*roles)]


def shards_of_cohorts(*roles):
    return [f"results/cache/{shard}.npy" for cohort in study.cohorts_of(*roles) for shard in study.shards_of(cohort)]


rule pretrain:
    """The multi-task network, from scratch."""
    input:
        indices=of_cohorts("index", "pretraining"),
        splits=of_cohorts("split/cohorts", "pretraining"),
        shards=shards_of_cohorts("pretraining"),
    output:
        weights="results/pretrain/multitask/weights.safetensors",
        history="results/pretrain/multitask/history.tsv",
        participants="results/pretrain/multitask/participants.tsv",
    log:
        "logs/pretrain/multitask.log",
    benchmark:
        "results/benchmarks/pretrain/multitask.tsv"
    priority: 100  # most of what follows waits for it
    threads: config["pretrain"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: 32000 * attempt,
        runtime=lambda wc, attempt: 2880,
        gpu=config["pretrain"]["gpus"],
    params:
        seed=config["seed"],
        targets=config["targets"],
        network=config["network"],
        training={key: value for key, value in config["pretrain"].items() if key not in ("weights", "threads", "gpus")},
        threads=config["pretrain"]["threads"],
        crop=config["cache"]["crop"],
        preprocessing=config["preprocessing"],
        checkpoints="results/checkpoints/pretrain/multitask",
    script:
        "../scripts/pretrain.py"


rule adopt:
    """Weights that a person already has, checked against this study, in the place of pretraining."""
    input:
        weights=config["pretrain"]["weights"] or [],
    output:
        weights="results/pretrain/given/weights.safetensors",
    log:
        "logs/pretrain/given.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        network=config["network"],
        crop=config["cache"]["crop"],
        preprocessing=config["preprocessing"],
        targets=config["targets"],
    script:
        "../scripts/adopt.py"


rule evaluate:
    """Metrics per target against the dummy predictor, on validation and on held-out cohorts."""
    input:
        weights="results/pretrain/{run}/weights.safetensors",
        indices=of_cohorts("index", "pretraining", "holdout"),
        splits=of_cohorts("split/cohorts", "pretraining", "holdout"),
        shards=shards_of_cohorts("pretraining", "holdout"),
    output:
        metrics="results/pretrain/{run}/metrics.tsv",
        groups="results/pretrain/{run}/groups.tsv",
        calibration="results/pretrain/{run}/calibration.tsv",
        predictions="results/pretrain/{run}/predictions.tsv",
    log:
        "logs/evaluate/{run}.log",
    benchmark:
        "results/benchmarks/evaluate/{run}.tsv"
    priority: 100
    threads: config["pretrain"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: 16000 * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
        gpu=config["pretrain"]["gpus"],
    params:
        seed=config["seed"],
        targets=config["targets"],
        device=config["pretrain"]["device"],
        batch_size=config["pretrain"]["batch_size"],
        threads=config["pretrain"]["threads"],
        bootstrap=config["statistics"]["bootstrap"],
        holdout=study.cohorts_of("holdout"),
    script:
        "../scripts/evaluate.py"
