# A task's pool -> one file per replicate: who trains, who validates, who tests.

# What each task's resamples depend on besides their pool; aggregate refuses those drawn with anything else.
DRAWING = {
    "seed": config["seed"],
    "tasks": study.tasks,
    "settings": identity(config, "resampling", ["n", "replicates"]),
    "converters": config["manifest"]["converters"],
}


rule resample:
    """n images with replacement for training, then validation and test from other participants.

    It does not wait for the certificate, which comes after every cohort: Snakemake walks through all that a job of a
    group depends on, once for each pair of its members.  The networks' fits wait, and aggregate checks every resample.
    """
    input:
        indices=lambda wc: of_cohorts("index", wc.task),
        splits=lambda wc: of_cohorts("split/cohorts", wc.task),
    output:
        "results/resamples/{task}/n{n}/{replicate}.tsv",
    log:
        "logs/resample/{task}/n{n}/{replicate}.log",
    retries: 0
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
        in_group=1,  # the profile limits how many of a group run at once, and so what the group asks for
    params:
        seed=DRAWING["seed"],
        task=lambda wc: DRAWING["tasks"][wc.task],
        resampling=DRAWING["settings"],
        converters=DRAWING["converters"],
    script:
        "../scripts/resample.py"
