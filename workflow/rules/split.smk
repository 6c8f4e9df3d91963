# Index -> who pretrains, who validates, who stays unseen -> the proof that nobody crosses.


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
        split=config["split"],
        roles=lambda wc: sorted(study.roles[wc.cohort]),
        pretraining_share=lambda wc: study.pretraining_shares[wc.cohort],
    script:
        "../scripts/split.py"


rule certificate:
    """All cohorts' roles in one table, and the certificate; fails where a participant is on two sides."""
    input:
        splits=expand("results/split/cohorts/{cohort}.tsv", cohort=study.cohorts),
        indices=expand("results/index/{cohort}.tsv", cohort=study.cohorts),
    output:
        images="results/split/images.tsv",
        certificate="results/split/certificate.json",
    log:
        "logs/certificate.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        roles={cohort: sorted(has) for cohort, has in study.roles.items()},
    script:
        "../scripts/certificate.py"
