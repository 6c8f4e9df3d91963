"""Fit the linear model's settings on one resample, and those of the covariates alone."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from pathlib import Path

    from neurotransfer.files import read_table, write_json
    from neurotransfer.fit.covariates import read_covariates
    from neurotransfer.fit.linear import fit, read_volumes, shares_of_mask
    from neurotransfer.split.resampling import read_resample

    source, settings, path = snakemake.input, snakemake.params, snakemake.input.resample
    resample, facts = read_resample(path)
    volumes = read_volumes(resample, source.volumes, source.names, settings.fitting["structures"])
    linear = fit("linear", shares_of_mask(volumes), resample, facts, path, settings.fitting)
    indices = {Path(index).stem: read_table(index) for index in source.indices}
    features = read_covariates(resample, indices, volumes[:, 0])
    write_json(snakemake.output.covariates, fit("covariates", features, resample, facts, path, settings.covariates))
    write_json(snakemake.output.fit, linear)
