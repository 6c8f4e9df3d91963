"""Fit the chosen setting of a network's fit once more, with a second seed."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output[0]):
    from neurotransfer.files import read_json, write_json
    from neurotransfer.fit.finetuning import fit, pretrained_trunk
    from neurotransfer.pretrain.study_key import read_study_key

    source, fitting, settings = snakemake.input, snakemake.params.fitting, snakemake.config["pretrain"]
    weights, trunk = source.weights or None, None
    if weights:
        trunk = pretrained_trunk(
            weights,
            fitting,
            source.resample,
            source.participants or None,
            key=read_study_key(settings["participants_key"]),
            accept_other_preprocessing=settings["accept_other_preprocessing"],
        )
    again = {"weights": weights, "trunk": trunk, "first": read_json(source.fit)}
    record, _ = fit(snakemake.wildcards.model, source.resample, fitting, **again)
    write_json(snakemake.output[0], record)
