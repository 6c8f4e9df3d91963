"""The page: what it says is what the tables say, it names nobody, and a real browser opens it without a complaint."""

import base64
import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml
from neurotransfer import report
from neurotransfer.figures import figure2, save_figure
from neurotransfer.methods import methods
from neurotransfer.preprocessing import REASONS
from neurotransfer.pretraining_figure import figure1
from synthetic_results import make_results

TABLES = ("images", "excluded", "metrics", "medians", "comparisons", "settings", "resamples")
HOSTILE = "</style></pre><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)> {{ 7 * 7 }} & \" '"


def page_of(results: SimpleNamespace, folder: Path, **options) -> str:
    """The whole page of some results, with their real figures."""
    first = figure1(results.images, results.history, results.metrics, results.predictions)
    tables = (results.aucs, results.medians, results.comparisons)
    second = figure2(*tables, results.config["tasks"], alpha=0.05)
    for name, figure in (("figure1", first), ("figure2", second)):
        save_figure(figure, results.medians, folder / name)
    content = report.content(
        {name: getattr(results, name) for name in TABLES},
        ledger=results.ledger,
        certificate=results.certificate,
        weights=results.weights,
        figures={name: report.embed(folder / f"{name}.svg") for name in ("figure1", "figure2")},
        config=results.config,
        defaults=results.defaults,
        tasks=results.config["tasks"],
        run=results.run,
        reasons=REASONS,
        **options,
    )
    return report.render(content)


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
def page(results, tmp_path_factory) -> str:
    return page_of(results, tmp_path_factory.mktemp("page"))


def test_no_identifier_of_a_participant_or_image_is_in_the_page(results, page):
    figures = "".join(base64.b64decode(found).decode() for found in re.findall(r"base64,([A-Za-z0-9+/=]+)", page))
    names = {*results.images["image_id"], *results.images["participant_id"], *results.ledger["image_id"]}
    assert len(names) > 500 and figures.count("<svg") == 2
    for name in names:
        assert name not in page and name not in figures
    for told in (*results.ledger["detail"].dropna(), *results.excluded["file"], *results.excluded["detail"]):
        assert html.escape(told) not in page


def test_the_page_is_one_file_that_asks_for_nothing(page):
    assert len(page.encode()) < 10 * 2**20
    for tag, attributes in Elements(page).tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in page and "url(" not in page
    assert [tag for tag, _ in Elements(page).tags].count("img") == 2
    assert all(attributes.get("alt") for tag, attributes in Elements(page).tags if tag == "img")


def test_hostile_text_in_tables_and_configuration_is_escaped(tmp_path):
    results = make_results(("ad_hc",), (20,), 3, titles={"ad_hc": HOSTILE}, study=HOSTILE, people=6)
    results.ledger.loc[results.ledger["status"] == "failed", "reason"] = HOSTILE
    results.ledger["engine_version"] = HOSTILE
    results.excluded["reason"] = HOSTILE
    results.images["cohort"] = results.ledger["cohort"] = HOSTILE
    results.metrics["target"] = results.metrics["target"].replace("neuroticism", HOSTILE)
    results.certificate["statement"] = HOSTILE
    results.config["pretrain"]["device"] = HOSTILE
    results.settings["values"] = json.dumps({HOSTILE: 1.0})
    page = page_of(results, tmp_path)
    tags = Elements(page).tags
    assert not [tag for tag, _ in tags if tag == "script"]
    assert [tag for tag, _ in tags].count("img") == 2
    assert not [attributes for _, attributes in tags if "onerror" in attributes]
    # in every place it is there as text, as it was written
    assert page.count(html.escape(HOSTILE).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) >= 10
    for picture in re.findall(r"base64,([A-Za-z0-9+/=]+)", page):
        tree = ElementTree.fromstring(base64.b64decode(picture))
        assert not [element for element in tree.iter() if str(element.tag).endswith(("script", "image"))]


def test_every_median_difference_and_p_of_the_tables_is_in_the_page(results, page):
    text = plain(page)
    for row in results.medians.itertuples():
        assert f"{row.median:.3f}" in text and f"{row.low:.3f} to {row.high:.3f}" in text
    for row in results.comparisons.itertuples():
        for value in (row.mean_difference, row.median_difference):
            assert f"{value:+.3f}".replace("-", "−") in text
        assert report.p_text(row.p_holm) in text and report.p_text(row.p_two_sided) in text


@pytest.mark.parametrize(("p", "text"), [(0.00002, "< 0.0001"), (0.0312, "0.031"), (0.0049, "0.0049"), (1.0, "1.000")])
def test_a_p_is_never_shown_as_zero(p, text):
    assert report.p_text(p) == text


def test_every_image_is_accounted_for(results):
    found = report.accounting(results.ledger, results.excluded, results.images)
    assert found["complete"]
    totals, parts = [], []
    for _, count, level in found["rows"]:
        if level == 0:
            totals.append(count)
            parts.append(0)
        else:
            parts[-1] += count
    assert totals == [len(results.ledger) + 3, len(results.ledger), len(results.images)]
    assert totals[0] - parts[0] == totals[1] and totals[1] - parts[1] == totals[2] and parts[2] == totals[2]
    lost = report.accounting(results.ledger, results.excluded, results.images.iloc[1:])
    assert not lost["complete"]
    by_cohort = report.cohort_rows(results.images, results.ledger, results.excluded)
    assert sum(row["found"] for row in by_cohort) == totals[0]
    for row in by_cohort:
        used = sum(row[role] for role in ("train", "validation", "test", "unused"))
        assert row["found"] == row["left_out"] + row["failed"] + used


def test_a_page_whose_images_do_not_add_up_says_so(results, tmp_path, page):
    assert "do not add up" not in page
    lost = SimpleNamespace(**vars(results) | {"images": results.images.iloc[1:]})
    assert "do not add up" in page_of(lost, tmp_path)


def test_the_configuration_shown_is_the_configuration_and_marks_what_differs(results, page):
    lines = report.configuration_lines(results.config, results.defaults)
    assert yaml.safe_load("\n".join(line["text"] for line in lines)) == results.config
    differing = {line["text"].strip().split(":")[0]: line["paper"] for line in lines if line["differs"]}
    assert differing["study"] == "leonardsen2025" and differing["seed"] == "20251215"
    assert differing["replicates"] == "100" and "crop" not in differing
    assert page.count("<mark>") == len([line for line in lines if line["differs"]])
    assert all(not line["differs"] for line in report.configuration_lines(results.defaults, results.defaults))
    only_here = report.configuration_lines({"new": {"key": 1}}, {})
    assert [(line["text"], line["differs"], line["paper"]) for line in only_here] == [
        ("new:", True, None),
        ("  key: 1", True, None),
    ]


def test_given_weights_leave_the_overlap_unknown_unless_they_can_tell(tmp_path):
    results = make_results(("ad_hc",), (20,), 1, given=True, holdout=False, people=6)
    text = plain(page_of(results, tmp_path))
    assert "Unknown: whether participants of this study helped to make the given weights" in text
    assert "was not trained here: its weights were given" in text
    assert "nothing could be called better or worse" in text
    assert "0 helped to make the given weights" in plain(page_of(results, tmp_path, seen=set()))
    assert "may have seen people that it is tested on" in plain(page_of(results, tmp_path, seen={"a_1", "a_2"}))


def test_the_page_says_why_an_overlap_is_unknown_and_how_many_duplicates_there_are(tmp_path):
    results = make_results(("ad_hc",), (20,), 1, given=True, holdout=False, people=6)
    text = plain(page_of(results, tmp_path, unknown="there is no study key"))
    assert "helped to make the given weights: there is no study key." in text
    assert "Among 64,620 pairs of images, 1 of two participants look like the same scan and 2 like one head" in text


def test_overlap_is_not_a_question_where_pretraining_is_this_studys(page):
    assert "Unknown:" not in plain(page)


def test_mixed_versions_are_said(results, page):
    ours = results.weights | {"version": report.__version__}
    assert not report.mixed_versions(results.ledger, ours)
    assert report.mixed_versions(results.ledger, results.weights)
    ledger = results.ledger.copy()
    ledger.loc[0, "engine_version"] = "2"
    assert report.mixed_versions(ledger, ours)
    assert "Versions are mixed" in page


def test_how_often_a_setting_was_chosen_is_counted(results):
    for group in report.setting_groups(results.settings):
        mine = results.settings[results.settings["model"] == group["model"]]
        assert sum(row["chosen"] for row in group["rows"]) == group["fits"] == mine["chosen"].sum()
        assert sum(row["diverged"] for row in group["rows"]) == (mine["status"] == "diverged").sum()


def test_the_methods_follow_the_configuration(results):
    config = json.loads(json.dumps(results.config))
    text = " ".join(methods(config, "multitask", results.weights, config["tasks"]))
    assert "{100, 200, 300, 400, 500}" in text and "15 resamples" in text and "with 9, 3 and 3 settings" in text
    assert "(480 images of 300 participants)" in text and "Epoch 18 had the lowest validation loss" in text
    assert "average pooling" not in text and "mirrored at random" in text
    config["network"]["pooling"], config["pretrain"]["augmentation"]["mirror"] = "average", False
    config["resampling"]["n"], config["statistics"]["statistic"] = [33], "median"
    changed = " ".join(methods(config, "multitask", {}, config["tasks"]))
    assert "average pooling" in changed and "mirrored" not in changed and "{33}" in changed
    assert "median difference" in changed and "  " not in changed


# in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that keeps its console and its requests."""
    programs = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if not all(programs):
        if os.environ.get("CI") == "true":
            pytest.fail("chromium and chromedriver are missing, which .ci/run installs")
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", "disable-dev-shm-usage"]
    for flag in [*flags, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def open_page(browser, path: Path, *, width: int, theme: str = "light") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")


@pytest.fixture(scope="module")
def pages(results, page, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    hostile = make_results(("ad_hc",), (20,), 1, titles={"ad_hc": HOSTILE}, study=HOSTILE * 2, given=True, people=4)
    texts = {"whole": page, "hostile": page_of(hostile, folder)}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.browser
@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_a_browser_has_nothing_to_complain_of_and_asks_nobody(browser, pages, name):
    browser.get_log("browser"), browser.get_log("performance")
    open_page(browser, pages[name], width=1280)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)
    assert [url for url in asked if url.startswith("file://")] == [pages[name].as_uri()]
    assert browser.execute_script("return document.scripts.length") == 0
    sizes = browser.execute_script("return [...document.images].map(image => [image.naturalWidth, image.alt.length])")
    assert len(sizes) == 2 and all(width > 100 and alt > 30 for width, alt in sizes)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["whole", "hostile"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_is_never_wider_than_the_screen(browser, pages, name, width):
    open_page(browser, pages[name], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    beyond = """return [...document.querySelectorAll('body *')].filter(element => !element.closest('.scroll, pre, nav')
        && element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 80))"""
    assert browser.execute_script(beyond) == []


CONTRAST = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = element => { for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor); if (colour.length < 4 || colour[3] > 0) return colour; }
    return [255, 255, 255]; };
return [...document.querySelectorAll('body *')].filter(element => element.innerText
    && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).map(element => {
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), element.outerHTML.slice(0, 80)]; });
"""


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, theme):
    open_page(browser, pages["whole"], width=1280, theme=theme)
    ratios = browser.execute_script(CONTRAST)
    assert len(ratios) > 300
    assert [found for found in ratios if found[0] < 4.5] == []  # WCAG 2.2, 1.4.3 (AA)


@pytest.mark.browser
def test_the_theme_follows_the_readers_in_page_and_figures(browser, pages):
    shown = {}
    for theme in ("light", "dark"):
        open_page(browser, pages["whole"], width=1280, theme=theme)
        page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        corner = """const image = document.images[0], canvas = document.createElement('canvas');
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);
            return [...context.getImageData(2, 2, 1, 1).data]"""
        shown[theme] = page, browser.execute_script(corner)
    assert shown["light"] != shown["dark"]
    assert shown["light"][1] == [255, 255, 255, 255]
    assert max(shown["dark"][1][:3]) < 60
