"""Fit the binary network from the pretrained weights on one resample."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.fit):
    from neurotransfer.files import write_json
    from neurotransfer.fit.finetuning import fit, pretrained_trunk
    from neurotransfer.fit.kept import keep_if_asked
    from neurotransfer.pretrain.weights import read_study_key

    source, fitting, settings = snakemake.input, snakemake.params.fitting, snakemake.config["pretrain"]
    trunk = pretrained_trunk(
        source.weights,
        fitting,
        source.resample,
        source.participants or None,
        key=read_study_key(settings["participants_key"]),
        accept_other_preprocessing=settings["accept_other_preprocessing"],
    )
    record, state = fit("transfer", source.resample, fitting, weights=source.weights, trunk=trunk)
    keep_if_asked(snakemake.output.get("network"), state, record, source.resample, snakemake.config)
    write_json(snakemake.output.fit, record)
