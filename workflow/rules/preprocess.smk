# T1-weighted images -> FastSurfer's file layout, and a ledger with a row for every image.

EXISTING = config["preprocessing"] | {"engine": "derivatives"}
MEASURED = demands.as_measured(config["preprocessing"])  # by a rehearsal, if there was one
SETTINGS = {volumes: MEASURED | {"volumes": volumes} for volumes in (True, False)}
# shared by all jobs, which may be many
IDENTITY_OF_EXISTING, IDENTITY_WITHOUT_VOLUMES = demands.identity(EXISTING), PREPROCESSING | {"volumes": False}


def is_existing(wildcards):
    """Whether a shard's images are preprocessed already, which needs neither a GPU nor hours."""
    return study.shards[wildcards.shard].cohort in study.derivatives


def identity_of(wildcards):
    """The settings that change the results of a shard's jobs."""
    if is_existing(wildcards):
        return IDENTITY_OF_EXISTING
    return IDENTITY_WITHOUT_VOLUMES if has_no_volumes(wildcards) else PREPROCESSING


def has_no_volumes(wildcards):
    """Whether a shard's images need no regional volumes."""
    return study.shards[wildcards.shard].cohort in study.without_volumes


def engine_of(wildcards):
    """The settings of `preprocessing` for a shard."""
    if is_existing(wildcards):
        return EXISTING
    return SETTINGS[not has_no_volumes(wildcards)]


def is_engine_needed():
    """Whether an image still needs the configured engine."""
    shards = (name for name, shard in study.shards.items() if shard.cohort not in study.derivatives)
    return not all(Path(ledger).exists() for ledger in study.ledgers_of(shards))


def lost_ledgers(*roles):
    """Missing ledgers of shards, cohorts or a study with results of a later stage; of cohorts with any of the roles.

    Snakemake does not notice a missing intermediate file while its downstream output exists.  So a target rule must ask
    for it: `neurotransfer retry` deletes ledgers, and a study that grows has new ones.  In a new study Snakemake finds
    all ledgers by itself, and listing a hundred thousand of them again would take a tenth of a dry run.
    """

    def has(*names):
        return any(Path("results", name).exists() for name in names)

    def ledgers(wildcards):
        whole = has("quality/quality.html", "split/certificate.json")
        for cohort in study.cohorts_of(*roles) if roles else study.cohorts:
            later = (f"quality/{cohort}.tsv", f"index/{cohort}.tsv", f"split/cohorts/{cohort}.tsv")
            known = whole or has(*later)
            shards = [shard for shard in study.shards_of(cohort) if known or has(f"cache/{shard}.tsv")]
            yield from (ledger for ledger in study.ledgers_of(shards) if not Path(ledger).exists())

    return ledgers


# Snakemake calls a function for every job, and there may be one per image: a constant if all jobs have the same value.
HAS_GPU = int(demands.has_gpu(config["preprocessing"]))
SIZES = {shard.images_per_job for shard in study.shards.values()}


rule preprocess:
    """One job's images through the engine; an image that fails gets its row and does not stop the others."""
    input:
        images="results/manifest/shards/{shard}.tsv",
    output:
        ledger="results/preprocessed/{shard}/{job}.tsv",
    log:
        "logs/preprocess/{shard}/{job}.log",
    benchmark:
        "results/benchmarks/preprocess/{shard}/{job}.tsv"
    container:
        None  # it starts FastSurfer's own container, which is not possible inside another one
    threads: config["preprocessing"]["threads"]
    resources:
        mem_mb=lambda wc, attempt: demands.mem_mb(engine_of(wc), attempt),
        runtime=lambda wc, attempt: demands.runtime(
            engine_of(wc), study.shards[wc.shard].images_of_job(wc.job), attempt
        ),
        gpu=HAS_GPU if not study.derivatives else lambda wc: int(demands.has_gpu(engine_of(wc))),
    params:
        images_per_job=min(SIZES) if len(SIZES) == 1 else lambda wc: study.shards[wc.shard].images_per_job,
        preprocessing=PREPROCESSING if not study.derivatives | study.without_volumes else identity_of,
        subjects="results/preprocessed/subjects",
    script:
        "../scripts/preprocess.py"
