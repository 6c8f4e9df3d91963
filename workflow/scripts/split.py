"""Give each image of one cohort its role."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.split.roles import split_cohort
    from neurotransfer.study.same_people import read_people

    params = snakemake.params
    index = read_table(snakemake.input.index)
    drawing = (params.roles, params.pretraining_share, params.split, params.seed)
    table = split_cohort(index, *drawing, read_people())
    write_table(table, snakemake.output[0])
