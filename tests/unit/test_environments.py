"""One set of versions for the virtual environment, conda and containers."""

import re
import tomllib

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


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    found = [
        re.fullmatch(r"([A-Za-z0-9_.-]+)==([\w.+]+)(?: *;.*)?", line) for line in lines if line[:1] not in ("", "#")
    ]
    assert all(found), "a line that pins no version"
    return {match[1].lower().replace("_", "-"): match[2] for match in found}


def test_the_lock_pins_every_package_that_the_project_asks_for_at_a_version_that_it_takes():
    locked = pins()
    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(name for extra in extras for name in extra)]):
        assert locked[requirement.name.lower()] in requirement.specifier, requirement


def test_conda_and_containers_install_the_lock_into_one_python():
    assert {"pip": ["--requirement ../requirements.lock"]} in CONDA  # relative to the file, as conda takes it
    for text, copied in (
        (APPTAINER, "requirements.lock /opt/requirements.lock"),
        (DOCKER, "COPY requirements.lock /opt/"),
    ):
        assert copied in text
        assert "pip install --no-cache-dir --requirement /opt/requirements.lock" in text
        assert re.search(r"^(?:From:|FROM) python:(\d+\.\d+)-slim-\w+$", text, re.M)[1] == PYTHON
    assert PYTHON in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("build", [APPTAINER, DOCKER], ids=["Apptainer", "Docker"])
def test_a_container_adds_nothing_that_the_lock_does_not_pin(build):
    assert len(re.findall(r"pip3? install", build)) == 1
    assert not re.search(r"apt(-get)? |conda |curl |wget ", build)
