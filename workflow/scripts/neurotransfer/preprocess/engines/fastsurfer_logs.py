"""What FastSurfer's logs say of a run that failed: the image, the node's memory, the GPU or the installation.

Text comes in, from the files in ``scripts/`` and the console; a line and what to do about it come out.  The exit status
alone says nothing: 2.5 times each step with a program that ends with 0 after the step has failed, and says so in
``scripts/exectime.log`` only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Sign(NamedTuple):
    """A pattern that shows that not the image is at fault, and how to correct that."""

    pattern: str
    fix: str
    in_warnings: bool = False  # whether a line that is only a warning shows it, too
    of_gpu: bool = False  # whether it is no fault if the job uses no GPU


BROKEN = (
    Sign(
        r"Flag .* unrecognized",
        "correct preprocessing.fastsurfer.version: the options are those of another version",
    ),
    Sign(
        r"require a FreeSurfer License|license file .* could not be found|No license found",
        "give a FreeSurfer licence as preprocessing.fastsurfer.license",
    ),
    Sign(
        r"No space left on device|Disk quota exceeded",
        "free space where TMPDIR is, or set TMPDIR to a larger disk",
        in_warnings=True,
    ),
    Sign(
        r"cannot create directory .*Permission denied|directory .* is not writable",
        "let the container's user write there: TMPDIR on a disk of the node, not one that refuses other users",
    ),
    Sign(r"Read-only file system", "set TMPDIR to a disk that can be written"),
    Sign(r"You are trying to run .* as root", "run it as another user"),
    Sign(
        r"Cannot find the python interpreter|ModuleNotFoundError|No module named|cannot import name",
        "repair FastSurfer's Python environment; of a native installation, name it as preprocessing.fastsurfer.python",
    ),
    Sign(
        r"NVIDIA driver on your system is too old",
        "take an image for an older CUDA, or set preprocessing.gpus to 0",
        in_warnings=True,
        of_gpu=True,
    ),
    Sign(
        r"Could not find any nv files on this host|could not select device driver",
        "send the job to a node with a GPU, or set preprocessing.gpus to 0",
        in_warnings=True,
        of_gpu=True,
    ),
    Sign(
        r"Failed downloading the checkpoint|Could not find nor download checkpoints"
        r"|Could not (?:download|find).*checkpoint|checkpoint.*(?:does not exist|could not be found)",
        "take an image that holds FastSurfer's checkpoints, as the official ones do, or put them into its folder"
        " checkpoints: the nodes do not reach the internet",
    ),
    Sign(
        r"no kernel image is available for execution|is not compatible with the current PyTorch installation",
        "FastSurfer's torch does not know this GPU: take an image with another CUDA, or send the job to other GPUs",
    ),
)
# The GPU's fault, or for want of its memory: the image is tried again alone, and then the job stops.
GPU_FAULT = Sign(
    r"CUDNN_STATUS_(?:NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR)|cuDNN error"
    r"|CUDA-capable devices? (?:is|are) (?:busy|detected)|CUDA error: (?:initialization error|unknown error|"
    r"uncorrectable ECC error|unspecified launch failure|invalid device ordinal|an illegal memory access)"
    r"|GPU is lost|fallen off the bus",
    "the GPU or its driver is at fault: leave the node out (--exclude), or take an image for its driver's CUDA",
)
OUT_OF_GPU = r"CUDA out of memory|INSUFFICIENT GPU MEMORY|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
TOO_SMALL = r"Total segmentation volume is (?:too|very) small"
NO_GPU = r"Using device: cpu"
KILLED = r"^.*(?:\bKilled\b|terminated via signal|Command terminated by signal (?:9|15)\b).*$"
# The node's memory, said by torch, numpy, Python and ITK: like a kill for it, since another image may have used it.
NO_MEMORY = (
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|Unable to allocate .* for an array|\bMemoryError\b"
    r"|Cannot allocate memory|Failed to allocate memory for image|std::bad_alloc"
)
FAILED = (
    r"^ERROR:|^Traceback|Command exited with non-zero status|Command terminated by signal|^\w*(?:Error|Exception): "
)
WARNING = re.compile(r"\bWARN(?:ING)?\b|Warning:")
# Lines at the end of a log that say that something failed, when an earlier one says what.
SAYS_LITTLE = re.compile(
    r"""^\W*$ | ^Traceback | ^\s*File\s" | ^\s+ | terminated\ via\ signal | ^Run\ 'docker | ^See\ 'docker
        | ^ERROR:\ .*(segmentation|correction|registration|statsfile\ generation)\ failed
        | ^Command\ exited\ with\ non-zero\ status | ^@\#@FSTIME | ^\w{3}\ \w{3}\ +\d+\ [\d:]+""",
    re.VERBOSE | re.IGNORECASE,
)
# The network's progress on the console, which has no end of line: what follows it stands on the same line.
PROGRESS = re.compile(r"^ *\d+%\|[^|\n]*\|[^\[\n]*\[[^\]\n]*\]", re.MULTILINE)
LAST = 2**20  # bytes of a log that are read


def evidence(scripts: Path, console: Path) -> str:
    """All that a run has said: FastSurfer's own log, the others of its steps, the console.

    The console comes last, because an exception that ends Python is only there.  ``build.log`` lists the packages that
    are installed and says nothing of the run.
    """
    logs = [path for path in sorted(scripts.glob("*.log")) if path.name not in ("deep-seg.log", "build.log")]
    return "".join(map(read, [scripts / "deep-seg.log", *logs, console]))


def read(path: Path) -> str:
    """A log's text without the network's progress, its last megabyte; empty if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LAST))
        return PROGRESS.sub("", file.read().decode(errors="replace").replace("\r", "\n")) + "\n"


def line_with(pattern: str, text: str) -> str:
    """The first line that the pattern is found in; empty if there is none."""
    found = re.search(rf".*(?:{pattern}).*", text, re.IGNORECASE | re.MULTILINE)
    return found[0].strip()[:300] if found else ""


def broken(text: str, *, gpu: bool = True) -> tuple[str, str] | None:
    """The line that shows that the installation is at fault, and the fix; None if none does.

    A warning is no error: FastSurfer goes on after it.  Without `gpu` no driver is at fault: torch warns of an old one
    on the CPU, too.

    Examples
    --------
    >>> broken("WARNING: You are trying to run 'run_fastsurfer.sh' as root. We recommend to avoid")
    >>> broken("ERROR: You are trying to run 'run_fastsurfer.sh' as root. We recommend to avoid")[1]
    'run it as another user'
    """
    errors = "\n".join(line for line in text.splitlines() if not WARNING.search(line))
    for sign in BROKEN:
        if sign.of_gpu and not gpu:
            continue
        if line := line_with(sign.pattern, text if sign.in_warnings else errors):
            return line, sign.fix
    return None


def killed(text: str) -> str:
    """The line that says that a signal from outside, or the lack of the node's memory, has ended a step; or none."""
    found = re.search(f"{KILLED}|^.*(?:{NO_MEMORY}).*$", text, re.MULTILINE)
    return found[0].strip()[:300] if found else ""


def says_failed(text: str) -> bool:
    """Whether a step has failed, whatever the exit status was."""
    return re.search(FAILED, text, re.MULTILINE) is not None


def last_words(text: str) -> str:
    """The last line of a log that says what happened; the very last one if none does."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not SAYS_LITTLE.search(line)]
    return (telling or lines or [""])[-1].strip()[:300]
