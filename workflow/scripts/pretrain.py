"""Pretrain the multi-target network on the healthy participants of the pretraining cohorts."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.weights):
    from neurotransfer.pretrain.job import pretrain_in
    from neurotransfer.pretrain.weights import make_study_key
    from neurotransfer.split.certificate import check_certified

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    check_certified(source.certificate, [*source.indices, *source.splits])
    settings = snakemake.config["pretrain"]
    make_study_key(settings["participants_key"])  # where it cannot be made, before days of training
    facts = {name: params[name] for name in ("seed", "targets", "network", "training", "crop", "preprocessing")}
    facts |= {"indices": list(source.indices), "splits": list(source.splits), "checkpoints": params.checkpoints}
    facts |= {name: output[name] for name in ("weights", "history", "participants")}
    facts |= {"key": settings["participants_key"], "checkpoint_minutes": settings["checkpoint_minutes"]}
    facts["threads"] = max(1, params.threads // max(1, settings["gpus"]))
    pretrain_in(settings["gpus"], facts, snakemake.log[0])
