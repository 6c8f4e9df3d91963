"""One job's images through their engines; the ledger has a row for each."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.ledger):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.preprocess.run import OUTCOMES, Outcomes, preprocess_images, slice_of_job
    from neurotransfer.study.demands import as_measured

    params = snakemake.params
    settings = as_measured(snakemake.config["preprocessing"])
    settings["volumes"] = params.preprocessing.get("volumes", True)
    shard = read_table(snakemake.input.images)
    everyone = set(shard["image_id"]) if "withdrawn" in shard else None
    images = slice_of_job(shard, snakemake.wildcards.job, params.images_per_job)
    outcomes = Outcomes(OUTCOMES, params.subjects, settings["stop_after_same_failure"])
    ledger = preprocess_images(images, settings, params.subjects, outcomes=outcomes, shard_images=everyone)
    write_table(ledger, snakemake.output.ledger)
