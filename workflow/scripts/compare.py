"""Medians with intervals, every pairwise comparison under both nulls, learning curves, and the search over settings."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.report.public import check_public_files, private_names
    from neurotransfer.statistics import inference, settings_search
    from neurotransfer.statistics.aggregation import compare, summarise

    settings, seed, output = snakemake.params.statistics, snakemake.params.seed, snakemake.output
    aucs, tried = read_table(snakemake.input.aucs), read_table(snakemake.input.settings)
    medians = summarise(aucs, bootstrap=settings["bootstrap"], seed=seed)
    options = {name: settings[name] for name in ("statistic", "permutations", "bootstrap")}
    comparisons = compare(aucs, seed=seed, **options)
    scores = (read_table(snakemake.input.predictions), read_table(snakemake.input.pools))
    second = snakemake.input.get("second_seeds")
    medians, comparisons, cells = inference.infer(
        medians,
        comparisons,
        *scores,
        draws=settings["bootstrap"],
        seed=seed,
        second=read_table(second) if second else None,
        alpha=settings["alpha"],
    )
    write_table(medians, output.medians)
    write_table(comparisons, output.comparisons, {"null": inference.NULLS, "p": inference.P_VALUES})
    write_table(inference.curves(cells), output.curves)
    write_table(inference.worth(cells), output.worth)
    write_table(settings_search.winners(tried), output.selection)
    write_table(settings_search.search_table(aucs, tried, bootstrap=settings["bootstrap"], seed=seed), output.search)
    check_public_files(output, private_names(snakemake.config))
