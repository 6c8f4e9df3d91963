"""Pretrain the multi-target network on the healthy participants of the pretraining cohorts."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.weights):
    import pandas as pd
    from neurotransfer import training, weights
    from neurotransfer.batches import Images
    from neurotransfer.certificate import check_certified
    from neurotransfer.checkpoints import Checkpoints
    from neurotransfer.device import choose_device
    from neurotransfer.files import fingerprint, read_table, write_table
    from neurotransfer.targets import as_metadata, learn_targets

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    check_certified(source.certificate, [*source.indices, *source.splits])
    key = weights.make_study_key(snakemake.config["pretrain"]["participants_key"])
    indices, splits = (pd.concat([read_table(path) for path in paths]) for paths in (source.indices, source.splits))
    tables = training.training_rows(indices, splits)
    targets = learn_targets(params.targets, tables[0])
    used = [table[["image_id", "checksum"]].to_numpy().tolist() for table in tables]
    facts = [params.seed, params.network, dict(params.training), as_metadata(targets), used]
    checkpoints = Checkpoints(params.checkpoints, fingerprint(facts))
    images = [Images(table, "results/cache") for table in tables]
    learning = {"network": params.network, "settings": params.training, "seed": params.seed}
    device = choose_device(params.training["device"], params.threads)
    result = training.pretrain(*images, tables, targets=targets, device=device, checkpoints=checkpoints, **learning)
    made_with = {"network": params.network, "crop": params.crop, "preprocessing": params.preprocessing}
    metadata = training.metadata_of(result, tables, targets, key=key, **made_with)
    write_table(training.participants_of(tables), output.participants)
    write_table(result.history, output.history)
    weights.write_weights(output.weights, result.state, metadata)
    checkpoints.delete()
