"""Fit logistic regression on age, sex and mask volume, on one resample."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from pathlib import Path

    from neurotransfer.covariates import read_covariates
    from neurotransfer.files import read_table, write_json
    from neurotransfer.linear import fit, read_volumes
    from neurotransfer.resampling import read_resample

    source, fitting = snakemake.input, snakemake.params.fitting
    resample, facts = read_resample(source.resample)
    indices = {Path(path).stem: read_table(path) for path in source.indices}
    masks = read_volumes(resample, source.volumes, source.names)[:, 0]
    features = read_covariates(resample, indices, masks)
    write_json(snakemake.output.fit, fit("covariates", features, resample, facts, source.resample, fitting))
