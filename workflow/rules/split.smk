# Index -> roles in pretraining, validation and test -> the proof that no participant is in two of them.


rule split:
    """The role of each image of one cohort; a cohort's split depends on that cohort alone."""
    input:
        index="results/index/{cohort}.tsv",
    output:
        "results/split/cohorts/{cohort}.tsv",
    log:
        "logs/split/{cohort}.log",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        seed=config["seed"],
        split=lambda wc: splitting_of(wc.cohort),
        roles=lambda wc: sorted(study.roles[wc.cohort]),
        pretraining_share=lambda wc: study.pretraining_shares[wc.cohort],
    script:
        "../scripts/split.py"


rule heads:
    """The shape of each head of one cohort, from the small volumes beside the cache."""
    input:
        index="results/index/{cohort}.tsv",
        volumes=lambda wc: [f"results/cache/{shard}.small.npy" for shard in study.shards_of(wc.cohort)],
    output:
        "results/duplicates/heads/{cohort}.npy",
    log:
        "logs/heads/{cohort}.log",
    threads: 4
    resources:
        mem_mb=lambda wc, threads, attempt: 1000 * threads * attempt,
        runtime=lambda wc, attempt: (10 + len(study.shards_of(wc.cohort)) // 5) * attempt,
    params:
        voxel_size=config["preprocessing"]["voxel_size"],
    script:
        "../scripts/heads.py"


rule duplicates:
    """Pairs of images of two participants that look like one scan or one head; private, because it names them."""
    input:
        heads=expand("results/duplicates/heads/{cohort}.npy", cohort=study.cohorts),
        indices=expand("results/index/{cohort}.tsv", cohort=study.cohorts),
        volumes=lambda wc: [f"results/cache/{shard}.small.npy" for shard in study.shards],
    output:
        pairs="results/duplicates/pairs.tsv",
        summary="results/duplicates/summary.json",
    log:
        "logs/duplicates.log",
    benchmark:
        "results/benchmarks/duplicates.tsv"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        duplicates=config["duplicates"],
        voxel_size=config["preprocessing"]["voxel_size"],
    script:
        "../scripts/duplicates.py"


rule certificate:
    """All cohorts' roles in one table, and the certificate with its page; fails if a participant is on two sides.

    Outputs in update() stay while the rule runs and if it fails, because a study that grows by a leak keeps the
    certificate of its earlier part.
    """
    input:
        splits=expand("results/split/cohorts/{cohort}.tsv", cohort=study.cohorts),
        indices=expand("results/index/{cohort}.tsv", cohort=study.cohorts),
        pairs="results/duplicates/pairs.tsv",
        summary="results/duplicates/summary.json",
        manifest="results/manifest/images.tsv",
        scanners=SCANNERS,
        same_people=SAME_PEOPLE,
    output:
        images=update("results/split/images.tsv"),
        certificate=update("results/split/certificate.json"),
        page=report(
            "results/split/certificate.html",
            caption="../report/certificate.rst",
            category="Pages",
            labels={"page": "the split certificate", "names people": "no"},
        ),
    log:
        "logs/certificate.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        study=lambda _: config["study"],  # a function, because Snakemake takes {x} in a text for a wildcard
        seed=config["seed"],
        split=SPLITTING,
        roles={cohort: sorted(has) for cohort, has in study.roles.items()},
        pretraining_shares=study.pretraining_shares,
        waived=config["split"]["waived_duplicates"],
        one_engine=study.run == "multitask" and not config["pretrain"]["accept_other_preprocessing"],
    script:
        "../scripts/certificate.py"
