"""Figure 1 and Figure 2, each as SVG, PNG and the table behind it."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.figures import figure1, figure2, latent_bounds, save_figure
    from neurotransfer.files import read_table

    source, params, output = snakemake.input, snakemake.params, snakemake.output
    tables = {name: read_table(source[name]) for name in ("images", "metrics", "predictions")}
    results = {name: read_table(source[name]) for name in ("aucs", "medians", "comparisons")}
    history = read_table(source.history) if source.history else None
    bounds = latent_bounds(read_table(source.truth)) if source.truth else None
    save_figure(figure1(history=history, **tables), tables["metrics"], output.figure1)
    alpha = params.statistics["alpha"]
    save_figure(figure2(tasks=params.tasks, alpha=alpha, bounds=bounds, **results), results["medians"], output.figure2)
