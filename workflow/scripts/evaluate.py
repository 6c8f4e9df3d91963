"""Metrics of the pretrained network on validation participants and on held-out cohorts."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.metrics):
    import pandas as pd
    from neurotransfer.cache.provenance import made_by
    from neurotransfer.files import read_table, write_table
    from neurotransfer.network.device import choose_device, place
    from neurotransfer.pretrain import evaluation, weights
    from neurotransfer.pretrain.step import predictions_of
    from neurotransfer.pretrain.targets import from_metadata
    from neurotransfer.split.certificate import check_certified
    from neurotransfer.study import layout
    from neurotransfer.study.same_people import read_people

    source, params = snakemake.input, snakemake.params
    check_certified(source.certificate, [*source.indices, *source.splits])
    state, metadata = weights.read_weights(source.weights)
    model, targets = weights.network_from(metadata), from_metadata(metadata["targets"])
    model.load_state_dict(state)
    device = choose_device(params.device, params.threads)
    place(model, device, params.data_type)
    images, splits = (pd.concat([read_table(path) for path in paths]) for paths in (source.indices, source.splits))
    images = read_people().among(images["cohort"].unique()).named(images)
    role = images["image_id"].map(splits.set_index("image_id")["role"])
    # given weights may have been trained on any participant, so no set of this study is their validation set
    parts = {"validation": images[role == "validation"]} if snakemake.wildcards.run == "multitask" else {}
    parts["holdout"] = images[(role == "test") & images["cohort"].isin(params.holdout)]
    accept = snakemake.config["pretrain"]["accept_other_preprocessing"]
    weights.check_made_by(metadata, made_by(pd.concat(parts.values())), source.weights, accept=accept)
    predictions = predictions_of(model, parts, layout.CACHE, targets, params.batch_size, device)
    if "source" in metadata:
        targets = evaluation.with_means_of(predictions, targets)
    drawn = {"resamples": params.bootstrap, "seed": params.seed}
    write_table(predictions, snakemake.output.predictions)
    write_table(evaluation.evaluate(predictions, targets, **drawn), snakemake.output.metrics)
    write_table(evaluation.evaluate_groups(predictions, images, targets, **drawn), snakemake.output.groups)
    write_table(evaluation.calibration(predictions, targets, **drawn), snakemake.output.calibration)
