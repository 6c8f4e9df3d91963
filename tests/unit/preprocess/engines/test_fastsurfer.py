"""FastSurfer by its stand-in, in every way of running it: what it is told, and what each failure ends as."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError, InstallationError
from neurotransfer.files import read_json, write_json
from neurotransfer.preprocess import reasons, run
from neurotransfer.preprocess.engines import containers, fastsurfer, fastsurfer_logs, processes
from neurotransfer.preprocess.engines.processes import Commands, Stopped, TimedOut
from neurotransfer.preprocess.status import read_status
from neurotransfer.preprocess.volumes import read_stats, statistics_of
from neurotransfer.simulation.study import simulate_study
from neurotransfer.study import demands

REPOSITORY = Path(__file__).resolve().parents[4]
STANDINS = REPOSITORY / "tests/standins"
WAYS = ("apptainer", "singularity", "docker", "native")


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    """One T1-weighted image; what the stand-in makes of it is made once for all tests."""
    folder = tmp_path_factory.mktemp("head")
    simulate_study(folder, cohorts=["memory"], participants=0.02)
    return next((folder / "data").rglob("*_T1w.nii.gz"))


@pytest.fixture(scope="module")
def cache(head, tmp_path_factory) -> Path:
    """The stand-in's cache, warm: its first image takes seconds, the next ones do not."""
    folder = tmp_path_factory.mktemp("cache")
    write_json(folder / "faults.json", {})
    environment = os.environ | {"STANDIN_CACHE": str(folder), "STANDIN_FAULTS": str(folder / "faults.json")}
    environment["STANDIN_PYTHON"] = sys.executable
    words = ["--t1", head, "--sid", "a", "--sd", folder / "sd", "--seg_only", "--allow_root"]
    subprocess.run([STANDINS / "run_fastsurfer.sh", *words], env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def trace(tmp_path, cache, monkeypatch):
    """Put the stand-ins where programs are looked for; what they were told comes back as dicts."""
    monkeypatch.setenv("PATH", f"{STANDINS}:{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN_CACHE", str(cache))
    monkeypatch.setenv("STANDIN_VERSION", "2.5.0")
    monkeypatch.setenv("STANDIN_PYTHON", sys.executable)
    monkeypatch.setenv("STANDIN_GPUS", "0, GPU-0a\n1, GPU-1b\n3, GPU-3d")
    monkeypatch.setenv("STANDIN_FAULTS", str(tmp_path / "faults.json"))
    monkeypatch.setenv("STANDIN_TRACE", str(tmp_path / "trace"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    write_json(tmp_path / "faults.json", {})

    def read(event: str | None = None) -> list[dict]:
        path = tmp_path / "trace"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if event in (None, line["event"])]

    return read


def settings(runs_in: str = "apptainer", version: str = "2.5.0", **changes) -> dict:
    own = {"version": version, "runs_in": runs_in, "image": None, "script": None, "license": None}
    own |= {key: changes.pop(key) for key in ("image", "script", "license", "python") if key in changes}
    values = {
        "engine": "fastsurfer", "voxel_size": 1.0, "grid": [256, 256, 256], "threads": 3, "gpus": 1,
        "images_at_once": None, "time_limit": None, "max_runtime": 1440, "max_mem_mb": 64000, "keep": "all",
        "fastsurfer": own,
    }  # fmt: skip
    return values | changes


def table(faults: dict[str, str], t1w: Path, tmp_path: Path, shard: str = "x-0001") -> pd.DataFrame:
    """Images of one shard, each with the fault that the stand-in shall have on it."""
    known = read_json(tmp_path / "faults.json")
    write_json(tmp_path / "faults.json", known | faults)
    return pd.DataFrame({"image_id": list(faults), "shard": shard, "t1w": str(t1w)})


def descendants_of(pids: list[int]) -> list[int]:
    """Those of these processes that still run."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    alive = []
    for pid, path in states.items():
        try:
            state = path.read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            alive.append(pid)
    return alive


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_only_what_later_stages_read_may_be_kept_and_a_failed_image_keeps_its_logs(head, tmp_path, trace, monkeypatch):
    few, all_of_it = tmp_path / "few", tmp_path / "all"
    images = table({"x_1": "", "x_2": "exit_1"}, head, tmp_path)
    for folder, keep in ((few, "needed"), (all_of_it, "all")):
        ledger = run.preprocess_images(images, settings(keep=keep), folder)
        assert list(ledger["status"]) == ["ok", "failed"]
    kept = {str(path.relative_to(few)) for path in few.rglob("*") if path.is_file()}
    needed = ["mri/orig.mgz", "mri/mask.mgz", "mri/aparc.DKTatlas+aseg.deep.mgz", "stats/aseg+DKT.stats"]
    assert {path for path in kept if "x_1" in path} == {f"x-0001/x_1/{name}" for name in [*needed, "status.json"]}
    assert "x-0001/x_2/scripts/engine.log" in kept
    whole = all_of_it / "x-0001/x_1"
    for name in needed:
        assert (few / "x-0001/x_1" / name).read_bytes() == (whole / name).read_bytes()

    # what it keeps changes no result: nothing is done again for it
    again = trace("start")
    run.preprocess_images(images, settings(keep="all"), few)
    assert trace("start") == again


@pytest.mark.parametrize("keep", ["needed", "all"])
def test_a_cohort_that_joins_a_task_gets_its_volumes_from_the_kept_segmentation(head, tmp_path, trace, keep):
    """Without volumes neither bias field nor statistics are made; later they are, without the network."""
    images, subjects, expected = table({"x_1": ""}, head, tmp_path), tmp_path / "subjects", tmp_path / "expected"
    run.preprocess_images(images, settings(keep=keep), expected)
    run.preprocess_images(images, settings(keep=keep, volumes=False), subjects)
    first = subjects / "x-0001/x_1"
    assert "--no_biasfield" in trace("start")[-1]["arguments"]
    assert not (first / "stats").exists() and not (first / "mri/orig_nu.mgz").exists()
    assert np.isnan(statistics_of(first).mask_volume) and not statistics_of(first).volumes
    names = ("mri/orig.mgz", "mri/mask.mgz", "mri/aparc.DKTatlas+aseg.deep.mgz")
    before = {name: (first / name).read_bytes() for name in names}
    assert before == {name: (expected / "x-0001/x_1" / name).read_bytes() for name in names}

    run.preprocess_images(images, settings(keep=keep), subjects)
    arguments = trace("start")[-1]["arguments"]
    assert "--no_asegdkt" in arguments and "--no_biasfield" not in arguments
    assert before == {name: (first / name).read_bytes() for name in names}
    assert statistics_of(first).volumes == statistics_of(expected / "x-0001/x_1").volumes
    assert read_status(first)["fingerprint"] == read_status(expected / "x-0001/x_1")["fingerprint"]

    # an image that has volumes needs nothing more, with them or without
    count = len(trace("start"))
    for volumes in (True, False):
        ledger = run.preprocess_images(images, settings(keep=keep, volumes=volumes), subjects)
        assert list(ledger["status"]) == ["ok"] and len(trace("start")) == count


def test_if_a_version_makes_no_volumes_without_its_network_the_image_is_processed_again(head, tmp_path, trace):
    images = table({"x_1": "network_needed", "x_2": "exit_1"}, head, tmp_path)
    run.preprocess_images(images, settings(keep="needed", volumes=False), tmp_path / "subjects")
    count = len(trace("start"))
    ledger = run.preprocess_images(images, settings(keep="needed"), tmp_path / "subjects")
    assert list(ledger["status"]) == ["ok", "failed"]  # the second stays failed until `neurotransfer retry`
    assert ["--no_asegdkt" in line["arguments"] for line in trace("start")[count:]] == [True, False]
    assert statistics_of(tmp_path / "subjects/x-0001/x_1").volumes


def test_nan_that_is_background_does_not_reach_fastsurfer_and_is_noted(head, tmp_path, trace):
    image = nibabel.load(head)
    values = image.get_fdata()
    values[:2] = np.nan
    t1w = tmp_path / "nan_T1w.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, image.affine), t1w)
    ledger = run.preprocess_images(table({"x_1": ""}, t1w, tmp_path), settings(), tmp_path / "subjects")
    assert list(ledger["status"]) == ["ok"] and "is taken as background" in ledger["detail"][0]
    given = tmp_path / "given.nii.gz"  # the stand-in keeps a copy of its input
    shutil.copyfile(tmp_path / "subjects/x-0001/x_1/mri/orig/001.mgz", given)
    assert np.array_equal(nibabel.load(given).get_fdata(), np.nan_to_num(values, nan=0.0))


def test_an_images_status_has_the_seconds_of_each_part(head, tmp_path, trace, monkeypatch):
    lasting = {"start": 0.3, "import": 0.3, "networks": 0.3, "conform": 0.4, "network": 0.5, "statistics": 0.6}
    monkeypatch.setenv("STANDIN_SECONDS", json.dumps(lasting))
    run.preprocess_images(table({"x_1": ""}, head, tmp_path), settings(keep="needed"), tmp_path / "subjects")
    status = read_status(tmp_path / "subjects/x-0001/x_1")
    parts = status["parts"]
    assert set(parts) == set(demands.PARTS)
    for part, seconds in lasting.items():
        assert parts[part] > seconds - 0.2  # from one look at the log to another
    assert sum(parts.values()) <= status["seconds"]


# --- What FastSurfer is told ---------------------------------------------------------------------


def test_the_command_is_the_documented_one_in_apptainer_on_a_gpu(head, tmp_path, trace, monkeypatch):
    lines = []
    monkeypatch.setattr(Commands, "run", lambda self, line, log, **how: lines.append((line, how)) or 1)
    engine = fastsurfer.FastSurfer(settings(license=str(head)), tmp_path / "scratch")
    with pytest.raises(InstallationError):  # nothing has run
        engine.run(run._scan(table({"x_1": ""}, head, tmp_path).iloc[0], Path()), tmp_path)
    (line, how), root = lines[0], ["--allow_root"] if os.getuid() == 0 else []
    output = line[line.index("-B") + 3].removesuffix(":/output")
    assert line == [
        "apptainer", "exec", "--nv", "--no-mount", "home,cwd", "-e",
        "-B", f"{head.resolve()}:/input/x_1.nii.gz:ro", "-B", f"{output}:/output",
        "-B", f"{head.resolve()}:/fs_license/license.txt:ro",
        "docker://deepmi/fastsurfer:cuda-v2.5.0", "/fastsurfer/run_fastsurfer.sh",
        "--t1", "/input/x_1.nii.gz", "--sid", "x_1", "--sd", "/output", "--fs_license", "/fs_license/license.txt",
        "--seg_only", "--no_cereb", "--no_hypothal", "--no_cc", "--vox_size", "1", "--viewagg_device", "auto",
        "--threads", "1", *root,
    ]  # fmt: skip
    assert output.startswith(str(tmp_path / "scratch"))
    assert how["environment"]["APPTAINERENV_TMPDIR"] == "/output/tmp"
    assert how["limit"] == 30 * 60


@pytest.mark.parametrize("gpus", (1, 0))
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_running_gives_whole_results(way, gpus, head, tmp_path, trace, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("STANDIN_DEVICE", "cuda" if gpus else "cpu")
    ledger = run.preprocess_images(
        table({"x_1": ""}, head, tmp_path), settings(way, gpus=gpus, threads=4), tmp_path / "subjects"
    )
    assert ledger.loc[0].tolist()[:4] == ["x_1", "ok", None, None]
    assert ledger.loc[0].tolist()[4:] == ["fastsurfer", "2.5.0"]
    folder = tmp_path / "subjects/x-0001/x_1"
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"mri/orig.mgz", "mri/mask.mgz", "mri/aparc.DKTatlas+aseg.deep.mgz", "stats/aseg+DKT.stats"} <= made
    assert {"scripts/engine.log", "scripts/deep-seg.log", "status.json"} <= made
    assert len(list(folder.rglob("*"))) < 40  # files and folders: inodes, of which clusters have few
    assert not (folder / "stats/aseg+DKT.stats").is_symlink()
    assert read_stats(folder / "stats/aseg+DKT.stats").mask_volume > 4e5
    told = trace("start")[0]
    assert told["arguments"][told["arguments"].index("--threads") + 1] == ("1" if gpus else "4")
    # Docker hands on its GPU by --gpus, Apptainer by --nv and this variable; a native run on the CPU must see none
    seen = {("native", 1): "3", ("native", 0): "", ("apptainer", 1): "3", ("singularity", 1): "3"}
    assert told["gpus"] == seen.get((way, gpus))
    if way == "docker":
        assert told["docker_gpus"] == ("device=GPU-3d" if gpus else "")
    assert told["tmpdir"]
    assert not list((tmp_path / "scratch").iterdir())


def test_options_are_those_of_the_version(head, trace):
    for version, options in fastsurfer.OPTIONS.items():
        assert ("--no_cc" in options) == (version != "2.4")
        engine = fastsurfer.FastSurfer(settings(version=f"{version}.0"))
        words = engine.options("cpu")
        environment = os.environ | {"STANDIN_VERSION": f"{version}.0"}
        line = [STANDINS / "run_fastsurfer.sh", *words, "--sd", "/tmp", "--sid", "a", "--t1", "/not/there.nii"]
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert "T1 image" in done.stdout  # the first thing that the script minds
    old = os.environ | {"STANDIN_VERSION": "2.4.2"}
    done = subprocess.run([STANDINS / "run_fastsurfer.sh", "--no_cc"], capture_output=True, text=True, env=old)
    assert (done.returncode, done.stdout) == (1, "ERROR: Flag '--no_cc' unrecognized.\n")


@pytest.mark.parametrize("way", WAYS)
def test_odd_paths_and_links_of_datalad_are_no_obstacle(way, head, tmp_path, trace):
    """Blanks, quotes, umlauts, dashes, what binds give a meaning to, and content whose own name says no format."""
    names = ['sub 1/it\'s "T1"_T1w.nii.gz', "-x/-rf_T1w.nii.gz", "Größe/$(touch x)_T1w.nii", "a:b,c/d_T1w.nii.gz"]
    raw = subprocess.run(["gzip", "-dc", head], capture_output=True, check=True).stdout
    paths = []
    for at, name in enumerate(names):
        path = tmp_path / "cohort" / name
        path.parent.mkdir(parents=True)
        content = tmp_path / f"cohort/.git/annex/objects/{at}/SHA1-s{at}--{at}/SHA1-s{at}--{at}"
        content.parent.mkdir(parents=True)
        content.write_bytes(raw if name.endswith(".nii") else head.read_bytes())
        path.symlink_to(os.path.relpath(content, path.parent))
        paths.append(path)
    images = table({f"x_{at}": "" for at in range(len(names))}, head, tmp_path).assign(t1w=list(map(str, paths)))
    ledger = run.preprocess_images(images, settings(way), tmp_path / "subjects")
    assert ledger["status"].tolist() == ["ok"] * len(names), ledger["detail"].tolist()
    assert not Path("x").exists()


# --- What each failure ends as -------------------------------------------------------------------

ENDS = {
    "good_1": ("", None),
    "exit": ("exit_1", "engine_failed"),
    "small": ("too_small", None),
    "small_2": ("too_small_incomplete", "volume_check"),
    "cudnn": ("cudnn_later", None),
    "mask": ("no_mask", "output_missing"),
    "cut": ("truncated", "output_damaged"),
    "stats": ("no_stats", "output_missing"),
    "half": ("half_stats", "output_damaged"),
    "grid": ("other_grid", "wrong_grid"),
    "tiny": ("small_brain", "implausible_volume"),
    "vinn": ("vinn", None),
    "link": ("absolute_link", None),
    "hang": ("hang", "timeout"),
    "gpu": ("gpu_memory", None),
    "gpu_2": ("gpu_memory_always", "gpu_memory"),
    "killed": ("killed", "killed"),
    "inner": ("inner_killed", "killed"),
    "tiny_label": ("statistics", "engine_failed"),
    "good_2": ("", None),
}


@pytest.fixture(scope="module", params=["2.4.2", "2.5.0"])
def failures(head, cache, tmp_path_factory, request):
    """All of them in one shard, three at once on one GPU: the ledger, the folder and the stand-in's trace.

    From 2.5 on the exit status is 0 after a failed step, and root is warned even if it is allowed.
    """
    tmp_path = tmp_path_factory.mktemp("failures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{STANDINS}:{os.environ['PATH']}")
        told = {"CACHE": cache, "FAULTS": tmp_path / "faults.json", "TRACE": tmp_path / "trace", "ROOT": "1"}
        for name, value in (told | {"PYTHON": sys.executable}).items():
            patch.setenv(f"STANDIN_{name}", str(value))
        write_json(tmp_path / "faults.json", {})
        images = table({name: fault for name, (fault, _) in ENDS.items()}, head, tmp_path)
        version = settings(version=request.param, time_limit=0.15, images_at_once=3)
        fastsurfer.FastSurfer(version, tmp_path).close()
        ledger = run.preprocess_images(images, version, tmp_path / "subjects")
    trace = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    return ledger.set_index("image_id"), tmp_path / "subjects/x-0001", trace


@pytest.mark.parametrize("name", ENDS)
def test_each_failure_has_its_reason_and_takes_nobody_with_it(name, failures):
    ledger, folder, _ = failures
    reason = ENDS[name][1]
    row = ledger.loc[name]
    assert row["status"] == ("failed" if reason else "ok"), row["detail"]
    assert read_json(folder / name / "status.json")["reason"] == reason
    assert (folder / name / "scripts/engine.log").is_file()
    assert (folder / name / "mri").exists() == (reason is None)
    if reason:
        assert reason in reasons.REASONS
        assert row["detail"]
    else:
        assert ("too small" in str(row["detail"])) == (name == "small")
        assert read_stats(folder / name / "stats/aseg+DKT.stats").volumes


def test_details_are_the_last_words_that_say_something(failures):
    ledger, _, _ = failures
    assert "could not broadcast" in ledger.loc["exit", "detail"]
    assert "Total segmentation volume is too small" in ledger.loc["small_2", "detail"]
    assert "mri/mask.mgz" in ledger.loc["mask", "detail"]
    assert "ZeroDivisionError: float division by zero" in ledger.loc["tiny_label", "detail"]
    assert "INSUFFICIENT GPU MEMORY" in ledger.loc["gpu_2", "detail"]
    assert "ended after 0.15 minutes" in ledger.loc["hang", "detail"]
    assert re.match(
        r"run_fastsurfer.sh: line \d+: \d+ Killed|Command terminated by signal 9$", ledger.loc["inner", "detail"]
    )
    log = "a\nRuntimeError: why\n\n  at line 3\nERROR: FastSurfer asegdkt segmentation failed.\nTue Nov 24 20:25:54"
    assert fastsurfer_logs.last_words(log) == "RuntimeError: why"
    assert fastsurfer_logs.last_words("Traceback (most recent call last):\n") == "Traceback (most recent call last):"
    assert fastsurfer_logs.last_words("") == ""


def test_what_ran_out_of_gpu_memory_is_tried_again_alone_and_frugally(failures):
    _, _, trace = failures
    tries = [line for line in trace if line["event"] == "start" and line["sid"] == "gpu"]
    devices = [line["arguments"][line["arguments"].index("--viewagg_device") + 1] for line in tries]
    assert devices == ["auto", "cpu"]
    spans = {}
    for line in trace:
        if line["event"] == "start":
            spans[line["pid"]] = [line["sid"], line["time"], line["time"]]
        elif line["event"] == "end":
            spans[line["pid"]][2] = line["time"]
    _, start, end = spans[tries[1]["pid"]]
    assert end > start
    others = [span for pid, span in spans.items() if pid != tries[1]["pid"]]
    assert not [span for span in others if span[1] < end and span[2] > start]


def test_three_images_run_at_once(failures):
    _, _, trace = failures
    running, most = set(), 0
    for line in sorted(trace, key=lambda line: line["time"]):
        running = running | {line["sid"]} if line["event"] == "start" else running - {line["sid"]}
        most = max(most, len(running - {"hang", "killed"}))
    assert 2 <= most <= 3


def test_a_hanging_image_leaves_no_process(failures):
    _, _, trace = failures
    hanging = [line for line in trace if line["sid"] == "hang"]
    pids = [line["pid"] for line in hanging] + [line["child"] for line in hanging if "child" in line]
    assert len(pids) > 2
    wait_for(lambda: not descendants_of(pids))


def test_a_hanging_container_of_docker_ends_too(head, tmp_path, trace):
    """The container is no child of its client: it needs a kill of its own."""
    images = table({"a": "hang"}, head, tmp_path)
    ledger = run.preprocess_images(images, settings("docker", time_limit=0.03), tmp_path / "subjects")
    assert ledger["reason"].tolist() == ["timeout"]
    pids = [trace("child")[0]["child"], trace("child")[0]["pid"]]
    wait_for(lambda: not descendants_of(pids))


# --- A broken installation -----------------------------------------------------------------------


def broken(tmp_path, head, expected: str, *, faults=None, shard="x-0001", **changes) -> str:
    """Run a shard that must stop at once with one line; the line."""
    images = table(faults or {"a": "", "b": ""}, head, tmp_path, shard)
    with pytest.raises(InstallationError, match=expected) as caught:
        run.preprocess_images(images, settings(**changes), tmp_path / "subjects")
    assert "\n" not in str(caught.value)
    left = list((tmp_path / "subjects").rglob("*")) if (tmp_path / "subjects").exists() else []
    assert not [path for path in left if path.is_file() or path.name.endswith(".part")]
    return str(caught.value)


def test_no_program(head, tmp_path, trace, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "runs_in: there is no program apptainer" in broken(tmp_path, head, "no program apptainer")
    broken(tmp_path, head, "no program run_fastsurfer.sh", runs_in="native")


@pytest.mark.parametrize("way", ("apptainer", "docker"))
def test_a_tag_that_does_not_exist(way, head, tmp_path, trace):
    line = broken(tmp_path, head, "does not start", runs_in=way, image="deepmi/fastsurfer:cuda-v9.9.9")
    assert "manifest unknown" in line
    assert not trace("start")


def test_another_version_in_the_image(head, tmp_path, trace):
    (tmp_path / "fastsurfer-2.4.2.sif").touch()
    line = broken(tmp_path, head, "this is FastSurfer 2.4.2", image=str(tmp_path / "fastsurfer-2.4.2.sif"))
    assert "preprocessing.fastsurfer.version says 2.5.0" in line
    assert not trace("start")


def test_no_image_and_no_licence_where_they_are_named(head, tmp_path, trace):
    line = broken(tmp_path, head, "there is no .*fastsurfer-2.5.0.sif", image=str(tmp_path / "fastsurfer-2.5.0.sif"))
    assert "preprocessing.fastsurfer.image" in line
    assert "fastsurfer.license" in broken(tmp_path, head, "there is no .*l.txt", license=str(tmp_path / "l.txt"))


def test_no_daemon(head, tmp_path, trace, monkeypatch):
    monkeypatch.setenv("STANDIN_NO_DAEMON", "1")
    broken(tmp_path, head, "Cannot connect to the Docker daemon", runs_in="docker")


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_docker_itself_takes_these_options(head, tmp_path, trace, monkeypatch):
    """A client without a daemon parses its options before it misses the daemon."""
    real = os.environ["PATH"].removeprefix(f"{STANDINS}:")
    monkeypatch.setenv("PATH", real)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")
    broken(tmp_path, head, "Cannot connect to the Docker daemon|failed to connect to the docker API", runs_in="docker")


@pytest.mark.parametrize("way", ("apptainer", "docker", "native"))
def test_a_node_without_a_gpu_stops_instead_of_taking_hours(way, head, tmp_path, trace, monkeypatch):
    monkeypatch.setenv("STANDIN_NO_GPU", "1")
    monkeypatch.setenv("STANDIN_DEVICE", "cpu")
    broken(tmp_path, head, "set preprocessing.gpus to 0", runs_in=way)


def test_a_path_that_no_container_can_be_shown(head, tmp_path, trace, monkeypatch):
    (tmp_path / "a:b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a:b"))
    assert "set TMPDIR" in broken(tmp_path, head, "cannot be shown a path")


def test_an_unwritable_disk_for_temporary_files(head, tmp_path, trace, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/sys")
    assert "TMPDIR" in broken(tmp_path, head, "temporary files can't be written there")


def test_no_space_for_temporary_files(head, tmp_path, trace, monkeypatch):
    line = broken(tmp_path, head, "No space left on device", faults={"a": "no_space", "b": "slow"})
    assert "TMPDIR" in line
    full = shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    broken(tmp_path, head, "0.1 GB are free, 4 images need 2.0")


def test_options_of_another_version_stop_the_job(head, tmp_path, trace, monkeypatch):
    monkeypatch.setitem(fastsurfer.OPTIONS, "2.5", fastsurfer.OPTIONS["2.5"] + " --no_such_thing")
    broken(tmp_path, head, "Flag '--no_such_thing' unrecognized")


def test_a_licence_that_is_needed(head, tmp_path, trace, monkeypatch):
    monkeypatch.setitem(fastsurfer.OPTIONS, "2.5", fastsurfer.OPTIONS["2.5"] + " --tal_reg")
    broken(tmp_path, head, "require a FreeSurfer License.*preprocessing.fastsurfer.license")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("offline", "Failed downloading the checkpoint.*the nodes do not reach the internet"),
        ("old_gpu", "no kernel image.*send the job to other GPUs"),
        ("cudnn", "CUDNN_STATUS_NOT_INITIALIZED.*leave the node out"),
        ("ecc", "uncorrectable ECC error.*leave the node out"),
    ],
)
def test_checkpoints_and_gpus_at_fault_are_charged_to_no_image(fault, expected, head, tmp_path, trace):
    broken(tmp_path, head, expected, faults={"a": fault}, images_at_once=1)


def test_a_warning_is_no_error():
    """FastSurfer goes on after it, whatever it says; what torch says of a driver comes as a warning only."""
    root = "You are trying to run 'run_fastsurfer.sh' as root. We recommend to avoid"
    assert fastsurfer_logs.broken(f"WARNING: {root}\nValueError: bad image") is None
    assert fastsurfer_logs.broken(f"ERROR: {root}") == (f"ERROR: {root}", "run it as another user")
    line = "a.py:5: UserWarning: No module named 'lapy', surfaces are not smoothed"
    assert fastsurfer_logs.broken(line) is None
    driver = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"
    assert "older CUDA" in fastsurfer_logs.broken(driver)[1]
    assert fastsurfer_logs.broken(driver, gpu=False) is None  # torch says it on the CPU, too


# What 2.4.0-dev printed for an image that it finished (benchmarks/real_fastsurfer.py), lines of every kind.
GOOD = """Setting ENV variable FASTSURFER_HOME to script directory /fastsurfer.
Version: 2.4.0-dev+7c45785
Trying to force the use of cached version information (--prefer_cache), but no build information file was passed found
torchvision/io/image.py:13: UserWarning: Failed to load image Python extension: 'Could not load this library: image.so'
[INFO: common.py:  106]: Using device: cpu
run_prediction.py:256: UserWarning: The given NumPy array is not writable, and PyTorch does not support such tensors.
  self.torch_labels = torch.from_numpy(self.lut["ID"].values)
[INFO: run_prediction.py:  442]: Output image directory /output/a/mri/orig does not exist. Creating it now...
The input image is not conformed.
 - Dimensions 256x256x256        : BUT image dimensions (188, 256, 190)
"""


@pytest.mark.parametrize(
    ("line", "is_broken", "is_killed"),
    [
        ("", False, False),
        ("IndexError: list index out of range", False, False),  # a segmentation without white matter
        ("mkdir: cannot create directory '/output/a': Permission denied", True, False),
        ("ERROR: The subject directory (/output) is owned by root and is not writable.", True, False),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory:.",
            False,
            True,
        ),
        (
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.2 GiB for an array with shape (9, 9)",
            False,
            True,
        ),
        ('run_fastsurfer.sh: line 786: 17613 Killed                  "${cmd[@]}"', False, True),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0", False, False),  # of another image, maybe
    ],
)
def test_of_a_real_log_only_the_line_of_the_failure_counts(line, is_broken, is_killed):
    log = f"{GOOD}{line}\nERROR: FastSurfer asegdkt segmentation failed.\n"
    assert (fastsurfer_logs.broken(log) is not None) == is_broken
    assert bool(fastsurfer_logs.killed(log)) == is_killed
    if line:
        assert fastsurfer_logs.last_words(log) == line


# --- A native installation -----------------------------------------------------------------------


def test_a_native_run_does_not_see_this_programs_python(head, tmp_path, trace, monkeypatch):
    """An activated environment's python3 has none of FastSurfer's packages."""
    ours = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{ours}:{os.environ['PATH']}")
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    images = table({"a": ""}, head, tmp_path)
    ledger = run.preprocess_images(images, settings("native", python=sys.executable), tmp_path / "subjects")
    assert ledger["status"].tolist() == ["ok"], ledger
    told = trace("start")[0]
    assert ours not in told["path"].split(":")
    assert told["arguments"][told["arguments"].index("--py") + 1] == f"{sys.executable} -s"


def test_packages_that_are_missing_are_found_before_the_first_image(head, tmp_path, trace, monkeypatch):
    monkeypatch.setenv("STANDIN_NO_PACKAGES", "1")
    line = broken(tmp_path, head, "cannot import FastSurfer .*No module named 'torch'", runs_in="native")
    assert "python3 -s" in line and "preprocessing.fastsurfer.python" in line
    broken(tmp_path, head, "its Python does not start", runs_in="native", python="/not/there/python3")
    assert not trace("start")


# --- GPUs and cores ------------------------------------------------------------------------------


def test_docker_is_told_the_jobs_gpu_by_its_uuid(trace, monkeypatch):
    """A number inside a job is another GPU to the daemon, and without any FastSurfer would take all of them."""
    assert containers.gpu_uuid(containers.gpu_of_job()) == "GPU-0a"
    for given, expected in (("1", "GPU-1b"), ("GPU-9", "GPU-9"), ("MIG-7", "MIG-7")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert containers.gpu_uuid(containers.gpu_of_job()) == expected
    monkeypatch.setenv("STANDIN_GPUS", "")
    with pytest.raises(InstallationError, match="couldn't communicate with the NVIDIA driver"):
        containers.gpu_uuid("1")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InstallationError, match="nvidia-smi"):
        containers.gpu_uuid("1")


@pytest.mark.parametrize("way", ("apptainer", "docker", "native"))
def test_an_image_has_its_share_of_the_jobs_cores(way, head, tmp_path, trace):
    here = sorted(os.sched_getaffinity(0))
    images = table({"a": "slow", "b": "slow"}, head, tmp_path)
    run.preprocess_images(images, settings(way, threads=2, images_at_once=2), tmp_path / "subjects")
    cores = sorted(line["cores"] for line in trace("start"))
    assert cores == ([[here[0]], [here[1]]] if len(here) > 1 else [here, here])
    assert sorted(os.sched_getaffinity(0)) == here


def test_a_command_that_cannot_be_built_gives_its_cores_back(tmp_path, trace, monkeypatch):
    """Another thread would wait for them without end."""
    monkeypatch.setenv("STANDIN_GPUS", "")
    engine = fastsurfer.FastSurfer(settings("docker", threads=2, images_at_once=2), tmp_path)
    for _ in range(2):
        with pytest.raises(InstallationError, match="couldn't communicate with the NVIDIA driver"):
            engine._call(["--version"], tmp_path, tmp_path / "log", limit=1)
    assert engine._cores.qsize() == 2


def test_nvidia_smi_names_the_gpu_once_for_all_images(head, tmp_path, trace, monkeypatch):
    asked, named = [], containers.gpu_uuid
    monkeypatch.setattr(containers, "gpu_uuid", lambda name: asked.append(name) or named(name))
    ledger = run.preprocess_images(table({"a": "", "b": ""}, head, tmp_path), settings("docker"), tmp_path / "subjects")
    assert set(ledger["status"]) == {"ok"}
    assert asked == ["0"]
    assert {line["docker_gpus"] for line in trace("start")} == {"device=GPU-0a"}


def test_cores_are_shared_only_if_there_are_enough(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7, 9})
    assert fastsurfer.shares_of_cores(4, 2) == [[4, 5], [6, 7]]
    assert fastsurfer.shares_of_cores(3, 3) == [[4], [5], [6]]
    assert fastsurfer.shares_of_cores(6, 1) == [[]]


# --- A run of failures with one cause ------------------------------------------------------------


def outcomes(tmp_path: Path, stop_after: int = 3) -> run.Outcomes:
    return run.Outcomes(tmp_path / "outcomes.log", tmp_path / "subjects", stop_after)


def one_job(tmp_path: Path, head: Path, name: str, fault: str, shard: str) -> pd.DataFrame:
    images = table({name: fault}, head, tmp_path, shard)
    return run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects", outcomes=outcomes(tmp_path))


def test_a_run_of_one_failure_stops_its_job(head, tmp_path, trace):
    faults = {"ok": ""} | {f"bad_{at}": "exit_1" for at in range(8)}
    images = table(faults, head, tmp_path)
    with pytest.raises(InstallationError) as caught:
        run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects", outcomes=outcomes(tmp_path))
    line = str(caught.value)
    assert "the last 3 images all failed with the reason engine_failed" in line
    assert "could not broadcast" in line
    assert "neurotransfer retry --reason engine_failed" in line
    states = [read_json(path)["state"] for path in (tmp_path / "subjects").rglob("status.json")]
    assert sorted(states) == ["failed", "failed", "failed", "ok"]


def test_a_run_is_found_across_jobs_of_one_image_each(head, tmp_path, trace):
    """Alike in one cohort or in all; a success breaks the run, and a job that fails otherwise goes on."""
    for at, fault in enumerate(("exit_1", "exit_1", "", "exit_1", "exit_1")):
        one_job(tmp_path, head, f"i{at}", fault, f"a-000{at}")
    with pytest.raises(InstallationError, match=r"preprocessing: the last 3 images"):
        one_job(tmp_path, head, "i5", "exit_1", "b-0001")
    with pytest.raises(InstallationError):
        one_job(tmp_path, head, "i6", "exit_1", "b-0002")
    assert not (tmp_path / "subjects/b-0002/i6").exists()  # one line, and no failure more
    assert one_job(tmp_path, head, "i7", "no_mask", "b-0003")["reason"].tolist() == ["output_missing"]
    assert one_job(tmp_path, head, "i8", "", "b-0004")["status"].tolist() == ["ok"]


def test_a_broken_cohort_is_found_among_others_that_work(head, tmp_path, trace):
    one_job(tmp_path, head, "i0", "exit_1", "a-0001")
    one_job(tmp_path, head, "i1", "", "b-0001")
    one_job(tmp_path, head, "i2", "exit_1", "a-0002")
    one_job(tmp_path, head, "i3", "", "b-0002")
    with pytest.raises(InstallationError, match="cohort a: the last 3 images"):
        one_job(tmp_path, head, "i4", "exit_1", "a-0003")


def test_what_was_marked_for_another_try_counts_no_more(head, tmp_path, trace):
    for at in range(2):
        one_job(tmp_path, head, f"i{at}", "exit_1", f"a-000{at}")
        (tmp_path / f"subjects/a-000{at}/i{at}/status.json").unlink()  # as `neurotransfer retry` does
    assert one_job(tmp_path, head, "i2", "exit_1", "a-0002")["status"].tolist() == ["failed"]
    assert one_job(tmp_path, head, "i0", "", "a-0000")["status"].tolist() == ["ok"]


# --- Stopping anywhere, and starting again -------------------------------------------------------

JOB = """
import signal, sys, pandas, pathlib
from neurotransfer.jobs.job import _exit_at_sigterm
from neurotransfer.files import read_json, read_table
from neurotransfer.preprocess.run import preprocess_images
signal.signal(signal.SIGTERM, _exit_at_sigterm)
preprocess_images(read_table("images.tsv"), read_json("settings.json"), "subjects")
"""


@pytest.mark.parametrize("way", ("apptainer", "docker"))
@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGTERM))
def test_a_job_that_is_ended_ends_its_images_and_resumes_at_them(number, way, head, tmp_path, trace, monkeypatch):
    faults = {"a": "", "b": "", "c": "hang", "d": "hang", "e": ""}
    images = table(faults, head, tmp_path)
    images.to_csv(tmp_path / "images.tsv", sep="\t", index=False)
    write_json(tmp_path / "settings.json", settings(way, images_at_once=2))
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", JOB], cwd=tmp_path, env=environment)
    wait_for(lambda: len(trace("child")) == 2, 60)
    pids = [line[key] for line in trace("child") for key in ("pid", "child")]
    assert len(descendants_of(pids)) == 4

    process.send_signal(number)

    started = time.monotonic()
    assert process.wait(timeout=20) != 0
    wait_for(lambda: not descendants_of(pids) and not list((tmp_path / "scratch").iterdir()), 20)
    assert time.monotonic() - started < 15
    states = {path.parent.name: read_json(path)["state"] for path in (tmp_path / "subjects").rglob("status.json")}
    assert states == {"a": "ok", "b": "ok"}

    table(dict.fromkeys(faults, ""), head, tmp_path)
    before = len(trace("start"))
    ledger = run.preprocess_images(images, settings(way), tmp_path / "subjects")
    assert ledger["status"].tolist() == ["ok"] * 5
    assert sorted(line["sid"] for line in trace("start")[before:]) == ["c", "d", "e"]
    assert not list((tmp_path / "subjects").rglob("*.part"))


def test_a_failed_image_waits_for_a_retry(head, tmp_path, trace):
    images = table({"a": "exit_1"}, head, tmp_path)
    first = run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects")
    table({"a": ""}, head, tmp_path)
    second = run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects")
    assert second.equals(first)
    assert len(trace("start")) == 1
    (tmp_path / "subjects/x-0001/a/status.json").unlink()
    third = run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects")
    assert third["status"].tolist() == ["ok"]


def test_how_an_image_is_run_repeats_nothing_and_what_makes_it_does(head, tmp_path, trace, monkeypatch):
    images = table({"a": ""}, head, tmp_path)
    for changes in ({}, {"runs_in": "docker", "time_limit": 7, "threads": 9}, {"version": "2.4.2"}):
        monkeypatch.setenv("STANDIN_VERSION", changes.get("version", "2.5.0"))
        run.preprocess_images(images, settings(**changes), tmp_path / "subjects")
    assert len(trace("start")) == 2


def test_a_withdrawn_image_loses_its_files(head, tmp_path, trace):
    images = table({"a": "", "b": ""}, head, tmp_path)
    run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects")
    images = images.assign(withdrawn=[1, None], t1w=[None, images["t1w"][1]])
    ledger = run.preprocess_images(images, settings("native", gpus=0), tmp_path / "subjects")
    assert ledger["status"].tolist() == ["withdrawn", "ok"]
    assert ledger.loc[0, ["reason", "engine"]].isna().all()
    assert not (tmp_path / "subjects/x-0001/a").exists()


# --- Processes -----------------------------------------------------------------------------------


def test_a_command_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    commands, log = Commands(), tmp_path / "log"
    script = "trap '' TERM; sleep 300 & echo $! ; sleep 300"
    with pytest.raises(TimedOut):
        commands.run(["sh", "-c", script], log, limit=0.3)
    wait_for(lambda: not descendants_of([int(log.read_text())]))
    assert commands.run(["sh", "-c", "sleep 300 & echo; echo $! >&2; exit 3"], log, limit=30) == 3
    wait_for(lambda: not descendants_of([int(log.read_text().split()[-1])]))
    commands.stop()
    with pytest.raises(Stopped):
        commands.run(["true"], log)
    commands.close()


# --- What it asks of a cluster -------------------------------------------------------------------


def test_time_and_memory_grow_with_the_attempt_up_to_what_there_is():
    for changes in ({}, {"gpus": 0}, {"engine": "builtin"}, {"engine": "derivatives"}):
        values = settings(**changes)
        for images in (1, 4, 64):
            times = [demands.runtime(values, images, attempt) for attempt in (1, 2, 3, 9)]
            sizes = [demands.mem_mb(values, attempt) for attempt in (1, 2, 3, 9)]
            assert times == sorted(times) and sizes == sorted(sizes)
            assert times[-1] <= 1440 and sizes[-1] <= 64000
            assert sizes[1] > sizes[0]
    assert demands.runtime(settings(), 64, 1) > demands.demand(settings()).limit


@pytest.mark.parametrize("volumes", (True, False))
def test_a_job_on_a_gpu_asks_for_the_time_that_its_images_take(volumes):
    """With few cores the bias field makes an image longer than a GPU needs."""
    for threads in (1, 3, 16):
        values = settings(threads=threads, volumes=volumes)
        assert demands.runtime(values, 64, 1) > 1.5 * 64 * demands.seconds_per_image(values) / 60


def test_gpu_or_not_decides_how_many_images_share_a_job():
    config = {"manifest": {"images_per_job": None}, "preprocessing": settings()}
    assert (demands.images_per_job(config), demands.demand(settings()).at_once) == (64, 4)
    config["preprocessing"] = settings(gpus=0)
    assert (demands.images_per_job(config), demands.demand(settings(gpus=0)).at_once) == (4, 1)
    config["manifest"]["images_per_job"] = 1
    assert demands.images_per_job(config) == 1
    assert not demands.has_gpu(settings(engine="builtin"))


def test_only_what_changes_results_is_a_parameter():
    changes = {"threads": 9, "gpus": 0, "images_at_once": 1, "time_limit": 1, "max_runtime": 9, "runs_in": "docker"}
    assert demands.identity(settings(**changes)) == demands.identity(settings())
    assert demands.identity(settings(version="2.4.2")) != demands.identity(settings())
    assert demands.identity(settings(engine="builtin"))["engine_version"] is None


def test_the_page_on_failures_is_the_table_of_the_code():
    text = (REPOSITORY / "docs/failures.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    told = {cells[0].strip().strip("`"): (cells[1].strip(), cells[2].strip()) for cells in rows}
    assert told == {name: tuple(reason) for name, reason in reasons.REASONS.items()}


def test_mistakes_that_can_be_known_are_told_before_any_job(tmp_path):
    from neurotransfer.study.configuration import check_config, load_config

    for text, expected in {
        "{fastsurfer: {image: 'deepmi/fastsurfer:latest'}}": "another image from one day to the next",
        "{fastsurfer: {image: 'deepmi/fastsurfer'}}": "another image from one day to the next",
        "{fastsurfer: {image: 'deepmi/fastsurfer:cuda-v2.4.2'}}": "is version 2.4.2",
        "{fastsurfer: {image: 'deepmi/fastsurfer:cpu-v2.5.0'}}": "does not use a GPU",
        "{fastsurfer: {image: /no/such.sif, runs_in: docker}}": "Docker runs no image from a file",
        "{fastsurfer: {version: 2.3.0}}": "2.4 to 2.6 are known here",
        "{voxel_size: 1.5}": "at most 1 mm",
        "{gpus: 2}": "at most 1",
    }.items():
        path = tmp_path / "my.yaml"
        path.write_text(f"preprocessing: {text}\n")
        with pytest.raises(InputError, match=expected):
            check_config(load_config(REPOSITORY, [path]), REPOSITORY / "workflow/schemas", [path])
