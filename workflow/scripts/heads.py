"""The shapes of one cohort's heads, a row per image of its index."""

from neurotransfer.jobs.job import job

with job(snakemake, lease=snakemake.output[0]):
    import numpy as np
    from neurotransfer.cache.small_volumes import small_voxel, volumes_of
    from neurotransfer.files import read_table, written_whole
    from neurotransfer.split.duplicates import heads_of

    volumes = volumes_of(read_table(snakemake.input.index), snakemake.input.volumes)
    heads = heads_of(volumes, small_voxel(snakemake.params.voxel_size), snakemake.threads)
    with written_whole(snakemake.output[0], "wb") as file:
        np.save(file, heads, allow_pickle=False)
