"""Fit the binary network from random weights on one resample."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.fit):
    from neurotransfer.files import write_json
    from neurotransfer.finetuning import fit

    write_json(snakemake.output.fit, fit("baseline", snakemake.input.resample, snakemake.params.fitting))
