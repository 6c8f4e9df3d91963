# Inputs and parameters of rules in several stages.

# The settings on which later stages depend; settings that only change how preprocessing runs repeat no fit.
PREPROCESSING = demands.identity(config["preprocessing"])
# The participants in this study's own pretraining; given weights have no such table.
PRETRAINED_PARTICIPANTS = "results/pretrain/multitask/participants.tsv" if study.run == "multitask" else []
# The rule that places the crop enters params and fingerprints only if it is not the one of before there was a choice.
CROP_RULE = {key: value for key, value in identity(config, "cache").items() if key == "crop_rule"}
# The scanners of the tasks' images; a manifest of an earlier version has no such table.
SCANNERS = "results/manifest/scanners.tsv" if Path("results/manifest/scanners.tsv").is_file() else []
# The people with several names; a study without them has no such table.
SAME_PEOPLE = "results/manifest/same_people.tsv" if Path("results/manifest/same_people.tsv").is_file() else []
# What the split of a cohort depends on, without its people with several names.
SPLITTING = identity(config, "split", ["waived_duplicates"])


def splitting_of(cohort):
    """What a cohort's split depends on: also its people with several names, if it pretrains; else all are test."""
    digest = study.people.for_split(cohort).digest if "pretraining" in study.roles[cohort] else None
    return SPLITTING | ({"same_people": digest} if digest else {})


def drawing_of_task(name):
    """A task, and the people with several names in its pool, who are drawn as one person each."""
    digest = study.people.among(study.cohorts_of(name)).digest
    return dict(study.tasks[name]) | ({"same_people": digest} if digest else {})


def of_cohorts(folder, *roles):
    return [f"results/{folder}/{cohort}.tsv" for cohort in study.cohorts_of(*roles)]


def shards_of_cohorts(*roles):
    return lambda wildcards: [
        f"results/cache/{shard}.npy" for cohort in study.cohorts_of(*roles) for shard in study.shards_of(cohort)
    ]


def shards_of_cohort(folder, ending="tsv"):
    return lambda wildcards: [f"results/{folder}/{shard}.{ending}" for shard in study.shards_of(wildcards.cohort)]


# Replicates that share a job; None if each has a job of its own, whose rule has the wildcard replicate.
PER_JOB = config["models"]["replicates_per_job"]
BATCHES = in_batches(study.replicates, PER_JOB) if PER_JOB > 1 else [None]
SECOND_BATCHES = in_batches(study.second_seeds, PER_JOB) if PER_JOB > 1 else [None]


def rule_for(name, batch):
    """The name of the rule for a batch, with what the command line and the profile say of the rule itself."""
    own = name_for_batch(name, batch)
    resources, groups = workflow.resource_settings, workflow.group_settings.overwrite_groups
    for said in (resources._parsed_overwrite_resources, resources._parsed_overwrite_threads, groups):
        if name in said and own not in said:
            said[own] = said[name]
    return own


def of_batch(path, batch):
    """The paths of a batch's replicates."""
    return expand(path, replicate=batch, allow_missing=True) if batch else path


def made_by_batch(path, batch):
    """Outputs of a batch, which stay while its job runs: the job keeps those that are finished."""
    return update(of_batch(path, batch)) if batch else path


def log_of_batch(path, batch):
    """The log of a batch's job, which says what became of each replicate."""
    return path.replace("{replicate}", f"{batch[0]}-{batch[-1]}") if batch else path


def benchmark_of_batch(path, batch):
    """What a job has cost; one of several replicates also writes what each has cost, where a job of its own does."""
    return log_of_batch(path, batch).replace("results/benchmarks/", "results/benchmarks/batches/") if batch else path
