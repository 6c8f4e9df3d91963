"""The best network of one task by its validation set, among the fits of the largest n; trained again and kept."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output[0]):
    from neurotransfer.fit.finetuning import pretrained_trunk
    from neurotransfer.fit.kept import best_of, keep, read_fits, repeat
    from neurotransfer.pretrain.study_key import read_study_key
    from neurotransfer.study import layout

    source, params, settings = snakemake.input, snakemake.params, snakemake.config["pretrain"]
    record = best_of(read_fits(source.fits, params.fitting, source.weights))
    fitting, trunk = params.fitting[record["model"]], None
    resample = layout.resample(record["task"], record["n"], record["replicate"])
    key = read_study_key(settings["participants_key"])
    if record["model"] == "transfer":
        accept = settings["accept_other_preprocessing"]
        given = (source.weights, fitting, resample, source.participants or None)
        trunk = pretrained_trunk(*given, key=key, accept_other_preprocessing=accept)
    state = repeat(record, fitting, trunk)
    about = params.task | {"name": record["task"]}
    made_with = params.fitting["transfer"]  # which also holds crop and preprocessing
    keep(snakemake.output[0], state, record, resample, about, made_with=made_with, key=key)
