"""Join all cohorts' roles, and prove that no participant crosses; fails where one does."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.files import read_table, write_json, write_table
    from neurotransfer.split import certificate, join_splits

    splits = [read_table(path) for path in snakemake.input.splits]
    indices = [read_table(path) for path in snakemake.input.indices]
    proof = certificate(splits, indices, snakemake.params.roles)
    write_table(join_splits(splits, indices), snakemake.output.images)
    write_json(snakemake.output.certificate, proof)
