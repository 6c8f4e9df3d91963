"""Fit the binary network from random weights on one resample."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.fit):
    from neurotransfer.files import write_json
    from neurotransfer.fit.finetuning import fit
    from neurotransfer.fit.kept import keep_if_asked

    record, state = fit("baseline", snakemake.input.resample, snakemake.params.fitting)
    keep_if_asked(snakemake.output.get("network"), state, record, snakemake.input.resample, snakemake.config)
    write_json(snakemake.output.fit, record)
