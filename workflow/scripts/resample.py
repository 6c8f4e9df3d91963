"""Draw one replicate of one task at one n."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.files import read_table, write_table
    from neurotransfer.resampling import (
        COLUMNS,
        check_disjoint,
        check_not_pretrained,
        draw,
        drawing_of,
        pool_of_task,
    )
    from neurotransfer.seeds import seed_from

    wildcards, params = snakemake.wildcards, snakemake.params
    indices = [read_table(path) for path in snakemake.input.indices]
    splits = [read_table(path) for path in snakemake.input.splits]
    pool = pool_of_task(indices, splits, params.task, params.converters)
    key = {"task": wildcards.task, "n": int(wildcards.n), "replicate": wildcards.replicate}
    seed = seed_from("resample", params.seed, key["task"], params.task["seed"], key["n"], key["replicate"])
    resample, redraws = draw(pool, key["n"], params.resampling, seed)
    check_disjoint(resample, snakemake.output[0])
    check_not_pretrained(resample, splits, snakemake.output[0])
    drawing = drawing_of(key, params.seed, params.task, params.resampling, params.converters)
    write_table(resample[COLUMNS], snakemake.output[0], key | {"redraws": redraws, "fingerprint": drawing})
