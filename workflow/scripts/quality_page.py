"""A page with the most unusual images of the study."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_table, write_text
    from neurotransfer.quality.page import quality_content, quality_html
    from neurotransfer.study import layout
    from neurotransfer.study.plan import read_study

    source, params, study = snakemake.input, snakemake.params, read_study(snakemake.config)
    ledgers = study.ledgers_of(study.shards)
    tables = [read_table(path) for path in source.quality]
    page = snakemake.config["quality"]["page"]  # params leave out what older studies do not have
    manifests = [f"{layout.SHARD_TABLES}/{shard}.tsv" for shard in study.shards]
    content = quality_content(params.study, tables, source.slices, ledgers, page, params.exclude, manifests)
    write_text(snakemake.output[0], quality_html(content))
