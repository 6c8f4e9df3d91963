"""Draw one replicate of one task at one n."""

from neurotransfer import jobs

with jobs.job(snakemake):
    from neurotransfer.files import fingerprint, read_table, write_table
    from neurotransfer.resampling import COLUMNS, check_disjoint, check_not_pretrained, draw, pool_of_task
    from neurotransfer.seeds import seed_from

    wildcards, params = snakemake.wildcards, snakemake.params
    indices = [read_table(path) for path in snakemake.input.indices]
    splits = [read_table(path) for path in snakemake.input.splits]
    pool = pool_of_task(indices, splits, params.task, params.converters)
    names = (params.seed, wildcards.task, params.task["seed"], int(wildcards.n), wildcards.replicate)
    resample, redraws = draw(pool, int(wildcards.n), params.resampling, seed_from("resample", *names))
    check_disjoint(resample, snakemake.output[0])
    check_not_pretrained(resample, splits, snakemake.output[0])
    facts = {"task": wildcards.task, "n": int(wildcards.n), "replicate": wildcards.replicate, "redraws": redraws}
    facts["fingerprint"] = fingerprint([*names, dict(params.resampling), dict(params.task), params.converters])
    write_table(resample[COLUMNS], snakemake.output[0], facts)
