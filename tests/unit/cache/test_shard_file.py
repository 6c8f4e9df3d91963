"""Shards: images are read as they were written, compressed or not, or an error names the shard."""

import io
import itertools
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import nilearn.datasets
import numpy as np
import pytest
import zstandard
from neurotransfer.cache.shard_file import ShardFile, checksum, shard_written, verify_row
from neurotransfer.errors import InputError

FORMS = [None, "zstd"]


def some_images(count=5, shape=(6, 7, 9)):
    images = np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)
    images[1] = 0  # a failed or withdrawn image
    return images


def write(path, images, compression):
    with shard_written(path, len(images), images.shape[1:], compression) as append:
        for image in images:
            append(image)
    return path


@pytest.mark.parametrize("compression", FORMS)
def test_images_come_back_in_any_order_and_from_many_threads(tmp_path, compression):
    images = some_images(40)
    shard = ShardFile(write(tmp_path / "x.npy", images, compression))
    assert shard.shape == images.shape and shard.compressed == bool(compression)
    rows = np.random.default_rng(2).integers(0, 40, 400)
    with ThreadPoolExecutor(4) as threads:
        found = np.stack(list(threads.map(shard.image, rows)))
    assert np.array_equal(found, images[rows])


def test_a_plain_shard_is_a_npy_file(tmp_path):
    images, expected = some_images(), io.BytesIO()
    np.save(expected, images)
    assert write(tmp_path / "x.npy", images, None).read_bytes() == expected.getvalue()


def test_a_compressed_shard_can_be_read_by_its_description_alone(tmp_path):
    """As the module's docstring says: shape, offsets and their checksum, then a frame for each image."""
    images = some_images()
    raw = write(tmp_path / "x.npy", images, "zstd").read_bytes()
    content = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert content.dtype == np.uint8 and content.tobytes() == raw[-content.size :]
    assert struct.unpack_from("<4q", content) == images.shape
    offsets = struct.unpack_from("<6q", content, 32)
    assert offsets[-1] == len(raw)
    assert struct.unpack_from("<q", content, 80)[0] == zlib.crc32(content[:80])
    frames = [raw[start:end] for start, end in itertools.pairwise(offsets)]
    assert [zstandard.decompress(frame) for frame in frames] == [image.tobytes() for image in images]


@pytest.mark.parametrize("compression", FORMS)
def test_the_same_images_give_the_same_bytes(tmp_path, compression):
    first, second = (write(tmp_path / name, some_images(), compression).read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_compressed_head_takes_less_than_half_the_space(tmp_path):
    """nilearn's template with noise of 4 % of white matter's intensity, more than in a good scan."""
    brain = nilearn.datasets.load_mni152_template(resolution=2).get_fdata()
    noise = np.random.default_rng(0).normal(0, 0.04 * brain.max(), brain.shape)
    brain = ((brain + noise) * (brain > 0) / brain.max() * 200).clip(0, 255).astype(np.uint8)
    sizes = [os.path.getsize(write(tmp_path / "x.npy", brain[None], form)) for form in FORMS]
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("compression", FORMS)
def test_a_shard_is_written_whole_or_not_at_all(tmp_path, compression):
    def failing():
        with shard_written(tmp_path / "x.npy", 3, (2, 2, 2), compression) as append:
            append(np.zeros((2, 2, 2), np.uint8))
            raise OSError("no space left")

    with pytest.raises(OSError):
        failing()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compression", FORMS)
def test_every_damage_is_refused_or_found_by_the_images_checksum(tmp_path, compression):
    images = some_images()
    whole = write(tmp_path / "x.npy", images, compression).read_bytes()
    expected = [checksum(image) for image in images]

    def read_all(raw):
        (tmp_path / "x.npy").write_bytes(raw)
        shard = ShardFile(tmp_path / "x.npy")
        for row in range(len(images)):
            verify_row(shard.image(row), expected[row], tmp_path / "x.npy", row)

    read_all(whole)
    generator = np.random.default_rng(0)
    for index in {*range(0, 220, 3), *generator.integers(0, len(whole), 60).tolist()}:
        damaged = bytearray(whole)
        damaged[index] ^= 1 << int(generator.integers(8))
        try:
            read_all(damaged)
        except InputError as error:
            assert "x.npy" in str(error)
        else:  # a bit of a frame without effect on a voxel; verify.py compares the digest of the whole file
            assert compression and index > 128
    for raw in (whole[:-1], whole + b"\0", whole[:200], whole[:50], b""):
        with pytest.raises(InputError, match=r"x\.npy: the shard can't be read"):
            read_all(raw)


@pytest.mark.parametrize("compression", FORMS)
def test_a_missing_file_and_a_missing_row_are_named(tmp_path, compression):
    with pytest.raises(InputError, match=r"x\.npy: the shard can't be read"):
        ShardFile(tmp_path / "x.npy")
    shard = ShardFile(write(tmp_path / "x.npy", some_images(), compression))
    with pytest.raises(InputError, match=r"x\.npy: it holds 5 images of \(6, 7, 9\) voxels, not row 5"):
        shard.image(5)
    with pytest.raises(InputError, match=r"not row 0 of \(6, 7, 8\) voxels"):
        shard.read(0, np.empty((6, 7, 8), np.uint8))
