"""Pretrain the multi-target network on the healthy participants of the pretraining cohorts."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.weights):
    from neurotransfer.pretrain.job import PretrainingJob, pretrain_in
    from neurotransfer.pretrain.weights import make_study_key
    from neurotransfer.split.certificate import check_certified

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    check_certified(source.certificate, [*source.indices, *source.splits])
    settings = snakemake.config["pretrain"]
    make_study_key(settings["participants_key"])  # before the training, in case it cannot be made
