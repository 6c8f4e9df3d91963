"""Check weights that a person already has against this study, and take them in as they are."""

from neurotransfer import jobs

with jobs.job(snakemake):
    import logging
    from pathlib import Path

    from neurotransfer import weights
    from neurotransfer.files import written_whole

    source, params = snakemake.input.weights, snakemake.params
    _, metadata = weights.read_weights(source)
    weights.check_weights(metadata, weights.expected_of(params.network, params.crop, params.preprocessing), source)
    if "participants" not in metadata:
        logging.getLogger("neurotransfer").warning("%s: whom it has seen is unknown", source)
    with written_whole(snakemake.output.weights, "wb") as file:
        file.write(Path(source).read_bytes())
