"""A shard's preprocessed images, brain only and cropped, into one file, and tables and small images beside it."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output.images):
    from pathlib import Path

    from neurotransfer.cache.provenance import BOUNDING_BOX
    from neurotransfer.cache.write import images_of_shard, write_cache_table, write_shard
    from neurotransfer.files import read_table, read_tables
    from neurotransfer.preprocess.volumes import write_volumes

    source, output, params, shard = snakemake.input, snakemake.output, snakemake.params, snakemake.wildcards.shard
    images = images_of_shard(read_table(source.images), read_tables(source.ledgers), shard)
    compression = snakemake.config["cache"]["compression"]  # no param: the images are the same either way
    folders = [Path(params.subjects, shard, image_id) for image_id in images["image_id"]]
    rule = params.get("crop_rule", BOUNDING_BOX)
    table, statistics = write_shard(output.images, folders, images, params.crop, params.voxel_size, compression, rule)
    write_volumes(statistics, output.volumes)
    # last, because it holds the digests; with that of a compressed shard, whose checksums are of decompressed images
    beside = [output.volumes, output.slices, output.small, *([output.images] if compression else [])]
    write_cache_table(table, output.table, params.crop, beside, rule)
