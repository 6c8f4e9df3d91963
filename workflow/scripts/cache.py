"""A shard's preprocessed images, brain only and cropped, into one file."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.images):
    from pathlib import Path

    import pandas as pd
    from neurotransfer.cache import write_shard
    from neurotransfer.files import read_table, write_table

    source, params, shard = snakemake.input, snakemake.params, snakemake.wildcards.shard
    ledger = pd.concat([read_table(path) for path in source.ledgers])
    images = read_table(source.images)[["image_id"]].merge(ledger, on="image_id", validate="one_to_one")
    folders = [Path(params.subjects, shard, image_id) for image_id in images["image_id"]]
    table = write_shard(snakemake.output.images, folders, images, params.cache["crop"])
    write_table(table, snakemake.output.table)
