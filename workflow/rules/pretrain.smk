# Shards of healthy people -> the six-target network -> its predictions, also on held-out cohorts.


# Keys of `pretrain` that do not change training.  Everywhere a certificate is an input it is ancient(): it comes first,
# and the new one of a study that has grown repeats nothing, because each job checks that its files are in it.
NO_TRAINING = (
    *("weights", "accept_other_preprocessing", "accept_other_head", "participants_key", "threads", "gpus"),
    "checkpoint_minutes",
    "on_divergence",  # a run that diverges with `stop` has no result, and continues if it says `lower_rate`
)


rule pretrain:
    """The multi-task network, from random weights; by torchrun if it has more than one GPU."""
    input:
        indices=of_cohorts("index", "pretraining"),
        splits=of_cohorts("split/cohorts", "pretraining"),
        certificate=ancient("results/split/certificate.json"),
        shards=shards_of_cohorts("pretraining"),
    output:
        weights="results/pretrain/multitask/weights.safetensors",
        history="results/pretrain/multitask/history.tsv",
        participants="results/pretrain/multitask/participants.tsv",
    log:
        "logs/pretrain/multitask.log",
    benchmark:
        "results/benchmarks/pretrain/multitask.tsv"
    priority: 100  # most later jobs depend on it
    threads: config["pretrain"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: 32000 * attempt,
        runtime=lambda wc, attempt: PRETRAIN_MINUTES * attempt,
        gpu=config["pretrain"]["gpus"],
    params:
        **CROP_RULE,
        seed=config["seed"],
        targets=identity(config, "targets"),
        network=identity(config, "network"),
        training=identity(config, "pretrain", NO_TRAINING) | {"recipe": RECIPE},
        threads=config["pretrain"]["threads"],
        crop=config["cache"]["crop"],
        preprocessing=PREPROCESSING,
        checkpoints="results/checkpoints/pretrain/multitask",
    script:
        "../scripts/pretrain.py"


rule adopt:
    """Weights from elsewhere, checked against this study, instead of pretraining."""
    input:
        weights=config["pretrain"]["weights"] or [],
        certificate=ancient("results/split/certificate.json"),
    output:
        weights="results/pretrain/given/weights.safetensors",
    log:
        "logs/pretrain/given.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        **CROP_RULE,
        network=identity(config, "network"),
        crop=config["cache"]["crop"],
        preprocessing=PREPROCESSING,
        targets=identity(config, "targets"),
    script:
        "../scripts/adopt.py"


rule evaluate:
    """Metrics per target against the dummy predictor, on validation and on held-out cohorts."""
    input:
        weights="results/pretrain/{run}/weights.safetensors",
        indices=of_cohorts("index", "pretraining", "holdout"),
        splits=of_cohorts("split/cohorts", "pretraining", "holdout"),
        certificate=ancient("results/split/certificate.json"),
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
        gpu=min(1, config["pretrain"]["gpus"]),
    params:
        seed=config["seed"],
        targets=identity(config, "targets"),
        device=config["pretrain"]["device"],
        data_type=config["pretrain"]["data_type"],
        batch_size=config["pretrain"]["batch_size"],
        threads=config["pretrain"]["threads"],
        bootstrap=config["statistics"]["bootstrap"],
        holdout=study.cohorts_of("holdout"),
    script:
        "../scripts/evaluate.py"
