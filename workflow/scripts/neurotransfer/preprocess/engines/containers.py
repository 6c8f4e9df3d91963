"""How a program in a container is run: by Apptainer (or Singularity) or Docker, or without one.

Goes in: what the program needs to see.  Comes out: a list of arguments, never a line for a shell.  Inside, every
path is one of ours: the folder that is written is /output, and an odd name outside stays outside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InstallationError
from ...study.container_names import is_file_reference, is_fixed
from ...study.demands import has_gpu

BY_DIGEST = "set preprocessing.fastsurfer.image to name@sha256:... or to a .sif file (SECURITY.md)"
OUTPUT = "/output"
UNSAFE = frozenset(':,"\\')  # what the syntax of binds gives a meaning of its own


@dataclass(frozen=True)
class Bind:
    """A file or folder outside, and its path in the container; only the output folder is written."""

    source: Path
    target: str
    read_only: bool = True


def check_here(settings: Mapping[str, Any]) -> None:
    """Look whether this machine has what the configuration names for FastSurfer; nothing for other engines.

    Parameters
    ----------
    settings : the configuration's `preprocessing`

    Raises
    ------
    InstallationError
        for a program, an image's file or a licence that is not there
    """
    if settings["engine"] != "fastsurfer":
        return
    own = settings["fastsurfer"]
    program = program_of(own)
    if shutil.which(program) is None:
        key = "script" if own["runs_in"] == "native" else "runs_in"
        what = f"there is no program {program} on this machine"
        fix = "install it or load its module where the jobs run, or change the key"
        raise InstallationError(f"preprocessing.fastsurfer.{key}", "", what, fix)
    is_file = own["image"] and own["runs_in"] != "native" and is_file_reference(own["image"])
    for key, needed in (("image", is_file), ("license", own["license"])):
        if needed and not Path(own[key]).expanduser().exists():
            what = f"there is no {own[key]} on this machine"
            fix = "correct the path, put the file where the jobs run, or write null"
            raise InstallationError(f"preprocessing.fastsurfer.{key}", "", what, fix)


def program_of(own: Mapping[str, Any]) -> str:
    """The program that is started: FastSurfer's script, or what runs its container (`preprocessing.fastsurfer`)."""
    if own["runs_in"] != "native":
        return own["runs_in"]
    return str(Path(own["script"]).expanduser()) if own["script"] else "run_fastsurfer.sh"


def is_bindable(path: Path) -> bool:
    """Whether a path can be bound by every version of these programs."""
    return not UNSAFE & set(str(path))


def image_reference(given: str | None, version: str, gpu: bool) -> str:
    """The image: what the configuration names, or FastSurfer's official one for this version and device."""
    return given or f"deepmi/fastsurfer:{'cuda' if gpu else 'cpu'}-v{version}"


def tagged_image(settings: Mapping[str, Any]) -> str | None:
    """The image of FastSurfer, if its name is a tag, behind which a registry may put another image; else None.

    Parameters
    ----------
    settings : the configuration's `preprocessing`
    """
    own = settings["fastsurfer"]
    if settings["engine"] != "fastsurfer" or own["runs_in"] == "native":
        return None
    image = image_reference(own["image"], own["version"], has_gpu(settings))
    return None if is_fixed(image) else image


def apptainer(
    program: str, image: str, command: Sequence[str], binds: Sequence[Bind], *, gpu: bool
) -> tuple[list[str], dict[str, str]]:
    """The arguments that run `command` in an image, and the environment that reaches it there.

    `program` is apptainer or singularity, which take the same options.  ``-e`` keeps the job's environment out;
    the variables named here are let through all the same.
    """
    if is_file_reference(image):
        image = str(Path(image).expanduser())
    elif "://" not in image:
        image = f"docker://{image}"
    line = [program, "exec", *(["--nv"] if gpu else []), "--no-mount", "home,cwd", "-e"]
    for bind in binds:
        line += ["-B", f"{bind.source}:{bind.target}" + (":ro" if bind.read_only else "")]
    inside = {"TMPDIR": f"{OUTPUT}/tmp"} | ({"CUDA_VISIBLE_DEVICES": gpu_of_job()} if gpu else {})
    prefix = "APPTAINERENV_" if program == "apptainer" else "SINGULARITYENV_"
    return [*line, image, *command], {prefix + name: value for name, value in inside.items()}


def docker(
    image: str,
    arguments: Sequence[str],
    binds: Sequence[Bind],
    *,
    gpu: str | None,
    name: str,
    cores: Collection[int] = (),
) -> list[str]:
    """The arguments that run the image's own entry point with `arguments`, as this user and with their groups.

    The daemon is no child of the job, so the line names the cores and the GPU (by its UUID; None: without one) of the
    job.
    """
    line = ["docker", "run", "--rm", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}"]
    for group in sorted(set(os.getgroups()) - {os.getgid()}):  # data may be readable by a group only
        line += ["--group-add", str(group)]
    if gpu:
        line += ["--gpus", f"device={gpu}"]
    if cores:
        line += ["--cpuset-cpus", ",".join(map(str, sorted(cores)))]
    for bind in binds:  # -v would make an empty folder of a source that is not there
        mount = f"type=bind,source={bind.source},target={bind.target}"
        line += ["--mount", mount + (",readonly" if bind.read_only else "")]
    return [*line, "--env", f"TMPDIR={OUTPUT}/tmp", image, *arguments]


def gpu_memory_mb() -> int | None:
    """Memory of the job's first GPU; None if nvidia-smi is not there or does not say."""
    printed, _ = _nvidia_smi("--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", gpu_of_job())
    found = re.match(r"\s*(\d+)\s", printed)
    return int(found[1]) if found else None


def gpu_of_job() -> str:
    """The first of the GPUs that the job was given, as its scheduler names it; without one, the machine's first.

    FastSurfer uses one GPU, and all that it sees if nothing limits it.
    """
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def gpu_uuid(name: str) -> str:
    """A name of a GPU that means the same one to a daemon outside of the job.

    Slurm shows a job its own devices only, and numbers them from 0, so a number means another GPU to Docker's daemon.
    ``nvidia-smi``, which sees what the job sees, knows the number's UUID.

    Parameters
    ----------
    name : a number, or a UUID (GPU-… or MIG-…), which stays as it is

    Raises
    ------
    InstallationError
        if nvidia-smi is not there, or lists no GPU of this number
    """
    if not name.isdigit():
        return name
    listed, problem = _nvidia_smi("--query-gpu=index,uuid", "--format=csv,noheader")
    found = dict(re.findall(r"^\s*(\d+)\s*,\s*(\S+)", listed, re.MULTILINE))
    if name not in found:
        what = f"nvidia-smi does not list the job's GPU {name} ({' '.join(problem.split())[:200] or 'no GPU'})"
        raise InstallationError("docker", "", what, "send the job to a node with a GPU, or set preprocessing.gpus to 0")
    return found[name]


def _nvidia_smi(*options: str) -> tuple[str, str]:
    """Output of nvidia-smi, and its error messages or the reason why it did not run."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr or done.stdout
