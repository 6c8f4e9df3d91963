# Inputs and parameters of rules in several stages.

# The settings on which later stages depend; settings that only change how preprocessing runs repeat no fit.
PREPROCESSING = demands.identity(config["preprocessing"])
# The participants in this study's own pretraining; given weights have no such table.
PRETRAINED_PARTICIPANTS = "results/pretrain/multitask/participants.tsv" if study.run == "multitask" else []
# The rule that places the crop enters params and fingerprints only if it is not the one of before there was a choice.
CROP_RULE = {key: value for key, value in identity(config, "cache").items() if key == "crop_rule"}


def of_cohorts(folder, *roles):
    return [f"results/{folder}/{cohort}.tsv" for cohort in study.cohorts_of(*roles)]


def shards_of_cohorts(*roles):
    return lambda wildcards: [
        f"results/cache/{shard}.npy" for cohort in study.cohorts_of(*roles) for shard in study.shards_of(cohort)
    ]


def shards_of_cohort(folder, ending="tsv"):
    return lambda wildcards: [f"results/{folder}/{shard}.{ending}" for shard in study.shards_of(wildcards.cohort)]
