"""Draw one replicate of one task at one n."""

from neurotransfer.jobs.job import job

with job(snakemake):
    from neurotransfer.files import read_table
    from neurotransfer.seeds import seed_from
    from neurotransfer.split import resampling

    source, wildcards, params = snakemake.input, snakemake.wildcards, snakemake.params
    indices, splits = ([read_table(path) for path in paths] for paths in (source.indices, source.splits))
    pool = resampling.pool_of_task(indices, splits, params.task, params.converters)
    key = {"task": wildcards.task, "n": int(wildcards.n), "replicate": wildcards.replicate}
    seed = seed_from("resample", params.seed, key["task"], params.task["seed"], key["n"], key["replicate"])
    resample, redraws = resampling.draw(pool, key["n"], params.resampling, seed)
    resampling.check_disjoint(resample, snakemake.output[0])
    resampling.check_not_pretrained(resample, splits, snakemake.output[0])
    drawing = resampling.drawing_of(key, params.seed, params.task, params.resampling, params.converters)
    resampling.write_resample(resample, snakemake.output[0], key | {"redraws": redraws, "fingerprint": drawing})
