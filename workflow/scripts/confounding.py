"""What else than the disease could give the AUCs, and who is in the sets."""

from neurotransfer.jobs.job import job

with job(snakemake):
    import pandas as pd
    from neurotransfer.files import read_table, write_table
    from neurotransfer.manifest.scanners import read_scanners, with_scanner
    from neurotransfer.report.public import check_public_files, private_names
    from neurotransfer.statistics import confounding
    from neurotransfer.statistics.aggregation import read_resamples

    source, params, output = snakemake.input, snakemake.params, snakemake.output
    resamples = read_resamples(source.resamples)
    scanners = read_scanners(source.scanners)
    images = pd.concat([read_table(path) for path in source.indices], ignore_index=True)
    pools = {}
    for task in params.tasks:
        drawn = {image for (name, *_), table in resamples.items() if name == task for image in table["image_id"]}
        pools[task] = with_scanner(images[images["image_id"].isin(drawn)], scanners).set_index("image_id")
    strata = {task: confounding.strata_of(pool, params.age_band) for task, pool in pools.items()}
    predictions, aucs = read_table(source.predictions), read_table(source.aucs)
    drawing = {"bootstrap": params.statistics["bootstrap"], "seed": params.seed}
    site, measures, differences = confounding.confounding(predictions, resamples, strata, **drawing)
    options = {name: params.statistics[name] for name in ("statistic", "permutations")}
    models = [name for name in dict.fromkeys(aucs["model"]) if name != confounding.COVARIATES]
    write_table(measures, output.measures)
    write_table(differences, output.differences)
    write_table(site, output.site)
    write_table(confounding.gains(aucs, models, **options, **drawing), output.gains)
    write_table(confounding.describe_sets(resamples, pools), output.sets)
    check_public_files(output, private_names(snakemake.config))
