"""Fit the binary network from random weights on each resample."""

from neurotransfer.jobs.batch import each_replicate


def fit_one(snakemake):
    """The fit of one replicate."""
    from neurotransfer.files import write_json
    from neurotransfer.fit.finetuning import fit
    from neurotransfer.fit.kept import keep_if_asked

    record, state = fit("baseline", snakemake.input.resample, snakemake.params.fitting)
    keep_if_asked(snakemake.output.get("network"), state, record, snakemake.input.resample, snakemake.config)
    write_json(snakemake.output.fit, record)


def is_finished(snakemake):
    """Whether the fit of a replicate is of today's resample and configuration."""
    from neurotransfer.fit.settings import is_fit_of

    return is_fit_of(snakemake.output.fit, "baseline", snakemake.params.fitting, snakemake.input.resample)


each_replicate(snakemake, fit_one, lease="fit", is_finished=is_finished)
