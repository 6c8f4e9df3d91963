"""One job's images through their engines; the ledger has a row for each."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.ledger):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.preprocess.run import OUTCOMES, Outcomes, preprocess_images, slice_of_job

    params, settings = snakemake.params, snakemake.config["preprocessing"]
    images = slice_of_job(read_table(snakemake.input.images), snakemake.wildcards.job, params.images_per_job)
    outcomes = Outcomes(OUTCOMES, params.subjects, settings["stop_after_same_failure"])
    volumes = params.preprocessing.get("volumes", True)
    ledger = preprocess_images(images, settings, params.subjects, outcomes=outcomes, volumes=volumes)
    write_table(ledger, snakemake.output.ledger)
