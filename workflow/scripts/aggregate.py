"""Every fit into tables; fits of another configuration, or of participants without a certificate, are refused."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.split.certificate import check_behind_weights, check_certified, check_resamples_certified
    from neurotransfer.statistics.aggregation import (
        check_resamples,
        describe_resamples,
        number_participants,
        read_fits,
        read_second_seeds,
    )
    from neurotransfer.study import layout
    from neurotransfer.study.same_people import read_people

    source, output = snakemake.input, snakemake.output
    check_certified(source.certificate, [*source.indices, *source.splits])
    indices, splits = ([read_table(path) for path in paths] for paths in (source.indices, source.splits))
    check_resamples_certified(source.resamples, indices, splits, read_people())
    if source.participants:
        check_behind_weights(read_table(source.participants), splits, source.participants)
    check_resamples(source.resamples, **snakemake.params.drawing)
    aucs, settings, scores = read_fits(source.fits, snakemake.params.fitting, source.weights, layout.RESAMPLES)
    predictions, pools = number_participants(scores, source.resamples)
    write_table(aucs, output.aucs)
    write_table(settings, output.settings)
    write_table(describe_resamples(source.resamples), output.resamples)
    write_table(predictions, output.predictions)
    write_table(pools, output.pools)
    if source.second_seeds:
        write_table(read_second_seeds(source.second_seeds, layout.FITS, predictions), output.second_seeds)
