"""Fit the linear model's settings on each resample, those of the covariates alone, and those of further arms."""

from neurotransfer.jobs.batch import each_replicate


def fit_all(snakemake):
    """The fits of one replicate; their files are written once all of them are there."""
    from pathlib import Path

    import numpy as np
    from neurotransfer.files import read_table, write_json
    from neurotransfer.fit.covariates import read_covariates, sites_of
    from neurotransfer.fit.features import read_features, read_table_of_features
    from neurotransfer.fit.linear import fit, normalised, read_etiv, read_volumes
    from neurotransfer.manifest.scanners import read_scanners
    from neurotransfer.split.resampling import read_resample
    from neurotransfer.study.plan import FROZEN

    source, settings, path = snakemake.input, snakemake.params, snakemake.input.resample
    resample, facts = read_resample(path)
    volumes = read_volumes(resample, source.volumes, source.names, settings.fitting["structures"])
    how = settings.fitting.get("normalise", "mask")
    etiv = read_etiv(resample, source.volumes, source.names) if how == "etiv" else None
    shares = normalised(volumes, resample["role"].to_numpy(str), how, etiv)
    linear = fit("linear", shares, resample, facts, path, settings.fitting)
    indices = {Path(index).stem: read_table(index) for index in source.indices}
    features = read_covariates(resample, indices, volumes[:, 0])
    if settings.covariates.get("site"):
        features = np.hstack([features, sites_of(resample, read_scanners(source.scanners))])
    write_json(snakemake.output.covariates, fit("covariates", features, resample, facts, path, settings.covariates))
    for model, fitting in getattr(settings, "further", {}).items():
        if model == FROZEN:
            features, made_of = read_features(resample, source.features), source.weights
        else:
            features, made_of = read_table_of_features(resample, fitting["file"]), fitting["file"]
        write_json(getattr(snakemake.output, model), fit(model, features, resample, facts, path, fitting, made_of))
    write_json(snakemake.output.fit, linear)


def is_finished(snakemake):
    """Whether every fit of a replicate is of today's resample and configuration."""
    from neurotransfer.fit.settings import is_fit_of
    from neurotransfer.study.plan import FROZEN

    source, settings, made = snakemake.input, snakemake.params, snakemake.output
    known = {"linear": (made.fit, settings.fitting, None), "covariates": (made.covariates, settings.covariates, None)}
    for model, fitting in getattr(settings, "further", {}).items():
        known[model] = (getattr(made, model), fitting, source.weights if model == FROZEN else fitting["file"])
    return all(is_fit_of(path, model, what, source.resample, of) for model, (path, what, of) in known.items())


each_replicate(snakemake, fit_all, is_finished=is_finished)
