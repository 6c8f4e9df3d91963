"""FastSurfer, segmentation only: the command for each version, and the outcome of an image, from its files and log.

It works in a folder on the node's own disk; a whole result is then moved to the study's.  What its logs mean is in
fastsurfer_logs.py.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel

from ...errors import ImageError, InstallationError, TryAlone
from ...study import demands
from . import EngineInput, Made, containers
from . import fastsurfer_logs as logs
from .inputs import read_image
from .outputs import KEPT, NEEDED, STATISTICS, Outputs, check_outputs
from .parts import seconds_of_parts
from .processes import Commands, TimedOut

logger = logging.getLogger("neurotransfer")

# Options of run_fastsurfer.sh besides --t1, --sid and --sd.
# Tried with the script itself, of 2.4.0-dev (October 2024), the newest public copy, from image to result
# (benchmarks/real_fastsurfer.py): those of 2.4.  Known from its documentation and from scripts of users of 2.5, and not
# tried: --no_cc from 2.5 on, and that 2.6 is no different.
OPTIONS = {
    "2.4": "--seg_only --no_cereb --no_hypothal"
    " --vox_size {voxel_size:g} --viewagg_device {viewagg_device} --threads {threads}",
    "2.5": "--seg_only --no_cereb --no_hypothal --no_cc"
    " --vox_size {voxel_size:g} --viewagg_device {viewagg_device} --threads {threads}",
    "2.6": "--seg_only --no_cereb --no_hypothal --no_cc"
    " --vox_size {voxel_size:g} --viewagg_device {viewagg_device} --threads {threads}",
}
# The first option leaves bias-field correction and the statistics out; the second goes on from a segmentation that is
# there, and runs both without the network.  Both tried with 2.4.0-dev; later versions were not there to try.
WITHOUT_VOLUMES, FROM_SEGMENTATION = "--no_biasfield", "--no_asegdkt"
AS_ROOT = "--allow_root"  # without it the script refuses root (and the copy that was tried does so even with it)
SCRIPT = "/fastsurfer/run_fastsurfer.sh"  # in the official images
LICENSE = "/fs_license/license.txt"
SPACE = 0.5  # [assumed] GB of the node's disk for one image, several times what its files take
VERSION_SECONDS = 1800  # the first call of a new image may have to fetch and unpack it

OF_PYTHON = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"})
DEFAULT_PYTHON = re.compile(r'^python="([^"]+)"', re.MULTILINE)  # the line of the script that says what it starts
SIGNALLED = (-9, 137, -15, 143)  # SIGKILL and SIGTERM, as a process's parent and as a shell says it


class FastSurfer:
    """FastSurfer for one job; see `Engine`.

    Parameters
    ----------
    settings : the configuration's `preprocessing`
    scratch : a folder on the node's own disk; default: the system's folder for temporary files (TMPDIR)
    """

    def __init__(self, settings: Mapping[str, Any], scratch: str | Path | None = None) -> None:
        self._settings, self._own = settings, settings["fastsurfer"]
        self._how, self.version = self._own["runs_in"], self._own["version"]
        self._gpu = demands.has_gpu(settings)
        need = demands.demand(settings)
        self.at_once, self._limit = need.at_once, need.limit * 60
        self._license = Path(self._own["license"]).expanduser().resolve() if self._own["license"] else None
        self._python = f"{Path(self._own['python']).expanduser()} -s" if self._own.get("python") else None
        self._share_cores()
        self._commands = Commands()
        self._root = Path(scratch or tempfile.gettempdir()).resolve()

    def check(self) -> None:
        """Ask FastSurfer for its version, in the way in which it will be run: that finds what is missing.

        Raises
        ------
        InstallationError
            if no engine, no image, another version, no licence file, no space or no permission is there
        """
        containers.check_here(self._settings)
        self._check_scratch()
        with self._workplace("version") as place:
            log = place / "version.log"
            try:
                code = self._call(["--version"], place, log, limit=VERSION_SECONDS)
            except TimedOut:
                what = f"FastSurfer has not printed its version within {VERSION_SECONDS / 60:g} minutes"
                raise InstallationError(self._where(), "", what, "correct preprocessing.fastsurfer") from None
            text = logs.read(log)
        self._fit_to_gpu()
        self._refuse_broken(text)
        found = re.findall(r"^v?(\d+\.\d+\.\d+)(?:[-+ (].*)?$", text, re.MULTILINE)
        if code != 0 or not found:
            what = f"FastSurfer does not start ({logs.last_words(text) or f'exit status {code}'})"
            raise InstallationError(self._where(), "", what, "correct preprocessing.fastsurfer")
        if found[-1] != self.version:
            what = f"this is FastSurfer {found[-1]}, and preprocessing.fastsurfer.version says {self.version}"
            raise InstallationError(self._where(), "", what, "correct the image or the version")
        if self._how == "native":
            self._check_imports()

    def _fit_to_gpu(self) -> None:
        """Work on fewer images at once if the GPU's memory is too small and the configuration gives no number."""
        memory = containers.gpu_memory_mb() if self._gpu else None
        if memory is not None:
            if not self._settings["images_at_once"]:
                self.at_once = max(1, min(self.at_once, memory // demands.IMAGE_GPU_MB))
                self._share_cores()
            logger.info("%d images at once on a GPU of %d MB", self.at_once, memory)

    def _share_cores(self) -> None:
        """Have a share of the job's cores for each image in work; nothing is running."""
        self._cores: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for share in shares_of_cores(self._settings["threads"], self.at_once):
            self._cores.put(share)

    def _check_scratch(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root):
                pass
        except OSError as error:
            what = f"temporary files can't be written there ({error.strerror})"
            raise InstallationError(self._root, "", what, "set TMPDIR to a disk that can be written") from None
        for path in (self._root, self._license):
            if path and self._how != "native" and not containers.is_bindable(path):
                fix = "take another one (for temporary files, set TMPDIR)"
                raise InstallationError(path, "", 'a container cannot be shown a path with a : , " or \\', fix)
        free, needed = shutil.disk_usage(self._root).free / 1e9, SPACE * self.at_once
        if free < needed:
            what = f"no space for temporary files: {free:.1f} GB are free, {self.at_once} images need {needed:.1f}"
            raise InstallationError(self._root, "", what, "free some, or set TMPDIR to a larger disk")

    def facts(self, scan: EngineInput) -> dict[str, Any]:
        """What the outputs depend on: version and voxel size, and not how or where it is run."""
        facts = {"version": self.version, "voxel_size": self._settings["voxel_size"]}
        return facts if scan.volumes else facts | {"volumes": False}

    def made_by(self, scan: EngineInput) -> tuple[str, str]:
        """Always FastSurfer, in the version that `check` has seen."""
        return "fastsurfer", self.version

    def run(self, scan: EngineInput, folder: Path, *, alone: bool = False) -> Made:
        """See `Engine`; alone, views are aggregated in the host's memory, if the GPU's was too small before.

        If volumes can't be made from what was kept, the whole image is processed again.
        """
        if scan.kept is not None:
            try:
                return self._run(scan, folder, alone=alone)
            except TryAlone:
                raise
            except ImageError as failure:
                logger.info("%s: no volumes from the kept segmentation (%s); all of it again", scan.image_id, failure)
                for path in folder.iterdir():
                    shutil.rmtree(path)
        return self._run(replace(scan, kept=None), folder, alone=alone)

    def _run(self, scan: EngineInput, folder: Path, *, alone: bool) -> Made:
        scripts = folder / "scripts"
        scripts.mkdir(exist_ok=True)
        log = scripts / ("engine.alone.log" if alone else "engine.log")
        with self._workplace(scan.image_id) as place:
            produced = place / "output" / scan.image_id
            head = read_image(scan.t1w)  # a bad image has its own reason, and needs no GPU to be found
            notes = [*head.notes]
            if head.is_filled:  # FastSurfer reads the file itself, and NaN would become its darkest grey or fail it
                filled = place / "filled.nii.gz"
                nibabel.save(nibabel.Nifti1Image(head.data, head.affine), filled)
                scan = replace(scan, t1w=filled)
            del head
            if scan.kept is not None:
                _put(scan.kept, produced, KEPT)
            try:
                options = self.options(
                    "cpu" if alone and self._gpu else "auto", volumes=scan.volumes, kept=bool(scan.kept)
                )
                growth: list[tuple[float, int]] = []
                code = self._call(options, place, log, scan=scan, limit=self._limit, growth=growth)
            except TimedOut:
                text = logs.evidence(produced / "scripts", log)
                self._refuse_cpu(text)
                what = f"ended after {self._limit / 60:g} minutes; the log's last line: {logs.last_words(text)}"
                raise ImageError("timeout", what) from None
            finally:
                if (produced / "scripts").is_dir():
                    _copy(produced / "scripts", scripts)
            text = logs.evidence(produced / "scripts", log)
            notes += self._judge(code, text, produced, alone, scan.volumes)
            parts = seconds_of_parts(log.read_bytes()[-growth[-1][1] :], growth) if growth else {}
            if self._settings["keep"] == "all":
                _copy(produced, folder)
            else:
                _put(produced, folder, NEEDED if scan.volumes else KEPT)
                shutil.rmtree(scripts)
            return Made("; ".join(notes) or None, parts)

    def options(self, viewagg_device: str, *, volumes: bool = True, kept: bool = False) -> list[str]:
        """The options for the configured version, besides those that name files.

        Parameters
        ----------
        volumes : whether the image needs them
        kept : whether its segmentation is there, and only the volumes are missing
        """
        threads = max(1, self._settings["threads"] // self.at_once)
        values = {"voxel_size": self._settings["voxel_size"], "viewagg_device": viewagg_device, "threads": threads}
        line = OPTIONS[self.version.rpartition(".")[0]].format(**values).split()
        line += [] if volumes else [WITHOUT_VOLUMES]
        line += [FROM_SEGMENTATION] if kept else []
        return line + ([AS_ROOT] if os.getuid() == 0 else [])

    def stop(self) -> None:
        """End what runs."""
        self._commands.stop()

    def close(self) -> None:
        """Nothing runs any more."""
        self._commands.close()

    @contextlib.contextmanager
    def _workplace(self, name: str):
        """A folder on the node's disk with ``output/``, gone at the end."""
        with tempfile.TemporaryDirectory(prefix="neurotransfer-", dir=self._root, ignore_cleanup_errors=True) as folder:
            place = Path(folder) / name
            (place / "output/tmp").mkdir(parents=True)
            yield place

    def _call(
        self,
        options: Sequence[str],
        place: Path,
        log: Path,
        *,
        limit: float,
        scan: EngineInput | None = None,
        growth: list[tuple[float, int]] | None = None,
    ) -> int:
        """Run the script with `options`, for a scan or for itself."""
        binds = [containers.Bind(place / "output", containers.OUTPUT, read_only=False)]
        files: list[str] = []
        output = containers.OUTPUT if self._how != "native" else str(place / "output")
        if scan is not None:
            binds, files = self._files(scan, place, binds, output)
        arguments = [*files, *options]
        environment, undo = dict(os.environ), []
        with self._some_cores() as cores:
            if self._how == "native":
                line = [self._script(), *arguments, *(["--py", self._python] if self._python else [])]
                environment = self._own_environment() | {"TMPDIR": str(place / "output/tmp")}
            elif self._how == "docker":
                name = f"neurotransfer-{uuid.uuid4().hex[:12]}"
                image = containers.image_reference(self._own["image"], self.version, self._gpu)
                gpu = self._gpu_of_daemon if self._gpu else None
                line = containers.docker(image, arguments, binds, gpu=gpu, name=name, cores=cores)
                undo = ["docker", "kill", name]
            else:
                image = containers.image_reference(self._own["image"], self.version, self._gpu)
                line, inside = containers.apptainer(self._how, image, [SCRIPT, *arguments], binds, gpu=self._gpu)
                environment |= inside
            try:
                return self._commands.run(
                    line,
                    log,
                    limit=limit,
                    environment=environment,
                    undo=undo,
                    scratch=place.parent,
                    growth=growth,
                    cores=cores,
                )
            except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
                what = f"{line[0]} can't be started on this machine ({error.strerror})"
                fix = "load or install it where the jobs run, or change preprocessing.fastsurfer.runs_in"
                raise InstallationError(self._where(), "", what, fix) from None

    @contextlib.contextmanager
    def _some_cores(self) -> Generator[list[int]]:
        """A share of the job's cores, of which each image in work has one."""
        cores = self._cores.get()
        try:
            yield cores
        finally:
            self._cores.put(cores)

    @functools.cached_property
    def _gpu_of_daemon(self) -> str:
        """The UUID of the job's GPU, which nvidia-smi is asked for once."""
        return containers.gpu_uuid(containers.gpu_of_job())

    def _script(self) -> str:
        """The absolute path of the script of a native installation."""
        program = containers.program_of(self._own)
        return shutil.which(program) or program

    def _own_environment(self) -> dict[str, str]:
        """The environment of a native run: without this program's own Python, on the job's first GPU or on none.

        FastSurfer's script starts the first ``python3`` on PATH.  In an activated environment that is the one that
        this program runs in, which has none of FastSurfer's packages.
        """
        ours = {os.path.realpath(folder) for folder in (Path(sys.executable).parent, Path(sys.prefix) / "bin")}
        parts = os.environ.get("PATH", "").split(os.pathsep)
        environment = {name: value for name, value in os.environ.items() if name not in OF_PYTHON}
        environment["PATH"] = os.pathsep.join(part for part in parts if os.path.realpath(part) not in ours)
        environment["CUDA_VISIBLE_DEVICES"] = containers.gpu_of_job() if self._gpu else ""
        return environment

    def _check_imports(self) -> None:
        """Have the Python of a native installation import FastSurfer's network: `--version` needs no package.

        Raises
        ------
        InstallationError
            if it cannot, with the last line that Python has printed
        """
        script = Path(self._script()).resolve()
        default = DEFAULT_PYTHON.search(script.read_text(encoding="utf-8", errors="replace"))
        python = self._python or (default[1] if default else "python3 -s")
        environment = self._own_environment()
        environment["PYTHONPATH"] = environment.get("FASTSURFER_HOME", str(script.parent))
        fix = "name FastSurfer's Python as preprocessing.fastsurfer.python, such as /opt/fastsurfer/bin/python3"
        words = [*python.split(), "-c", "import FastSurferCNN.run_prediction"]
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment,
                timeout=VERSION_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallationError(self._where(), "", f"its Python does not start ({error})", fix) from None
        if done.returncode:
            what = f"{python} cannot import FastSurfer ({logs.last_words(done.stderr + done.stdout)})"
            raise InstallationError(self._where(), "", what, fix)

    def _files(
        self, scan: EngineInput, place: Path, binds: list[containers.Bind], output: str
    ) -> tuple[list[containers.Bind], list[str]]:
        """What must be seen from inside, and the options that name it there.

        The image itself is bound, not its folder: the end of a chain of links, under a name that only says its
        format.  So what datalad links to is there, and no blank or quote gets inside.
        """
        endings = "".join(Path(scan.t1w).suffixes[-2:]) if scan.t1w.name.endswith(".gz") else scan.t1w.suffix
        inside, real = f"{scan.image_id}{endings}", scan.t1w.resolve(strict=True)
        if self._how == "native" or not containers.is_bindable(real):
            (place / "input").mkdir()
            link = place / "input" / inside
            if self._how == "native":
                link.symlink_to(real)
            else:
                shutil.copyfile(real, link)
            real = link
        t1w = f"/input/{inside}" if self._how != "native" else str(real)
        binds = [containers.Bind(real, t1w), *binds]
        files = ["--t1", t1w, "--sid", scan.image_id, "--sd", output]
        if self._license:
            binds.append(containers.Bind(self._license, LICENSE))
            files += ["--fs_license", LICENSE if self._how != "native" else str(self._license)]
        return binds, files

    def _where(self) -> str:
        """What a message about the installation begins with."""
        if self._how == "native":
            return containers.program_of(self._own)
        return f"{self._how} {containers.image_reference(self._own['image'], self.version, self._gpu)}"

    def _refuse_broken(self, text: str) -> None:
        """Raise if the log shows that the installation is at fault."""
        if found := logs.broken(text, gpu=self._gpu):
            line, fix = found
            raise InstallationError(self._where(), "", line, fix)

    def _refuse_cpu(self, text: str) -> None:
        """Raise if FastSurfer has taken the CPU, which is 50 times slower, in place of the job's GPU."""
        if self._gpu and re.search(logs.NO_GPU, text):
            self._refuse_broken(text)
            fix = "send the job to a node with a GPU and its driver, or set preprocessing.gpus to 0"
            raise InstallationError(self._where(), "", "FastSurfer found no GPU and worked on the CPU", fix)

    def _judge(self, code: int, text: str, produced: Path, alone: bool, volumes: bool) -> list[str]:
        """What became of the image: whole and plausible outputs stand, with a note if FastSurfer has warned.

        Of several causes in the logs the deepest is taken: memory before an error that follows from the lack of it,
        the installation before the image.
        """
        try:
            _settle_statistics(produced)
            check_outputs(Outputs.of(produced), self._settings["voxel_size"], all_listed=True, volumes=volumes)
            failure = None
        except ImageError as error:
            failure = error
        too_small = logs.line_with(logs.TOO_SMALL, text)
        if code == 0 and failure is None:
            self._refuse_cpu(text)
            return [too_small] if too_small else []
        words = logs.last_words(text)
        if line := logs.line_with(logs.OUT_OF_GPU, text):
            raise (ImageError if alone else TryAlone)("gpu_memory", line)
        self._refuse_broken(text)
        if line := logs.line_with(logs.GPU_FAULT.pattern, text):
            if not alone:  # for want of the GPU's memory, too
                raise TryAlone("gpu_memory", line)
            raise InstallationError(self._where(), "", line, logs.GPU_FAULT.fix)
        # a signal may also mean that the whole job is being ended: then there will be no second try
        line = logs.killed(text)
        if line or code in SIGNALLED:
            raise (ImageError if alone else TryAlone)("killed", line or words or "no last words in the log")
        if too_small:
            raise ImageError("volume_check", too_small)
        if not re.search(r"^Version:", text, re.MULTILINE):
            # the script's first line is not there: the container, not the image, failed
            what = f"FastSurfer did not start ({words or f'exit status {code}'})"
            raise InstallationError(self._where(), "", what, "correct preprocessing.fastsurfer")
        if code:
            raise ImageError("engine_failed", f"exit status {code}: {words}")
        assert failure is not None  # without one, an exit status of 0 has returned above
        if failure.reason == "output_missing" and logs.says_failed(text):
            raise ImageError("engine_failed", f"{words} ({failure.detail})")
        raise ImageError(failure.reason, f"{failure.detail}; the log's last line: {words}")


def shares_of_cores(threads: int, at_once: int) -> list[list[int]]:
    """The cores of each image in work: ``--threads`` limits bias-field correction and statistics, but not the network.

    Parameters
    ----------
    threads : of the job
    at_once : images in work at the same time

    Returns
    -------
    a list of cores' numbers per image, of `threads` // `at_once` each and distinct if the machine has that many;
    an empty list sets no limit
    """
    each, here = max(1, threads // at_once), sorted(os.sched_getaffinity(0))
    if len(here) < each * at_once:
        return [[] for _ in range(at_once)]
    return [here[at * each : (at + 1) * each] for at in range(at_once)]


def _settle_statistics(produced: Path) -> None:
    """Have ``stats/aseg+DKT.stats`` as a file of its own.

    In newer versions it is a link to ``aseg+DKT.VINN.stats``, which may lead to a path inside the container.
    """
    wanted, other = produced / STATISTICS, (produced / STATISTICS).with_suffix(".VINN.stats")
    if (wanted.is_symlink() or not wanted.exists()) and other.is_file():
        wanted.unlink(missing_ok=True)
        shutil.copyfile(other, wanted)


def _put(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy some files of an image's folder to another one.

    Raises
    ------
    ImageError
        ``output_missing`` if one is not there
    """
    for name in names:
        if not (source / name).is_file():
            raise ImageError("output_missing", f"there is no {name}")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files, not their owners or modes; what links lead to, and not links."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
