"""Existing outputs are linked and never touched, checked as fresh ones are, and say what made them."""

import gzip
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from neurotransfer.cache import write
from neurotransfer.errors import ImageError, InputError
from neurotransfer.preprocess import reasons, run
from neurotransfer.preprocess.engines import EngineInput, derivatives
from neurotransfer.preprocess.engines.derivatives import Derivatives, made_by
from neurotransfer.preprocess.volumes import ATLASES, read_stats, stats_text

SETTINGS = {"engine": "builtin", "voxel_size": 4.0, "grid": [64, 64, 64], "threads": 1}
LIA = np.array([[-4.0, 0, 0, 128], [0, 0, 4, -128], [0, -4, 0, 128], [0, 0, 0, 1]])
GREY, WHITE, HIPPOCAMPUS = 1002, 2, 17
CORTEX = {name.removeprefix("ctx-lh-"): at - 1000 for at, name in ATLASES["DKT"].items() if name.startswith("ctx-lh-")}


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """A ball of 1.4 litres on 64 voxels of 4 mm, with a core; intensities and SegIds."""
    at = np.stack(np.meshgrid(*(np.arange(64) - 32,) * 3, indexing="ij"), -1) * 4.0
    distance = np.linalg.norm(at, axis=-1)
    labels = np.where(distance < 69, GREY, 0)
    labels[distance < 50] = WHITE
    labels[distance < 12] = HIPPOCAMPUS
    return np.where(labels > 0, 120, 7).astype(np.uint8), labels


def save(values: np.ndarray, path: Path, affine=LIA) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.MGHImage(values, affine), path)


def fastsurfer(folder: Path, affine=LIA) -> Path:
    orig, labels = arrays()
    save(orig, folder / "mri/orig.mgz", affine)
    save((labels > 0).astype(np.uint8), folder / "mri/mask.mgz", affine)
    save(labels.astype(np.int32), folder / "mri/aparc.DKTatlas+aseg.deep.mgz", affine)
    names = {
        GREY: "ctx-lh-caudalanteriorcingulate",
        WHITE: "Left-Cerebral-White-Matter",
        HIPPOCAMPUS: "Left-Hippocampus",
    }
    (folder / "stats").mkdir()
    text = stats_text(labels, orig, labels > 0, names, 64.0)
    (folder / "stats/aseg+DKT.stats").write_text(text)
    (folder / "scripts").mkdir()
    log = "Version: 2.3.3+5d7c0d8 (stable)\nTue 1\nVersion: 2.4.2+aabbccd (HEAD)\n"
    (folder / "scripts/deep-seg.log").write_text(log)
    return folder


def freesurfer(folder: Path) -> Path:
    orig, labels = arrays()
    save(orig, folder / "mri/orig.mgz")
    save(np.where(labels > 0, 110, 0).astype(np.uint8), folder / "mri/brainmask.mgz")
    save(labels.astype(np.int32), folder / "mri/aparc.DKTatlas+aseg.mgz")
    (folder / "stats").mkdir()
    litres = float((labels > 0).sum() * 64)
    (folder / "stats/aseg.stats").write_text(
        "# Title Segmentation Statistics\n"
        f"# Measure Mask, MaskVol, Mask Volume, {litres:.6f}, mm^3\n"
        "# Measure lhCerebralWhiteMatter, lhCerebralWhiteMatterVol, Left hemisphere white, 240000.5, mm^3\n"
        "# Measure rhCerebralWhiteMatter, rhCerebralWhiteMatterVol, Right hemisphere white, 250000.5, mm^3\n"
        "# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, 1512345.5, mm^3\n"
        "# NTableCols 10\n"
        "# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange \n"
        "  1   4      6562     6562.1  Left-Lateral-Ventricle            34.1    12.1    9.0    87.0    78.0\n"
        "  2  17      4100     4111.5  Left-Hippocampus                  77.0     8.0   30.0   110.0    80.0\n"
    )
    for side, factor in (("lh", 1), ("rh", 2)):
        rows = [f"{name}  1200  800  {factor * 1000 + at}  2.5 0.4 0.1 0.02 10 1.2\n" for name, at in CORTEX.items()]
        (folder / f"stats/{side}.aparc.DKTatlas.stats").write_text(
            "# Table of FreeSurfer cortical parcellation anatomical statistics\n"
            "# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd CurvInd\n"
            + "".join(rows)
        )
    (folder / "scripts").mkdir()
    (folder / "scripts/build-stamp.txt").write_text("freesurfer-linux-ubuntu22_x86_64-7.4.1-20230614-7eb8460\n")
    return folder


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def images(**folders: Path) -> pd.DataFrame:
    rows = [(name, "s-0001", "gone.nii.gz", str(folder)) for name, folder in folders.items()]
    return pd.DataFrame(rows, columns=["image_id", "shard", "t1w", "derivatives"])


def run_derivatives(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    Derivatives(SETTINGS).run(EngineInput("i", Path("gone.nii.gz"), folder), out)
    return out


def test_outputs_of_both_kinds_are_linked_cached_and_left_as_they_are(tmp_path):
    source = {"fast": fastsurfer(tmp_path / "d/fast"), "free": freesurfer(tmp_path / "d/free")}
    before = content(tmp_path / "d")
    ledger = run.preprocess_images(images(**source), SETTINGS, tmp_path / "subjects")
    assert ledger["status"].tolist() == ["ok", "ok"]
    assert ledger["engine"].tolist() == ["fastsurfer", "freesurfer"]
    assert ledger["engine_version"].tolist() == ["2.4.2", "7.4.1"]
    folders = [tmp_path / "subjects/s-0001" / name for name in source]
    for folder in folders:
        links = list(folder.rglob("*.mgz"))
        assert len(links) == 3 and all(path.is_symlink() and path.readlink().is_absolute() for path in links)
    table, _ = write.write_shard(tmp_path / "s.npy", folders, ledger, [40, 40, 40], 4.0)
    shard = np.load(tmp_path / "s.npy")
    assert np.array_equal(shard[0], shard[1]), "FreeSurfer's brainmask.mgz is the mask where it is not 0"
    assert table["mask_volume_mm3"].tolist() == pytest.approx([(shard[0] == 120).sum() * 64] * 2)
    shutil.rmtree(tmp_path / "subjects")
    assert content(tmp_path / "d") == before


def test_a_file_of_several_gzip_members_is_read_whole(tmp_path):
    """As programs write it that compress in parallel."""
    folder = fastsurfer(tmp_path / "fs")
    plain, _ = write.read_mgz(folder / "mri/orig.mgz")
    raw = gzip.decompress((folder / "mri/orig.mgz").read_bytes())
    (folder / "mri/orig.mgz").write_bytes(gzip.compress(raw[:9000]) + gzip.compress(raw[9000:]))
    found, _, _ = write.read_subject(run_derivatives(folder, tmp_path))
    np.testing.assert_array_equal(found, plain)


def test_freesurfers_cortex_and_white_matter_join_its_aseg(tmp_path):
    found = read_stats(run_derivatives(freesurfer(tmp_path / "d"), tmp_path) / "stats/aseg+DKT.stats")
    assert found.volumes[17] == 4111.5 and found.names[17] == "Left-Hippocampus"
    assert (found.volumes[2], found.volumes[41]) == (240000.5, 250000.5)
    for name, at in CORTEX.items():
        assert (found.volumes[1000 + at], found.volumes[2000 + at]) == (1000 + at, 2000 + at)
        assert (found.names[1000 + at], found.names[2000 + at]) == (f"ctx-lh-{name}", f"ctx-rh-{name}")
    assert found.etiv == 1512345.5
    assert len(CORTEX) == 31 and sum(volume > 0 for volume in found.volumes.values()) == 2 + 2 + 62


def test_newer_fastsurfers_statistics_are_found_behind_their_other_name(tmp_path):
    folder = fastsurfer(tmp_path / "d")
    (folder / "stats/aseg+DKT.stats").rename(folder / "stats/aseg+DKT.VINN.stats")
    assert read_stats(run_derivatives(folder, tmp_path) / "stats/aseg+DKT.stats").volumes[HIPPOCAMPUS] > 0


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:300])


def flip_checksum(name):
    def spoil(folder):
        packed = bytearray((folder / name).read_bytes())
        packed[-6] ^= 4
        (folder / name).write_bytes(packed)

    return spoil


def without_a_region(folder):
    path = folder / "stats/rh.aparc.DKTatlas.stats"
    path.write_text("".join(line for line in path.open() if not line.startswith("insula")))


def floats(folder):
    save(arrays()[0].astype(np.float32), folder / "mri/orig.mgz")


def tiny(folder):
    save((arrays()[1] == HIPPOCAMPUS).astype(np.uint8), folder / "mri/mask.mgz")


def negative(folder):
    save(-(arrays()[1] > 0).astype(np.int16), folder / "mri/mask.mgz")


def header(place, form, *values):
    """Other values in the header of the image: the shape stands at byte 4, the type at 20, the directions at 42."""

    def spoil(folder):
        raw = bytearray(gzip.decompress((folder / "mri/orig.mgz").read_bytes()))
        struct.pack_into(form, raw, place, *values)
        (folder / "mri/orig.mgz").write_bytes(gzip.compress(raw))

    return spoil


def volume(text):
    def spoil(folder):
        path = folder / "stats/aseg+DKT.stats"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:-1], lines[-1].replace(lines[-1].split()[3], text, 1)]))

    return spoil


@pytest.mark.parametrize(
    ("make", "spoil", "reason", "words"),
    [
        (fastsurfer, remove("mri/mask.mgz"), "output_missing", "there is no mri/mask.mgz"),
        (fastsurfer, remove("stats/aseg+DKT.stats"), "output_missing", "or stats/aseg.DKT.VINN.stats"),
        (fastsurfer, remove("mri/aparc.DKTatlas+aseg.deep.mgz"), "output_missing", "or mri/aparc.DKTatlas.aseg.mgz"),
        (fastsurfer, cut("mri/orig.mgz"), "output_damaged", "orig.mgz"),
        (fastsurfer, flip_checksum("mri/mask.mgz"), "output_damaged", "mask.mgz"),
        (fastsurfer, cut("mri/aparc.DKTatlas+aseg.deep.mgz"), "output_damaged", "aparc"),
        (fastsurfer, tiny, "implausible_volume", "the mask says 0.0"),
        (fastsurfer, negative, "implausible_volume", "the mask says 0.0"),
        (fastsurfer, header(4, ">i", 0), "output_damaged", "orig.mgz"),
        (fastsurfer, header(20, ">i", 99), "output_damaged", "orig.mgz"),
        (fastsurfer, header(42, ">f", np.nan), "output_damaged", "orig.mgz: its place in space is not finite"),
        (fastsurfer, volume("1e300"), "output_damaged", "1e300 mm³ is no volume of a structure"),
        (fastsurfer, volume("-5"), "output_damaged", "-5 mm³ is no volume of a structure"),
        (fastsurfer, floats, "wrong_grid", "holds float32, not the uint8"),
        (freesurfer, remove("mri/brainmask.mgz"), "output_missing", "mri/mask.mgz or mri/brainmask.mgz"),
        (freesurfer, remove("stats/aseg.stats"), "output_missing", "stats/aseg.stats"),
        (freesurfer, remove("stats/lh.aparc.DKTatlas.stats"), "output_missing", "lh.aparc.DKTatlas.stats"),
        (freesurfer, without_a_region, "output_damaged", "rh.aparc.DKTatlas.stats: 'insula'"),
        (freesurfer, lambda folder: shutil.rmtree(folder), "derivatives_missing", "there is no folder"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(tmp_path, make, spoil, reason, words):
    folder = make(tmp_path / "d")
    spoil(folder)
    with pytest.raises(ImageError, match=words) as caught:
        run_derivatives(folder, tmp_path)
    assert caught.value.reason == reason
    assert reason in reasons.REASONS
    assert not list((tmp_path / "out").iterdir()), "nothing is linked"


def test_another_voxel_size_or_orientation_is_refused(tmp_path):
    scan = EngineInput("i", Path("gone"), fastsurfer(tmp_path / "d"))
    with pytest.raises(ImageError, match="voxels of 4 x 4 x 4 mm, not 1") as caught:
        Derivatives(SETTINGS | {"voxel_size": 1.0}).run(scan, tmp_path)
    assert caught.value.reason == "wrong_grid"
    scan = EngineInput("i", Path("gone"), fastsurfer(tmp_path / "ras", np.diag([4.0, 4, 4, 1])))
    with pytest.raises(ImageError, match="in RAS order, not LIA"):
        Derivatives(SETTINGS).run(scan, tmp_path)


def test_outputs_that_change_are_looked_at_again_and_others_are_not(tmp_path):
    table = images(a=fastsurfer(tmp_path / "a"), b=freesurfer(tmp_path / "b"))
    run.preprocess_images(table, SETTINGS, tmp_path / "subjects")
    times = {name: (tmp_path / f"subjects/s-0001/{name}/status.json").stat().st_mtime_ns for name in "ab"}
    (tmp_path / "a/mri/mask.mgz").unlink()
    ledger = run.preprocess_images(table, SETTINGS, tmp_path / "subjects")
    assert ledger["reason"].fillna("").tolist() == ["output_missing", ""]
    assert (tmp_path / "subjects/s-0001/b/status.json").stat().st_mtime_ns == times["b"]


def test_a_folder_that_vanishes_later_is_one_clear_line_at_the_cache(tmp_path):
    table = images(a=fastsurfer(tmp_path / "d/a"))
    run.preprocess_images(table, SETTINGS, tmp_path / "subjects")
    (tmp_path / "d").rename(tmp_path / "elsewhere")
    with pytest.raises(
        InputError, match=r"mri/orig.mgz: it is a link to .*d/a/mri/orig.mgz, which is missing; "
    ) as caught:
        write.read_subject(tmp_path / "subjects/s-0001/a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("deep-seg.log", "x\nVersion: 2.4.2+gabc (dev)\n", ("fastsurfer", "2.4.2")),
        ("deep-seg.log", "Version: 2.3\n", ("fastsurfer", "2.3")),
        ("build.log", "2.5.0+abcdef0 (stable)\n==========\ngit status:\n==========\n", ("fastsurfer", "2.5.0")),
        ("build.log", "/fs/run_fastsurfer.sh --sid a\nTue, 01 Jan 2025\n2.4.2\n", ("fastsurfer", "2.4.2")),
        ("build-stamp.txt", "freesurfer-Linux-centos6_x86_64-stable-pub-v6.0.0-2beb96c\n", ("freesurfer", "6.0.0")),
        ("build-stamp.txt", "freesurfer-local-build-dev-20240101\n", ("unknown", "unknown")),
        ("other.txt", "", ("unknown", "unknown")),
    ],
)
def test_the_logs_say_what_made_the_outputs(tmp_path, name, text, expected):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / name).write_text(text)
    assert made_by(tmp_path) == expected


def test_outputs_without_logs_are_of_an_unknown_version(tmp_path):
    for make, engine in ((fastsurfer, "fastsurfer"), (freesurfer, "freesurfer")):
        folder = make(tmp_path / engine)
        shutil.rmtree(folder / "scripts")
        assert made_by(folder) == (engine, derivatives.UNKNOWN)
