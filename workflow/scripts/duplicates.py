"""Compare every head of the study with every other; list the pairs that look like one head."""

from neurotransfer.jobs.job import job

with job(snakemake):
    import numpy as np
    import pandas as pd
    from neurotransfer.cache.small_volumes import small_voxel, volumes_of
    from neurotransfer.files import read_table, write_json, write_table
    from neurotransfer.split.duplicates import find_pairs

    source, params = snakemake.input, snakemake.params
    images = pd.concat([read_table(path) for path in source.indices], ignore_index=True)
    heads = np.concatenate([np.load(path, allow_pickle=False) for path in source.heads])
    volumes = volumes_of(images, source.volumes)
    pairs, summary = find_pairs(heads, images, volumes, small_voxel(params.voxel_size), params.duplicates)
    write_table(pairs, snakemake.output.pairs)
    write_json(snakemake.output.summary, summary)
