"""The documentation names only what exists: links, headings, files, commands and their options, `make` targets."""

import re
import tomllib
from pathlib import Path

import neurotransfer
import pytest
import yaml
from neurotransfer import cli
from runs import REPOSITORY

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "config/README.md", "benchmarks/README.md")
    for page in REPOSITORY.glob(pattern)
)
FOLDERS = ("workflow", "docs", "tests", "config", "benchmarks", "profiles", "envs")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
LIBRARY = REPOSITORY / "workflow/scripts/neurotransfer"
MADE_BY_USERS = {"config/withdrawn.tsv", "config/same_people.tsv", "config/study.key", "envs/neurotransfer.sif"}


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them from its headings."""
    lines = [line.lstrip("#").strip() for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = [first or second for first, second in LINK.findall(text)]
    return [link for link in found if not link.startswith(("http:", "https:", "mailto:"))]


def commands() -> list[tuple[Path, str]]:
    """Every mention of the console command, in code or in a block of lines to copy."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            texts = [line] if line.startswith("    ") else CODE.findall(line)
            found += [(page, text.strip()) for text in texts if text.strip().startswith("neurotransfer ")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    for text in CODE.findall(page.read_text()):
        if re.fullmatch(r"[\w./+-]+", text) and text.split("/")[0] in FOLDERS and "/" in text:
            assert text in MADE_BY_USERS or (REPOSITORY / text).exists(), f"{text}: there is no such file"
        elif re.fullmatch(r"\w+/\w+\.py", text):  # a module of the library, by room
            assert (LIBRARY / text).exists() or (REPOSITORY / text).exists(), f"{text}: there is no such module"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_that_are_named_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^    )make (?:[A-Z]+=\S+ )*([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_every_page_can_be_reached_from_the_index():
    index = REPOSITORY / "docs/README.md"
    reached = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)} | {index}
    assert set(PAGES) <= reached


def test_commands_and_options_that_are_named_exist(capsys):
    found = commands()
    assert len(found) > 20
    for page, text in found:
        words = re.split(r"\s+(?=#)|\s*[;&|]|\s--\s", text)[0].split()[1:]  # after -- stand options of Snakemake
        if not words or not re.fullmatch(r"[a-z-]+", words[0]):
            continue
        command = words[:2] if words[0] == "weights" else words[:1]
        if words[0].startswith("--"):
            command = []
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, "--help"])
        assert ended.value.code == 0, f"{name_of(page)}: {text}"
        shown = capsys.readouterr().out
        for option in (word.partition("=")[0] for word in words if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"{name_of(page)}: {text}: no {option}"


def test_one_version_is_stated_everywhere():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert citation["version"] == neurotransfer.__version__
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "neurotransfer.__version__"}
    assert f"## {neurotransfer.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_hooks_run_programs_that_the_lock_pins():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lock = (REPOSITORY / "requirements-dev.lock").read_text()
    for hook in hooks:
        program = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert program == "python" or f"\n{program}==" in lock, hook["id"]


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_test_that_a_page_names_exists(page):
    known = {path.name for path in (REPOSITORY / "tests").rglob("*.py")}
    named = {text for text in CODE.findall(page.read_text()) if re.fullmatch(r"test_\w+\.py", text)}
    assert named <= known
