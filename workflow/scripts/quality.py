"""The z-scores of one cohort's cached images, and the images left out by rules."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_tables, write_table
    from neurotransfer.quality.judge import cached_images, judge

    images, cached = read_tables(snakemake.input.shards), read_tables(snakemake.input.caches)
    write_table(judge(cached_images(images, cached), snakemake.params.quality), snakemake.output[0])
