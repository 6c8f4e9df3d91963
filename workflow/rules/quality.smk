# Figures of cached images -> their z-scores within the cohort, the images left out by rules, and a page.

QUALITY = identity(config, "quality")


rule quality:
    """Robust z-scores within a cohort and age band, and the rules that exclude."""
    input:
        shards=shards_of_cohort("manifest/shards"),
        caches=shards_of_cohort("cache"),
    output:
        "results/quality/{cohort}.tsv",
    log:
        "logs/quality/{cohort}.log",
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 1000 * attempt,
        runtime=lambda wc, attempt: (5 + len(study.shards_of(wc.cohort)) // 20) * attempt,
    params:
        quality={name: QUALITY[name] for name in ("age_band", "min_group", "exclude")},
    script:
        "../scripts/quality.py"


rule quality_page:
    """The most unusual images first, with the outline of their mask; private, because it shows people's heads.

    Like the report it also reads the ledgers, which `quality` already depends on.
    """
    input:
        quality=expand("results/quality/{cohort}.tsv", cohort=study.cohorts),
        slices=lambda wc: [f"results/cache/{shard}.slices.npy" for shard in study.shards],
    output:
        "results/quality/quality.html",
    log:
        "logs/quality_page.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        study=lambda _: config["study"],  # a function, because Snakemake takes {x} in a text for a wildcard
        page=QUALITY["page"],
        exclude=QUALITY["exclude"],
    script:
        "../scripts/quality_page.py"
