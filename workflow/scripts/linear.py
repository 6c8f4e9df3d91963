"""Fit the linear model's settings on one resample."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.files import write_json
    from neurotransfer.linear import fit, read_volumes, shares_of_mask
    from neurotransfer.resampling import read_resample

    source, fitting = snakemake.input, snakemake.params.fitting
    resample, facts = read_resample(source.resample)
    features = shares_of_mask(read_volumes(resample, source.volumes, source.names, fitting["structures"]))
    write_json(snakemake.output.fit, fit("linear", features, resample, facts, source.resample, fitting))
