"""The page that a person reads."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from pathlib import Path

    import pandas as pd
    import yaml
    from neurotransfer import report
    from neurotransfer.files import read_json, read_table, write_text

    source, params = snakemake.input, snakemake.params
    names = ("images", "excluded", "metrics", "medians", "comparisons", "settings", "resamples")
    tables = {name: read_table(source[name]) for name in names}
    ledger = pd.concat([read_table(path) for path in source.ledgers])
    svgs = [path for path in source.figures if path.endswith(".svg")]
    defaults = yaml.safe_load(Path(params.defaults).read_text(encoding="utf-8"))
    content = report.content(
        tables, ledger, read_json(source.certificate), svgs, params.config, defaults, params.tasks, params.run
    )
    write_text(snakemake.output[0], report.render(content))
