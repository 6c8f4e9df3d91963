"""Fit the linear model's settings on one resample, those of the covariates alone, and those of further arms."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from pathlib import Path

    from neurotransfer.files import read_table, write_json
    from neurotransfer.fit.covariates import read_covariates
    from neurotransfer.fit.features import read_features, read_table_of_features
    from neurotransfer.fit.linear import fit, read_volumes, shares_of_mask
    from neurotransfer.split.resampling import read_resample
    from neurotransfer.study.plan import FROZEN

    source, settings, path = snakemake.input, snakemake.params, snakemake.input.resample
    resample, facts = read_resample(path)
    volumes = read_volumes(resample, source.volumes, source.names, settings.fitting["structures"])
    linear = fit("linear", shares_of_mask(volumes), resample, facts, path, settings.fitting)
    indices = {Path(index).stem: read_table(index) for index in source.indices}
    features = read_covariates(resample, indices, volumes[:, 0])
    write_json(snakemake.output.covariates, fit("covariates", features, resample, facts, path, settings.covariates))
    for model, fitting in getattr(settings, "further", {}).items():
        if model == FROZEN:
            features, made_of = read_features(resample, source.features), source.weights
        else:
            features, made_of = read_table_of_features(resample, fitting["file"]), fitting["file"]
        write_json(getattr(snakemake.output, model), fit(model, features, resample, facts, path, fitting, made_of))
    write_json(snakemake.output.fit, linear)
