"""Metrics of the pretrained network on validation participants and on held-out cohorts."""

from neurotransfer import jobs

with jobs.job(snakemake):
    import numpy as np
    import pandas as pd
    from neurotransfer import evaluation, weights
    from neurotransfer.batches import Images
    from neurotransfer.device import choose_device, place
    from neurotransfer.files import read_table, write_table
    from neurotransfer.targets import decode, from_metadata
    from neurotransfer.training import predict

    source, params = snakemake.input, snakemake.params
    state, metadata = weights.read_weights(source.weights)
    targets = from_metadata(metadata["targets"])
    model = weights.network_from(metadata)
    model.load_state_dict(state)
    device = choose_device(params.device, params.threads)
    place(model, device)
    images, splits = (pd.concat([read_table(path) for path in paths]) for paths in (source.indices, source.splits))
    roles = images["image_id"].map(splits.set_index("image_id")["role"])
    held_out = (roles == "test") & images["cohort"].isin(params.holdout)
    parts = []
    for split, chosen in (("validation", roles == "validation"), ("holdout", held_out)):
        table = images[chosen].reset_index(drop=True)
        if len(table) and (split == "holdout" or snakemake.wildcards.run == "multitask"):
            rows = np.arange(len(table))
            outputs = predict(model, Images(table, "results/cache"), rows, params.batch_size, device)
            parts.append(evaluation.long_form(table, decode(outputs, targets), targets, split))
    columns = ["image_id", "participant_id", "cohort", "split", "target", "truth", "prediction"]
    predictions = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    metrics = evaluation.evaluate(predictions, targets, resamples=params.bootstrap, seed=params.seed)
    write_table(predictions, snakemake.output.predictions)
    write_table(metrics, snakemake.output.metrics)
