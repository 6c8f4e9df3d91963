# Tables -> figures -> one page.

PUBLISHED = str(REPOSITORY / "workflow/resources/published.tsv")  # the paper's numbers, with their source

# The analysis plan, if one was written before the first fit (neurotransfer freeze).
PLAN = "analysis-plan.md" if Path("analysis-plan.md").is_file() else []


def of_figure(number, shows):
    """A figure's files: SVG, PNG and the table behind it, each with its place in Snakemake's own report."""
    files = []
    for ending in ("svg", "png", "tsv"):
        path = f"results/report/figures/figure{number}.{ending}"
        labels = {"figure": f"{number}, {shows}", "file": ending.upper()}
        files.append(report(path, caption=f"../report/figure{number}.rst", category="Figures", labels=labels))
    return files


rule figures:
    """Figures 1 (pretraining), 2 (AUC by n) and 3 (worth in scans), each as SVG, PNG and TSV."""
    input:
        images="results/split/images.tsv",
        history="results/pretrain/multitask/history.tsv" if study.run == "multitask" else [],
        metrics=f"results/pretrain/{study.run}/metrics.tsv",
        predictions=f"results/pretrain/{study.run}/predictions.tsv",
        aucs="results/statistics/aucs.tsv",
        medians="results/statistics/medians.tsv",
        comparisons="results/statistics/comparisons.tsv",
        curves="results/statistics/curves.tsv",
        worth="results/statistics/worth.tsv",
        truth=config["report"]["truth"] or [],
        published=PUBLISHED,
    output:
        figure1=of_figure(1, "pretraining"),
        figure2=of_figure(2, "AUC by n"),
        figure3=of_figure(3, "worth in scans"),
    log:
        "logs/figures.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        tasks=study.tasks,
        statistics=identity(config, "statistics"),
        smallest_cell=config["report"]["smallest_cell"],
    script:
        "../scripts/figures.py"


rule report:
    """One self-contained page: the answer, the figures, the trust, the methods."""
    input:
        figures=rules.figures.output,
        images="results/split/images.tsv",
        certificate="results/split/certificate.json",
        page="results/split/certificate.html",  # a failed certificate removes it, and keeps the old JSON file
        excluded="results/manifest/excluded.tsv",
        quality=expand("results/quality/{cohort}.tsv", cohort=study.cohorts),
        metrics=f"results/pretrain/{study.run}/metrics.tsv",
        groups=f"results/pretrain/{study.run}/groups.tsv",
        calibration=f"results/pretrain/{study.run}/calibration.tsv",
        weights=f"results/pretrain/{study.run}/weights.safetensors",
        participants=PRETRAINED_PARTICIPANTS,
        withdrawn=config["withdrawn"] if config["withdrawn"] and Path(config["withdrawn"]).is_file() else [],
        medians="results/statistics/medians.tsv",
        comparisons="results/statistics/comparisons.tsv",
        worth="results/statistics/worth.tsv",
        search="results/statistics/search.tsv",
        settings="results/statistics/settings.tsv",
        resamples="results/statistics/resamples.tsv",
        confounding="results/statistics/confounding.tsv",
        within="results/statistics/within.tsv",
        gains="results/statistics/gains.tsv",
        sets="results/statistics/sets.tsv",
        classifiers="results/statistics/classifiers.tsv",
        calibration_curves="results/statistics/calibration.tsv",
        subgroups="results/statistics/subgroups.tsv",
        published=PUBLISHED,
        plan=PLAN,
    output:
        page=report(
            "results/report/report.html",
            caption="../report/report.rst",
            category="Pages",
            labels={"page": "the report", "names people": "no"},
        ),
        bibliography="results/report/references.bib",
    log:
        "logs/report.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=config,
        defaults=str(REPOSITORY / "config/config.yaml"),
        tasks=study.tasks,
        run=study.run,
    script:
        "../scripts/report.py"
