"""Writing the cache: cropping against a slow reference, and the files beside the images."""

import gzip
import io

import nibabel
import numpy as np
import pandas as pd
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.cache import write
from neurotransfer.cache.image_figures import bounding_box
from neurotransfer.cache.shard_file import ShardFile
from neurotransfer.errors import InputError
from neurotransfer.preprocess.volumes import read_volumes, stats_text, volumes_of, write_volumes
from scipy import ndimage

LIA = np.array([[-2.0, 0, 0, 0], [0, 0, 2, 0], [0, -2, 0, 0], [0, 0, 0, 1]])


def subject(folder, orig, mask, labels=None):
    (folder / "mri").mkdir(parents=True)
    (folder / "stats").mkdir()
    nibabel.save(nibabel.MGHImage(orig, LIA), folder / "mri/orig.mgz")
    nibabel.save(nibabel.MGHImage(mask.astype(np.uint8), LIA), folder / "mri/mask.mgz")
    labels = np.where(mask, 1002, 0) if labels is None else labels
    names = {2: "Left-Cerebral-White-Matter", 1002: "ctx-lh-caudalanteriorcingulate"}
    (folder / "stats/aseg+DKT.stats").write_text(stats_text(labels, orig, mask, names, 8.0))
    return folder


def ledger(*states):
    table = pd.DataFrame({"image_id": list("abcdef")[: len(states)], "status": states, "reason": None})
    return table.assign(engine="builtin", engine_version="1")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_crop_equals_a_voxel_by_voxel_copy(data):
    size = data.draw(st.integers(6, 14))
    crop = [data.draw(st.integers(2, 18)) for _ in range(3)]
    mask = np.zeros((size,) * 3, bool)
    corner = [data.draw(st.integers(0, size - 2)) for _ in range(3)]
    extent = [data.draw(st.integers(1, size - at)) for at in corner]
    mask[tuple(slice(at, at + by) for at, by in zip(corner, extent, strict=True))] = True
    image = np.random.default_rng(0).integers(1, 255, mask.shape).astype(np.uint8)
    source, target = write.crop_slices(bounding_box(mask), mask.shape, crop)
    found = np.zeros(crop, np.uint8)
    found[target] = image[source]
    start = [(at + at + by) // 2 - length // 2 for at, by, length in zip(corner, extent, crop, strict=True)]
    for index in np.ndindex(*crop):
        voxel = tuple(begin + step for begin, step in zip(start, index, strict=True))
        inside = all(0 <= at < size for at in voxel)
        assert found[index] == (image[voxel] if inside else 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_crop_rule_pyment_is_theirs_voxel_for_voxel(data):
    """Theirs, in their words: a float image, np.round, a window that is moved inside, and np.pad by the edge."""
    shape = [data.draw(st.integers(5, 14)) for _ in range(3)]
    crop = [2 * data.draw(st.integers(1, 9)) for _ in range(3)]
    corner = [data.draw(st.integers(0, length - 2)) for length in shape]
    extent = [data.draw(st.integers(1, length - at)) for at, length in zip(corner, shape, strict=True)]
    mask = np.zeros(shape, bool)
    mask[tuple(slice(at, at + by) for at, by in zip(corner, extent, strict=True))] = True
    orig = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 3, shape).astype(np.uint8)  # many are 0
    image = whole = orig.astype(float) * mask
    if not whole.any():
        return
    for axis, (length, size) in enumerate(zip(shape, crop, strict=True)):
        occupied = np.nonzero(whole)[axis]
        if length > size:
            middle = np.round(np.mean([occupied.min(), occupied.max()]))
            first, last = int(middle - size / 2), int(middle + size / 2)
            if first < 0:
                first, last = 0, last - first
            if last > length:
                first, last = first - (last - length), length
            image = np.take(image, range(first, last), axis)
        else:
            before = (size - length) // 2
            widths = [(before, size - length - before) if at == axis else (0, 0) for at in range(3)]
            image = np.pad(image, widths, "edge")
    np.testing.assert_array_equal(write.cropped_brain(orig, mask, crop, "pyment"), image)


@pytest.fixture
def shard(tmp_path):
    generator = np.random.default_rng(3)
    folders, origs = [], []
    for name in ("a", "b", "c"):
        mask = np.zeros((20, 22, 24), bool)
        mask[4:15, 5:16, 6:18] = True
        origs.append(generator.integers(0, 256, mask.shape).astype(np.uint8))
        folders.append(subject(tmp_path / name, origs[-1], mask))
    path = tmp_path / "x-0001.npy"
    return path, write.write_shard(path, folders, ledger("ok", "failed", "ok"), (12, 12, 12), 2.0)[0], origs


def test_a_shard_has_the_crop_of_its_rule_and_says_so(tmp_path):
    mask = np.zeros((20, 22, 24), bool)
    mask[0:15, 5:16, 6:19] = True  # near an end of the image
    orig = np.random.default_rng(4).integers(1, 256, mask.shape).astype(np.uint8)
    folder, found = subject(tmp_path / "a", orig, mask), {}
    for rule in ("bounding_box", "pyment"):
        table, _ = write.write_shard(tmp_path / "s.npy", [folder], ledger("ok"), (16, 12, 12), 2.0, None, rule)
        write.write_cache_table(table, tmp_path / "s.tsv", (16, 12, 12), [], rule)
        found[rule] = np.load(tmp_path / "s.npy")[0]
        np.testing.assert_array_equal(found[rule], write.cropped_brain(orig, mask, (16, 12, 12), rule))
        assert ('"crop_rule": "pyment"' in (tmp_path / "s.tsv").read_text()) == (rule == "pyment")
    assert not found["bounding_box"][0].any() and found["pyment"][0].any()  # one leaves the image, one slides into it


def test_a_shard_holds_masked_intensities_and_zeros_for_failed_images(shard):
    path, table, origs = shard
    images = np.load(path)
    assert images.shape == (3, 12, 12, 12)
    assert images.dtype == np.uint8
    assert not images[1].any()
    assert np.array_equal(images[0][1:12, 1:12, :], origs[0][4:15, 5:16, 6:18])
    assert table["row"].tolist() == [0, 1, 2]
    assert table["checksum"].isna().tolist() == [False, True, False]
    assert table["mask_volume_mm3"][0] == pytest.approx(11 * 11 * 12 * 8)


def test_an_image_without_volumes_has_the_same_row_and_a_missing_contrast(tmp_path, shard):
    """Its status.json says that it needs none; without that a missing file is an error."""
    _, table, _ = shard
    folders = [tmp_path / name for name in ("a", "b", "c")]
    (folders[0] / "stats/aseg+DKT.stats").unlink()
    path = tmp_path / "y-0001.npy"
    with pytest.raises(InputError, match="none of aseg"):
        write.write_shard(path, folders, ledger("ok", "failed", "ok"), (12, 12, 12), 2.0)
    (folders[0] / "status.json").write_text('{"state": "ok", "volumes": false}')
    found, statistics = write.write_shard(path, folders, ledger("ok", "failed", "ok"), (12, 12, 12), 2.0)
    assert np.isnan(found["contrast"][0])
    pd.testing.assert_frame_equal(found.drop(columns="contrast"), table.drop(columns="contrast"))
    write_volumes(statistics, tmp_path / "y-0001.volumes.tsv")
    volumes, _ = read_volumes([tmp_path / "y-0001.volumes.tsv"])
    index = found[found["status"] == "ok"]
    matrix = volumes_of(index, volumes)
    assert np.isnan(matrix[0, 1:]).all() and np.isfinite(matrix[1]).all()
    assert matrix[0, 0] == index["mask_volume_mm3"].iloc[0]  # counted in the mask


def test_a_shards_table_names_the_engine_of_each_image(shard):
    _, table, _ = shard
    assert set(table["engine"]) == {"builtin"} and set(table["engine_version"]) == {"1"}


def naive(folder, crop, size):
    """An image's row, slices and figures, directly from their definitions."""
    orig = np.asarray(nibabel.load(folder / "mri/orig.mgz").dataobj)
    mask = np.asarray(nibabel.load(folder / "mri/mask.mgz").dataobj) > 0
    box = [(at.min(), at.max() + 1) for at in np.nonzero(mask)]
    margin = max(*crop, size)
    inside = np.pad(np.where(mask, orig, 0), margin)
    starts = [(low + high) // 2 - length // 2 + margin for (low, high), length in zip(box, crop, strict=True)]
    row = inside[tuple(slice(at, at + length) for at, length in zip(starts, crop, strict=True))]
    shown = np.pad((orig & 0xFE) + mask, margin)
    starts = [(low + high) // 2 - size // 2 + margin for low, high in box]
    cube = shown[tuple(slice(at, at + size) for at in starts)]
    slices = np.stack([np.take(cube, size // 2, axis) for axis in range(3)])
    kept = np.pad(mask, margin)[
        tuple(slice(at + size // 2 - length // 2, at + size // 2 - length // 2 + length)
              for at, length in zip(starts, crop, strict=True))
    ]  # fmt: skip
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    filled = ndimage.binary_fill_holes(mask) & ~mask
    segmentation = np.where(mask, np.where(orig > 150, 2, 1002), 0)
    white, grey = orig[segmentation == 2].mean(), orig[segmentation == 1002].mean()
    return (
        row,
        slices,
        {
            "mask_volume_mm3": mask.sum() * 8.0,
            "mask_parts": count,
            "mask_loose": 1 - np.bincount(labels.ravel())[1:].max() / mask.sum(),
            "mask_holes": ndimage.label(filled)[1],
            "mask_hollow": filled.sum() / mask.sum(),
            "outside_crop": 1 - kept.sum() / mask.sum(),
            "contrast": (white - grey) / ((white + grey) / 2),
            "clipped": (orig[mask] == 255).mean(),
        },
    )


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crop", [(16, 12, 20), (8, 40, 10), (64, 64, 64)])
def test_the_fast_code_writes_the_same_bytes_as_the_plain_definitions(tmp_path, seed, crop, compression):
    """Masks with loose parts and holes, near the image's border and larger than the crop."""
    generator = np.random.default_rng(seed)
    shape = (24, 24, 24) if seed % 2 else (32, 24, 40)  # the first axis a multiple of 8 voxels, and not
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), 2.0)
    mask = smooth > np.quantile(smooth, generator.uniform(0.4, 0.95))
    orig = generator.integers(0, 256, shape).astype(np.uint8)
    labels = np.where(mask, np.where(orig > 150, 2, 1002), 0)
    folder = subject(tmp_path / "a", orig, mask, labels)
    path, beside = tmp_path / "x.npy", tmp_path / "x.slices.npy"
    table, statistics = write.write_shard(path, [folder], ledger("ok"), crop, 2.0, compression)
    row, slices, figures = naive(folder, crop, write.slices_size(crop))
    if compression:
        assert np.array_equal(ShardFile(path).image(0), row)
    else:
        expected = io.BytesIO()
        np.save(expected, row[None])
        assert path.read_bytes() == expected.getvalue()
    assert (np.load(beside)[0] == slices).all()
    assert table[list(figures)].iloc[0].to_dict() == pytest.approx(figures, abs=1e-4)
    assert table["checksum"][0] == xxhash.xxh3_128_hexdigest(row.tobytes())
    assert statistics["a"].mask_volume == mask.sum() * 8.0


def test_slices_of_failed_and_withdrawn_images_are_empty(tmp_path):
    mask = np.zeros((20, 20, 20), bool)
    mask[4:9, 4:9, 4:9] = True
    folder = subject(tmp_path / "a", np.full(mask.shape, 9, np.uint8), mask)
    path, beside = tmp_path / "x.npy", tmp_path / "x.slices.npy"
    table, statistics = write.write_shard(path, [folder] * 3, ledger("ok", "failed", "withdrawn"), (8, 8, 8), 2.0)
    for images in (np.load(path), np.load(beside)):
        assert images[0].any() and not images[1:].any()
    assert list(statistics) == ["a"] and table["status"].tolist() == ["ok", "failed", "withdrawn"]


def broken(folder, name, change):
    path = folder / "mri" / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [lambda raw: raw[:-200], lambda raw: raw[:100], lambda raw: b"", lambda raw: b"no image" * 9,
     lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], lambda raw: gzip.compress(gzip.decompress(raw)[:5000])],
)  # fmt: skip
@pytest.mark.parametrize("name", ["orig.mgz", "mask.mgz"])
def test_a_damaged_file_is_named_and_no_shard_is_written(tmp_path, name, change):
    mask = np.ones((20, 20, 20), bool)
    folder = subject(tmp_path / "a", np.random.default_rng(0).integers(0, 255, mask.shape).astype(np.uint8), mask)
    broken(folder, name, change)
    with pytest.raises(InputError, match=rf"{name}.*can't be read.*; delete this folder"):
        write.write_shard(tmp_path / "x.npy", [folder], ledger("ok"), (8, 8, 8), 2.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_an_image_is_read_as_nibabel_reads_it(tmp_path):
    generator = np.random.default_rng(1)
    for kind in (np.uint8, np.int16, np.int32, np.float32):
        values = generator.integers(0, 200, (11, 12, 13)).astype(kind)
        nibabel.save(nibabel.MGHImage(values, LIA), tmp_path / "x.mgz")
        image = nibabel.load(tmp_path / "x.mgz")
        found, affine = write.read_mgz(tmp_path / "x.mgz")
        assert (found == np.asarray(image.dataobj)).all() and found.dtype == image.get_data_dtype()
        assert (affine == image.affine).all()


@pytest.mark.parametrize(
    ("orig", "mask", "what"),
    [
        (np.ones((20, 20, 20), np.float32), np.ones((20, 20, 20)), "float32"),
        (np.ones((20, 20, 20), np.uint8), np.zeros((20, 20, 20)), "the mask is empty"),
        (np.ones((20, 20, 20), np.uint8), np.ones((20, 20, 10)), "not on one grid"),
    ],
)
def test_images_that_no_engine_writes_are_refused(tmp_path, orig, mask, what):
    (tmp_path / "mri").mkdir()
    nibabel.save(nibabel.MGHImage(orig, LIA), tmp_path / "mri/orig.mgz")
    nibabel.save(nibabel.MGHImage(mask.astype(np.uint8), LIA), tmp_path / "mri/mask.mgz")
    with pytest.raises(InputError, match=what):
        write.read_subject(tmp_path)


def test_an_image_without_a_row_in_the_ledgers_is_refused():
    images = pd.DataFrame({"image_id": ["c", "a", "b"]})
    found = write.images_of_shard(images, ledger("ok", "failed", "ok"), "x-0001")
    assert found["image_id"].tolist() == ["c", "a", "b"] and found["status"].tolist() == ["ok", "ok", "failed"]
    with pytest.raises(InputError, match=r"results/preprocessed/x-0001: .* no row for c"):
        write.images_of_shard(images, ledger("ok", "ok"), "x-0001")
