"""Draw each replicate of one task at one n."""

from neurotransfer.jobs.batch import each_replicate


def draw_one(snakemake):
    """The images of one replicate."""
    from pathlib import Path

    from neurotransfer.files import read_table
    from neurotransfer.seeds import seed_from
    from neurotransfer.split import resampling
    from neurotransfer.study.same_people import read_people

    source, wildcards, params, path = snakemake.input, snakemake.wildcards, snakemake.params, snakemake.output.resample
    indices, splits = ([read_table(path) for path in paths] for paths in (source.indices, source.splits))
    people = read_people().among(Path(path).stem for path in source.indices)
    indices, splits = ([people.named(table) for table in tables] for tables in (indices, splits))
    pool = resampling.pool_of_task(indices, splits, params.task, params.converters)
    key = {"task": wildcards.task, "n": int(wildcards.n), "replicate": wildcards.replicate}
    seed = seed_from("resample", params.seed, key["task"], params.task["seed"], key["n"], key["replicate"])
    resample, redraws = resampling.draw(pool, key["n"], params.resampling, seed)
    resampling.check_disjoint(resample, path)
    resampling.check_not_pretrained(resample, splits, path)
    drawing = resampling.drawing_of(key, params.seed, params.task, params.resampling, params.converters)
    resampling.write_resample(resample, path, key | {"redraws": redraws, "fingerprint": drawing})


each_replicate(snakemake, draw_one)
