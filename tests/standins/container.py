"""The common part of the stand-ins for Apptainer and Docker: images, and paths inside the container."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PATHS = ("--t1", "--sd", "--fs_license")
SCRIPT = Path(__file__).with_name("run_fastsurfer.sh")


def fail(message: str, status: int = 255) -> None:
    """Print to standard error and end."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


def version_of(image: str) -> str | None:
    """The version of FastSurfer in an image, from its name, as in the official ones."""
    found = re.search(r"(\d+\.\d+\.\d+)", image.rpartition("/")[2])
    return found[1] if found else None


def seen_from_outside(arguments: list[str], binds: dict[str, tuple[str, bool]]) -> list[str]:
    """Arguments with the container's paths replaced by the host's; unbound paths point nowhere."""
    found = list(arguments)
    for at, argument in enumerate(arguments[:-1]):
        if argument in PATHS:
            found[at + 1] = _outside(arguments[at + 1], binds, written=argument == "--sd")
    return found


def _outside(path: str, binds: dict[str, tuple[str, bool]], written: bool) -> str:
    for target, (source, read_only) in binds.items():
        if path == target or path.startswith(f"{target}/"):
            if written == read_only:
                fail(f"{path}: bound {'read-only' if read_only else 'writable'}, which is not how it is used")
            if path == target and Path(source).is_file():  # inside, it has the target's name
                link = Path(tempfile.mkdtemp(dir=os.environ["STANDIN_CACHE"])) / Path(target).name
                link.symlink_to(source)
                return str(link)
            return source + path[len(target) :]
    return f"/nowhere/in/the/container{path}"


def environment(version: str, passed: dict[str, str]) -> dict[str, str]:
    """The program's environment: the image's (PATH and the stand-in's variables), and the variables passed on."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("STANDIN_")}
    return kept | {"STANDIN_VERSION": version} | passed


def call(arguments: list[str], version: str, passed: dict[str, str], **how) -> subprocess.Popen:
    """Start the script inside."""
    return subprocess.Popen([str(SCRIPT), *arguments], env=environment(version, passed), **how)
