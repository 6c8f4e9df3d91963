"""Whether this machine, its cluster and its disk have what the workflow needs: `neurotransfer doctor`.

Goes in: the configuration and a Snakemake profile.  Comes out: findings in a fixed order, each with a fix if something
will not work.  Nothing of the study is read or changed; only short questions are sent to Slurm and to the GPU.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..preprocess.engines.containers import BY_DIGEST, check_here, program_of, tagged_image
from ..study.rules import uses_gpu
from ..text import aligned, byte_size, printable

OK, NOTE, WRONG = "ok", "note", "WRONG"
SECONDS = 7.0  # for the answer of another program; no part asks more than two, and parts are looked at side by side
NO_PROGRAM, NOT_RUN, NO_ANSWER = 127, 126, 124  # exit statuses that a shell would give, too
LEAST_FREE = 5e9  # bytes of a disk, below which a run is sure to end early
LEAST_PYTHON = (3, 11)
NAME = r"[^\s,'\"|]+"  # of a partition
PARTITION = re.compile(rf"slurm_partition(?:=|: )['\"]*({NAME})")  # in a profile: pretrain:slurm_partition=gpu
PROFILES = ("config.yaml", "config.v*+.yaml", "profile.yaml", "profile.v*+.yaml")  # what Snakemake reads of a profile
NETWORK_DISKS = ("nfs", "nfs4", "lustre", "beegfs", "gpfs", "ceph", "panfs", "fuse.sshfs")


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is (ok, note, WRONG), and what to do if it is not ok."""

    part: str
    state: str
    what: str
    fix: str = ""


def examine(config: Mapping[str, Any], repository: Path, profile: Path | None) -> list[Finding]:
    """Look at everything.

    Parameters
    ----------
    config : the study's configuration, checked
    repository : the folder with requirements.lock
    profile : a profile of Snakemake, whose partitions are compared with Slurm's; None for none
    """
    needs_gpu = any(uses_gpu(rule, config) for rule in ("preprocess", "pretrain", "baseline", "transfer"))
    parts: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": lambda: _installation(repository),
        "Slurm": lambda: _slurm_of_profile(profile, needs_gpu),
        "preprocessing": lambda: _engine(config["preprocessing"]),
        "GPU": lambda: _gpu(needs_gpu),
        "folder": lambda: _disks(Path.cwd()),
    }
    with ThreadPoolExecutor(len(parts)) as pool:
        found = pool.map(_looked_at, parts, parts.values())
        return [finding for part in found for finding in part]


def _looked_at(part: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What was found; a broken machine must not end the examination of the other parts."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except Exception as error:
        what = f"it cannot be looked at: {type(error).__name__}: {_first(str(error))}"
        found.append(Finding(part, WRONG, what, "ask the staff, or report it with this line"))
    return found


def text(findings: Sequence[Finding]) -> str:
    """As text: a line for each finding, and a last one that counts those that are wrong."""
    cells = [[finding.state, finding.part, finding.what + (f"; {finding.fix}" if finding.fix else "")]
             for finding in findings]  # fmt: skip
    wrong = sum(finding.state == WRONG for finding in findings)
    last = (
        f"{wrong} of {len(findings)} will not work (docs/cluster.md)"
        if wrong
        else "nothing was found that will not work"
    )
    return f"{aligned(cells, 'lll')}\n\n{last}"


def _answer(*line: str) -> tuple[int, str]:
    """Exit status and text of a program; NO_PROGRAM if there is none, NO_ANSWER if it does not answer.

    A program that does not answer is killed with its process group.  One that hangs in a driver cannot be killed: it is
    left alone.
    """
    try:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        return NO_PROGRAM, f"there is no {line[0]}"
    except OSError as error:
        return NOT_RUN, f"{line[0]} cannot be executed: {error.strerror}"
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.5)
        return NO_ANSWER, f"{line[0]} gave no answer within {SECONDS:g} s"
    said = (out if process.returncode == 0 else err or out).strip()
    if process.returncode < 0 and not said:
        said = f"{line[0]} was ended by signal {-process.returncode}"
    return process.returncode, said


def _said_by(program: str, said: str) -> str:
    first = _first(said)
    return first if first.startswith(program) else f"{program}: {first}"


def _first(said: str) -> str:
    lines = said.strip().splitlines()
    return printable(" ".join(lines[0].split())[:160]) if lines else "no message"


# --- installation


def _installation(repository: Path) -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield Finding("Python", WRONG, version, "3.11 or newer is needed")
    else:
        yield Finding("Python", OK, f"{version}, {sys.executable}")
    missing, other, right = [], [], 0
    for name, pinned in _pins(repository / "requirements.lock"):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found.partition("+")[0] == pinned:
            right += 1
        else:
            other.append(f"{name} {found} (tested with {pinned})")
    needed = {re.split(r"[^\w.-]", line)[0].lower() for line in metadata.requires("neurotransfer") or []
              if "extra ==" not in line}  # fmt: skip
    lacking = sorted(name for name in missing if name.lower() in needed)
    if lacking:
        yield Finding("packages", WRONG, f"not installed: {', '.join(lacking)}", "run: make .venv/.installed")
    elif other:
        yield Finding("packages", NOTE, f"{right} as pinned; {', '.join(other[:5])}" + (", ..." if other[5:] else ""))
    else:
        optional = f"; not installed: {', '.join(sorted(missing))}" if missing else ""
        yield Finding("packages", OK, f"{right} as pinned{optional}")


def _pins(lock: Path) -> Iterator[tuple[str, str]]:
    """Names and versions in the lock, of those for this platform."""
    from packaging.requirements import Requirement

    for line in lock.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"[A-Za-z0-9_.-]+==[^\\]+", line):  # behind the backslash are hashes
            pin = Requirement(found[0].strip())
            if pin.marker is None or pin.marker.evaluate():
                yield pin.name, next(iter(pin.specifier)).version


# --- Slurm


def _slurm_of_profile(profile: Path | None, needs_gpu: bool) -> Iterator[Finding]:
    """Slurm and the profile; nothing that Slurm lacks is wrong if the profile does not use it."""
    if profile is None:
        yield from _slurm(None, needs_gpu)
        return
    path = _file_of_profile(profile)
    if path is None:
        what = f"{profile}: there is no profile" + (" in this folder" if profile.is_dir() else " of this name")
        yield Finding("profile", WRONG, printable(what), "give slurm, local, or the folder that holds its config.yaml")
        yield from _slurm(None, needs_gpu)
    elif _uses_slurm(path):
        yield from _slurm(path, needs_gpu)
    else:
        yield Finding("profile", OK, printable(f"{path}: it does not send jobs to Slurm"))
        for finding in _slurm(None, needs_gpu=False):
            yield replace(finding, state=NOTE, fix="the profile does not use it") if finding.state == WRONG else finding


def _file_of_profile(profile: Path) -> Path | None:
    """The file of a profile that is given by its folder or its file; None if there is none."""
    if profile.is_file():
        return profile
    return next((path for name in PROFILES for path in sorted(profile.glob(name), reverse=True)), None)


def _uses_slurm(path: Path) -> bool:
    """Whether jobs of a profile are sent to Slurm; also if it cannot be read, of which `_profile` says why."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return (content or {}).get("executor") == "slurm" or bool(PARTITION.search(yaml.safe_dump(content)))
    except (OSError, ValueError, RecursionError, AttributeError, yaml.YAMLError):
        return True


def _slurm(path: Path | None, needs_gpu: bool) -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding("Slurm", NOTE, "no sbatch here: jobs can run on this machine only", "on a cluster: log in there")
        return
    code, said = _answer("sinfo", "--noheader", "--format=%P|%G|%l")
    if code:
        yield Finding("Slurm", WRONG, _first(said), "ask the cluster's staff, or try again if the controller is away")
        return
    rows = [line.split("|") for line in said.splitlines() if re.fullmatch(rf"{NAME}\|[^|]*\|[^|]*", line)]
    if not rows:
        yield Finding("Slurm", WRONG, f"sinfo lists no partition ({_first(said)})", "ask the cluster's staff")
        return
    partitions = {row[0].rstrip("*"): row for row in rows}
    shown = ", ".join(f"{name} ({row[2]})" for name, row in list(partitions.items())[:6])
    yield Finding("Slurm", OK, printable(f"partitions {shown}"))
    if needs_gpu and not any("gpu" in row[1] for row in rows):
        what = "no partition has GPUs that Slurm counts (sinfo -o '%P %G')"
        yield Finding("GPUs of Slurm", WRONG, what, "ask the staff for a Gres, or set gpus: 0 in the configuration")
    if path is not None:
        yield from _profile(path, set(partitions))
    code, said = _answer("sacct", "--noheader", "--allocations", "--starttime=now")
    if code:
        what = _said_by("sacct", said)
        yield Finding("accounting", NOTE, what, "keep slurm-status-command: squeue; reasons of failures come from logs")
    else:
        yield Finding("accounting", OK, "sacct answers, so the profile may have slurm-status-command: sacct")


def _profile(path: Path, partitions: set[str]) -> Iterator[Finding]:
    """The partitions that a profile's file names and Slurm does not have."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = set(PARTITION.findall(yaml.safe_dump(content, allow_unicode=True)))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"{path}: it is not UTF-8 (byte {error.object[error.start]:#04x} in line {line})"
        yield Finding("profile", WRONG, what, "save it as UTF-8")
        return
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date that does not exist
        yield Finding("profile", WRONG, f"{path}: {_first(str(error))}", "give the folder of a profile")
        return
    if unknown := sorted(named - partitions):
        what = f"{path} names {', '.join(unknown)}, and Slurm has {', '.join(sorted(partitions))}"
        yield Finding("profile", WRONG, printable(what), "write your partitions into a copy of the profile")
    else:
        yield Finding("profile", OK, f"{path}: its partitions exist")


# --- the engine that preprocesses


def _engine(settings: Mapping[str, Any]) -> Iterator[Finding]:
    engine = settings["engine"]
    if engine != "fastsurfer":
        yield Finding("preprocessing", OK, f"engine {engine}, which needs no other program")
        return
    try:
        check_here(settings)
    except InputError as error:
        yield from _tag(settings)
        state = NOTE if shutil.which("sbatch") else WRONG  # the nodes may have what a login node lacks
        where = " (the nodes may have it)" if state == NOTE else ""
        yield Finding("FastSurfer", state, f"{error.file}: {error.what}{where}", error.fix)
        return
    yield from _tag(settings)
    program = program_of(settings["fastsurfer"])
    if settings["fastsurfer"]["runs_in"] == "native":
        yield Finding("FastSurfer", OK, program)
        return
    code, said = _answer(program, "info" if program == "docker" else "--version")
    if code:
        yield Finding("containers", WRONG, _said_by(program, said), "ask the staff whether you may run containers")
    elif program != "docker" and not re.search(r"\d+\.\d+", said):
        what = f"{program} --version says no version: {_first(said)}"
        yield Finding("containers", WRONG, what, "ask the staff, or load another module")
    else:
        yield Finding("containers", OK, f"{program} answers" if program == "docker" else _first(said))


def _tag(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """A note if the container's image is not named by its digest."""
    if image := tagged_image(settings):
        yield Finding("image", NOTE, f"{image} is a tag, behind which its registry may put another image", BY_DIGEST)


# --- GPU


def _gpu(needs_gpu: bool) -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a library that it needs is missing or of another machine
        yield Finding("torch", WRONG, f"it cannot be imported: {_first(str(error))}", "run: make .venv/.installed")
        return
    built = torch.version.cuda
    code, said = _answer("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    if code:
        state = NOTE if shutil.which("sbatch") or not needs_gpu else WRONG
        fix = "on a node: srun --gpus=1 neurotransfer doctor" if shutil.which("sbatch") else ""
        fix = fix or ("" if state == NOTE else "set gpus: 0 in the configuration, or run where a GPU is")
        what = f"none on this machine ({_first(said)})"
        if code != NO_PROGRAM:
            what = f"the driver does not work: {_first(said)}"
            fix = "ask the staff, or restart the machine" + (f"; {fix}" if fix else "")
        yield Finding("GPU", state, what, fix)
        if needs_gpu and built is None:
            what = f"torch {torch.__version__} is built without CUDA, and jobs use a GPU"
            yield Finding("torch", WRONG, what, "install torch's CUDA build into this environment")
        else:
            yield Finding("torch", OK, f"{torch.__version__}" + (f", CUDA {built}" if built else ", without CUDA"))
        return
    if not said:
        yield Finding("GPU", WRONG if needs_gpu else NOTE, "nvidia-smi lists no GPU", "ask the staff")
    else:
        yield Finding("GPU", OK, "; ".join(_first(line) for line in said.splitlines()[:4]))
    if not torch.cuda.is_available():
        what = f"torch {torch.__version__} ({f'CUDA {built}' if built else 'built without CUDA'}) finds no GPU"
        fix = "update the driver, or install the build of torch for it" if built else "install torch's CUDA build"
        yield Finding("torch", WRONG, what, fix)
        return
    yield Finding("torch", OK, f"{torch.__version__}, CUDA {built}, cuDNN {torch.backends.cudnn.version()}")
    from ..network.kernel_choice import COST, missing_for_kernels

    reason = missing_for_kernels(torch.device("cuda", 0))
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if reason is None:
        yield Finding("fused kernels", OK, f"they compile ({compiler or 'from the cache'}) and give torch's results")
    else:
        yield Finding("fused kernels", NOTE, f"not used, because {reason}", COST)


# --- disks


def _disks(folder: Path) -> Iterator[Finding]:
    try:
        _try_files(folder)
    except OSError as error:
        what = f"{folder}: {error.strerror or error}"
        yield Finding("folder", WRONG, what, "use a folder in which files can be made, renamed and locked")
    else:
        yield _usable(folder)
    yield from _space("disk", folder)
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        fix = "free some, or set TMPDIR to a folder in which files can be made"
        yield Finding("temporary files", WRONG, str(error.strerror or error), fix)
    else:
        yield from _space("temporary files", temporary)
    code, said = _answer("quota", "--show-mntpoint", "--hide-device")
    ask = "ask the staff for limits of bytes and files"
    if code == NO_PROGRAM:
        yield Finding("quota", NOTE, "there is no quota command here", ask)
    elif code in (NOT_RUN, NO_ANSWER):
        yield Finding("quota", NOTE, _first(said), ask)
    elif code:
        yield Finding("quota", WRONG, _said_by("quota", said), "free some, or ask for more")
    else:
        yield Finding("quota", OK, _first(said) if said else "no limit")


def _usable(folder: Path) -> Finding:
    kind = _file_system(folder)
    note = ", on the network" if kind in NETWORK_DISKS else ""
    return Finding("folder", OK, f"{folder}: files can be made, renamed and locked ({kind or 'unknown kind'}{note})")


def _space(name: str, path: Path) -> Iterator[Finding]:
    """Whether bytes and files are left on the disk of a folder."""
    try:
        free, facts = shutil.disk_usage(path).free, os.statvfs(path)
    except OSError as error:
        yield Finding(name, WRONG, f"{path}: {error.strerror or error}", "choose another folder")
        return
    inodes = f", {facts.f_favail:,} files" if facts.f_files else ""
    if free < LEAST_FREE:
        yield Finding(name, WRONG, f"{byte_size(free)} free in {path}", "free some; `plan` says what is needed")
    elif facts.f_files and facts.f_favail < 100_000:
        yield Finding(name, WRONG, f"{facts.f_favail:,} more files can be made in {path}", "ask for more inodes")
    else:
        yield Finding(name, OK, f"{byte_size(free)}{inodes} free in {path}")


def _try_files(folder: Path) -> None:
    """Make, lock, rename and remove a file in a folder.

    Raises
    ------
    OSError
        if one of these is not possible
    """
    handle, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(b"x")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fsync(file.fileno())
        path = path.replace(path.with_name(path.name + ".renamed"))
    finally:
        path.unlink(missing_ok=True)


def _file_system(folder: Path) -> str | None:
    """The kind of file system under a folder, by Linux's list of mounts; None if it is not known."""
    best, kind = -1, None
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, mount, found, *_ = line.split()
        if folder.resolve().is_relative_to(mount.replace("\\040", " ")) and len(mount) > best:
            best, kind = len(mount), found
    return kind
