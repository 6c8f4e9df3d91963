"""The page that a person reads."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from pathlib import Path

    from neurotransfer import report, weights
    from neurotransfer.configuration import read_document
    from neurotransfer.files import read_json, read_table, write_text
    from neurotransfer.preprocessing import REASONS

    source, params = snakemake.input, snakemake.params
    names = ("images", "excluded", "metrics", "groups", "calibration", "medians", "comparisons", "worth", "search")
    names += ("settings", "resamples")
    tables = {name: read_table(source[name]) for name in names}
    metadata = weights.read_weights(source.weights)[1]
    page = report.content(
        tables,
        ledger=report.read_ledgers(source.ledgers),
        certificate=read_json(source.certificate),
        weights=metadata,
        seen=weights.seen_by(metadata, tables["images"]["participant_id"]),
        figures={Path(path).stem: report.embed(path) for path in source.figures if path.endswith(".svg")},
        defaults=read_document(params.defaults),
        reasons=REASONS,
        **{name: params[name] for name in ("config", "tasks", "run")},
    )
    write_text(snakemake.output[0], report.render(page))
