"""Metrics of the pretrained network on validation participants and on held-out cohorts."""

from neurotransfer import jobs

with jobs.job(snakemake):
    import pandas as pd
    from neurotransfer import evaluation, weights
    from neurotransfer.cache import made_by
    from neurotransfer.certificate import check_certified
    from neurotransfer.device import choose_device, place
    from neurotransfer.files import read_table, write_table
    from neurotransfer.targets import from_metadata
    from neurotransfer.training import predictions_of

    source, params = snakemake.input, snakemake.params
    check_certified(source.certificate, [*source.indices, *source.splits])
    state, metadata = weights.read_weights(source.weights)
    model, targets = weights.network_from(metadata), from_metadata(metadata["targets"])
    model.load_state_dict(state)
    device = choose_device(params.device, params.threads)
    place(model, device, params.data_type)
    images, splits = (pd.concat([read_table(path) for path in paths]) for paths in (source.indices, source.splits))
    role = images["image_id"].map(splits.set_index("image_id")["role"])
    # given weights may have been trained on anybody, so no set of this study is their validation set
    parts = {"validation": images[role == "validation"]} if snakemake.wildcards.run == "multitask" else {}
    parts["holdout"] = images[(role == "test") & images["cohort"].isin(params.holdout)]
    accept = snakemake.config["pretrain"]["accept_other_preprocessing"]
    weights.check_made_by(metadata, made_by(pd.concat(parts.values())), source.weights, accept=accept)
    predictions = predictions_of(model, parts, "results/cache", targets, params.batch_size, device)
    metrics = evaluation.evaluate(predictions, targets, resamples=params.bootstrap, seed=params.seed)
    write_table(predictions, snakemake.output.predictions)
    write_table(metrics, snakemake.output.metrics)
