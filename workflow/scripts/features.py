"""The pretrained trunk's features of each image of a cohort that tasks may draw; NaN for the others."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output[0]):
    import numpy as np
    from neurotransfer.cache.provenance import BOUNDING_BOX, made_by
    from neurotransfer.files import read_table, written_whole
    from neurotransfer.fit.features import drawable
    from neurotransfer.network.device import choose_device, place
    from neurotransfer.pretrain import study_key, weights
    from neurotransfer.pretrain.step import features_of
    from neurotransfer.study import layout
    from neurotransfer.study.same_people import read_people

    source, params, settings = snakemake.input, snakemake.params, snakemake.config["pretrain"]
    state, metadata = weights.read_weights(source.weights)
    accept = settings["accept_other_preprocessing"]
    expected = weights.expected_of(
        params.network, params.crop, params.preprocessing, params.get("crop_rule", BOUNDING_BOX)
    )
    weights.check_weights(metadata, expected, source.weights, accept=accept)
    index, split = read_table(source.index), read_table(source.split)
    weights.check_made_by(metadata, made_by(index), source.weights, accept=accept)
    key = study_key.read_study_key(settings["participants_key"])
    seen = study_key.seen_by(metadata, index["participant_id"], key, read_people())
    if source.participants:
        seen = set(read_table(source.participants)["participant_id"])
    model = weights.network_from(metadata)
    model.load_state_dict(state)
    device = choose_device(params.device, snakemake.threads)
    place(model, device, params.data_type)
    rows = drawable(index, split, seen or ())
    found = features_of(model, index, layout.CACHE, rows, params.batch_size, device, layers=params.layers)
    with written_whole(snakemake.output[0], "wb") as file:
        np.save(file, found, allow_pickle=False)
