# Inputs and parameters that rules of several stages share.

# What later stages depend on: settings that only change how it is done repeat no fit.
PREPROCESSING = demands.identity(config["preprocessing"])
# The people behind weights that this study pretrained; given weights have no such table.
PRETRAINED_PARTICIPANTS = "results/pretrain/multitask/participants.tsv" if study.run == "multitask" else []


def of_cohorts(folder, *roles):
    return [f"results/{folder}/{cohort}.tsv" for cohort in study.cohorts_of(*roles)]


def shards_of_cohorts(*roles):
    return lambda wildcards: [
        f"results/cache/{shard}.npy" for cohort in study.cohorts_of(*roles) for shard in study.shards_of(cohort)
    ]


def shards_of_cohort(folder, ending="tsv"):
    return lambda wildcards: [f"results/{folder}/{shard}.{ending}" for shard in study.shards_of(wildcards.cohort)]
