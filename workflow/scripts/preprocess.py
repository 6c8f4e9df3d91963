"""One job's images through their engines; the ledger has a row for each."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.ledger):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.preprocess.run import OUTCOMES, Outcomes, preprocess_images, slice_of_job
    from neurotransfer.study.demands import as_measured

    params = snakemake.params
    settings = as_measured(snakemake.config["preprocessing"])
    settings["volumes"] = params.preprocessing.get("volumes", True)
    images = slice_of_job(read_table(snakemake.input.images), snakemake.wildcards.job, params.images_per_job)
    outcomes = Outcomes(OUTCOMES, params.subjects, settings["stop_after_same_failure"])
    write_table(preprocess_images(images, settings, params.subjects, outcomes=outcomes), snakemake.output.ledger)
