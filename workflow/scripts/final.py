"""The final network of one task: all of its images, the setting that most replicates chose."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output[0]):
    import logging

    from neurotransfer.cache.provenance import made_by
    from neurotransfer.files import read_table
    from neurotransfer.fit.final import expectation, fit_final, settings_that_won
    from neurotransfer.fit.finetuning import matching_trunk
    from neurotransfer.fit.kept import read_fits, write_network
    from neurotransfer.pretrain.study_key import read_study_key
    from neurotransfer.split.certificate import check_certified
    from neurotransfer.split.resampling import pool_of_task
    from neurotransfer.study.same_people import read_people

    source, params, task = snakemake.input, snakemake.params, snakemake.wildcards.task
    check_certified(source.certificate, [*source.indices, *source.splits])
    records = read_fits(source.fits, {"transfer": params.fitting}, source.weights)
    winner = settings_that_won(records)
    indices, splits = ([read_table(path) for path in paths] for paths in (source.indices, source.splits))
    people = read_people()
    indices, splits = ([people.named(table) for table in tables] for tables in (indices, splits))
    pool = pool_of_task(indices, splits, params.task, params.converters)
    settings = snakemake.config["pretrain"]
    key = read_study_key(settings["participants_key"])
    trunk = matching_trunk(
        source.weights,
        params.fitting,
        pool,
        made_by(pool),
        source.splits[0],
        source.participants or None,
        key=key,
        accept_other_preprocessing=settings["accept_other_preprocessing"],
    )
    values = params.fitting["settings"][winner.position]
    words = "%d of %d replicates chose %s; %d epochs on %d images"
    logging.getLogger("neurotransfer").info(words, winner.won, len(records), values, winner.epochs, len(pool))
    state = fit_final(pool, task, winner, params.fitting, trunk)
    fit = {"model": "transfer", "values": values, "won": winner.won, "epochs": winner.epochs}
    fit |= {"expected_test_auc": expectation(records)}
    about = params.task | {"name": task}
    write_network(
        snakemake.output[0], state, pool, about, made_with=params.fitting, fit=fit, made_by=made_by(pool), key=key
    )
