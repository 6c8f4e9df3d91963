"""One small study, run once from scans to report, and shared read-only by all tests of this folder."""

import re
from pathlib import Path

import pytest
from runs import OVERLAYS, REPOSITORY, copy_of, finished_study


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The finished small study; never written to (tests that change something take `study`)."""
    return finished_study(tmp_path_factory, worker_id, "small-study", "--seed", 7, "--masks", overlays=OVERLAYS)


@pytest.fixture
def study(small_study: Path, tmp_path: Path) -> Path:
    """A copy of the finished small study that a test may break."""
    return copy_of(small_study, tmp_path / "study")


@pytest.fixture(scope="session")
def repository_rules() -> dict[str, str]:
    """The text of each rule in workflow/rules."""
    texts = {}
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for indent, name, text in re.findall(r"^( *)rule ?(\w*):\n((?:\1 +.*\n|\n)*)", path.read_text(), re.M):
            known = name or re.search(r'rule_for\("(\w+)"', text)[1]
            texts[known] = re.sub(f"^{indent}", "", text, flags=re.M)
    return texts
