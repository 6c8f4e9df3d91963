"""The report, and its bibliography."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from pathlib import Path

    from neurotransfer.files import read_table, write_text
    from neurotransfer.manifest.withdrawal import behind_weights, read_withdrawn
    from neurotransfer.operations import costs
    from neurotransfer.preprocess.reasons import MEANINGS
    from neurotransfer.pretrain import study_key, weights
    from neurotransfer.report import analysis_plan, page
    from neurotransfer.report.public import check_public, private_names
    from neurotransfer.report.references import bibliography
    from neurotransfer.split.certificate import check_certified
    from neurotransfer.study.documents import read_document
    from neurotransfer.study.plan import read_study

    source, params = snakemake.input, snakemake.params
    names = ("images", "excluded", "metrics", "groups", "calibration", "medians", "comparisons", "worth", "search")
    names += ("settings", "resamples", "confounding", "gains", "sets", "classifiers", "calibration_curves", "subgroups")
    names += ("within", "published")
    tables = {name: read_table(source[name]) for name in names}
    metadata = weights.read_weights(source.weights)[1]
    key = study_key.read_study_key(snakemake.config["pretrain"]["participants_key"])
    left = read_withdrawn(source.withdrawn or None).people
    trained = read_table(source.participants)["participant_id"] if source.participants else None
    study = read_study(params.config)
    tables["images"] = study.people.named(tables["images"])
    finished = costs.gather(study, params.config)
    certificate = check_certified(source.certificate, [source.images])
    planned = None
    if source.plan:
        pools = analysis_plan.pool_counts(tables["images"], study, params.config)
        facts = analysis_plan.facts_of_study(params.config, certificate, pools)
        planned = analysis_plan.conformity(source.plan, facts)
    shown = page.report_content(
        tables,
        ledger=page.read_ledgers(study.ledgers_of(study.shards), source.quality),
        certificate=certificate,
        weights=metadata,
        seen=study_key.seen_by(metadata, tables["images"]["participant_id"], key, study.people),
        unknown=study_key.why_unknown(metadata, key),
        plan=planned,
        withdrawn=behind_weights(left, trained, study_key.seen_by(metadata, left, key)),
        figures={Path(path).stem: page.embed(path) for path in source.figures if path.endswith(".svg")},
        stages=costs.by_stage(finished, params.config),
        rules=list(costs.summary(finished)),
        defaults=read_document(params.defaults),
        reasons=MEANINGS,
        **{name: params[name] for name in ("config", "tasks", "run")},
    )
    texts = {"bibliography": bibliography(shown["cited"]), "page": page.report_html(shown)}
    private = private_names(snakemake.config)
    for name, text in texts.items():
        check_public(snakemake.output[name], text, private)
    for name, text in texts.items():
        write_text(snakemake.output[name], text)
