"""Pretrain the multi-target network on the healthy participants of the pretraining cohorts."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.weights):
    import pandas as pd
    from neurotransfer import weights
    from neurotransfer.batches import Images
    from neurotransfer.checkpoints import Checkpoints
    from neurotransfer.device import choose_device
    from neurotransfer.files import fingerprint, read_table, write_table
    from neurotransfer.targets import as_metadata, learn_targets
    from neurotransfer.training import pretrain, training_rows

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    indices, splits = (pd.concat([read_table(path) for path in paths]) for paths in (source.indices, source.splits))
    tables = training_rows(indices, splits)
    targets = learn_targets(params.targets, tables[0])
    used = [table[["image_id", "checksum"]].to_numpy().tolist() for table in tables]
    facts = [params.seed, params.targets, params.network, params.training, params.crop, used, as_metadata(targets)]
    checkpoints = Checkpoints(params.checkpoints, fingerprint(facts))
    result = pretrain(
        *(Images(table, "results/cache") for table in tables),
        tables,
        targets=targets,
        network=params.network,
        settings=params.training,
        seed=params.seed,
        device=choose_device(params.training["device"], params.threads),
        checkpoints=checkpoints,
    )
    best = result.history.iloc[result.epoch]
    metadata = {"network": params.network, "crop": params.crop, "preprocessing": params.preprocessing}
    metadata |= {"targets": as_metadata(targets), "scaling": "none", "training": {"epoch": result.epoch}}
    metadata["training"] |= {"images": len(tables[0]), "validation_loss": float(best["validation_loss"])}
    metadata["training"] |= {"participants": int(tables[0]["participant_id"].nunique())}
    people = pd.concat([table.assign(role=role) for table, role in zip(tables, ("train", "validation"), strict=True)])
    write_table(people[["participant_id", "role"]].drop_duplicates().sort_values("participant_id"), output.participants)
    write_table(result.history, output.history)
    weights.write_weights(output.weights, result.state, metadata)
    checkpoints.delete()
