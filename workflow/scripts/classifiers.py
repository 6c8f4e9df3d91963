"""Calibration, thresholds from validation, precision and recall, AUCs of subgroups: from the scores that fits keep."""

from neurotransfer.jobs.job import job

with job(snakemake):
    import pandas as pd
    from neurotransfer.files import read_json, read_table, write_table
    from neurotransfer.report.public import check_public_files, private_names
    from neurotransfer.statistics import classifiers
    from neurotransfer.statistics.aggregation import read_resamples

    source, params, output = snakemake.input, snakemake.params, snakemake.output
    predictions, pools = read_table(source.predictions), read_table(source.pools)
    images = pd.concat([read_table(path) for path in source.indices]).set_index("image_id")
    validation = {}
    for path in source.fits:
        fit = read_json(path)
        if "validation" in fit:  # fits of an earlier version do not keep it
            validation[fit["task"], fit["n"], fit["replicate"], fit["model"]] = fit["validation"]
    drawing = {"bootstrap": params.bootstrap, "seed": params.seed}
    groups = classifiers.subgroups_of(predictions, read_resamples(source.resamples), images, params.age_band)
    people, smallest = dict(zip(pools["task"], pools["participants"], strict=True)), params.smallest_cell
    figures = classifiers.classifier_figures(predictions, validation, **drawing, smallest=smallest)
    write_table(figures, output.figures)
    write_table(classifiers.calibration_curves(predictions, smallest, **drawing), output.curves)
    write_table(classifiers.subgroup_aucs(predictions, groups, people, smallest, **drawing), output.subgroups)
    check_public_files(output, private_names(snakemake.config))
