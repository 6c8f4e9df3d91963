# A task's pool -> one file per replicate, with its training, validation and test images.

# Everything besides its pool on which a resample depends; aggregate refuses resamples drawn with other values.
DRAWING = {
    "seed": config["seed"],
    "tasks": {name: drawing_of_task(name) for name in study.tasks},
    "settings": identity(config, "resampling", ["n", "replicates", "second_seeds"]),
    "converters": config["manifest"]["converters"],
}


for BATCH in BATCHES:

    rule:
        """n images with replacement for training, then validation and test from other participants.

        It does not depend on the certificate, which depends on every cohort, because Snakemake traverses all
        dependencies of a group's jobs once for each pair of members.  The networks' fits depend on it; aggregate checks
        every resample.
        """
        name:
            rule_for("resample", BATCH)
        input:
            indices=lambda wc: of_cohorts("index", wc.task),
            splits=lambda wc: of_cohorts("split/cohorts", wc.task),
        output:
            resample=made_by_batch("results/resamples/{task}/n{n}/{replicate}.tsv", BATCH),
        log:
            log_of_batch("logs/resample/{task}/n{n}/{replicate}.log", BATCH),
        retries: 0
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
            in_group=1,  # the profile limits the sum over a group's running members, and so the group's resources
        params:
            seed=DRAWING["seed"],
            task=lambda wc: DRAWING["tasks"][wc.task],
            resampling=DRAWING["settings"],
            converters=DRAWING["converters"],
        script:
            "../scripts/resample.py"
