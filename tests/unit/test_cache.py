"""The cache: cropping against a slow reference, checksums, shards that are whole or not there."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer import cache
from neurotransfer.errors import InputError
from neurotransfer.volumes import as_matrix, read_stats, stats_text

LIA = np.array([[-2.0, 0, 0, 0], [0, 0, 2, 0], [0, -2, 0, 0], [0, 0, 0, 1]])


def subject(folder, orig, mask):
    (folder / "mri").mkdir(parents=True)
    nibabel.save(nibabel.MGHImage(orig, LIA), folder / "mri/orig.mgz")
    nibabel.save(nibabel.MGHImage(mask.astype(np.uint8), LIA), folder / "mri/mask.mgz")
    return folder


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_crop_is_what_a_voxel_by_voxel_copy_gives(data):
    size = data.draw(st.integers(6, 14))
    crop = [data.draw(st.integers(2, 18)) for _ in range(3)]
    mask = np.zeros((size,) * 3, bool)
    corner = [data.draw(st.integers(0, size - 2)) for _ in range(3)]
    extent = [data.draw(st.integers(1, size - at)) for at in corner]
    mask[tuple(slice(at, at + by) for at, by in zip(corner, extent, strict=True))] = True
    image = np.random.default_rng(0).integers(1, 255, mask.shape).astype(np.uint8)
    source, target = cache.crop_slices(mask, crop)
    found = np.zeros(crop, np.uint8)
    found[target] = image[source]
    start = [(at + at + by) // 2 - length // 2 for at, by, length in zip(corner, extent, crop, strict=True)]
    for place in np.ndindex(*crop):
        voxel = tuple(begin + step for begin, step in zip(start, place, strict=True))
        inside = all(0 <= at < size for at in voxel)
        assert found[place] == (image[voxel] if inside else 0)


@pytest.fixture
def shard(tmp_path):
    generator = np.random.default_rng(3)
    folders, origs = [], []
    for name in ("a", "b", "c"):
        mask = np.zeros((20, 22, 24), bool)
        mask[4:15, 5:16, 6:18] = True
        origs.append(generator.integers(0, 256, mask.shape).astype(np.uint8))
        folders.append(subject(tmp_path / name, origs[-1], mask))
    images = pd.DataFrame(
        {"image_id": list("abc"), "status": ["ok", "failed", "ok"], "reason": [None, "empty", None]}
    ).assign(engine="builtin", engine_version="1")
    path = tmp_path / "x-0001.npy"
    return path, cache.write_shard(path, folders, images, (12, 12, 12)), origs


def test_a_shard_holds_masked_intensities_and_zeros_for_what_failed(shard):
    path, table, origs = shard
    images = np.load(path)
    assert images.shape == (3, 12, 12, 12)
    assert images.dtype == np.uint8
    assert not images[1].any()
    assert np.array_equal(images[0][1:12, 1:12, :], origs[0][4:15, 5:16, 6:18])
    assert table["row"].tolist() == [0, 1, 2]
    assert table["checksum"].isna().tolist() == [False, True, False]
    assert table["mask_volume_mm3"][0] == pytest.approx(11 * 11 * 12 * 8)


def test_a_flipped_byte_is_found_and_the_shard_named(shard):
    path, table, _ = shard
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    images = cache.open_shard(path)
    cache.verify_row(images[0], table["checksum"][0], path, 0)
    with pytest.raises(InputError, match=r"x-0001\.npy: row 2"):
        cache.verify_row(images[2], table["checksum"][2], path, 2)


def test_half_a_shard_is_refused(shard):
    path, _, _ = shard
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="can't be read"):
        cache.open_shard(path)


def test_the_share_outside_the_crop_is_measured(tmp_path):
    mask = np.zeros((20, 20, 20), bool)
    mask[2:18, 8:12, 8:12] = True
    folder = subject(tmp_path / "a", np.full(mask.shape, 255, np.uint8), mask)
    images = pd.DataFrame({"image_id": ["a"], "status": ["ok"], "reason": [None]}).assign(
        engine="builtin", engine_version="1"
    )
    table = cache.write_shard(tmp_path / "x.npy", [folder], images, (8, 8, 8))
    assert table["outside_crop"][0] == pytest.approx(0.5)
    assert table["clipped"][0] == 1.0


def test_statistics_are_read_by_their_headers_and_absent_structures_are_zero(tmp_path):
    labels = np.zeros((4, 4, 4), int)
    labels[0], labels[1] = 4, 17
    path = tmp_path / "aseg+DKT.stats"
    path.write_text(stats_text(labels, labels, labels > 0, {4: "Left-Lateral-Ventricle", 17: "Left-Hippocampus"}, 2.0))
    first = read_stats(path)
    other = "# Measure Mask, MaskVol, Mask Volume, 9.5, mm^3\n# ColHeaders SegId StructName Volume_mm3\n43 Right 7.5\n"
    path.write_text(other)
    matrix, ids, names = as_matrix([first, read_stats(path)])
    assert ids == [-1, 4, 17, 43]
    assert names[0] == "MaskVol"
    assert matrix.tolist() == [[64.0, 32.0, 32.0, 0.0], [9.5, 0.0, 0.0, 7.5]]
