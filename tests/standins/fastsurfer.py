"""A stand-in for FastSurfer's run_fastsurfer.sh, with its options, log, files and failures."""

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow/scripts"))

VERSION = os.environ.get("STANDIN_VERSION", "2.5.0")
# The options of the real script, in lower case as it reads them: alone, or with a value.
ALONE = """--allow_root --3t --surf_only --no_biasfield --tal_reg --no_cuda --no_asegdkt --no_aparc --no_cereb
    --no_hypothal --qc_snap --seg_only --fstess --fsqsphere --fsaparc --no_surfreg --parallel --ignore_fs_version
    --no_fs_t1 --segstats_legacy --base -h --help"""
WITH_VALUE = """--fs_license --sid --sd --t1 --t2 --seg_log --conformed_name --norm_name --norm_name_t2 --seg
    --asegdkt_segfile --aparc_aseg_segfile --vox_size --threads --py --device --batch --viewagg_device
    --run_viewagg_on --asegdkt_statsfile --aseg_segfile --mask_name --merged_segfile --cereb_segfile --cereb_statsfile
    --hypo_segfile --hypo_statsfile --reg_mode --long"""
FLAGS, VALUES = ALONE.split(), WITH_VALUE.split()
NEW = VERSION.split(".")[:2] >= ["2", "5"]
if NEW:
    FLAGS += ["--no_cc", "--native_image", "--keepgeom", "--edits"]
    VALUES += ["--threads_seg", "--threads_surf", "--lesion_mask", "--qc_log", "--batch_size"]
TIMES = 4  # the builtin engine works on voxels of 4 mm, which is fast; each becomes 64 voxels of the real 1 mm grid


def trace(**facts: object) -> None:
    """Write a line for the test."""
    if path := os.environ.get("STANDIN_TRACE"):
        with Path(path).open("a") as file:
            file.write(json.dumps(facts | {"time": time.time(), "pid": os.getpid()}) + "\n")


def end(line: str, status: int = 1) -> None:
    """Print a line and end."""
    print(line, flush=True)
    sys.exit(status)


def parse(arguments: list[str]) -> dict[str, str]:
    """The options, parsed like the real script's: an unknown one is an error, an empty one is ignored."""
    options = {}
    rest = iter(arguments)
    for argument in rest:
        key = argument.lower()
        if key in VALUES:
            options[key] = next(rest, "")
        elif key in FLAGS or key == "--version":
            options[key] = ""
        elif key:
            end(f"ERROR: Flag '{key}' unrecognized.")
    return options


def check(options: dict[str, str]) -> None:
    """The checks of the real script before its start."""
    if "--fs_license" in options and not Path(options["--fs_license"]).is_file():
        end(f"ERROR: Provided FreeSurfer license file {options['--fs_license']} could not be found. Exiting...")
    root = "You are trying to run 'run_fastsurfer.sh' as root. We recommend to avoid"
    if os.getuid() == 0 and "--allow_root" not in options:
        end(f"ERROR: {root}")
    if NEW and (os.getuid() == 0 or os.environ.get("STANDIN_ROOT")):
        print(f"WARNING: {root}", flush=True)  # even if it is allowed
    if not options.get("--sd"):
        end("ERROR: No subject directory defined via --sd. This is required!")
    if not options.get("--sid"):
        end("ERROR: You must supply a subject name via --sid!")
    size = options.get("--vox_size", "min")
    if size != "min" and not 0 < float(size) <= 1:
        end("ERROR: negative voxel sizes and voxel sizes beyond 1 are not supported.")
    if "--seg_only" not in options or "--tal_reg" in options:
        end("ERROR: The surface pipeline and the talairach-registration require a FreeSurfer License, but none")
    if not Path(options.get("--t1", "")).is_file() or not options["--t1"].startswith("/"):
        end(f"ERROR: T1 image ({options.get('--t1')}) could not be found. You must supply an existing T1 input")


def result_of(t1w: Path) -> Path:
    """A folder with the builtin engine's result in FastSurfer's layout, made once per image content."""
    content = t1w.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    folder = Path(os.environ["STANDIN_CACHE"]) / hashlib.sha256(content).hexdigest()
    if folder.exists():
        return folder
    import nibabel
    import numpy as np
    from neurotransfer.preprocess.engines import builtin
    from neurotransfer.preprocess.volumes import stats_text

    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    (part / "coarse").mkdir(parents=True)
    builtin.run(t1w, part / "coarse", {"voxel_size": float(TIMES), "grid": [48, 48, 48], "threads": 1})
    (part / "mri").mkdir()
    arrays = {}
    for name in ("orig", "mask", "aparc.DKTatlas+aseg.deep"):
        coarse = nibabel.load(part / f"coarse/mri/{name}.mgz")
        fine = np.asarray(coarse.dataobj).astype(np.uint8 if name != "aparc.DKTatlas+aseg.deep" else np.int16)
        for axis in range(3):
            fine = fine.repeat(TIMES, axis)
        affine = coarse.affine @ np.diag([1 / TIMES] * 3 + [1])
        affine[:3, 3] = (coarse.affine @ [*[(1 - TIMES) / 2 / TIMES] * 3, 1])[:3]
        nibabel.save(nibabel.MGHImage(fine, affine), part / f"mri/{name}.mgz")
        arrays[name] = fine
    text = stats_text(arrays["aparc.DKTatlas+aseg.deep"], arrays["orig"], arrays["mask"], builtin.NAMES, 1.0)
    (part / "aseg+DKT.stats").write_text(text)
    shutil.rmtree(part / "coarse")
    with contextlib.suppress(OSError):  # another process was faster
        part.rename(folder)
    return folder


def complete(subject: Path) -> None:
    """Write the corrected image and the statistics from the segmentation that is there."""
    import nibabel
    import numpy as np
    from neurotransfer.preprocess.engines import builtin
    from neurotransfer.preprocess.volumes import stats_text

    names = ("orig", "mask", "aparc.DKTatlas+aseg.deep", "aseg.auto_noCCseg")
    if missing := [name for name in names if not (subject / f"mri/{name}.mgz").is_file()]:
        end(f"FileNotFoundError: no mri/{missing[0]}.mgz")
    orig, mask, labels = (np.asarray(nibabel.load(subject / f"mri/{name}.mgz").dataobj) for name in names[:3])
    (subject / "stats").mkdir()
    (subject / "stats/aseg+DKT.stats").write_text(stats_text(labels, orig, mask, builtin.NAMES, 1.0))
    shutil.copyfile(subject / "mri/orig.mgz", subject / "mri/orig_nu.mgz")


def write(subject: Path, t1w: Path, fault: str, volumes: bool = True) -> None:
    """Write the files of a run, except those that the fault removes; the statistics only with the bias field."""
    made = result_of(t1w)
    (subject / "mri/orig").mkdir(parents=True)
    shutil.copyfile(t1w, subject / "mri/orig/001.mgz")
    for path in (made / "mri").iterdir():
        shutil.copyfile(path, subject / "mri" / path.name)
    shutil.copyfile(subject / "mri/aparc.DKTatlas+aseg.deep.mgz", subject / "mri/aseg.auto_noCCseg.mgz")
    if not volumes:
        return
    shutil.copyfile(subject / "mri/orig.mgz", subject / "mri/orig_nu.mgz")
    (subject / "stats").mkdir()
    plain = subject / "stats/aseg+DKT.stats"
    if fault in ("vinn", "absolute_link") or (not fault and VERSION >= "2.5"):
        shutil.copyfile(made / "aseg+DKT.stats", subject / "stats/aseg+DKT.VINN.stats")
        plain.symlink_to("/output/of/the/container.stats" if fault == "absolute_link" else "aseg+DKT.VINN.stats")
    else:
        shutil.copyfile(made / "aseg+DKT.stats", plain)
    if fault == "no_mask":
        (subject / "mri/mask.mgz").unlink()
    if fault == "truncated":
        orig = subject / "mri/orig.mgz"
        orig.write_bytes(orig.read_bytes()[: orig.stat().st_size // 2])
    if fault in ("no_stats", "statistics"):
        plain.unlink()
    if fault == "half_stats":
        plain.write_text(plain.read_text()[:700])
    if fault in ("other_grid", "small_brain"):
        spoil(subject / "mri/mask.mgz", fault)


@contextlib.contextmanager
def pace(part: str):
    """A part of the work, which takes as many seconds as STANDIN_SECONDS says; one network at a time on the GPU."""
    seconds = json.loads(os.environ.get("STANDIN_SECONDS", "{}")).get(part, 0.0)
    with contextlib.ExitStack() as stack:
        if part == "network" and seconds:
            gpu = stack.enter_context(Path(os.environ["STANDIN_CACHE"], "gpu").open("a"))
            fcntl.flock(gpu, fcntl.LOCK_EX)
        end_at = time.monotonic() + seconds
        yield
        time.sleep(max(0.0, end_at - time.monotonic()))


def show_progress(bar: str) -> None:
    """Write the network's progress, which has no end of line and is on the console only."""
    print(f"\r{bar}", end="", flush=True)


def segment(say: Callable[[str], None], subject: Path, t1w: Path, fault: str, volumes: bool) -> None:
    """The lines and files of run_prediction.py."""
    with pace("import"):
        say(f"python3.10 /fastsurfer/FastSurferCNN/run_prediction.py --t1 {t1w} --sid {subject.name}")
    with pace("networks"):
        say("[INFO: run_prediction.py:  561]: Checking or downloading default checkpoints ...")
        say("[INFO: inference.py:  200]: Loading checkpoint /fastsurfer/checkpoints/aparc_vinn_coronal_v2.0.0.pkl")
    with pace("conform"):
        say(f"[INFO: run_prediction.py:  297]: Successfully loaded image from {t1w}.")
    views = ("coronal", "sagittal", "axial")
    finished = [
        f"[INFO: inference.py:  469]: {v.capitalize()} inference on {t1w} finished in 5.1250 seconds" for v in views
    ]
    with pace("network"):
        for at, plane in enumerate(views):
            if at:
                say(finished[at - 1])
            say(f"[INFO: run_prediction.py:  374]: Run {plane} prediction")
            show_progress("  0%|          | 0/256 [00:00<?, ?batch/s]")
            show_progress("100%|██████████| 256/256 [00:05<00:00, 50.51batch/s]\n")
    say(finished[-1])
    with pace("masks"):
        say("[INFO: run_prediction.py:  654]: Creating brainmask based on segmentation...")
        write(subject, t1w, fault, volumes)


def measure(say: Callable[[str], None]) -> None:
    """The lines of N4_bias_correct.py and segstats.py."""
    with pace("bias field"):
        say("INFO: Running N4 bias-field correction...")
    with pace("statistics"):
        say("python3.10 /fastsurfer/FastSurferCNN/segstats.py --segfile aparc.DKTatlas+aseg.deep.mgz")
        say("Partial volume stats for 100 labels written to aseg+DKT.stats.")
        say("Calculation took 4.50 seconds using up to 1 threads.")


def work(say: Callable[[str], None], options: dict[str, str], subject: Path, fault: str) -> None:
    """Segment or take the segmentation that is there; then the bias field and the statistics."""
    if "--no_asegdkt" not in options:
        segment(say, subject, Path(options["--t1"]), fault, volumes="--no_biasfield" not in options)
    elif fault == "network_needed":
        return
    else:
        complete(subject)
    if "--no_biasfield" not in options:
        measure(say)


def spoil(path: Path, fault: str) -> None:
    """Change a mask: to another grid, or to a much smaller brain."""
    import nibabel
    import numpy as np

    mask = nibabel.load(path)
    values, affine = np.asarray(mask.dataobj).copy(), mask.affine.copy()
    if fault == "small_brain":
        values.flat[np.flatnonzero(values)[: -values.sum() // 6]] = 0
    else:
        affine[0, 3] += 5
    nibabel.save(nibabel.MGHImage(values, affine), path)


SMALL = "[WARNING: run_prediction.py:  766]: Total segmentation volume is too small. Segmentation may be corrupted."
FAILED = "ERROR: FastSurfer asegdkt segmentation failed."
DOWNLOAD = "Failed downloading the checkpoint aparc_vinn_axial_v2.0.0.pkl from b2share."
# what a run with a fault says before it ends; the real script goes on after want of memory, to the next error
SAID = {
    "exit_1": ["ValueError: could not broadcast input array from shape (3,) into shape (4,)", FAILED],
    "inner_killed": [] if NEW else [FAILED],
    "gpu_memory": [
        "[CRITICAL: common.py:  158]: ERROR - INSUFFICIENT GPU MEMORY",
        "[INFO: common.py:  169]: Using GPU 0; 1.82 GiB total capacity; 6.93 MiB already allocated.",
        "ERROR: Biasfield correction failed!",
    ],
    "no_space": ["OSError: [Errno 28] No space left on device"],
    "too_small_incomplete": [SMALL, "ERROR: FastSurfer asegdkt segmentation failed QC checks."],
    "offline": [f"requests.exceptions.RequestException: {DOWNLOAD}"],
    "old_gpu": ["RuntimeError: CUDA error: no kernel image is available for execution on the device"],
    "cudnn": ["RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"],
    "cudnn_later": ["RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"],
    "ecc": ["RuntimeError: CUDA error: uncorrectable ECC error encountered"],
}
SAID["gpu_memory_always"] = SAID["gpu_memory"]
HELPED = ("gpu_memory", "cudnn_later")  # by a second try alone


def main() -> None:
    """Run like the real script; STANDIN_FAULTS sets the fault of each subject."""
    options = parse(sys.argv[1:])
    if "--version" in options:
        end(f"{VERSION}+standin", 0)
    check(options)
    subject = Path(options["--sd"], options["--sid"])
    fault = json.loads(Path(os.environ["STANDIN_FAULTS"]).read_text()).get(options["--sid"], "")
    (subject / "scripts").mkdir(parents=True)
    (subject / "scripts/build.log").write_text(" ".join(sys.argv) + "\n")
    alone = options.get("--viewagg_device") == "cpu"
    trace(event="start", sid=options["--sid"], arguments=sys.argv[1:], tmpdir=os.environ.get("TMPDIR"),
          gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), path=os.environ["PATH"],
          docker_gpus=os.environ.get("STANDIN_DOCKER_GPUS"), cores=sorted(os.sched_getaffinity(0)))  # fmt: skip
    status = run(options, subject, fault, alone)
    if NEW:  # each step runs under a program that measures its time, and whose status is lost
        words = {0: "", 137: "Command terminated by signal 9\n"}
        words = words.get(status, f"Command exited with non-zero status {status}\n")
        times = "@#@FSTIME  run_prediction.py N 20 e 15.90 S 1.2 U 14.0\n"
        (subject / "scripts/exectime.log").write_text(words + times)
        status = 0
    trace(event="end", sid=options["--sid"])
    sys.exit(1 if status else 0)


def run(options: dict[str, str], subject: Path, fault: str, alone: bool) -> int:
    """Segment, with at most one fault; returns the exit status."""

    def say(line: str) -> None:
        with (subject / "scripts/deep-seg.log").open("a") as log:
            log.write(line + "\n")
        print(line, flush=True)

    with pace("start"):
        pass
    say(f"Version: {VERSION}+standin")
    say(f"[INFO: common.py:  106]: Using device: {os.environ.get('STANDIN_DEVICE', 'cuda')}")
    if fault == "slow":
        time.sleep(1.5)
    if fault == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the real script ignores it, too
        with subprocess.Popen(["sleep", "600"]) as child:
            trace(event="child", sid=options["--sid"], child=child.pid)
            child.wait()
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "inner_killed":
        show_progress("  0%|          | 0/256 [00:00<?, ?batch/s]")
        if not NEW:  # the shell says it, on the console only
            print('run_fastsurfer.sh: line 977: 24305 Killed                  "${cmd[@]}"', flush=True)
    if fault in SAID and not (fault in HELPED and alone):
        for line in SAID[fault]:
            if line.startswith(("[", "ERROR:")):
                say(line)
            else:  # what ends Python is on the console only
                print(line, flush=True)
        return 137 if fault == "inner_killed" else 1
    if fault == "too_small":
        say(SMALL)
    work(say, options, subject, fault)
    if (
        fault == "statistics"
    ):  # 2.4.0-dev's, if a label has one voxel away from its borders; that step's errors are logged
        say("Traceback (most recent call last):")
        say("ZeroDivisionError: float division by zero")
        say("ERROR: asegdkt statsfile generation failed!")
        return 1
    return 0


if __name__ == "__main__":
    main()
