"""A shard's preprocessed images, brain only and cropped, into one file, and what lies beside it."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from pathlib import Path

    import pandas as pd
    from neurotransfer.cache import write_cache_table, write_shard
    from neurotransfer.files import read_table
    from neurotransfer.volumes import write_volumes

    source, output, params, shard = snakemake.input, snakemake.output, snakemake.params, snakemake.wildcards.shard
    ledger = pd.concat([read_table(path) for path in source.ledgers])
    images = read_table(source.images)[["image_id"]].merge(ledger, on="image_id", validate="one_to_one")
    folders = [Path(params.subjects, shard, image_id) for image_id in images["image_id"]]
    table, statistics = write_shard(output.images, output.slices, folders, images, params.cache["crop"])
    write_volumes(statistics, output.volumes)
    # last, since it holds the digests of all that lies beside the shard
    write_cache_table(table, output.table, params.cache["crop"], [output.volumes, output.slices])
