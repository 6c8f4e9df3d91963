"""How unusual each cached image of one cohort is, and which are left out."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_tables, write_table
    from neurotransfer.quality.judge import cached_images, judge

    images, cached = read_tables(snakemake.input.shards), read_tables(snakemake.input.caches)
    write_table(judge(cached_images(images, cached), snakemake.params.quality), snakemake.output[0])
