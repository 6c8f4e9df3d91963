"""What may import what: the library's rooms, and the folders of tests, benchmarks and what both share.

A room imports from rooms before it in the order of the data, never from a later one.
"""

import ast
import re
from pathlib import Path

import pytest
from runs import REPOSITORY

LIBRARY = REPOSITORY / "workflow/scripts/neurotransfer"
GROUND = ("errors", "files", "seeds", "text", "pages")  # imported by every room
ROOMS = (
    *("study", "jobs", "manifest", "preprocess", "cache", "quality", "split", "network", "pretrain", "fit"),
    *("exchange", "predict", "statistics", "report", "operations", "simulation", "validation"),
)
ROOF = "cli"  # imports from every room
HEIGHT = {**dict.fromkeys(("", *GROUND), 0), **{room: at for at, room in enumerate(ROOMS, start=1)}, ROOF: 99}


def imported(path: Path) -> set[tuple[str, ...]]:
    """The modules of the library that a file imports from, each as its path below ``neurotransfer``."""
    package = path.relative_to(LIBRARY).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            parts = tuple(node.module.split(".")) if node.module else ()
            found |= {(*base, *parts, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "neurotransfer":
            found |= {(*node.module.split(".")[1:], alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("neurotransfer.")
            }
    return found


def room_of(module: tuple[str, ...]) -> str:
    """The room or the module of the ground floor; "" for a name of the package itself, such as ``__version__``."""
    return module[0] if module and module[0] in HEIGHT else ""


def test_every_folder_is_a_known_room_and_every_file_beside_them_is_on_the_ground_floor():
    folders = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    files = {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"}
    assert folders == set(ROOMS)
    assert files == {*GROUND, ROOF}
    assert not any(path.read_text() for path in LIBRARY.glob("*/__init__.py"))


@pytest.mark.parametrize("room", [*GROUND, *ROOMS])
def test_a_room_imports_nothing_from_a_later_one(room):
    paths = [LIBRARY / f"{room}.py"] if room in GROUND else sorted((LIBRARY / room).rglob("*.py"))
    assert paths
    upward = [
        f"{path.relative_to(LIBRARY)} imports {'.'.join(module)}"
        for path in paths
        for module in sorted(imported(path))
        if HEIGHT[room_of(module)] > HEIGHT[room]
    ]
    assert not upward, "\n".join(upward)


def test_the_picture_in_the_documentation_has_every_room_in_order():
    picture = (REPOSITORY / "docs/architecture.md").read_text().split("## The life")[0]
    assert tuple(re.findall(r"[a-z]+", re.search(r"stages +(.*?)│", picture, re.DOTALL)[1])) == ROOMS
    assert tuple(re.search(r"ground floor  (.*)", picture)[1].split()) == GROUND


def outside_names(path: Path) -> set[str]:
    """The first names of the modules that a file imports by absolute name."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names}


def importable_names(folder: str) -> set[str]:
    """The names under which the modules of a folder can be imported: its own, and those of its files."""
    return {folder, *(path.stem for path in (REPOSITORY / folder).rglob("*.py"))} - {"conftest", "__init__"}


@pytest.mark.parametrize(("folder", "other"), [("tests", "benchmarks"), ("benchmarks", "tests")])
def test_tests_and_benchmarks_share_only_the_library_and_the_workbench(folder, other):
    paths = sorted((REPOSITORY / folder).rglob("*.py"))
    assert paths
    foreign = importable_names(other) - importable_names(folder)
    crossing = [f"{path.name} imports {name}" for path in paths for name in sorted(outside_names(path) & foreign)]
    assert not crossing, "\n".join(crossing)


def test_the_workbench_and_the_library_import_neither_tests_nor_benchmarks():
    foreign = importable_names("tests") | importable_names("benchmarks")
    paths = [*(REPOSITORY / "workbench").glob("*.py"), *(REPOSITORY / "workflow/scripts").rglob("*.py")]
    crossing = [f"{path.name} imports {name}" for path in paths for name in sorted(outside_names(path) & foreign)]
    assert not crossing, "\n".join(crossing)
