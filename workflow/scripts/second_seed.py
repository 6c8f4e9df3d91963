"""Fit the chosen setting of a network's fit on each resample once more, with a second seed."""

from neurotransfer.jobs.batch import each_replicate


def fit_again(snakemake):
    """The second fit of one replicate."""
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
    write_json(snakemake.output.again, record)


def is_finished(snakemake):
    """Whether the second fit of a replicate is of today's first one."""
    from neurotransfer.fit.settings import is_second_of

    return is_second_of(snakemake.output.again, snakemake.input.fit)


each_replicate(snakemake, fit_again, lease="again", is_finished=is_finished)
