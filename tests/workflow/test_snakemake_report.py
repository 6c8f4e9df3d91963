"""`snakemake --report` works with the repository's own Snakefile."""

from runs import snakemake


def test_the_page_contains_the_files_that_the_rules_marked(small_study, tmp_path):
    page = tmp_path / "report.html"
    done = snakemake(small_study, "--report", page)
    assert done.returncode == 0, done.stdout[-2000:]
    text = page.read_text(encoding="utf-8")
    for path in ("results/report/report.html", "results/split/certificate.html", "results/report/figures/figure2.svg"):
        assert path in text, path
