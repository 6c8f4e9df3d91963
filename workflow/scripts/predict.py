"""The predictions of one shard's images, with figures of their quality beside them."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output[0]):
    from neurotransfer.predict.run import predict_shard

    predict_shard(snakemake.input.weights, snakemake.wildcards.shard, snakemake.config, snakemake.threads)
