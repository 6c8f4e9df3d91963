"""Figures 1, 2 and 3, each as SVG, PNG and the table behind it."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from pathlib import Path

    from neurotransfer import figures, pretraining_figure, worth_figure
    from neurotransfer.files import read_table

    source, params, output = snakemake.input, snakemake.params, snakemake.output
    tables = {name: read_table(source[name]) for name in ("images", "metrics", "predictions")}
    tables["history"] = read_table(source.history) if source.history else None
    first = pretraining_figure.figure1(**tables)
    figures.save_figure(first, pretraining_figure.figure1_data(**tables), Path(output.figure1[0]).with_suffix(""))
    results = {name: read_table(source[name]) for name in ("aucs", "medians", "comparisons")}
    results["bounds"] = figures.latent_bounds(read_table(source.truth), tables["images"]) if source.truth else None
    results["published"] = figures.published_medians(read_table(source.published), results["medians"])
    chosen = {name: params.statistics[name] for name in ("alpha", "statistic")}
    second = figures.figure2(**results, tasks=params.tasks, **chosen)
    figures.save_figure(second, figures.figure2_data(**results), Path(output.figure2[0]).with_suffix(""))
    scans = [read_table(source[name]) for name in ("curves", "worth")]
    third = worth_figure.figure3(*scans, params.tasks)
    figures.save_figure(third, worth_figure.figure3_data(*scans), Path(output.figure3[0]).with_suffix(""))
