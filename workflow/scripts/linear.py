"""Fit the linear model's settings on one resample."""

from neurotransfer import jobs

with jobs.job(snakemake):
    import numpy as np
    from neurotransfer.files import write_json
    from neurotransfer.linear import fit_settings, read_volumes, shares_of_mask
    from neurotransfer.resampling import read_resample
    from neurotransfer.selection import fingerprint_of_fit, fit_record
    from sklearn.metrics import roc_auc_score

    source, fitting = snakemake.input, snakemake.params.fitting
    resample, facts = read_resample(source.resample)
    features = shares_of_mask(read_volumes(resample, source.volumes, source.names))
    labels, roles = resample["label"].to_numpy(), resample["role"].to_numpy(str)
    records, chosen, scores = fit_settings(features, labels, roles, fitting["settings"], fitting["max_iterations"])
    test = np.flatnonzero(roles == "test")
    record = fit_record(
        facts=facts,
        model="linear",
        settings=records,
        chosen=chosen,
        test_auc=float(roc_auc_score(labels[test], scores)),
        test={"position": test.tolist(), "label": labels[test].tolist(), "score": scores.tolist()},
        seeds={},
        fingerprint=fingerprint_of_fit("linear", fitting, source.resample, None),
    )
    write_json(snakemake.output.fit, record)
