"""Whatever bytes a file holds, its reader gives a value or one InputError or ImageError, within 2 s of a processor and
500 MB, and a FIFO makes nobody wait.

Examples are bytes at random, and whole files of the kind with bytes changed, cut out, put in or cut off.  The variable
NEUROTRANSFER_EXAMPLES sets their number for each reader; CI tries a few dozen.
"""

import contextlib
import hashlib
import json
import math
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from bounds import Used, bounded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neurotransfer.cache.shard_file import ShardFile, shard_written
from neurotransfer.cache.write import read_mgz
from neurotransfer.errors import ImageError, InputError, Mistakes
from neurotransfer.exchange.kinds import read_mapping
from neurotransfer.exchange.known_answers import read_expected
from neurotransfer.exchange.onnx_graph import read_onnx
from neurotransfer.exchange.tensorflow_checkpoint import Checkpoint
from neurotransfer.exchange.torch_file import read_torch
from neurotransfer.files import read_facts, read_json, read_table, rows_if_any
from neurotransfer.fit.features import read_table_of_features
from neurotransfer.jobs.job import holder_in
from neurotransfer.jobs.lock_note import end_run, explain_lock, runs_now
from neurotransfer.manifest.bids_tables import (
    read_acquisitions,
    read_participants,
    read_phenotype,
    read_sessions,
    read_sidecar,
    read_units,
)
from neurotransfer.manifest.cohorts import read_cohorts
from neurotransfer.manifest.guesses import read_levels
from neurotransfer.manifest.same_people import read_same_people
from neurotransfer.manifest.withdrawal import read_withdrawn
from neurotransfer.network.sfcn import SFCN
from neurotransfer.operations.costs import read_rehearsed
from neurotransfer.operations.failures import failures_of, report
from neurotransfer.operations.image_states import ledger_rows, read_rows
from neurotransfer.predict.scans import find_scans
from neurotransfer.preprocess.engines.derivatives import freesurfer_statistics
from neurotransfer.preprocess.engines.inputs import read_image
from neurotransfer.preprocess.status import read_status, read_whole_json
from neurotransfer.preprocess.volumes import ATLASES, read_stats
from neurotransfer.pretrain.checkpoints import Checkpoints
from neurotransfer.pretrain.study_key import read_study_key
from neurotransfer.pretrain.weights import read_weights, write_weights
from neurotransfer.report.analysis_plan import conformity
from neurotransfer.study.demands import as_measured
from neurotransfer.study.documents import read_document
from neurotransfer.study.plan import read_study

EXAMPLES = int(os.environ.get("NEUROTRANSFER_EXAMPLES", "30"))
NETWORK = {"channels": [2, 3], "bottleneck": 2, "pooling": "max"}
TARGET = {
    "name": "age", "kind": "continuous", "weight": 1.0, "mean": 50.0, "sd": 20.0, "loss": "squared",
    "positive_weight": 1.0,
}  # fmt: skip
PLAN = {"tasks": {}, "resampling": {"replicates": 2, "n": [20]}, "pretrain": {"weights": None}}
FACTS = {
    "format": 1, "version": "1.0.0", "configuration": {"seed": 1, "resampling.n": [20]}, "files_sha256": {"a": "b"},
    "certificate_sha256": "c", "pools": {"ad_hc": {"images": {"positive": 9, "negative": "< 5"}}},
}  # fmt: skip
HERE = Path(__file__).parent


def collected(read: Callable[[Mistakes], object]) -> None:
    """What a reader complains of while it goes on is raised at its end."""
    mistakes = Mistakes()
    read(mistakes)
    mistakes.raise_if_any()


def everything(names: Iterable[str]) -> list[str]:
    return list(names)


def images_of_shard(path: Path) -> None:
    shard = ShardFile(path)
    for row in range(min(shard.shape[0], 3)):
        if np.prod(shard.shape[1:]) < 10**6:
            shard.image(row)


def tensors_of_checkpoint(path: Path) -> None:
    checkpoint = Checkpoint(path)
    for layer in checkpoint.layers().values():
        for key in layer.values():
            checkpoint.read(key)


def features(path: Path) -> None:
    read_table_of_features(pd.DataFrame({"image_id": ["a", "b"]}), path)


def ledger(path: Path) -> None:
    ledger_rows(path.parents[2], path.parent.name)


def freesurfer(path: Path) -> None:
    """Both kinds of FreeSurfer's files: `path` is one of them, the others are whole."""
    for name, content in FREESURFER.items():
        if name != path.name:
            path.with_name(name).write_text(content)
    freesurfer_statistics(path.parents[1])


def rehearsed(path: Path) -> None:
    """The readers of what a rehearsal has measured, and what they do with it."""
    as_measured({}, path)
    for facts in read_rehearsed(path).values():
        assert math.isfinite(float(facts.get("seconds", 0))), facts


def image_status(path: Path) -> None:
    found = read_status(path.parent)
    assert found is None or found["state"] in ("ok", "failed")
    read_whole_json(path)


def failures(path: Path) -> None:
    """All that the commands `failures` and `status` say of it, which is text for a terminal."""
    found = failures_of(path.parents[3])
    assert report(found, 3).replace("\n", " ").isprintable()


def lock(path: Path) -> None:
    (path.parent / "locks").mkdir(exist_ok=True)
    (path.parent / "locks/0.input.lock").touch()
    here = Path.cwd()
    os.chdir(path.parents[1])
    try:
        for said in (runs_now(), explain_lock([])):
            assert said and said.isprintable(), said
        end_run()
    finally:
        os.chdir(here)


def checkpoint(path: Path) -> None:
    Checkpoints(path.parent, FINGERPRINT).load()


def checkpoint_with_its_digest(path: Path) -> None:
    """Bytes that somebody has written on purpose, with the digest that they then have."""
    content = path.read_bytes()
    path.write_bytes(hashlib.sha256(content).digest() + content)
    found = Checkpoints(path.parent, FINGERPRINT).load()
    assert found is None or isinstance(found, dict)


def holder(path: Path) -> None:
    try:
        holder_in(path.read_bytes())
    except ValueError as error:  # who holds a lease is asked in two places, which both expect it
        raise InputError(path, "", str(error), "") from None


@dataclass(frozen=True)
class Surface:
    """A kind of file: its name in a folder, its reader, and whole files to start from."""

    file: str
    read: Callable[[Path], object]
    whole: Callable[[Path], list[bytes]] = field(default=lambda _: [])
    is_opened: bool = True  # by its path, so that a FIFO may stand there


def texts(*lines: str) -> Callable[[Path], list[bytes]]:
    return lambda _: [("\n".join(lines) + "\n").encode()]


def written(write: Callable[[Path], object], name: str) -> Callable[[Path], list[bytes]]:
    """A whole file that a function writes."""

    def whole(folder: Path) -> list[bytes]:
        write(folder / name)
        return [(folder / name).read_bytes()]

    return whole


def head() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (24, 24, 24)).astype(np.uint8)


def nifti(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(head(), np.diag([5.0, 5, 5, 1])), path)


def mgz(path: Path) -> None:
    nibabel.save(nibabel.MGHImage(head(), np.diag([5.0, 5, 5, 1])), path)


def shard(compression: str | None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with shard_written(path, 2, (24, 24, 24), compression) as add:
            add(head())
            add(head())

    return write


def weights(path: Path) -> None:
    torch.manual_seed(0)
    facts = {"network": NETWORK, "targets": [TARGET]}
    write_weights(path, SFCN([2, 3], 2, 1, "max", 0.0).state_dict(), facts)


def onnx(path: Path) -> None:
    import onnx as library

    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    graph = library.helper.make_graph(
        [library.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [library.helper.make_tensor_value_info("x", 1, [1, 2])],
        [library.helper.make_tensor_value_info("y", 1, [1, 3])],
        [library.numpy_helper.from_array(values, "w")],
    )
    library.save(library.helper.make_model(graph), path)


def keras(path: Path) -> None:
    path.write_bytes((HERE / "exchange/keras.index").read_bytes())
    path.with_name("k.data-00000-of-00001").write_bytes((HERE / "exchange/keras.data-00000-of-00001").read_bytes())


def whole_checkpoint(folder: Path) -> list[bytes]:
    Checkpoints(folder / "d", FINGERPRINT).save(1, {"step": 3, "weights": torch.ones(3)})
    return [path.read_bytes() for path in (folder / "d").glob("*.pt")]


def saved_training(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.save({"fingerprint": FINGERPRINT, "state": {"step": 3, "weights": torch.ones(3)}}, path)


FINGERPRINT = "0" * 64
LEDGER = texts("image_id\tstatus\treason\tdetail", "a_1\tok\t\tcorrelation", "a_2\tfailed\tmissing\t")
PEOPLE = texts("participant_id\tage\tsex", "sub-01\t20\tF", "sub-02\t31Y\tn/a")
STATS = texts(
    "# Measure Mask, MaskVol, Mask Volume, 1000000.0, mm^3",
    "# ColHeaders Index SegId NVoxels Volume_mm3 StructName normMean",
    "1 2 100 100.0 Left-Cerebral-White-Matter 110.0",
    "2 17 50 50.0 Left-Hippocampus 80.0",
)
CORTEX = [name.removeprefix("ctx-lh-") for name in ATLASES["DKT"].values() if name.startswith("ctx-lh-")]
GREY = "\n".join(
    ["# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg", *(f"{name} 9 8 700.5 2" for name in CORTEX)]
)
FREESURFER = {
    "aseg.stats": "# Measure Mask, MaskVol, Mask Volume, 1000000.0, mm^3\n"
    "# Measure lhCerebralWhiteMatter, lhCerebralWhiteMatterVol, Left white, 240000.5, mm^3\n"
    "# Measure rhCerebralWhiteMatter, rhCerebralWhiteMatterVol, Right white, 250000.5, mm^3\n"
    "# ColHeaders Index SegId NVoxels Volume_mm3 StructName normMean\n1 17 50 50.0 Left-Hippocampus 80.0\n",
    **{f"{side}.aparc.DKTatlas.stats": f"{GREY}\n" for side in ("lh", "rh")},
}
FAILED = (
    '{"rule": "cache", "key": "A-0001", "cause": "no space\\nleft", "time": 1.5e9, "wildcards": ["A-0001"], '
    '"log": "logs/cache/A-0001.log", "slurm_job": null, "version": "0.1.0"}'
)
STATUS = (
    '{"state": "ok", "reason": null, "seconds": 3.5, "parts": {"network": 2.0}, "engine": "builtin", "volumes": false}'
)
COSTS = (
    '{"cache": {"seconds": 1.5, "start": 2.0, "basis": "rehearsed"}, "disk": {"bytes": 1e6, "files": 9}, '
    '"preprocess": {"seconds": 1, "basis": "b", "parts": {"network": 3.0}}}'
)
MAPPINGS = [b"network: {}\ntargets: [{name: age, kind: continuous}]\n", b"0:"]
SCANS = [b"t1w\timage_id\n/a_T1w.nii\ta\n", b"~\x01\n", b"~nobody/a.nii"]
SURFACES = {
    "configuration": Surface("c.yaml", read_document, texts("study: a", "n: [1, 2]", "x: &y {z: 1}", "w: *y")),
    "analysis plan": Surface(
        "plan.md",
        lambda path: conformity(path, FACTS),
        texts("# Plan", "```json", json.dumps(FACTS | {"written": "2026-01-02"}), "```"),
    ),
    "json": Surface("c.json", read_json, texts('{"a": [1, 2.5e3, null, "\\u00e9"]}')),
    "cohorts": Surface(
        "cohorts.tsv",
        lambda path: collected(lambda mistakes: read_cohorts(path, ["ad_hc"], 1, mistakes)),
        texts("cohort\tpath\troles\tsex_codes", "A\tA\tpretraining\t1=0,2=1", "B\tB\tad_hc\t"),
    ),
    "same people": Surface("s.tsv", read_same_people, texts("# people", "A_01\tB_02", "A_03\tA_04\tB_05")),
    "withdrawn": Surface("w.tsv", read_withdrawn, texts("participant_id\timage_id\tdate", "A_01\t\t2026-01-01")),
    "participants": Surface(
        "participants.tsv",
        lambda path: collected(lambda mistakes: read_participants(path.parent, everything, mistakes)),
        PEOPLE,
    ),
    "sessions": Surface(
        "sub-01_sessions.tsv",
        lambda path: collected(lambda mistakes: read_sessions(path, "01", "diagnosis", everything, mistakes)),
        texts("session_id\tage\tdiagnosis", "ses-1\t20\tHC", "ses-2\t21\tAD"),
    ),
    "phenotype": Surface(
        "neo.tsv",
        lambda path: collected(lambda mistakes: read_phenotype(path.parent, path.name, everything, mistakes)),
        PEOPLE,
    ),
    "scans": Surface("scans.tsv", read_acquisitions, texts("filename\tacq_time", "anat/a.nii\t2001-02-03T04:05:06")),
    "sidecar": Surface(
        "participants.json",
        lambda path: (read_sidecar(path), read_levels(path.parent), read_units(path, "age")),
        texts('{"age": {"Units": "years"}, "sex": {"Levels": {"1": "male"}}}'),
    ),
    "nifti": Surface("a_T1w.nii", read_image, written(nifti, "n.nii")),
    "nifti compressed": Surface("a_T1w.nii.gz", read_image, written(nifti, "n.nii.gz")),
    "mgz": Surface("a.mgz", read_image, written(mgz, "m.mgz")),
    "mgz in the cache": Surface("orig.mgz", read_mgz, written(mgz, "m.mgz")),
    "statistics": Surface("aseg+DKT.stats", read_stats, STATS),
    **{
        f"freesurfer's {name}": Surface(f"stats/{name}", freesurfer, texts(content.rstrip("\n")))
        for name, content in list(FREESURFER.items())[:2]
    },
    "status of an image": Surface("a/status.json", image_status, texts(STATUS)),
    "failure": Surface("results/failures/cache/A-0001.json", failures, texts(FAILED)),
    "rehearsal": Surface("costs.json", rehearsed, texts(COSTS)),
    "note of a run": Surface(
        ".snakemake/neurotransfer.json",
        lock,
        texts(f'{{"host": "n1", "pid": {os.getpid()}, "started": "1", "user": "u", "since": "2026-01-01 10:00"}}'),
    ),
    "checkpoint": Surface(
        f"c/{FINGERPRINT[:16]}-000000000001.pt",
        checkpoint,
        whole_checkpoint,
    ),
    "checkpoint with its digest": Surface(
        f"c/{FINGERPRINT[:16]}-000000000001.pt", checkpoint_with_its_digest, written(saved_training, "d/s.pt"), False
    ),
    "ledger": Surface("preprocessed/A-0001/0000.tsv", ledger, LEDGER),
    "table": Surface("t.tsv", lambda path: (read_table(path), read_facts(path)), LEDGER),
    "rows": Surface("t.tsv", lambda path: list(read_rows(path, "image_id", "status")), LEDGER),
    "any rows": Surface("t.tsv", lambda path: list(rows_if_any(path)), LEDGER),
    "plan": Surface(
        "shards.tsv",
        lambda path: read_study(PLAN, path, stale_too=True),
        texts(
            '# {"cohorts_sha256": "0", "pretraining_shares": {"A": 1.0}, "roles": {"A": ["pretraining"]}}',
            "shard\tcohort\timages\timages_per_job\twithdrawn",
            "A-0001\tA\t72\t24\t0",
        ),
    ),
    "lease": Surface("a.lease", holder, texts('{"host": "n1", "pid": 12, "token": "a"}'), is_opened=False),
    "key": Surface("study.key", read_study_key, texts("ab" * 32)),
    "shard": Surface("A-0001.npy", images_of_shard, written(shard(None), "s.npy")),
    "shard compressed": Surface("A-0001.npy", images_of_shard, written(shard("zstd"), "s.npy")),
    "weights": Surface("w.safetensors", read_weights, written(weights, "v.safetensors")),
    "torch": Surface("t.pt", read_torch, written(lambda path: torch.save({"a": torch.ones(3)}, path), "u.pt")),
    "mapping": Surface("m.yaml", read_mapping, lambda _: MAPPINGS),
    "onnx": Surface("g.onnx", lambda path: read_onnx(path, 0.001, "max"), written(onnx, "h.onnx")),
    "tensorflow": Surface("k.index", tensors_of_checkpoint, written(keras, "k.index")),
    "published predictions": Surface("e.csv", lambda path: read_expected(path, ["age"], None), texts("a,age", "b,1")),
    "list of scans": Surface("l.tsv", find_scans, lambda _: SCANS),
    "features": Surface("f.tsv", features, texts("image_id\tx\ty", "a\t1\t2", "b\tNA\t3")),
}  # fmt: skip


def changed(whole: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes at random, and whole files of the kind with a few places changed."""
    at_random = st.binary(max_size=400)
    if not whole:
        return at_random

    @st.composite
    def spoiled(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(whole)))
        for _ in range(draw(st.integers(0, 4))):
            # headers and ends are the places that matter; most of a large file is voxels
            last = max(len(content) - 1, 0)
            at = draw(st.integers(0, last) | st.integers(0, min(last, 400)) | st.integers(max(0, last - 100), last))
            what = draw(st.sampled_from(["change", "cut out", "put in", "cut off", "repeat"]))
            if what == "change" and content:
                content[at] = draw(st.integers(0, 255))
            elif what == "cut out":
                del content[at : at + draw(st.integers(1, 40))]
            elif what == "put in":
                content[at:at] = draw(st.binary(min_size=1, max_size=12) | st.sampled_from(ODD))
            elif what == "cut off":
                del content[at:]
            else:
                content[at:at] = content[at : at + draw(st.integers(1, 60))]
        return bytes(content)

    return at_random | spoiled()


ODD = [b"\0", b'"', b"\t\t", b"\n\n", b"\r", b"\xef\xbb\xbf", b"\xff\xfe", b"nan", b"1e999", b"-1", b"[" * 50, b"# {"]
ODD += [b"9" * 400, "\u2028\u0085".encode(), b"null", b"{}", b"../", b"&a [*a]"]


@pytest.mark.parametrize("name", SURFACES)
def test_any_bytes_give_a_value_or_one_error_in_one_line(name, tmp_path):
    surface = SURFACES[name]
    path = tmp_path / surface.file
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = surface.whole(tmp_path)
    for content in whole:
        path.write_bytes(content)
        if name == "key":
            path.chmod(0o600)
        with contextlib.suppress(InputError, ImageError):
            surface.read(path)  # imports what the reader needs, which is not counted
    used = Used()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(changed(whole))
    def reads(content: bytes) -> None:
        path.write_bytes(content)
        try:
            with bounded(used):
                surface.read(path)
        except (InputError, ImageError) as error:
            lines = getattr(error, "lines", [str(error)])
            assert all(line and line == line.strip() and line.isprintable() for line in lines), lines

    reads()
    print(f"{name}: at most {used.seconds:.2f} s of a processor, {used.bytes / 1e6:.0f} MB")


@pytest.mark.parametrize("name", [name for name, surface in SURFACES.items() if surface.is_opened])
def test_a_fifo_in_place_of_a_file_makes_nobody_wait(name, tmp_path):
    surface = SURFACES[name]
    path = tmp_path / surface.file
    path.parent.mkdir(parents=True, exist_ok=True)
    surface.whole(tmp_path)
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)

    waited: list[str] = []

    def waits(*_: object) -> None:  # a reader may take what is raised here for a fault of the file
        waited.append(name)
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(20)
    try:
        surface.read(path)
    except (InputError, ImageError, InterruptedError) as error:
        assert waited or str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not waited
