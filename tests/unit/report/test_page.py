"""The page shows the values of the tables, names nobody, and opens in a real browser without an error."""

import base64
import copy
import csv
import gzip
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from browsers import asked_for, chromium, visit
from neurotransfer import __version__
from neurotransfer.files import read_table
from neurotransfer.operations import costs
from neurotransfer.report import page as report
from neurotransfer.report.answer_tables import overtaking_text, scans_text
from neurotransfer.report.confounding_tables import set_groups
from neurotransfer.report.figure2 import figure2, figure2_data, published_medians
from neurotransfer.report.figure3 import figure3
from neurotransfer.report.methods_text import made_by_in_words, methods
from neurotransfer.report.pretraining_tables import known_targets
from neurotransfer.report.references import LIBRARY, bibliography
from neurotransfer.report.style import save_figure
from neurotransfer.report.trust_tables import (
    accounting,
    cohort_rows,
    configuration_lines,
    mixed_versions,
    published_weights,
    setting_groups,
)
from neurotransfer.study.configuration import load_config
from neurotransfer.text import p_text
from runs import REPOSITORY
from selenium.webdriver.support.ui import Select, WebDriverWait
from selenium_axe_python import Axe
from synthetic_results import draw_figures, make_results, page_of

ADDRESS = r"base64,([A-Za-z0-9+/=]+)"
HOSTILE = "</style></pre><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)> {{ 7 * 7 }} & \" '"


class Elements(HTMLParser):
    """Every tag of a page with its attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f" {data}"


def plain(page: str) -> str:
    return " ".join(Elements(page).text.split())


@pytest.fixture(scope="module")
def results() -> SimpleNamespace:
    return make_results(replicates=15)


@pytest.fixture(scope="module")
def drawings(results, tmp_path_factory) -> Path:
    """The folder of the figures of `results`."""
    return draw_figures(results, tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def page(results, drawings) -> str:
    return page_of(results, drawings)


def test_no_identifier_of_a_participant_or_image_is_in_the_page(results, page):
    figures = "".join(base64.b64decode(found).decode("latin-1") for found in re.findall(ADDRESS, page))
    names = {*results.images["image_id"], *results.images["participant_id"], *results.ledger["image_id"]}
    assert len(names) > 500 and figures.count("<svg") == 3 and figures.count("PNG") >= 3
    for name in names:
        assert name not in page and name not in figures
    for text in (*results.ledger["detail"].dropna(), *results.excluded["file"], *results.excluded["detail"]):
        assert html.escape(text) not in page


def test_the_page_is_one_file_that_loads_nothing(page):
    assert len(page.encode()) < 10 * 2**20
    for tag, attributes in Elements(page).tags:
        assert tag not in ("iframe", "object", "embed", "base", "img")
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in page and "url(" not in page.replace("url(#", "")
    drawings = [attributes for tag, attributes in Elements(page).tags if tag == "svg"]
    assert len(drawings) == 3 + 2 * 2 and all(
        len(known["aria-label"]) > 30 and known["role"] == "img" for known in drawings
    )


def test_the_page_allows_its_only_script_by_its_digest(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page


def test_ids_in_the_drawings_are_unique(page):
    names = [attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes]
    assert len(names) == len(set(names)) > 100
    for target in re.findall(r'(?:xlink:href="|url\()#([^")]+)', page):
        assert target in set(names)


def test_each_figures_files_are_in_the_page_byte_by_byte(page, drawings):
    links = {
        known["download"]: known["href"] for tag, known in Elements(page).tags if tag == "a" and "download" in known
    }
    figures = {f"figure{k}.{end}" for k in "123" for end in ("svg", "png", "tsv")}
    assert set(links) == figures | {"references.bib", "classifiers.tsv", "calibration.tsv", "subgroups.tsv"}
    for name, address in links.items():
        if name in figures:
            assert base64.b64decode(address.partition("base64,")[2]) == (drawings / name).read_bytes()


@pytest.mark.parametrize("name", ["figure1", "figure2", "figure3"])
def test_every_summary_in_a_figure_can_be_read_in_a_table_below_it(page, drawings, name):
    with (drawings / f"{name}.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if not row.get("replicate")]
    label = f"The numbers in Figure {name[-1]}"
    [table] = re.findall(rf"<summary>{label}</summary>.*?<table>(.*?)</table>", page, re.DOTALL)
    shown = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tbody>")[1].split("</tr>")[:-1]]
    columns = re.findall(r"<th>(.*?)</th>", table)
    assert len(shown) == len(rows) > 10 and "replicate" not in columns
    at = columns.index("value")
    for cells, row in zip(shown, rows, strict=True):
        value = float(row["value"] or "nan")
        if math.isfinite(value):
            assert float(cells[at].replace("−", "-")) == pytest.approx(value, rel=1e-3)
        else:
            assert cells[at] in ("", "∞")


def test_every_point_of_a_calibration_curve_can_be_read_by_hover_and_in_a_table(results, page):
    curves = results.calibration_curves
    largest = curves[(curves["n"] == curves["n"].max()) & (curves["model"] != "covariates")]  # which has no line
    assert len(largest)
    for row in largest.to_dict("records"):
        said = [f"{row[name]:.3f}" for name in ("predicted", "observed")]
        assert f"<title>{row['model']}: predicted {said[0]}, observed {said[1]}</title>" in page
        assert f"<td>{said[0]}</td><td>{said[1]}</td>" in page


def test_sets_of_a_single_n_are_a_table_without_a_drawing(results):
    sets, tasks = results.sets, results.config["tasks"]
    smallest = results.config["report"]["smallest_cell"]
    assert all(group["lines"] for group in set_groups(sets, tasks, smallest))
    single = set_groups(sets[sets["n"] == sets["n"].min()], tasks, smallest)
    assert all(group["rows"] and not group["lines"] for group in single)


def test_a_large_table_is_carried_compressed(tmp_path, results):
    figure = figure3(results.curves, results.worth, results.config["tasks"])
    save_figure(figure, pd.DataFrame({"value": np.random.default_rng(0).normal(size=60000)}), tmp_path / "figure3")
    carried = report.embed(tmp_path / "figure3")["files"][-1]
    assert carried["name"] == "figure3.tsv.gz"
    assert (
        gzip.decompress(base64.b64decode(carried["address"].partition(",")[2]))
        == (tmp_path / "figure3.tsv").read_bytes()
    )


def test_every_reference_of_the_methods_is_in_the_bibliography(results):
    paragraphs, cited = methods(results.config, "multitask", results.weights, results.config["tasks"], results.ledger)
    numbers = [int(number) for number in re.findall(r"\[(\d+)\]", " ".join(paragraphs))]
    assert list(dict.fromkeys(numbers)) == list(range(1, len(cited) + 1)) and len(cited) == len(LIBRARY) - 1
    assert "FreeSurfer" not in [reference.title for reference in cited]  # no image was made by it
    text = bibliography(cited)
    entries = re.findall(r"^@(?:article|misc)\{(\w+),$", text, flags=re.M)
    assert len(set(entries)) == len(cited) and text.count("{") == text.count("}")
    assert "author = {Phipson, B. and Smyth, G. K.}" in text and "pages = {65--70}" in text


def test_the_methods_name_the_engines_of_the_ledger(results):
    rows = [("fastsurfer", "2.4.2")] * 5 + [("fastsurfer", "2.3.3"), ("freesurfer", "7.4.1"), (None, None)]
    ledger = pd.DataFrame(rows, columns=["engine", "engine_version"]).assign(status="ok")
    ledger.loc[len(ledger)] = ("builtin", "1", "failed")  # failed images are not counted
    assert made_by_in_words(ledger[:5]).endswith("segmented by FastSurfer 2.4.2 [@henschel2020]")
    text = made_by_in_words(ledger)
    assert "FastSurfer 2.4.2 and 2.3.3 [@henschel2020] (6 images) or " in text
    assert "FreeSurfer 7.4.1 [@fischl2012] (1 image)" in text and "do not name (1 image)" in text
    assert "builtin" not in text and "FreeSurfer of unknown version" in made_by_in_words(
        ledger[6:7].assign(engine_version=None)
    )
    config = results.config | {"preprocessing": results.config["preprocessing"] | {"engine": "derivatives"}}
    paragraphs, cited = methods(config, "given", {}, config["tasks"], ledger)
    assert "taken as they were" in paragraphs[0] and "(1 image)" in paragraphs[0]
    assert [reference.key for reference in cited][:3] == ["leonardsen2025", "henschel2020", "fischl2012"]
    assert " image)" not in methods(config, "given", {}, config["tasks"], ledger, {"engines"})[0][0]


def test_the_methods_say_no_number_that_is_hidden_elsewhere(results, drawings):
    changed = SimpleNamespace(**vars(results))
    changed.ledger = results.ledger.assign(engine=["builtin", *["fastsurfer"] * (len(results.ledger) - 1)])
    text = plain(page_of(changed, drawings))
    assert "by FastSurfer" in text and "(1 image)" not in text and " images) or" not in text
    config = results.config
    said = methods(config, "multitask", results.weights, config["tasks"], results.ledger)[0][1]
    hidden = methods(config, "multitask", results.weights, config["tasks"], results.ledger, {"train"})[0][1]
    assert said.replace(" (480 images of 300 participants)", "") == hidden != said


@pytest.mark.parametrize(
    ("scans", "reached", "sentence"),
    [
        (np.inf, 0.2, "Transfer is still below the linear model at the largest n, 500"),
        (100.0, 0.99, "Transfer is not below the linear model at any n, from 100 to 500"),
        (181.4, 0.8, "Transfer is not below the linear model from about n = 181 on"),
    ],
)
def test_the_n_at_which_transfer_passes_the_linear_model_is_a_sentence(scans, reached, sentence):
    row = pd.Series({"scans": scans, "low": 100.0, "high": np.inf, "reached": reached})
    found = overtaking_text(row, 100, 500)
    assert found["sentence"] == sentence
    assert (
        found["certainty"]
        == f"not below at 500 in {100 * reached:.0f} % of draws; 95 % interval of that n: ≤ 100 to > 500"
    )


@pytest.mark.parametrize(
    ("row", "value", "interval"),
    [
        ((np.inf, np.inf, np.inf), "not reached by 1,000", "> 1,000"),
        ((np.inf, 640.2, np.inf), "not reached by 1,000", "640 to > 1,000"),
        ((50.0, 50.0, 333.3), "≤ 50", "≤ 50 to 333"),
        ((212.0, np.nan, np.nan), "212", "–"),
    ],
)
def test_scans_beyond_the_range_of_n_are_shown_with_its_ends(row, value, interval):
    found = scans_text(pd.Series(dict(zip(("scans", "low", "high"), row, strict=True))), 50, 1000)
    assert found == {"value": value, "interval": interval}


def test_published_medians_are_limited_to_the_studys_tasks_and_sizes(results):
    published = read_table(REPOSITORY / "workflow/resources/published.tsv")
    found = published_medians(published, results.medians)
    assert len(found) == 11 and set(found["task"]) == {"ad_hc", "scz_bd"}
    some = results.medians[(results.medians["task"] == "ad_hc") & results.medians["n"].between(200, 400)]
    assert published_medians(published, some)[["model", "n"]].to_numpy().tolist() == [
        ["linear", 200],
        ["transfer", 200],
    ]
    assert published_medians(published, results.medians[results.medians["task"] == "other"]).empty


def test_a_page_with_missing_fits_is_called_preliminary(results, page, drawings):
    assert "Preliminary" not in plain(page)
    partial = SimpleNamespace(**vars(results))
    partial.medians = results.medians[~((results.medians["n"] == 500) & (results.medians["model"] == "transfer"))]
    text = plain(page_of(partial, drawings))
    # two tasks' cells of 15 replicates, of 2 tasks x 5 sizes x 15 replicates x 3 models
    assert "Preliminary: 30 of the 450 test AUCs" in text


def test_the_papers_metrics_are_beside_the_studys(page):
    rows = [row for row in re.findall(r"<tr>.*?</tr>", page, flags=re.S) if "MAE, years" in row]
    assert len(rows) == 1 and re.findall(r"<td>(\d\.\d\d)</td>", rows[0]) == ["2.23", "3.35"]


def test_known_targets_are_counted_by_set(results):
    rows = {row["target"]: row for row in known_targets(results.images, ["age", "bmi"])}
    for cell in rows["BMI"]["cells"]:
        part = results.images[results.images["role"] == cell["role"]]
        assert cell["known"] == part["bmi"].count() and cell["images"] == len(part)
    assert all(cell["share"] == 100 for cell in rows["age"]["cells"])


def test_gpu_and_core_hours_add_up_by_stage(results, drawings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Path("logs/transfer/ad_hc/n100/001.log")
    log.parent.mkdir(parents=True)
    log.write_text("an earlier attempt failed: killed\n")
    config = results.config
    rows = [
        {"rule": "linear", "key": "ad_hc/n100/001", "seconds": 1800.0, "device": None},
        {"rule": "transfer", "key": "ad_hc/n100/001", "seconds": 3600.0, "device": "NVIDIA H100"},
        {"rule": "transfer", "key": "ad_hc/n100/002", "seconds": 7200.0, "device": "CPU"},
    ]
    linear, transfer = costs.by_stage(rows, config)
    assert (linear["gpu_hours"], linear["core_hours"], linear["retried"]) == (0, 0.5, 0)
    cores = config["models"]["cnn"]["threads"]
    assert (transfer["jobs"], transfer["gpu_hours"], transfer["core_hours"], transfer["retried"]) == (
        2,
        1,
        3 * cores,
        1,
    )
    text = plain(page_of(results, drawings, stages=[linear, transfer]))
    assert "1 job of this study failed and succeeded when tried again" in text
    assert "No job of this study had to be tried again." in plain(page_of(results, drawings, stages=[linear]))


def test_hostile_text_in_tables_and_configuration_is_escaped(tmp_path):
    results = make_results(("ad_hc",), (20, 40), 3, titles={"ad_hc": HOSTILE}, study=HOSTILE, people=6)
    results.ledger.loc[results.ledger["status"] == "failed", "reason"] = HOSTILE
    results.ledger["engine_version"] = HOSTILE
    results.excluded["reason"] = HOSTILE
    results.images["cohort"] = results.ledger["cohort"] = HOSTILE
    results.metrics["target"] = results.metrics["target"].replace("neuroticism", HOSTILE)
    results.certificate["statement"] = HOSTILE
    results.config["pretrain"]["device"] = HOSTILE
    results.settings["values"] = json.dumps({HOSTILE: 1.0})
    page = page_of(results, draw_figures(results, tmp_path))
    tags = Elements(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert [tag for tag, _ in tags].count("svg") == 3 + 2 and "img" not in {tag for tag, _ in tags}
    assert not [attributes for _, attributes in tags if "onerror" in attributes]
    # everywhere it is text, exactly as written
    assert page.count(html.escape(HOSTILE).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) >= 10
    pictures = re.findall(r"image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 3
    for picture in pictures:
        tree = ElementTree.fromstring(base64.b64decode(picture))
        assert not [element for element in tree.iter() if str(element.tag).endswith(("script", "image"))]


def test_every_median_difference_and_p_of_the_tables_is_in_the_page(results, page):
    text = plain(page)
    for row in results.medians.itertuples():
        assert f"{row.median:.3f}" in text and f"{row.low:.3f} to {row.high:.3f}" in text
    for row in results.comparisons.itertuples():
        for value in (row.mean_difference, row.median_difference):
            assert f"{value:+.3f}".replace("-", "−") in text
        assert p_text(row.p_holm) in text and p_text(row.p_two_sided) in text
        assert p_text(row.p_population) in text and p_text(row.holm_population) in text
        assert f"{row.low_population:+.3f} to {row.high_population:+.3f}".replace("-", "−") in text
        assert f"{100 * row.wins:.0f} % {100 * row.wins_low:.0f} to" in text


def test_the_noise_of_random_starts_is_said_if_second_seeds_measured_it(results, drawings):
    assert "without second seeds it takes the noise of random starts" in plain(page_of(results, drawings))
    measured = SimpleNamespace(**vars(results))
    sd = results.medians["model"].map({"baseline": 0.03, "transfer": 0.02}).fillna(0.0)
    measured.medians = results.medians.assign(seed_sd=sd)
    text = plain(page_of(measured, drawings))
    assert "a standard deviation of 0.030 (baseline) and 0.020 (transfer) in a network's AUC" in text
    assert "without second seeds" not in text
    none = "cannot be told from the noise of test sets"
    measured.medians["seed_sd"] = sd.replace(0.02, 0.0)
    said = "a standard deviation of 0.030 (baseline) in a network's AUC, averaged over tasks and n; that of transfer"
    assert f"{said} {none}" in plain(page_of(measured, drawings))
    measured.medians["seed_sd"] = 0.0
    assert f"measured by second seeds: in the AUCs of the networks it {none}" in plain(page_of(measured, drawings))


def test_a_waived_site_is_said_right_below_the_answer(results, page, drawings):
    said = "the cohort alone predicts the label with a cross-validated AUC of 0.950, and the study goes on"
    assert said not in plain(page)
    waived = SimpleNamespace(**vars(results))
    task = next(iter(results.config["tasks"]))
    waived.certificate = results.certificate | {"confounding": {task: {"cohort": {"auc": 0.95, "sites": []}}}}
    waived.config = results.config | {"confounding": results.config["confounding"] | {"waived": [task]}}
    text = plain(page_of(waived, drawings))
    assert text.index("after Holm's adjustment") < text.index(said) < text.index("Median test AUC over")


def test_the_page_says_whether_results_follow_an_analysis_plan(results, page, drawings):
    assert "analysis plan" not in plain(page)
    plan = {"written": "2026-03-04 05:06 UTC", "version": "1", "sha256": "ab" * 32, "certified": True}
    plan |= {"changes": [], "pools": []}
    text = plain(page_of(results, drawings, plan=plan))
    assert "written down on 2026-03-04 05:06 UTC, before the first fit. The results follow this plan" in text
    assert "no certified image and no given file has changed since" in text and "ab" * 32 in text
    changed = plan | {"changes": [f"statistics.alpha: {HOSTILE} (plan: 0.05)"], "certified": False}
    text = page_of(results, drawings, plan=changed | {"pools": ["pool of ad_hc: 28 positive"]})
    assert "<script>alert(1)" not in text
    assert "Since then 1 thing has changed" in plain(text) and "results follow this plan" not in plain(text)
    assert "before the certificate of the split" in plain(text) and "now: pool of ad_hc: 28 positive" in plain(text)


def test_further_arms_have_a_column_a_line_and_a_family_of_their_own(tmp_path):
    results = make_results(tasks=("ad_hc",), n=(20, 40), replicates=8, further=("frozen", "radiomics"))
    text = plain(page_of(results, draw_figures(results, tmp_path)))
    for row in results.medians.itertuples():
        assert f"{row.median:.3f}" in text
    assert "n linear baseline transfer frozen radiomics covariates alone" in text
    assert "All 18 comparisons" in text and "Holm's adjustment over the 6 comparisons" in text
    assert "12 comparisons with these arms are a second family" in text
    assert "transfer − baseline the paper's" in text and "transfer − frozen further" in text
    assert "logistic regression on the features “radiomics”" in text
    assert "without training it further (frozen) and features from elsewhere (radiomics)" in text
    figure = figure2(results.aucs, results.medians, results.comparisons, results.config["tasks"], alpha=0.05)
    labels = [label.get_text() for label in figure.legends[0].get_texts()]
    assert labels[:6] == ["linear", "baseline", "transfer", "frozen", "radiomics", "covariates"]
    aucs = results.medians.set_index("model").loc["frozen", "median"]
    lines = [bars.lines[0] for axes in figure.axes for bars in axes.containers]
    assert sum(np.allclose(line.get_ydata(), aucs) for line in lines) == 1


@pytest.mark.parametrize(("p", "text"), [(0.00002, "< 0.0001"), (0.0312, "0.031"), (0.0049, "0.0049"), (1.0, "1.000")])
def test_a_p_is_never_shown_as_zero(p, text):
    assert p_text(p) == text


def test_every_image_is_accounted_for(results):
    found = accounting(results.ledger, results.excluded, results.images)
    assert found["complete"]
    totals, parts = [], []
    for row in found["rows"]:
        if row["level"] == 0:
            totals.append(row["images"])
            parts.append(0)
        else:
            parts[-1] += row["images"]
    assert totals == [len(results.ledger) + 3, len(results.ledger), len(results.images)]
    assert totals[0] - parts[0] == totals[1] and totals[1] - parts[1] == totals[2] and parts[2] == totals[2]
    lost = accounting(results.ledger, results.excluded, results.images.iloc[1:])
    assert not lost["complete"]
    by_cohort = cohort_rows(results.images, results.ledger, results.excluded)
    assert sum(row["found"] for row in by_cohort) == totals[0]
    for row in by_cohort:
        used = sum(row[role] for role in ("train", "validation", "test", "unused"))
        assert row["found"] == row["left_out"] + row["failed"] + used


def test_a_page_says_if_its_images_do_not_add_up(results, drawings, page):
    assert "do not add up" not in page
    lost = SimpleNamespace(**vars(results) | {"images": results.images.iloc[1:]})
    assert "do not add up" in page_of(lost, drawings)


def test_the_page_shows_the_configuration_and_marks_differences_from_the_papers(results, page):
    lines = configuration_lines(results.config, results.defaults)
    shown = yaml.safe_load("\n".join(line["text"] for line in lines))
    assert shown["pretrain"].pop("participants_key") == "not shown"
    whole = copy.deepcopy(results.config)
    del whole["pretrain"]["participants_key"]
    assert shown == whole
    differing = {line["text"].strip().split(":")[0]: line["paper"] for line in lines if line["differs"]}
    assert differing["study"] == "leonardsen2025" and differing["seed"] == "20251215"
    assert differing["replicates"] == "100" and "crop" not in differing
    assert page.count("<mark>") == len([line for line in lines if line["differs"]])
    assert all(not line["differs"] for line in configuration_lines(results.defaults, results.defaults))
    only_here = configuration_lines({"new": {"key": 1}}, {})
    assert [(line["text"], line["differs"], line["paper"]) for line in only_here] == [
        ("new:", True, None),
        ("  key: 1", True, None),
    ]


IMPORTED = {
    "source": {"licence": "CC-BY-NC-4.0", "citation": "Somebody (2025)"},
    "known_answers": {"state": "unchecked"},
}


def test_imported_weights_are_named_with_licence_and_check():
    passed = {"state": "passed", "images": 3, "predictions": 3, "tolerance": 0.001, "largest_difference": 2e-5}
    assert published_weights({"version": "1"}) is None
    assert published_weights(IMPORTED) == {**IMPORTED["source"], "checked": ""}
    words = published_weights(IMPORTED | {"known_answers": passed})["checked"]
    assert words == "They predicted 3 published values of 3 images within 0.001 (largest difference 2e-05)."


def test_the_overlap_with_given_weights_is_unknown_without_their_participants(tmp_path):
    results = make_results(("ad_hc",), (20,), 1, given=True, holdout=False, people=6)
    drawings = draw_figures(results, tmp_path)
    text = plain(page_of(results, drawings, unknown="there is no study key"))
    unknown = "Unknown: whether the given weights were trained on participants of this study: there is no study key."
    assert unknown in text
    assert "was not trained here: its weights were given" in text
    assert "nothing could be called better or worse" in text
    assert "Among 64,620 pairs of images, 1 of two participants look like the same scan and 2 like one head" in text
    assert "The given weights were trained on 0 of this study's participants" in plain(
        page_of(results, drawings, seen=set())
    )
    assert "may be tested on participants of its pretraining" in plain(page_of(results, drawings, seen={"a_1", "a_2"}))
    assert "A single n gives no learning curve" in text
    assert "imported from" not in text and "Unchecked" not in text
    results.weights |= IMPORTED
    text = plain(page_of(results, drawings))
    assert "imported from Somebody (2025), under the licence CC-BY-NC-4.0. Unchecked: nothing has shown" in text
    assert "its weights are those of Somebody (2025), and it has not been checked that they predict" in text


def test_overlap_is_not_unknown_if_pretraining_is_part_of_the_study(page):
    assert "Unknown:" not in plain(page)


def test_mixed_versions_are_mentioned(results, page):
    ours = results.weights | {"version": __version__}
    assert not mixed_versions(results.ledger, ours)
    assert mixed_versions(results.ledger, results.weights)
    ledger = results.ledger.copy()
    ledger.loc[0, "engine_version"] = "2"
    assert mixed_versions(ledger, ours)
    assert "Versions are mixed" in page


def test_how_often_a_setting_was_chosen_is_counted(results):
    for group in setting_groups(results.settings):
        mine = results.settings[results.settings["model"] == group["model"]]
        assert sum(row["chosen"] for row in group["rows"]) == group["fits"] == mine["chosen"].sum()
        assert sum(row["diverged"] for row in group["rows"]) == (mine["status"] == "diverged").sum()


def test_the_methods_follow_the_configuration(results):
    config = json.loads(json.dumps(results.config))
    text = " ".join(methods(config, "multitask", results.weights, config["tasks"], results.ledger)[0])
    assert "{100, 200, 300, 400, 500}" in text and "15 resamples" in text and "with 9, 3 and 3 settings" in text
    assert "(480 images of 300 participants)" in text and "Epoch 18 had the lowest validation loss" in text
    assert "average pooling" not in text and "mirrored at random" in text
    config["network"]["pooling"], config["pretrain"]["augmentation"]["mirror"] = "average", False
    config["resampling"]["n"], config["statistics"]["statistic"] = [33], "median"
    assert "with a ridge penalty on regional volumes divided by the brain mask's (linear)" in text
    config["models"]["linear"]["normalise"] = "residual"
    config["models"]["linear"] |= {"structures": ["CSF", "Left-Hippocampus"], "settings": [{"c": 1, "penalty": "l1"}]}
    changed = " ".join(methods(config, "multitask", {}, config["tasks"], results.ledger)[0])
    assert "average pooling" in changed and "mirrored" not in changed and "{33}" in changed
    assert "median difference" in changed and "  " not in changed
    assert "with a lasso penalty on the volumes of CSF and Left-Hippocampus, of which a line" in changed


# in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that keeps its console and its requests, and saves what is downloaded."""
    folder = tmp_path_factory.mktemp("chromium")
    with chromium(folder / "profile") as driver:
        downloads = {"behavior": "allow", "downloadPath": str(folder / "downloads")}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        driver.downloads = folder / "downloads"
        yield driver


def open_page(browser, path: Path, *, width: int = 1280, theme: str = "light") -> None:
    visit(browser, path, width=width, theme=theme)
    browser.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")


@pytest.fixture(scope="module")
def pages(results, page, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    hostile = make_results(("ad_hc",), (20, 40), 1, titles={"ad_hc": HOSTILE}, study=HOSTILE * 2, given=True, people=4)
    texts = {"whole": page, "hostile": page_of(hostile, draw_figures(hostile, folder))}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.browser
@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_a_browser_reports_no_error_and_requests_nothing(browser, pages, name):
    open_page(browser, pages[name])
    for control in browser.find_elements("css selector", "button, input, a[download]"):
        browser.execute_script("arguments[0].click()", control)
    assert browser.get_log("browser") == []
    asked = asked_for(browser)
    assert asked and all(url.startswith(("file://", "data:", "about:")) for url in asked)
    assert {url for url in asked if url.startswith("file://")} == {pages[name].as_uri()}
    drawn = "return [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().width)"
    widths = browser.execute_script(drawn)
    assert len(widths) == 3 + {"whole": 2, "hostile": 1}[name] * 2 and min(widths) > 100  # two small ones for each task


@pytest.mark.browser
def test_a_script_that_is_not_the_pages_own_does_not_run(browser, pages, page, tmp_path):
    injected = "<script>document.title = 'mine'</script><img src='https://example.invalid/x.png' alt=''></footer>"
    path = tmp_path / "injected.html"
    path.write_text(page.replace("</footer>", injected), encoding="utf-8")
    open_page(browser, path)
    assert browser.title != "mine"
    assert len([entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]) == 2


@pytest.mark.browser
@pytest.mark.parametrize("name", ["whole", "hostile"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_is_never_wider_than_the_screen(browser, pages, name, width):
    open_page(browser, pages[name], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    beyond = """return [...document.querySelectorAll('body *')].filter(element => !element.closest('.scroll, pre, nav')
        && element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 80))"""
    assert browser.execute_script(beyond) == []


@pytest.mark.browser
@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_nothing_is_cut_off_on_paper(browser, pages, name):
    open_page(browser, pages[name], width=718)  # 190 mm, A4 within margins of a centimetre
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 718
        assert not browser.find_element("tag name", "nav").is_displayed()
        assert browser.execute_script("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_has_figure_2(browser, pages, width, height):
    visit(browser, pages["whole"], width=width)
    box = "const box = document.querySelector('#by-n svg').getBoundingClientRect(); return [box.top, box.bottom]"
    top, bottom = browser.execute_script(box)
    assert top > 0 and bottom <= height + 10


# the smallest text of each figure's drawing in CSS pixels; matplotlib draws a glyph of s points at the scale s / 100
SMALLEST_TEXTS = """return [...document.querySelectorAll(arguments[0])].map(svg => {
    const box = svg.getBoundingClientRect(), own = svg.viewBox.baseVal;
    const drawn = Math.min(box.width / own.width, box.height / own.height);
    const paths = [...svg.querySelectorAll('g[transform*="scale("]')].map(g => g.getAttribute('transform'))
        .filter(text => /scale\\(0\\.\\d+ -/.test(text)).map(text => 100 * +text.match(/scale\\((0\\.\\d+)/)[1]);
    const texts = [...svg.querySelectorAll('text')].map(text => parseFloat(getComputedStyle(text).fontSize));
    return drawn * Math.min(...paths, ...texts); })"""


# of each figure on its sheet, with the title above it
HEIGHTS = """return [...document.querySelectorAll(arguments[0])].map(figure => {
    const before = figure.previousElementSibling, begin = before && before.matches('h2') ? before : figure;
    return figure.getBoundingClientRect().bottom - begin.getBoundingClientRect().top; })"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_text_of_a_figure_has_nine_points_or_more_as_shown(browser, pages, width):
    open_page(browser, pages["whole"], width=width)
    sizes = browser.execute_script(SMALLEST_TEXTS, "figure svg")
    assert len(sizes) >= 5 and min(sizes) > 11.9 and max(sizes) < 20  # CSS pixels; beside text of 16


@pytest.mark.browser
def test_text_of_a_figure_has_nine_points_on_paper_and_the_figure_fits_its_sheet(browser, pages, tmp_path):
    """Four cohorts and two tasks are on A4; thirty cohorts and the paper's five tasks need A3."""
    titles = {name: task["title"] for name, task in load_config(REPOSITORY)["tasks"].items()}
    cohorts = tuple(f"cohort_{at:02d}" for at in range(30))
    wide = make_results(tuple(titles), cohorts=cohorts, people=12, replicates=2, titles=titles)
    (tmp_path / "wide.html").write_text(page_of(wide, draw_figures(wide, tmp_path)), encoding="utf-8")
    of_sheets = {"upright": (718, 1000), "across": (1062, 733), "large": (1062, 1527)}  # CSS pixels within the margins
    used: dict[str, list[str]] = {}
    for path in (pages["whole"], tmp_path / "wide.html"):
        for sheet, (width, height) in of_sheets.items():
            open_page(browser, path, width=width)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
            try:
                figures = f"figure.{sheet} svg" + (", figure:not(.card) svg" if sheet == "upright" else "")
                sizes = browser.execute_script(SMALLEST_TEXTS, figures)
                boxes = browser.execute_script(HEIGHTS, f"figure.{sheet}")
            finally:
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
            assert min(sizes, default=12) > 11.9 and max(sizes, default=12) < 20, (sheet, sizes)
            assert max(boxes, default=0) <= height, (sheet, boxes)
            used.setdefault(path.stem, []).extend([sheet] * len(boxes))
    assert sorted(used["whole"]) == ["across", "upright", "upright"]
    assert "large" in used["wide"]


@pytest.mark.browser
def test_on_a_phone_no_verdict_needs_sideways_scrolling(browser, pages):
    open_page(browser, pages["whole"], width=390)
    beyond = """return [...document.querySelectorAll('.chip')].filter(chip => chip.getClientRects().length
        && chip.getBoundingClientRect().right > innerWidth).map(chip => chip.closest('table').className)"""
    assert browser.execute_script(beyond) == []
    assert browser.execute_script("return document.querySelectorAll('.chip').length") > 10
    wider = """return ['.tight', '.stack'].flatMap(kind => [...document.querySelectorAll('table' + kind)])
        .filter(table => table.getBoundingClientRect().width > table.parentElement.clientWidth + 1)
        .map(table => table.innerText.slice(0, 40))"""
    assert browser.execute_script(wider) == []


@pytest.mark.browser
def test_on_a_phone_small_tables_need_no_sideways_scrolling(browser, results, drawings, tmp_path):
    stage = {"stage": "features of the trunk", "jobs": 1440, "gpu_hours": 1234.5, "core_hours": 9876.54, "retried": 123}
    (tmp_path / "page.html").write_text(page_of(results, drawings, stages=[stage]), encoding="utf-8")
    open_page(browser, tmp_path / "page.html", width=390)
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    boxes = browser.execute_script("""return [...document.querySelectorAll('.scroll:has(> table.tight)')]
        .map(box => [box.getAttribute('aria-label'), box.scrollWidth - box.clientWidth])""")
    assert [label for label, beyond in boxes if beyond > 1] == []
    small = {"Known targets", "Calibration of sex, validation", "Gain over the covariates alone", "Cost by stage"}
    assert small <= {label for label, _ in boxes}


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_an_accessibility_checker_finds_nothing(browser, pages, theme, width):
    open_page(browser, pages["whole"], width=width, theme=theme)
    found = Axe(browser)
    found.inject()
    # a screen reader reads only the label of role="img", not the drawing's content
    browser.set_script_timeout(300)
    # all nodes of a violation, and one of each rule that passes: to describe all of those takes longer than to check
    outcome = found.run({"exclude": [["figure svg > *"]]}, {"resultTypes": ["violations"]})
    wrong = [(rule["id"], node["html"][:120]) for rule in outcome["violations"] for node in rule["nodes"]]
    assert wrong == []
    checked = {rule["id"] for rule in outcome["passes"]}
    assert {"color-contrast", "svg-img-alt", "label", "select-name", "button-name", "html-has-lang"} <= checked


def colours(browser) -> tuple[str, str]:
    """The background of the page, and of Figure 2's drawing."""
    return tuple(
        browser.execute_script(f"return getComputedStyle(document.querySelector('{element}')).{colour}")
        for element, colour in (("body", "backgroundColor"), ("#figure2-patch_1 path", "fill"))
    )


@pytest.mark.browser
def test_the_theme_follows_the_system_until_it_is_chosen_in_page_and_figures(browser, pages):
    shown = {}
    for system in ("light", "dark"):
        open_page(browser, pages["whole"], theme=system)
        choice = Select(browser.find_element("id", "theme"))
        for chosen in ("", "light", "dark"):
            choice.select_by_value(chosen)
            shown[system, chosen] = colours(browser)
        choice.select_by_value("light")
        browser.refresh()  # the choice is stored
        shown[system, "kept"] = colours(browser)
        Select(browser.find_element("id", "theme")).select_by_value("")
    light, dark = shown["light", ""], shown["dark", ""]
    assert light[0] != dark[0] and light[1] == "rgb(255, 255, 255)" and dark[1] != light[1]
    for system in ("light", "dark"):
        assert shown[system, "light"] == shown[system, "kept"] == light and shown[system, "dark"] == dark


@pytest.mark.browser
def test_the_overlay_shows_and_hides_the_published_medians(browser, pages):
    open_page(browser, pages["whole"])
    seen = """return [...document.querySelectorAll('#figure2 ~ figure .published')]
        .map(group => group.getBoundingClientRect().width > 0)"""
    box = browser.find_element("id", "overlay")
    states = []
    for _ in range(3):
        states.append(browser.execute_script(seen))
        box.click()
    # baseline, linear and transfer of one task, baseline and linear of the other
    assert states == [[False] * 5, [True] * 5, [False] * 5]
    open_page(browser, pages["hostile"])
    assert not browser.find_elements("id", "overlay")


ROWS = """return [...arguments[0].querySelectorAll('tbody')].map(body => [...body.rows]
    .filter(row => !row.hidden && ![...row.cells].some(cell => cell.colSpan > 1))
    .map(row => [...row.cells].map(cell => cell.textContent)))"""


def rows_of(browser, table) -> list[list[str]]:
    """The cells of a table's visible rows, of all its groups."""
    return [row for rows in browser.execute_script(ROWS, table) for row in rows]


# Clicks every heading of a table twice; after each click: the headings' aria-sort, and the rows
SORTED = (
    f"const rows = function (table) {{ {ROWS} }};"
    + """
    const [table] = arguments, heads = [...table.tHead.rows[0].cells];
    return heads.flatMap(head => [1, 2].map(() => {
        head.querySelector('.sort').click();
        return [heads.map(other => other.getAttribute('aria-sort')), rows(table)];
    }));"""
)


@pytest.mark.browser
def test_every_table_sorts_within_its_groups(browser, pages):
    open_page(browser, pages["whole"])
    tables = [
        table for table in browser.find_elements("tag name", "table") if table.find_elements("class name", "sort")
    ]
    assert len(tables) > 8
    for table in tables:
        before = browser.execute_script(ROWS, table)
        for click, (directions, after) in enumerate(browser.execute_script(SORTED, table)):
            column, falling = divmod(click, 2)
            assert directions[column] == ("ascending", "descending")[falling]
            assert sum(name is not None for name in directions) == 1
            assert [sorted(rows) for rows in after] == [sorted(rows) for rows in before]
            for rows in after:
                cells = [row[column].replace("−", "-") for row in rows]
                if all(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in cells):
                    assert [float(cell) for cell in cells] == sorted(map(float, cells), reverse=falling == 1)


@pytest.mark.browser
def test_a_table_filters_and_shows_the_number_of_remaining_rows(browser, pages):
    open_page(browser, pages["whole"])
    field = browser.find_element("css selector", "[aria-label='Filter rows of: All comparisons']")
    table = browser.execute_script("return arguments[0].closest('.scroll').querySelector('table')", field)
    every = rows_of(browser, table)
    field.send_keys("TRANSFER − Linear")
    left = rows_of(browser, table)
    assert left == [row for row in every if "transfer − linear" in row[1]] and len(left) == 10
    status = "return arguments[0].parentElement.querySelector('[role=status]').textContent"
    assert browser.execute_script(status, field) == "10 of 30 rows"
    field.clear()
    field.send_keys("nothing has this")
    assert rows_of(browser, table) == [] and browser.execute_script(status, field) == "0 of 30 rows"
    field.clear()
    field.send_keys(" ")
    assert rows_of(browser, table) == every


@pytest.mark.browser
def test_every_download_is_the_file_beside_the_page(browser, pages, tmp_path):
    open_page(browser, pages["whole"])
    for kept in browser.downloads.glob("*"):
        kept.unlink()
    links = browser.find_elements("css selector", "a[download]")
    for link in links:
        name, data = link.get_attribute("download"), base64.b64decode(link.get_attribute("href").partition(",")[2])
        browser.execute_script("arguments[0].click()", link)
        saved = browser.downloads / name
        WebDriverWait(browser, 10).until(
            lambda _, saved=saved, data=data: saved.is_file() and saved.read_bytes() == data
        )
    assert len(links) == 13


# unusual pages: the console must be silent, and the page must fit the screen
CASES = {
    "eight sizes": {"n": (20, 50, 100, 150, 200, 300, 400, 500), "replicates": 4},
    "one task and one n, one replicate": {"tasks": ("scz_bd",), "n": (100,), "replicates": 1},
    "two sizes, nothing differs": {"tasks": ("other",), "n": (100, 200), "replicates": 12},
}


@pytest.mark.browser
@pytest.mark.parametrize("case", CASES)
def test_an_unusual_page_opens_without_an_error_and_fits_the_screen(browser, case, tmp_path):
    results = make_results(**{"replicates": 8, "people": 12} | CASES[case])
    path = tmp_path / "page.html"
    path.write_text(page_of(results, draw_figures(results, tmp_path)), encoding="utf-8")
    for width in (390, 1280):
        open_page(browser, path, width=width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
    if case.endswith("nothing differs"):
        assert "was not distinguishable from" in browser.find_element("class name", "answer").text


def test_a_page_of_five_thousand_replicates_stays_below_ten_mebibytes(results, drawings, tmp_path):
    """Every replicate has a random AUC, which compresses worse than a real study's few distinct values."""
    generator = np.random.default_rng(0)
    many = SimpleNamespace(**vars(results))
    many.aucs, many.resamples, many.settings = (
        table.loc[table.index.repeat(5000 // 15 + 1)].reset_index(drop=True)
        for table in (results.aucs, results.resamples, results.settings)
    )
    many.aucs["auc"] = np.clip(many.aucs["auc"] + generator.normal(0, 0.02, len(many.aucs)), 0, 1)
    assert len(many.aucs) >= 5000 * len(results.medians)
    tables = (many.aucs, many.medians, many.comparisons)
    save_figure(figure2(*tables, many.config["tasks"], alpha=0.05), figure2_data(*tables), tmp_path / "figure2")
    for name in ("figure1", "figure3"):
        for ending in ("svg", "png", "tsv"):
            (tmp_path / f"{name}.{ending}").symlink_to(drawings / f"{name}.{ending}")
    page = page_of(many, tmp_path)
    assert "figure2.tsv.gz" in page and len(page.encode()) < 10 * 2**20
