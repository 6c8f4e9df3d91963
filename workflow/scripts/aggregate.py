"""Every fit into tables; fits of another configuration are refused."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.aggregation import check_resamples, describe_resamples, number_participants, read_fits
    from neurotransfer.files import write_table

    source, output = snakemake.input, snakemake.output
    check_resamples(source.resamples, **snakemake.params.drawing)
    aucs, settings, scores = read_fits(source.fits, snakemake.params.fitting, source.weights, "results/resamples")
    predictions, pools = number_participants(scores, source.resamples)
    write_table(aucs, output.aucs)
    write_table(settings, output.settings)
    write_table(describe_resamples(source.resamples), output.resamples)
    write_table(predictions, output.predictions)
    write_table(pools, output.pools)
