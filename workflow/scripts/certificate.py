"""Join all cohorts' roles, and prove that no participant is in two sets; fails if one is."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from pathlib import Path

    from neurotransfer.files import digest_of_file, read_json, read_table, write_json, write_table, write_text
    from neurotransfer.manifest.scanners import read_scanners
    from neurotransfer.pretrain.study_key import make_study_key, read_study_key
    from neurotransfer.report.certificate_page import certificate_html
    from neurotransfer.report.public import check_public, private_names
    from neurotransfer.split import certificate as proof
    from neurotransfer.split.confounding import confounding_of_tasks
    from neurotransfer.split.roles import join_splits
    from neurotransfer.study.same_people import read_people

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    splits, indices = ([read_table(path) for path in paths] for paths in (source.splits, source.indices))
    manifest = read_table(source.manifest)
    proof.check_waivers(params.waived, manifest)
    people = read_people()
    drawing = (params.roles, params.pretraining_shares, params.split, params.seed)
    proof.check_sources(splits, indices, manifest, *drawing, people)
    # a study that has begun needs no key to go on: without it the certificate has no digests of participants
    # no params: a certificate that is to be made hides from Snakemake that params of networks have changed, too
    config = snakemake.config
    begun = config["pretrain"]["weights"] or Path(output.certificate).exists()
    key = (read_study_key if begun else make_study_key)(config["pretrain"]["participants_key"])
    accepted = {"waived": params.waived, "one_engine": params.one_engine, "key": key, "people": people}
    certified = proof.certify(splits, indices, params.roles, read_table(source.pairs), **accepted)
    scanners = read_scanners(source.scanners)
    named = [people.named(index) for index in indices]
    certified["confounding"] = confounding_of_tasks(named, splits, params.roles, scanners, config)
    write_table(join_splits(splits, indices), output.images)
    files = [*source.splits, *source.indices, output.images]
    certified |= {"files": {path: digest_of_file(path) for path in files}, "duplicates": read_json(source.summary)}
    page = certificate_html(certified, params.study, config["report"]["smallest_cell"], config)
    check_public(output.page, page, private_names(config))
    write_text(output.page, page)
    write_json(output.certificate, certified)
