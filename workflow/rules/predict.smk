# Cached images -> what the weights predict of them; asked for by `neurotransfer predict`, which lays out other people's
# scans as a study of its own.


rule predict:
    """Predictions of one shard's images, with figures of their quality beside them."""
    input:
        # given weights are read where they are: predictions need no certificate
        weights=config["pretrain"]["weights"] or WEIGHTS,
        images="results/cache/{shard}.npy",
        table="results/cache/{shard}.tsv",
    output:
        "results/predict/{shard}.tsv",
    log:
        "logs/predict/{shard}.log",
    benchmark:
        "results/benchmarks/predict/{shard}.tsv"
    threads: config["pretrain"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: 8000 * attempt,
        runtime=lambda wc, attempt: (10 + study.shards[wc.shard].images // 4) * attempt,
        gpu=min(1, config["pretrain"]["gpus"]),
    params:
        crop=config["cache"]["crop"],
        limits=QUALITY["exclude"],
        accept=config["pretrain"]["accept_other_preprocessing"],
    script:
        "../scripts/predict.py"
