"""A page with the most unusual images of the study."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.files import read_table, write_text
    from neurotransfer.quality_page import page, render

    source, params = snakemake.input, snakemake.params
    tables = [read_table(path) for path in source.quality]
    text = render(page(params.study, tables, source.slices, source.ledgers, params.page, params.exclude))
    write_text(snakemake.output[0], text)
