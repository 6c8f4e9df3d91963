"""Fit the binary network from random weights on one resample."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.fit):
    from neurotransfer.files import write_json
    from neurotransfer.fit.finetuning import fit

    write_json(snakemake.output.fit, fit("baseline", snakemake.input.resample, snakemake.params.fitting))
