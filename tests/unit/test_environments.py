"""One set of versions for the virtual environment, conda and containers."""

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from runs import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((REPOSITORY / "envs/neurotransfer.yaml").read_text())["dependencies"]
APPTAINER = (REPOSITORY / "envs/neurotransfer.def").read_text()
DOCKER = (REPOSITORY / "envs/Dockerfile").read_text()
PYTHON = next(word.partition("=")[2] for word in CONDA if isinstance(word, str) and word.startswith("python="))


LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-cuda.lock")
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([\w.+]+)(?: ;[^\\]*)?((?: \\\n {4}--hash=sha256:[0-9a-f]{64})+)")


def pins(*locks: str) -> dict[str, str]:
    """Versions by name, of every package in these locks; each has a hash at least."""
    found: dict[str, str] = {}
    for lock in locks:
        text = "".join(
            line for line in (REPOSITORY / lock).read_text().splitlines(keepends=True) if not line.startswith("#")
        )
        assert not PIN.sub("", text).strip(), "a line that pins no version, or has no hash"
        found |= {match[1].lower().replace("_", "-"): match[2] for match in PIN.finditer(text)}
    return found


def test_the_locks_pin_every_package_that_the_project_asks_for_at_a_version_that_it_takes():
    extras = [*map(Requirement, (name for extra in PROJECT["optional-dependencies"].values() for name in extra))]
    needed = [*map(Requirement, PROJECT["dependencies"])]
    for locked, requirements in ((pins("requirements.lock"), needed), (pins(*LOCKS), extras)):
        for requirement in requirements:
            assert locked[requirement.name.lower()] in requirement.specifier, requirement


def test_what_runs_needs_no_package_of_the_tests():
    """pip installs the locks without looking for dependencies, so that each must be in them."""
    runtime, tests = pins("requirements.lock"), pins("requirements-dev.lock")
    assert not runtime.keys() & tests.keys() and {"pytest", "selenium", "hypothesis"} <= tests.keys()
    for name in runtime:
        try:
            required = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        for requirement in map(Requirement, required):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert requirement.name.lower().replace("_", "-") in pins(*LOCKS).keys() - tests.keys() | {"triton"}, (
                    name
                )


def test_pip_refuses_a_file_that_has_changed(tmp_path):
    """A package of one file, in a folder that takes the place of the index."""
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "--no-deps"]
    command += ["--isolated", "--require-hashes", "--target", str(tmp_path / "there"), "-r", str(tmp_path / "lock")]
    for content, taken in (("a = 1", True), ("a = 2", False)):
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("small.py", content)
            file.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
            file.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr("small-1.0.dist-info/RECORD", "")
        if taken:
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            (tmp_path / "lock").write_text(f"small==1.0 \\\n    --hash=sha256:{digest}\n")
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) is taken, done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_every_installation_asks_for_the_hashes_and_for_no_package_of_the_tests():
    pip = CONDA[-1][
        "pip"
    ]  # conda's pip asks for hashes, because the locks have them; the paths are relative to the file
    assert pip == ["--requirement ../requirements.lock", "--requirement ../requirements-cuda.lock"]
    for text in (APPTAINER, DOCKER):
        command = " ".join(re.search(r"python -m pip install((?:.*\\\n)*.*)", text)[1].replace("\\\n", " ").split())
        locks = "--requirement /opt/requirements.lock --requirement /opt/requirements-cuda.lock"
        assert command == f"--no-cache-dir --require-hashes --no-deps {locks}"
        assert re.search(r"python:(\d+\.\d+)-slim-\w+", text)[1] == PYTHON
    bases = [
        re.search(r"^(?:From:|FROM) python.*@(sha256:[0-9a-f]{64})$", text, re.M)[1] for text in (APPTAINER, DOCKER)
    ]
    assert bases[0] == bases[1]
    assert re.search(r"^USER (?!root)\w+$", DOCKER, re.M)
    assert "--require-hashes --no-deps --requirement" in (REPOSITORY / "Makefile").read_text()
    assert PYTHON in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("build", [APPTAINER, DOCKER], ids=["Apptainer", "Docker"])
def test_a_container_adds_nothing_that_the_lock_does_not_pin(build):
    assert len(re.findall(r"pip3? install", build)) == 1
    assert not re.search(r"apt(-get)? |conda |curl |wget ", build)
