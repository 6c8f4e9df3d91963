"""`snakemake --report` works with the repository's own Snakefile."""

from neurotransfer.report.public import check_public, private_names
from neurotransfer.study.configuration import load_config
from runs import OVERLAYS, REPOSITORY, snakemake


def test_the_page_contains_the_files_that_the_rules_marked(small_study, tmp_path):
    page = tmp_path / "report.html"
    done = snakemake(small_study, "--report", page)
    assert done.returncode == 0, done.stdout[-2000:]
    text = page.read_text(encoding="utf-8")
    for path in ("results/report/report.html", "results/split/certificate.html", "results/report/figures/figure2.svg"):
        assert path in text, path
    assert str(REPOSITORY) not in text and "participants_key:" not in text
    check_public(page, text, private_names(load_config(REPOSITORY, OVERLAYS), small_study))
