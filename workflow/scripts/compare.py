"""Medians with intervals, and every pairwise comparison."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.aggregation import compare, summarise
    from neurotransfer.files import read_table, write_table

    settings, seed = snakemake.params.statistics, snakemake.params.seed
    aucs = read_table(snakemake.input.aucs)
    medians = summarise(aucs, bootstrap=settings["bootstrap"], seed=seed)
    options = {name: settings[name] for name in ("statistic", "permutations", "bootstrap")}
    write_table(medians, snakemake.output.medians)
    write_table(compare(aucs, seed=seed, **options), snakemake.output.comparisons)
