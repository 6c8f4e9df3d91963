"""Every usable image of one cohort, and its regional volumes."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from neurotransfer.cache import build_index
    from neurotransfer.files import read_table, write_json, write_table, written_whole
    from neurotransfer.volumes import as_matrix, read_stats

    source, output, subjects = snakemake.input, snakemake.output, Path(snakemake.params.subjects)
    tables = [pd.concat([read_table(path) for path in paths]) for paths in (source.shards, source.caches)]
    index = build_index(*tables)
    folders = [subjects / image.shard / image.image_id for image in index.itertuples()]
    matrix, ids, names = as_matrix([read_stats(folder / "stats/aseg+DKT.stats") for folder in folders])
    with written_whole(output.volumes, "wb") as file:
        np.save(file, matrix, allow_pickle=False)
    write_json(output.names, {"seg_ids": ids, "names": names, "unit": "mm3"})
    write_table(index, output.index)
