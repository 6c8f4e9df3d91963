"""One job's images through the engine; the ledger accounts for each."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.ledger):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.preprocessing import preprocess_images, slice_of_job

    params = snakemake.params
    images = slice_of_job(read_table(snakemake.input.images), snakemake.wildcards.job, params.images_per_job)
    write_table(preprocess_images(images, params.preprocessing, params.subjects), snakemake.output.ledger)
