"""Every usable image of one cohort, and its regional volumes."""

from neurotransfer.jobs.job import job

with job(snakemake):
    import logging

    import numpy as np
    from neurotransfer.files import read_table, read_tables, write_json, write_table, written_whole
    from neurotransfer.preprocess.volumes import read_volumes, volumes_of
    from neurotransfer.quality.judge import accepted, why_empty

    source, output = snakemake.input, snakemake.output
    quality = read_table(source.quality)
    index = accepted(read_tables(source.shards), quality)
    if index.empty:
        cohort = snakemake.wildcards.cohort
        logging.getLogger("neurotransfer").warning(why_empty(cohort, read_tables(source.caches), quality))
    table, names = read_volumes(source.volumes)
    with written_whole(output.volumes, "wb") as file:
        np.save(file, volumes_of(index, table), allow_pickle=False)
    write_json(output.names, {"seg_ids": list(names), "names": list(names.values()), "unit": "mm3"})
    write_table(index, output.index)
