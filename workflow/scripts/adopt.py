"""Check weights that a person already has against this study, and take them in."""

from neurotransfer import jobs

with jobs.job(snakemake):
    import logging

    from neurotransfer import weights

    params = snakemake.params
    state, metadata = weights.read_weights(snakemake.input.weights)
    expected = {"network": params.network, "crop": params.crop, "preprocessing": params.preprocessing}
    weights.check_weights(metadata, expected, snakemake.input.weights)
    logging.getLogger("neurotransfer").info("overlap of its participants with this study's: unknown")
    weights.write_weights(snakemake.output.weights, state, metadata)
