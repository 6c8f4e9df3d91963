"""Figures 1, 2 and 3, each as SVG, PNG and the table behind it."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from pathlib import Path

    from neurotransfer.files import read_table
    from neurotransfer.report import figure1, figure2, figure3
    from neurotransfer.report.public import check_public_files, private_names
    from neurotransfer.report.style import save_figure
    from neurotransfer.study.same_people import read_people

    source, params, output = snakemake.input, snakemake.params, snakemake.output
    tables = {name: read_table(source[name]) for name in ("images", "metrics", "predictions")}
    tables["history"] = read_table(source.history) if source.history else None
    counted = tables | {"images": read_people().named(tables["images"])}
    first = figure1.figure1(**counted, smallest=params.smallest_cell)
    data = figure1.figure1_data(**counted, smallest=params.smallest_cell)
    save_figure(first, data, Path(output.figure1[0]).with_suffix(""))
    results = {name: read_table(source[name]) for name in ("aucs", "medians", "comparisons")}
    results["bounds"] = figure2.latent_bounds(read_table(source.truth), tables["images"]) if source.truth else None
    results["published"] = figure2.published_medians(read_table(source.published), results["medians"])
    chosen = {name: params.statistics[name] for name in ("alpha", "statistic")}
    second = figure2.figure2(**results, tasks=params.tasks, **chosen)
    save_figure(second, figure2.figure2_data(**results), Path(output.figure2[0]).with_suffix(""))
    scans = [read_table(source[name]) for name in ("curves", "worth")]
    third = figure3.figure3(*scans, params.tasks)
    save_figure(third, figure3.figure3_data(*scans), Path(output.figure3[0]).with_suffix(""))
    check_public_files(output, private_names(snakemake.config))
