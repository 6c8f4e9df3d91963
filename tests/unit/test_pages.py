"""Every page has one base: one policy that forbids all but its own script, and one environment that escapes."""

import base64
import hashlib
import re
from pathlib import Path

import jinja2
import pytest
from neurotransfer import pages
from neurotransfer.report.colours import PUBLISHED
from neurotransfer.report.page import LARGEST_SHEET, SHEETS

PARTS = sorted(path.name for path in pages.TEMPLATES.glob("part_*.html.j2"))  # which pages include or import
PAGES = sorted({path.name for path in pages.TEMPLATES.glob("*.html.j2")} - {"base.html.j2", *PARTS})
FORBIDDEN = r"<head>|<meta http-equiv|<script(?! type=\"application/json\")|\son[a-z]+=|javascript:"
HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }}"


def test_there_are_the_five_pages():
    assert {f"{name}.html.j2" for name in ("certificate", "preview", "quality", "rehearsal", "report")} <= set(PAGES)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_page_has_no_script_and_escapes_everything(name):
    text = (pages.TEMPLATES / name).read_text()
    assert not re.search(FORBIDDEN, text) and "|safe" not in text


@pytest.mark.parametrize("name", PAGES)
def test_a_page_takes_head_policy_and_script_from_the_base(name):
    text = (pages.TEMPLATES / name).read_text()
    assert text.startswith('{% extends "base.html.j2" %}')
    assert not re.search(FORBIDDEN, text)
    # the data of the quality page are JSON without "<"; nothing else is left as it is
    assert re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}", text) == (
        ["{{ data|safe }}"] if name == "quality.html.j2" else []
    )


@pytest.mark.parametrize("script", [None, "report.js", "quality.js"])
def test_text_is_escaped_and_only_the_named_script_may_run(monkeypatch, script):
    template = '{% extends "base.html.j2" %}{% block title %}{{ study }}{% endblock %}'
    template += "{% block body %}{{ study }}{% endblock %}"
    loaders = [jinja2.DictLoader({"page": template}), jinja2.FileSystemLoader(pages.TEMPLATES)]
    monkeypatch.setattr(pages._environment(), "loader", jinja2.ChoiceLoader(loaders))
    page = pages.render({"study": HOSTILE}, "page", script)
    assert page.count("&lt;script&gt;alert(1)") == 2 and "<img" not in page and "{{ 7 * 7 }}" in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = re.findall(r"sha256-([^']+)'", policy)
    assert digests == allowed and len(digests) == (script is not None)
    assert policy.startswith("default-src 'none'")


# classes that the library gives: a verdict's kind, a figure's sheet of paper, and the overlay in a drawing
GIVEN = {"better", "worse", "maybe", "none", *SHEETS, LARGEST_SHEET, PUBLISHED}


JINJA = re.compile(r"\{[{%#].*?[%}#]\}", re.S)


def style_and_body(path: Path) -> tuple[str, str]:
    """A template's CSS, and its HTML with the strings of its expressions in their place."""
    text = path.read_text(encoding="utf-8")
    if path.name.endswith(".css.j2"):
        style, body = text, ""
    else:
        before, _, rest = text.partition("{% block style %}")
        style, _, after = rest.partition("{% endblock %}")
        body = before + after
    body = JINJA.sub(lambda found: " ".join(re.findall(r'"([^"]*)"', found[0])), body)
    return re.sub(r"/\*.*?\*/", "", JINJA.sub("", style), flags=re.S), body


def test_every_rule_is_for_a_class_of_a_page_and_every_class_has_one():
    templates = [style_and_body(path) for path in sorted(pages.TEMPLATES.glob("*.j2"))]
    style, body = map("\n".join, zip(*templates, strict=True))
    selectors = " ".join(re.findall(r"([^{};]*)\{", style))
    rules = set(re.findall(r"\.([a-z][\w-]*)", selectors))
    classes = {name for value in re.findall(r'\bclass="([^"]*)"', body) for name in value.split()}
    script = "\n".join(path.read_text(encoding="utf-8") for path in pages.TEMPLATES.glob("*.js"))
    lines = [line for line in script.splitlines() if "class" in line]
    made = {name for line in lines for value in re.findall(r'"([^"]*)"', line) for name in value.split()}
    found_by = set(re.findall(r"\.([a-z][\w-]*)", " ".join(re.findall(r'"[^"]*"', script))))
    assert {"stack", "overlaid", "whisker", "large"} <= rules and {"stack", "beside", "inorder"} <= classes
    assert sorted(rules - classes - made - GIVEN) == []
    assert sorted(classes - rules - found_by) == []


def test_the_colours_of_all_pages_stand_in_one_place():
    """Except for black around pictures and behind a dialog."""
    colours = {
        path.name: set(re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl|oklch)a?\([^)]*\)", style_and_body(path)[0]))
        for path in pages.TEMPLATES.glob("*.j2")
    }
    assert {"#f6f8fa", "#0d1117"} <= colours.pop("palette.css.j2")  # the page, light and dark
    for name, found in colours.items():
        assert found <= {"#000", "rgb(0 0 0 / .7)"}, name
    texts = {path.name: path.read_text(encoding="utf-8") for path in pages.TEMPLATES.glob("*.j2")}
    whole = [name for name, text in texts.items() if 'extends "base.html.j2"' in text]
    assert len(whole) == 5
    for name in whole:
        assert "palette.css.j2" in texts[name] or "style.css.j2" in texts[name], name
