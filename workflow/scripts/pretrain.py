"""Pretrain the multi-target network on the healthy participants of the pretraining cohorts."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.weights):
    from neurotransfer.pretrain.job import PretrainingJob, pretrain_in
    from neurotransfer.pretrain.study_key import make_study_key
    from neurotransfer.split.certificate import check_certified

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    check_certified(source.certificate, [*source.indices, *source.splits])
    settings = snakemake.config["pretrain"]
    make_study_key(settings["participants_key"])  # if it cannot be made, the job stops before days of training
    given = ("seed", "targets", "network", "training", "crop", "preprocessing", "checkpoints")
    work = PretrainingJob(
        indices=list(source.indices),
        splits=list(source.splits),
        key=settings["participants_key"],
        threads=max(1, params.threads // max(1, settings["gpus"])),
        checkpoint_minutes=settings["checkpoint_minutes"],
        on_divergence=settings["on_divergence"],
        **{name: output[name] for name in ("weights", "history", "participants")},
        **{name: params[name] for name in (*given, "crop_rule") if name in params.keys()},  # noqa: SIM118
    )
    pretrain_in(settings["gpus"], work, snakemake.log[0])
