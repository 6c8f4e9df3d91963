"""What a header or the voxels can have wrong has a reason that names it; what has one plausible meaning is noted."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from neurotransfer.errors import ImageError
from neurotransfer.preprocess.engines.inputs import read_image
from neurotransfer.preprocess.reasons import REASONS

SHAPE = (40, 44, 48)
VALUES = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.int16)
AFFINE = np.diag([4.0, 4, 4, 1])


def header_image(values=VALUES, sform=AFFINE, qform=AFFINE, zooms=(4, 4, 4), unit="mm") -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(values, AFFINE)
    image.set_qform(qform, 0 if qform is None else 1)
    image.set_sform(sform, 0 if sform is None else 2)
    image.header["pixdim"][1:4] = zooms
    image.header.set_xyzt_units(unit)
    return image


def turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


def with_nan(where) -> np.ndarray:
    values = VALUES.astype(np.float64)
    values[where] = np.nan
    return values


def with_values(where, value) -> nibabel.Nifti1Image:
    values = VALUES.copy()
    values[where] = value
    return nibabel.Nifti1Image(values, AFFINE)


def packed(offset: int, kind: str, number: float) -> bytes:
    """An image in which one number of the header is another, at its byte."""
    content = bytearray(header_image(qform=None).to_bytes())
    struct.pack_into(kind, content, offset, number)
    return bytes(content)


def colours() -> np.ndarray:
    return np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


REFUSED = {
    "sform and pixdim": (header_image(zooms=(3, 3, 4)), "bad_affine", r"4 x 4 x 4 mm by the sform and 3 x 3 x 4 mm by"),
    "sform and qform turned": (header_image(qform=turned(90)), "bad_affine", r"90 degrees apart: axes R A S and A L S"),
    "sform and qform mirrored": (
        header_image(qform=np.diag([-4.0, 4, 4, 1])), "bad_affine", r"mirror images: axes R A S and L A S"),
    "metres": (
        header_image(sform=np.diag([0.004, 0.004, 0.004, 1]), qform=None, zooms=(0.004,) * 3, unit="meter"),
        "bad_affine", r"0.004 x 0.004 x 0.004 metres, which are 4 x 4 x 4 mm"),
    "colours": (nibabel.Nifti1Image(colours(), AFFINE), "not_intensities", "colours"),
    "complex": (nibabel.Nifti1Image(VALUES.astype(np.complex64), AFFINE), "not_intensities", "complex numbers"),
    "tiny": (nibabel.Nifti1Image(VALUES * np.float32(1e-9), AFFINE), "tiny_values", r"between 1e-09 and 1.99e-07"),
    "NaN inside": (nibabel.Nifti1Image(with_nan(np.s_[20, 20, 20]), AFFINE), "not_finite", "0.0%"),
    "infinite border": (
        nibabel.Nifti1Image(np.where(np.indices(SHAPE)[0] > 0, VALUES, -np.inf), AFFINE), "not_finite", "2.5%"),
    "only NaN": (nibabel.Nifti1Image(with_nan(np.s_[:]), AFFINE), "not_finite", "100.0%"),
    "12 mm": (nibabel.Nifti1Image(VALUES, np.diag([0.25, 0.25, 0.25, 1])), "flat", "covers 10 x 11 x 12 mm"),
    "1 km away": (header_image(sform=AFFINE + np.eye(4, k=3) * 1e6), "bad_affine", r"1e\+06 mm from the scanner"),
    "pixdim infinite": (header_image(zooms=(np.inf, 4, 4)), "bad_affine", "4 x 4 x 4 mm by the sform and inf x 4 x 4"),
    "every second slice lost": (
        with_values(np.s_[:, ::2], 0), "empty_slices", "21 of the 43 slices of the head along axis 2 are empty"),
    "one slice lost": (with_values(np.s_[:, :, 20], 7), "empty_slices", "1 of the 48 slices of the head along axis 3"),
    "1 m": (
        nibabel.Nifti1Image(np.zeros((80, 20, 20), np.uint8), np.diag([10.0, 10, 10, 1])), "too_large", "800 x 200"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_reason_names_what_is_wrong(tmp_path, name):
    image, reason, detail = REFUSED[name]
    path = tmp_path / "sub-01_T1w.nii"
    nibabel.save(image, path)
    with pytest.raises(ImageError, match=detail) as refused:
        read_image(path)
    assert refused.value.reason == reason and reason in REASONS


@pytest.mark.parametrize("name", ["sub-01_chunk-1_T1w.nii.gz", "sub-01_acq-a_chunk-02_T1w.nii"])
def test_a_part_of_a_head_is_refused_by_its_name(tmp_path, name):
    nibabel.save(nibabel.Nifti1Image(VALUES, AFFINE), tmp_path / name)
    with pytest.raises(ImageError, match="chunk-") as refused:
        read_image(tmp_path / name)
    assert refused.value.reason == "part_of_head"


@pytest.mark.parametrize(
    ("image", "note"),
    [
        (header_image(), ""),
        (header_image(sform=np.diag([4.1, 4, 4, 1])), ""),  # rounded by a converter
        (header_image(sform=turned(4)), ""),
        (header_image(sform=turned(20)), "20 degrees apart: axes R A S and R A S; the sform is used"),
        (header_image(sform=None, qform=None), "neither sform nor qform"),
        (header_image(unit="meter"), "4 x 4 x 4 metres, which are 4000 x 4000 x 4000 mm; mm is assumed"),
    ],
)
def test_what_has_one_plausible_meaning_is_noted(tmp_path, image, note):
    nibabel.save(image, tmp_path / "a.nii")
    head = read_image(tmp_path / "a.nii")
    assert np.array_equal(head.data, VALUES) and not head.is_filled
    assert note in "; ".join(head.notes) and bool(note) == bool(head.notes)


@pytest.mark.parametrize(("lowest", "background"), [(1, 0), (-37.5, -37.5)])
def test_nan_that_is_connected_with_the_border_is_background(tmp_path, lowest, background):
    values = with_nan(np.s_[:, :, 30:]) - 1 + lowest
    values[10, 10, 10:30] = np.nan  # reaches the border only through other NaN
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    head = read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(head.data, np.where(np.isnan(values), background, values).astype(np.float32))
    assert head.is_filled and "all connected with the border" in head.notes[0]


def claims(shape) -> bytes:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape(shape)
    image.header["vox_offset"] = 352
    return image.header.binaryblock + bytes(4)


def test_a_header_that_claims_too_much_is_refused_before_a_voxel_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(claims((1500, 1500, 1500)) + bytes(1000)))
    monkeypatch.setattr("neurotransfer.preprocess.engines.inputs.read_voxels", None)
    with pytest.raises(ImageError, match="1500 x 1500 x 1500 voxels, more than 134,217,728") as refused:
        read_image(path)
    assert refused.value.reason == "too_large"


def test_a_file_that_goes_on_after_its_last_voxel_is_not_read_for_ever(tmp_path):
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(claims((100, 100, 100)))
        for _ in range(70):
            file.write(bytes(1 << 20))
    with pytest.raises(ImageError, match="go on for more than 64 MiB after the last voxel") as refused:
        read_image(path)
    assert refused.value.reason == "truncated"


@pytest.mark.parametrize("name", ["named.nii.gz", "named.nii"])
def test_a_name_that_says_the_wrong_thing_about_compression_is_named(tmp_path: Path, name):
    content = nibabel.Nifti1Image(VALUES, AFFINE).to_bytes()
    (tmp_path / name).write_bytes(content if name.endswith(".gz") else gzip.compress(content))
    with pytest.raises(ImageError, match=r"is compressed and not named|named \.gz and is not") as refused:
        read_image(tmp_path / name)
    assert refused.value.reason == "not_an_image"


# byte of the NIfTI header, its type and what it holds; reason and detail
LIES = {
    "voxels within the header": (108, "<f", 0.0, "not_an_image", "begin at byte 0, which is a part of the header"),
    "voxels nowhere": (108, "<f", np.nan, "not_an_image", "its header has no meaning"),
    "an extension of nothing": (348, "<i", 1, "not_an_image", "its header has no meaning"),
    "an affine of NaN": (292, "<f", np.nan, "bad_affine", "the affine has infinite values or NaN"),
    "a type that is none": (70, "<h", 9999, "not_an_image", "its header has no meaning"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_without_meaning_is_no_file_that_ends_too_early(tmp_path, name):
    offset, kind, number, reason, detail = LIES[name]
    content = bytearray(packed(offset, kind, number))
    if name == "an extension of nothing":
        content[352:360] = struct.pack("<ii", 0, 6)
        content[108:112] = struct.pack("<f", 368)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ImageError, match=detail) as refused:
        read_image(tmp_path / "a.nii")
    assert refused.value.reason == reason


def test_a_qform_that_is_no_rotation_is_named(tmp_path):
    content = bytearray(header_image(sform=None).to_bytes())
    struct.pack_into("<ff", content, 256, 0.9, 0.9)  # quatern_b, quatern_c
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ImageError, match="the qform is no rotation") as refused:
        read_image(tmp_path / "a.nii")
    assert refused.value.reason == "bad_affine"


@pytest.mark.parametrize("length", [3, 12, 100])
def test_a_file_that_ends_within_its_header_ends_too_early(tmp_path, length):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header_image().to_bytes())[:length])
    with pytest.raises(ImageError) as refused:
        read_image(tmp_path / "a.nii.gz")
    assert refused.value.reason == "truncated"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_that_are_left_over_are_noted(tmp_path, name):
    content = packed(42, "<h", SHAPE[0] - 2)  # the first axis, two voxels too short
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read_image(tmp_path / name).notes == (
        "8,448 bytes follow the last voxel: the header's shape or type may be wrong",
    )


def test_single_voxels_far_beyond_the_others_are_noted_and_a_mark_apart_from_the_head_is_not_lost(tmp_path):
    values = np.pad(VALUES, 20)
    values[3, 3, 3] = 30000
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "a.nii")
    assert "nearly all between 0 and 1" in read_image(tmp_path / "a.nii").notes[0]
