"""The builtin engine and the ledger: every bad image has its reason, and a good one its true mask."""

import gzip
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import ImageError, InputError
from neurotransfer.files import read_json, write_json
from neurotransfer.preprocess import reasons, run
from neurotransfer.preprocess.engines import builtin, inputs, registration
from neurotransfer.preprocess.volumes import read_stats
from neurotransfer.simulation.study import simulate_study
from nibabel.processing import resample_from_to
from scipy import ndimage

SETTINGS = {"engine": "builtin", "voxel_size": 4.5, "grid": [64, 64, 64], "threads": 1}


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    simulate_study(folder, cohorts=["alpha", "beta", "gamma", "delta", "coin"], participants=0.1, write_masks=True)
    return folder


def scans(folder: Path) -> list[Path]:
    return sorted((folder / "data").rglob("*_T1w.nii.gz"))


def table(*paths: Path) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [f"i{n}" for n in range(len(paths))], "shard": "s-0001", "t1w": map(str, paths)})


def save(values: np.ndarray, path: Path, affine=None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.diag([4.0, 4, 4, 1]) if affine is None else affine), path)
    return path


def true_mask(heads: Path, scan: Path):
    return nibabel.load(next((heads / "truth/masks").rglob(scan.name.replace("_T1w", "_mask"))))


def dice(folder: Path, true) -> float:
    """Dice of the engine's mask and the true one, on the grid of the latter."""
    truth = np.asarray(true.dataobj) > 0
    found = np.asarray(resample_from_to(nibabel.load(folder / "mri/mask.mgz"), true, order=1).dataobj) > 0.5
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_masks_reach_dice_097_in_any_order_of_axes_oblique_and_anisotropic(heads, tmp_path):
    scores = {}
    for cohort in ("alpha", "beta", "gamma", "delta", "coin"):  # LAS, PSR, oblique, anisotropic, SAR
        scan = next(path for path in scans(heads) if f"/{cohort}/" in str(path))
        folder = tmp_path / cohort
        folder.mkdir()
        builtin.run(scan, folder, SETTINGS)
        scores[cohort] = dice(folder, true_mask(heads, scan))
    assert min(scores.values()) >= 0.97, scores


@pytest.mark.parametrize("withdrawn", [1, None])
@pytest.mark.parametrize(
    ("shard", "image"), [("s-0001", "../../elsewhere"), ("..", "elsewhere"), ("link", "elsewhere")]
)
def test_a_row_that_leads_out_of_the_study_removes_and_replaces_nothing(tmp_path, shard, image, withdrawn):
    subjects, thesis = tmp_path / "study/subjects", tmp_path / "elsewhere/thesis.txt"
    subjects.mkdir(parents=True)
    (subjects / "link").symlink_to(tmp_path)
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    row = {"image_id": image, "shard": shard, "t1w": "/nowhere", "withdrawn": withdrawn}
    with pytest.raises(InputError):
        run.preprocess_images(pd.DataFrame([row]), SETTINGS, subjects)
    assert thesis.read_text() == "years of work"


def test_the_layout_is_fastsurfers_and_volumes_are_counts_of_labels(heads, tmp_path):
    builtin.run(scans(heads)[0], tmp_path, SETTINGS)
    orig = nibabel.load(tmp_path / "mri/orig.mgz")
    labels = np.asarray(nibabel.load(tmp_path / "mri/aparc.DKTatlas+aseg.deep.mgz").dataobj)
    mask = np.asarray(nibabel.load(tmp_path / "mri/mask.mgz").dataobj)
    assert nibabel.aff2axcodes(orig.affine) == ("L", "I", "A")
    assert orig.get_data_dtype() == np.uint8
    assert orig.shape == (64, 64, 64)
    stats = read_stats(tmp_path / "stats/aseg+DKT.stats")
    assert stats.mask_volume == pytest.approx(mask.sum() * 4.5**3)
    for seg_id, volume in stats.volumes.items():
        assert volume == pytest.approx((labels == seg_id).sum() * 4.5**3, abs=0.01)
    assert set(np.unique(labels)) - {0} <= set(stats.names)


def test_the_same_image_gives_the_same_bytes(heads, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        builtin.run(scans(heads)[1], tmp_path / name, SETTINGS)
    for file in ("mri/mask.mgz", "stats/aseg+DKT.stats"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_conforming_keeps_world_coordinates(tmp_path):
    """A bright ball at a known place in an oblique, anisotropic image is found at that place."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (15, -10, 20), degrees=True).as_matrix() * (2, 3, 4)
    affine[:3, 3] = (-60, -80, -70)
    ijk = np.stack(np.meshgrid(range(70), range(60), range(40), indexing="ij"), -1)
    world = ijk @ affine[:3, :3].T + affine[:3, 3]
    ball = np.array(affine @ (33, 31, 22, 1))[:3]
    values = 100.0 * (np.linalg.norm(world - ball, axis=-1) < 14)
    orig = builtin.conform(values.astype(np.float32), affine, 4.0, [64, 64, 64])
    weights = np.asarray(orig.dataobj).astype(float)
    places = np.stack(np.meshgrid(*(range(64),) * 3, indexing="ij"), -1) @ orig.affine[:3, :3].T + orig.affine[:3, 3]
    centre = (places * weights[..., None]).sum((0, 1, 2)) / weights.sum()
    assert np.allclose(centre, ball, atol=0.5)


def bad_images(folder: Path, good: Path) -> dict[str, Path]:
    """A file for each known way of being unusable, by the reason it must get."""
    random = np.random.default_rng(0).integers(0, 200, (40, 40, 40)).astype(np.int16)
    found = {"missing": folder / "missing.nii.gz"}
    found["empty"] = folder / "empty.nii.gz"
    found["empty"].touch()
    found["not_an_image"] = folder / "text.nii"
    found["not_an_image"].write_text("this is no image" * 100)
    found["truncated"] = folder / "truncated.nii.gz"
    found["truncated"].write_bytes(good.read_bytes()[:20000])
    found["not_3d"] = save(np.stack([random] * 3, -1), folder / "4d.nii.gz")
    found["flat"] = save(random[:, :, :1], folder / "flat.nii.gz")
    found["all_zero"] = save(np.zeros_like(random), folder / "zero.nii.gz")
    nan = random.astype(np.float32)
    nan[15:20, 15:20, 15:20] = np.nan
    found["not_finite"] = save(nan, folder / "nan.nii.gz")
    broken = nibabel.Nifti1Image(random, np.diag([4.0, 4, 4, 1]))
    broken.header.set_sform(np.zeros((4, 4)), code=1)
    raw = bytearray(broken.to_bytes())
    raw[280:328] = np.zeros(12, np.float32).tobytes()  # srow_x, srow_y, srow_z
    found["bad_affine"] = folder / "affine.nii.gz"
    found["bad_affine"].write_bytes(gzip.compress(bytes(raw)))
    return found


def test_every_bad_image_gets_its_reason_and_the_good_one_goes_on(heads, tmp_path):
    cases = bad_images(tmp_path, scans(heads)[0])
    ledger = run.preprocess_images(table(*cases.values(), scans(heads)[0]), SETTINGS, tmp_path / "subjects")
    assert dict(zip(cases, ledger["reason"], strict=False)) == {reason: reason for reason in cases}
    assert ledger["status"].tolist() == ["failed"] * len(cases) + ["ok"]
    assert ledger["detail"][: len(cases)].notna().all()
    assert set(cases) <= set(reasons.REASONS)


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9, 1])
def test_a_damaged_gzip_file_is_refused(tmp_path, at):
    """One flipped bit of the compressed data, or of the checksum behind it, is found: as by gzip -t."""
    values = np.random.default_rng(0).integers(0, 200, (40, 40, 40)).astype(np.int16)
    packed = bytearray(gzip.compress(nibabel.Nifti1Image(values, np.diag([4.0, 4, 4, 1])).to_bytes(), mtime=0))
    whole, damaged = tmp_path / "whole.nii.gz", tmp_path / "damaged.nii.gz"
    whole.write_bytes(packed)
    assert np.array_equal(inputs.read_image(whole)[0], values)
    packed[min(int(len(packed) * at), len(packed) - 8)] ^= 4
    damaged.write_bytes(packed)
    with pytest.raises(ImageError) as refused:
        inputs.read_image(damaged)
    assert refused.value.reason == "truncated"


def upright(heads) -> tuple[np.ndarray, np.ndarray]:
    """A simulated head in RAS order: voxels and affine."""
    image = nibabel.as_closest_canonical(nibabel.load(scans(heads)[0]))
    return np.asarray(image.dataobj, np.float32), image.affine


def test_the_same_head_in_other_numbers_or_on_another_grid_has_the_same_mask(heads, tmp_path):
    values, affine = upright(heads)
    moved, padded = affine.copy(), affine.copy()
    moved[:3, 3] += 0.5 * np.diag(affine)[:3]
    padded[:3, 3] -= 12 * np.diag(affine)[:3]
    others = {
        "plain": (values, affine), "scaled": (values * np.float32(0.0123) - 37.5, affine),
        "moved": (values, moved), "padded": (np.pad(values, 12), padded),
    }  # fmt: skip
    volumes = {}
    for name, (data, at) in others.items():
        folder = tmp_path / name
        folder.mkdir()
        builtin.run(save(data, tmp_path / f"{name}.nii.gz", at), folder, SETTINGS)
        volumes[name] = read_stats(folder / "stats/aseg+DKT.stats").mask_volume
    assert max(volumes.values()) < 1.005 * min(volumes.values()), volumes


def test_bright_scalp_and_an_uneven_field_do_not_change_the_mask(heads, tmp_path):
    """As in real heads: fat is brighter than the brain, and the lower part of the head is nearer to the coil."""
    values, affine = upright(heads)
    true = nibabel.as_closest_canonical(true_mask(heads, scans(heads)[0]))
    scalp = ~ndimage.binary_dilation(np.asarray(true.dataobj) > 0, iterations=2)
    height = np.linspace(1, -1, values.shape[2], dtype=np.float32)
    uneven = np.where(scalp, 2.5 * values, values) * np.exp(0.7 * height)
    builtin.run(save(uneven, tmp_path / "uneven.nii.gz", affine), tmp_path, SETTINGS)
    assert dice(tmp_path, true) > 0.95


@pytest.mark.parametrize(
    ("axes", "said"), [((2,), "lies as RAI"), ((1,), "lies as RPS"), ((1, 2), "lies as RPI"), ("swapped", "lies as RS")]
)
def test_a_head_that_does_not_lie_as_its_header_says_is_refused(heads, tmp_path, axes, said):
    values, affine = upright(heads)
    turned = np.swapaxes(values, 1, 2) if axes == "swapped" else np.flip(values, axes)
    with pytest.raises(ImageError, match=said) as refused:
        builtin.run(save(turned, tmp_path / "turned.nii.gz", affine), tmp_path, SETTINGS)
    assert refused.value.reason == "mask_failed"


def no_brains(values: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    height = values.shape[2]
    one, neck, headless = (np.zeros_like(values) for _ in range(3))
    one[20, 27, 20] = 1
    neck[:, :, : int(0.4 * height)] = values[:, :, : int(0.4 * height)]
    headless[:, :, : int(0.65 * height)] = values[:, :, : int(0.65 * height)]
    slices = np.flatnonzero((values > 0.15 * np.percentile(values, 99)).any((0, 1)))
    fifth = values[:, :, : slices[-1] + 1 - (slices[-1] - slices[0]) // 5]
    distance = np.linalg.norm(np.indices(values.shape) - np.array(values.shape)[:, None, None, None] / 2, axis=0)
    return {
        "one bright voxel": one, "noise": random.random(values.shape, np.float32) * 1000, "a block of neck": neck,
        "the top cut off": headless, "a ball": np.where(distance < 17, np.float32(100), 0),
        "inverted": values.max() - values, "a fifth cut off": fifth,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["one bright voxel", "noise", "a block of neck", "the top cut off", "a ball", "inverted", "a fifth cut off"]
)
def test_what_has_no_whole_brain_is_refused(heads, tmp_path, name):
    values, affine = upright(heads)
    with pytest.raises(ImageError) as refused:
        builtin.run(save(no_brains(values)[name], tmp_path / "no.nii.gz", affine), tmp_path, SETTINGS)
    assert refused.value.reason == "mask_failed"


def cut(values: np.ndarray, brain: np.ndarray, side: str, depth: int) -> np.ndarray:
    """A head in RAS order without what lies beyond `depth` voxels within its brain, from one side."""
    axis = {"back": 1, "front": 1, "bottom": 2, "top": 2}[side]
    there = np.flatnonzero(brain.any(tuple({0, 1, 2} - {axis})))
    without = values.copy()
    gone = np.moveaxis(without, axis, 0)  # a view
    if side in ("front", "top"):
        gone[there[-1] - depth + 1 :] = 0
    else:
        gone[: there[0] + depth] = 0
    return without


@pytest.mark.parametrize(("side", "depth"), [("top", 6), ("front", 7), ("back", 7), ("bottom", 8)])
def test_a_brain_that_ends_at_a_flat_face_is_refused(heads, tmp_path, side, depth):
    """Each of these fits the template, which is squeezed onto what is left."""
    values, affine = upright(heads)
    brain = np.asarray(nibabel.as_closest_canonical(true_mask(heads, scans(heads)[0])).dataobj) > 0
    with pytest.raises(ImageError, match=f"flat face of .* at its {side}") as refused:
        builtin.run(save(cut(values, brain, side, depth), tmp_path / "cut.nii.gz", affine), tmp_path, SETTINGS)
    assert refused.value.reason == "mask_failed"


def test_a_face_without_a_centimetre_of_brain_is_noted(heads, tmp_path):
    values, affine = upright(heads)
    true = nibabel.as_closest_canonical(true_mask(heads, scans(heads)[0]))
    less = cut(values, np.asarray(true.dataobj) > 0, "front", 2)
    note = builtin.run(save(less, tmp_path / "less.nii.gz", affine), tmp_path, SETTINGS)
    assert "at its front, behind which there is nothing: a part may be cut off" in note


def test_a_head_whose_voxels_are_larger_than_its_header_says_is_refused(heads, tmp_path):
    """The template fits the scalp instead, in which the brain has a third of its size."""
    values, affine = upright(heads)
    small = affine @ np.diag([0.7, 0.7, 0.7, 1])
    with pytest.raises(ImageError, match=r"fits better at 0\.3\d of its volume"):
        builtin.run(save(values, tmp_path / "small.nii.gz", small), tmp_path, SETTINGS)


def test_a_fit_that_no_smaller_template_could_exceed_is_compared_with_none(monkeypatch):
    refined = []
    real = registration._refine
    monkeypatch.setattr(registration, "_refine", lambda *given: (refined.append(given), real(*given))[1])
    start = np.eye(3, 4)
    image = np.zeros((20, 20, 20), np.float32)
    level, points = registration._level(image, np.diag([9.0, 9, 9, 1]), 4), registration._points(8, 4)
    registration._check_smaller(level, points, start, 0.98)
    assert not refined
    registration._check_smaller(level, points, start, 0.96)
    assert len(refined) == 1


def test_white_matter_with_brighter_parts_is_another_contrast(heads, tmp_path):
    """As in FLAIR of old people, in which grey matter is as dark as in T1w because it lies beside fluid."""
    values, affine = upright(heads)
    brain = np.asarray(nibabel.as_closest_canonical(true_mask(heads, scans(heads)[0])).dataobj) > 0
    lesions = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=values.shape), 1.5)
    bright = brain & (lesions > np.percentile(lesions, 88)) & (values > np.percentile(values[brain], 60))
    with pytest.raises(ImageError, match="as bright as the rest"):
        builtin.run(save(np.where(bright, 1.7 * values, values), tmp_path / "a.nii.gz", affine), tmp_path, SETTINGS)


def test_what_the_file_said_stands_beside_the_failure(heads, tmp_path):
    values, affine = upright(heads)
    far = np.pad(values, [(60, 0), (0, 0), (60, 0)])
    far[0, 0, 0] = 1e6
    with pytest.raises(ImageError, match=r"single voxels are damaged; .* crop it about") as refused:
        builtin.run(save(far, tmp_path / "far.nii.gz", affine), tmp_path, SETTINGS)
    assert refused.value.reason == "mask_failed"


@pytest.mark.parametrize("contrast", ["EPI", "a mask", "grey as bright as white"])
def test_a_whole_brain_of_another_contrast_is_refused(heads, tmp_path, contrast):
    """The template fits, because the brain's border falls off alike: of EPI, scalp is dark and fluid bright."""
    scan = scans(heads)[0]
    values, affine = upright(heads)
    brain = np.asarray(nibabel.as_closest_canonical(true_mask(heads, scan)).dataobj) > 0
    if contrast == "EPI":
        bold = np.where(brain, 170 + 0.15 * (150 - values), 0.05 * values)
        other = ndimage.gaussian_filter(bold.astype(np.float32), 2 / np.diag(affine)[:3])
    elif contrast == "a mask":
        other = brain.astype(np.float32)
    else:
        other = np.where(brain, np.minimum(values, np.percentile(values[brain], 45)), values)
    with pytest.raises(ImageError, match="fluid, grey and white matter have the intensities") as refused:
        builtin.run(save(other, tmp_path / "other.nii.gz", affine), tmp_path, SETTINGS)
    assert refused.value.reason == "mask_failed"


def test_the_ledger_says_how_well_the_template_fits(heads, tmp_path):
    ledger = run.preprocess_images(table(scans(heads)[0]), SETTINGS, tmp_path)
    assert float(ledger["detail"][0].removeprefix("correlation with the template ")) > 0.9


def test_a_job_goes_on_where_it_stopped(heads, tmp_path, monkeypatch):
    images = table(*scans(heads)[:2])
    run.preprocess_images(images.iloc[:1], SETTINGS, tmp_path)
    done = []
    real = builtin.run
    monkeypatch.setattr(builtin, "run", lambda source, *rest: (done.append(source), real(source, *rest)))
    ledger = run.preprocess_images(images, SETTINGS, tmp_path)
    assert done == [scans(heads)[1]]
    assert ledger["status"].tolist() == ["ok", "ok"]
    run.preprocess_images(images, SETTINGS | {"voxel_size": 5.0}, tmp_path)
    assert len(done) == 3  # another voxel size is another image


def test_a_failed_image_is_tried_again_when_its_file_is_another(heads, tmp_path):
    broken = tmp_path / "a.nii.gz"
    broken.touch()
    assert run.preprocess_images(table(broken), SETTINGS, tmp_path / "s")["status"].tolist() == ["failed"]
    shutil.copy(scans(heads)[0], broken)
    assert run.preprocess_images(table(broken), SETTINGS, tmp_path / "s")["status"].tolist() == ["ok"]
    assert read_json(tmp_path / "s/s-0001/i0/status.json")["reason"] is None


def test_a_failed_image_is_not_tried_again_by_itself(heads, tmp_path, monkeypatch):
    tries = []

    def fail(source, *_):
        tries.append(source)
        raise ImageError("mask_failed", "no brain")

    monkeypatch.setattr(builtin, "run", fail)
    first, second = (run.preprocess_images(table(scans(heads)[0]), SETTINGS, tmp_path) for _ in range(2))
    assert first.equals(second)
    assert len(tries) == 1
    (tmp_path / "s-0001/i0/status.json").unlink()  # as `neurotransfer retry` does
    run.preprocess_images(table(scans(heads)[0]), SETTINGS, tmp_path)
    assert len(tries) == 2


def killed_during(fatal: set[str], images: pd.DataFrame, folder: Path, at_once: int = 1) -> int | None:
    """The exit code of a process that preprocesses these images and is killed by those named."""

    class Engine(builtin.Builtin):
        def run(self, scan, part, *, alone=False):
            if scan.image_id in fatal:
                while not alone and len(list(folder.rglob("*.started"))) < at_once:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            if at_once > 1 and not alone:
                time.sleep(60)  # at work when another image kills the process
            with (folder / "tried").open("a") as file:
                file.write(f"{scan.image_id}{' alone' if alone else ''}\n")

    Engine.at_once = at_once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "Builtin", Engine)
        process = multiprocessing.get_context("fork").Process(
            target=run.preprocess_images, args=(images, SETTINGS, folder)
        )
        process.start()
        process.join()
        return process.exitcode


def test_an_image_that_kills_its_job_is_recorded_and_passed_over_at_the_next_attempt(heads, tmp_path):
    images, tried = table(*scans(heads)[:3]), tmp_path / "tried"
    assert killed_during({"i1"}, images, tmp_path) == -signal.SIGKILL
    assert not (tmp_path / "s-0001/i1").exists()
    assert killed_during({"i1"}, images, tmp_path) == 0
    assert tried.read_text().split() == ["i0", "i2"]
    ledger = run.preprocess_images(images, SETTINGS, tmp_path)
    assert ledger["status"].tolist() == ["ok", "failed", "ok"] and ledger["reason"][1] == "killed"
    assert not list(tmp_path.rglob("*.started")) and not list(tmp_path.rglob("*.part"))
    (tmp_path / "s-0001/i1/status.json").unlink()  # as `neurotransfer retry` does
    assert killed_during(set(), images, tmp_path) == 0
    assert tried.read_text().split() == ["i0", "i2", "i1"]


def test_of_images_in_work_at_once_each_is_tried_alone_and_only_the_one_that_kills_is_recorded(heads, tmp_path):
    images = table(*scans(heads)[:2])
    assert killed_during({"i1"}, images, tmp_path, at_once=2) == -signal.SIGKILL
    assert killed_during({"i1"}, images, tmp_path, at_once=2) == -signal.SIGKILL
    assert killed_during({"i1"}, images, tmp_path, at_once=2) == 0
    assert (tmp_path / "tried").read_text().splitlines() == ["i0 alone"]
    ledger = run.preprocess_images(images, SETTINGS, tmp_path)
    assert ledger["status"].tolist() == ["ok", "failed"] and ledger["reason"][1] == "killed"


def test_a_mark_of_another_file_or_of_an_ended_image_kills_nothing(heads, tmp_path):
    images = table(scans(heads)[0])
    (tmp_path / "s-0001").mkdir()
    write_json(tmp_path / "s-0001/.i0.started", {"fingerprint": "of another file", "alone": False})
    assert killed_during(set(), images, tmp_path) == 0
    assert run.preprocess_images(images, SETTINGS, tmp_path)["status"].tolist() == ["ok"]


def test_memory_that_is_short_is_the_images_reason(heads, tmp_path, monkeypatch):
    def run_short(*_):
        raise MemoryError("Unable to allocate 12.6 GiB")

    monkeypatch.setattr(builtin, "run", run_short)
    ledger = run.preprocess_images(table(scans(heads)[0]), SETTINGS, tmp_path)
    assert ledger["reason"].tolist() == ["killed"] and "12.6 GiB" in ledger["detail"][0]


def test_a_full_disk_stops_the_job_instead_of_failing_images(heads, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "orig.mgz")

    monkeypatch.setattr(builtin, "run", full)
    with pytest.raises(OSError, match="No space left"):
        run.preprocess_images(table(scans(heads)[0]), SETTINGS, tmp_path)
    assert not (tmp_path / "s-0001/i0").exists()
