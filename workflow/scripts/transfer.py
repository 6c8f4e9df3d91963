"""Fit the binary network from the pretrained weights on each resample."""

from neurotransfer.jobs.batch import each_replicate


def fit_one(snakemake):
    """The fit of one replicate."""
    from neurotransfer.files import write_json
    from neurotransfer.fit.finetuning import fit, pretrained_trunk
    from neurotransfer.fit.kept import keep_if_asked
    from neurotransfer.pretrain.study_key import read_study_key

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


def is_finished(snakemake):
    """Whether the fit of a replicate is of today's resample, weights and configuration."""
    from neurotransfer.fit.settings import is_fit_of

    source = snakemake.input
    return is_fit_of(snakemake.output.fit, "transfer", snakemake.params.fitting, source.resample, source.weights)


each_replicate(snakemake, fit_one, lease="fit", is_finished=is_finished)
