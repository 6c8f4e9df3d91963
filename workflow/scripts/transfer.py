"""Fit the binary network from the pretrained weights on one resample."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.fit):
    from neurotransfer.files import write_json
    from neurotransfer.finetuning import fit, pretrained_trunk

    source, fitting = snakemake.input, snakemake.params.fitting
    trunk = pretrained_trunk(source.weights, fitting, source.resample, source.participants or None)
    write_json(snakemake.output.fit, fit("transfer", source.resample, fitting, weights=source.weights, trunk=trunk))
