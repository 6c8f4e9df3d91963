"""No job and no command imports a large library that it does not use: its import is most of a short job's time."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import REPOSITORY

SCRIPTS = REPOSITORY / "workflow/scripts"
LIBRARY = SCRIPTS / "neurotransfer"
LARGE = {"torch", "scipy.stats", "matplotlib", "sklearn", "nibabel", "snakemake", "onnx", "onnxruntime"}
# what each script uses, itself or through the library
USES = {
    **{name: {"torch"} for name in ("adopt", "pretrain", "evaluate", "features", "best", "final")},
    **{name: {"torch"} for name in ("baseline", "transfer", "second_seed")},
    "cache": {"nibabel"},
    "preprocess": {"nibabel"},
    "predict": {"torch", "nibabel"},
    "linear": {"sklearn"},
    "aggregate": {"sklearn"},
    "compare": {"sklearn"},
    "certificate": {"sklearn"},
    "confounding": {"sklearn"},
    "classifiers": {"sklearn"},
    "quality_page": {"nibabel"},
    "figures": {"matplotlib", "sklearn"},
    "report": {"torch", "sklearn"},
}


def file_of(parts: tuple[str, ...]) -> Path | None:
    """The file of a module of the library, by its path below ``neurotransfer``."""
    path = LIBRARY.joinpath(*parts)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if parts and file.is_file()), None)


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not those within functions, or for the type checker alone."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def imports(path: Path, *, functions_too: bool) -> Iterator[Path | str]:
    """What a file imports: files of the library, and names of other packages."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(LIBRARY).parts[:-1] if path.is_relative_to(LIBRARY) else ()
    for node in ast.walk(tree) if functions_too else run_at_import(tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in (alias.name.partition(".")[0], alias.name))
        elif isinstance(node, ast.ImportFrom):
            parts = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                parts = (*package[: len(package) - node.level + 1], *parts)
            elif parts[0] == "neurotransfer":
                parts = parts[1:]
            else:
                yield from (parts[0], ".".join(parts), *(f"{'.'.join(parts)}.{alias.name}" for alias in node.names))
                continue
            for known in (parts, *((*parts, alias.name) for alias in node.names)):
                if found := file_of(known):
                    yield found


def large_packages(path: Path) -> set[str]:
    """The large packages that a script imports, itself or through modules of the library."""
    found: set[str] = set()
    seen: set[Path] = set()
    waiting = [(path, True)]
    while waiting:
        file, functions_too = waiting.pop()
        for name in imports(file, functions_too=functions_too):
            if isinstance(name, str):
                found.add(name)
            elif name not in seen:
                seen.add(name)
                waiting.append((name, False))
    found &= LARGE
    return found - {"scipy.stats"} if "sklearn" in found else found  # which imports it itself


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_a_job_imports_no_large_package_that_it_does_not_use(script):
    assert large_packages(SCRIPTS / f"{script}.py") == USES.get(script, set())


def test_the_console_command_starts_with_the_standard_library_alone():
    """Its help takes a twentieth of a second."""
    code = "import sys; from neurotransfer.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "neurotransfer" in loaded and not loaded & (LARGE | {"numpy", "pandas", "scipy", "yaml"})
