"""Check weights from elsewhere against this study, and copy them unchanged."""

from neurotransfer.jobs.job import job

with job(snakemake):
    import logging
    from pathlib import Path

    from neurotransfer.cache.provenance import BOUNDING_BOX
    from neurotransfer.files import read_json, written_whole
    from neurotransfer.pretrain import study_key, weights
    from neurotransfer.study.imported_weights import is_unchecked

    source, params, settings = snakemake.input, snakemake.params, snakemake.config["pretrain"]
    _, metadata = weights.read_weights(source.weights)
    rule = params.get("crop_rule", BOUNDING_BOX)
    accept = settings["accept_other_preprocessing"]
    expected = weights.expected_of(params.network, params.crop, params.preprocessing, rule)
    weights.check_weights(metadata, expected, source.weights, accept=accept)
    weights.check_head(metadata, params.targets, source.weights, accept=settings["accept_other_head"])
    engines = read_json(source.certificate)["engines"]["test"]  # of the images that the weights will be used on
    weights.check_made_by(metadata, engines, source.weights, accept=accept)
    if unknown := study_key.why_unknown(metadata, study_key.read_study_key(settings["participants_key"])):
        message = "%s: the participants in its training are unknown: %s"
        logging.getLogger("neurotransfer").warning(message, source.weights, unknown)
    if is_unchecked(metadata):
        message = "%s: unchecked: nothing has shown that it predicts what was published; neurotransfer weights check"
        logging.getLogger("neurotransfer").warning(message, source.weights)
    with written_whole(snakemake.output.weights, "wb") as file:
        file.write(Path(source.weights).read_bytes())
