"""Statistics files of every engine and version, against the counts that they stand for."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError
from neurotransfer.files import read_table
from neurotransfer.preprocess import volumes
from neurotransfer.preprocess.engines import builtin
from neurotransfer.preprocess.volumes import ATLASES, CORPUS_CALLOSUM, as_matrix, read_stats, stats_text

# The first lines of a file of FastSurfer 2.x, --seg_only, as its segstats.py writes them
FASTSURFER = """\
# Title Segmentation Statistics
# generating_program segstats.py
# anatomy_type volume
#
# Measure Mask, MaskVol, Mask Volume, 1601112.000000, mm^3
# Measure BrainSeg, BrainSegVol, Brain Segmentation Volume, 1221128.000000, mm^3
# SegVolFile /out/case 1/mri/aparc.DKTatlas+aseg.deep.mgz
# ColorTable /fastsurfer/FastSurferCNN/config/FreeSurferColorLUT.txt
# VoxelVolume_mm3 1.0
# NRows  3
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange
  1   2    257716 261560.204  Left-Cerebral-White-Matter       104.2871     9.4616    21.0000   132.0000   111.0000
  2  10      7000   6990.500  Left-Thalamus                     90.0000     9.0000    21.0000   132.0000   111.0000
  3 251         0      0.000  CC_Posterior                       0.0000     0.0000     0.0000     0.0000     0.0000
"""
FREESURFER = """\
# Title Segmentation Statistics
# generating_program mri_segstats
# cvs_version 7.4.1
# Measure lhCortex, lhCortexVol, Left hemisphere cortical gray matter volume, 237669.267453, mm^3
# Measure Mask, MaskVol, Mask Volume, 1500000.000000, mm^3
# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, 1600000.0, mm^3
# SegVolFile mri/aseg.mgz{space}
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange
  1   4      5234     5234.0  Left-Lateral-Ventricle            26.5     9.4     0.0    86.0    86.0
  2  10      7000     7000.5  Left-Thalamus-Proper              90.0     9.0    21.0   132.0   111.0
  3 251       900      910.0  CC_Posterior                      90.0     9.0    21.0   132.0   111.0
""".format(space=" ")


def written(folder, text, name="aseg+DKT.stats"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    """The template's own image through the builtin engine, at coarse voxels."""
    folder = tmp_path_factory.mktemp("image")
    t1, _, _, affine = builtin.template()
    nibabel.save(nibabel.Nifti1Image(t1, affine), folder / "t1.nii.gz")
    builtin.run(folder / "t1.nii.gz", folder, {"voxel_size": 4.0, "grid": [64, 64, 64], "threads": 1})
    return folder


def test_volumes_are_the_labels_counted_times_the_voxel(processed):
    found = read_stats(volumes.stats_file(processed))
    segmentation = nibabel.load(processed / "mri/aparc.DKTatlas+aseg.deep.mgz")
    labels, counts = np.unique(np.asarray(segmentation.dataobj), return_counts=True)
    mm3 = float(np.prod(segmentation.header.get_zooms()[:3]))
    counted = {int(label): count * mm3 for label, count in zip(labels, counts, strict=True) if label}
    assert {seg_id: volume for seg_id, volume in found.volumes.items() if volume} == pytest.approx(counted)
    mask = np.asarray(nibabel.load(processed / "mri/mask.mgz").dataobj) > 0
    assert found.mask_volume == pytest.approx(mask.sum() * mm3)
    assert found.mask_volume == pytest.approx(sum(counted.values()))


def test_the_tables_have_as_many_structures_as_the_programs_that_they_describe():
    assert len(ATLASES["DKT"]) == 95  # the classes of FastSurfer's network
    assert len(ATLASES["aseg"]) == 45  # rows of FreeSurfer's aseg.stats


def test_a_structure_that_the_atlas_has_and_the_file_does_not_is_zero(tmp_path):
    found = read_stats(written(tmp_path, FASTSURFER))
    assert found.volumes[2] == 261560.204 and found.volumes[10] == 6990.5
    assert found.volumes[17] == found.volumes[2035] == 0
    assert found.names[2035] == "ctx-rh-insula"
    assert set(found.volumes) == {*ATLASES["DKT"], 251}


def test_a_structure_that_no_step_looked_for_is_missing(tmp_path):
    """FastSurfer lists the corpus callosum, which its network does not segment, with 0 voxels."""
    assert np.isnan(read_stats(written(tmp_path, FASTSURFER)).volumes[251])
    assert read_stats(written(tmp_path, FREESURFER, "aseg.stats")).volumes[251] == 910
    partly = FASTSURFER + "  4 252  810  812.000  CC_Mid_Posterior 9.0 9.0 9.0 9.0 9.0\n"
    found = read_stats(written(tmp_path, partly))
    assert (found.volumes[251], found.volumes[252]) == (0, 812)


def test_cohorts_of_different_engines_have_missing_structures_and_not_zeros(tmp_path):
    fast = read_stats(written(tmp_path, FASTSURFER))
    free = read_stats(written(tmp_path, FREESURFER, "aseg.stats"))
    matrix, ids, names = as_matrix([fast, free])
    at = {seg_id: column for column, seg_id in enumerate(ids)}
    assert matrix[:, at[-1]].tolist() == [1601112, 1500000]
    assert np.isnan(matrix[1, at[2]]) and np.isnan(matrix[1, at[1002]])  # aseg.stats has no cerebral tissue
    assert np.isnan(matrix[0, at[85]]) and matrix[1, at[85]] == 0  # FastSurfer's network has no optic chiasm
    assert names[at[10]] == "Left-Thalamus"  # FastSurfer's name, whatever the file says


def test_columns_may_stand_in_any_order(tmp_path):
    expected = read_stats(written(tmp_path, FASTSURFER))
    lines = FASTSURFER.splitlines()
    mixed = []
    for line in lines:
        if line.startswith("# ColHeaders"):
            mixed.append("# ColHeaders StructName Volume_mm3 SegId normMean NVoxels")
        elif line.startswith("#"):
            mixed.append(line)
        else:
            _, seg_id, voxels, volume, name, mean, *_ = line.split()
            mixed.append(f"{name} {volume} {seg_id} {mean} {voxels}")
    found = read_stats(written(tmp_path, "\n".join(mixed), "other.stats"))
    assert found.means == expected.means and found.voxels == expected.voxels
    assert pd.Series(found.volumes).equals(pd.Series(expected.volumes)[list(found.volumes)])


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("# Measure Mask, MaskVol, Mask Volume, 12.5, mm^3", 12.5),
        ("# Measure BrainMask, BrainMaskNVox, Number of Voxels, 9, unitless\n"
         "# Measure BrainMask, BrainMaskVol, Brain Mask Volume, 12.5, mm^3", 12.5),
        ("# Measure BrainSeg, BrainSegVol, Brain Segmentation Volume, 11.0, mm^3", np.nan),
    ],
)  # fmt: skip
def test_the_masks_volume_is_found_under_each_of_its_names(tmp_path, measure, expected):
    text = f"{measure}\n# ColHeaders SegId StructName Volume_mm3\n4 Left-Lateral-Ventricle 7.5\n"
    assert read_stats(written(tmp_path, text)).mask_volume == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, 1600000.5, mm^3",
            1600000.5,
        ),
        ("# Measure IntraCranialVol, ICV, Intracranial Volume, 1600000.5, mm^3", 1600000.5),
        ("# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, nan, mm^3", np.nan),
        ("", np.nan),
    ],
)
def test_the_etiv_is_read_if_there_is_one(tmp_path, line, expected):
    text = FREESURFER.replace(FREESURFER.splitlines()[5], line)
    assert read_stats(written(tmp_path, text, "aseg.stats")).etiv == pytest.approx(expected, nan_ok=True)


def test_the_etiv_stands_after_the_mask_in_tables_in_which_an_image_has_one(tmp_path):
    free = read_stats(written(tmp_path, FREESURFER, "aseg.stats"))
    fast = read_stats(written(tmp_path, FASTSURFER))
    volumes.write_volumes({"a": fast}, tmp_path / "one.tsv")
    assert list(volumes.read_volumes([tmp_path / "one.tsv"])[0])[:2] == [-1, 2]
    volumes.write_volumes({"b": fast, "c": free}, tmp_path / "two.tsv")
    table, names = volumes.read_volumes([tmp_path / "one.tsv", tmp_path / "two.tsv"])
    assert list(table)[:3] == [-1, -2, 2] and list(names)[:3] == [-1, -2, 2] and names[-2] == "eTIV"
    np.testing.assert_array_equal(table[-2], [np.nan, np.nan, 1600000])


def test_a_mask_volume_that_no_file_has_is_the_one_that_was_counted():
    index = pd.DataFrame({"image_id": ["b", "a"], "mask_volume_mm3": [30.0, 20.0]})
    table = pd.DataFrame({-1: [10.0, np.nan], 4: [1.0, 2.0]}, index=["a", "b"])
    assert volumes.volumes_of(index, table).tolist() == [[30.0, 2.0], [10.0, 1.0]]


def test_the_vinn_file_is_found_with_its_link_and_without(tmp_path):
    stats = tmp_path / "stats"
    stats.mkdir()
    with pytest.raises(InputError, match="none of"):
        volumes.stats_file(tmp_path)
    real = written(stats, FASTSURFER, "aseg+DKT.VINN.stats")
    (stats / "aseg+DKT.stats").symlink_to("gone.stats")
    assert volumes.stats_file(tmp_path) == real
    (stats / "aseg+DKT.stats").unlink()
    (stats / "aseg+DKT.stats").symlink_to(real.name)
    assert volumes.stats_file(tmp_path).resolve() == real


@pytest.mark.parametrize("row", ["1 2", "1 x 5 2.0 Left", "1 2 5 much Left", "1 2 5 nan Left", "1 2 5 inf Left 1.0"])
def test_a_row_that_does_not_fit_is_named(tmp_path, row):
    text = f"# Measure Mask, MaskVol, Mask, 9, mm^3\n# ColHeaders Index SegId NVoxels Volume_mm3 StructName\n{row}\n"
    with pytest.raises(InputError, match=r"aseg\+DKT\.stats: .*; process the image again"):
        read_stats(written(tmp_path, text))


def test_a_file_without_structures_is_refused(tmp_path):
    with pytest.raises(InputError, match="no structure"):
        read_stats(written(tmp_path, "# Measure Mask, MaskVol, Mask Volume, 9.5, mm^3\n"))


def test_volumes_of_shards_come_back_as_they_went(tmp_path):
    labels = np.zeros((4, 4, 4), int)
    labels[0], labels[1] = 4, 12001
    path = tmp_path / "aseg+DKT.stats"
    path.write_text(stats_text(labels, labels, labels > 0, {4: "x", 12001: "Left-Frontal-Cortex", 17: "y"}, 1 / 3))
    fast = read_stats(written(tmp_path, FASTSURFER, "fast.stats"))
    volumes.write_volumes({"a": read_stats(path)}, tmp_path / "one.tsv")
    volumes.write_volumes({"b": fast}, tmp_path / "two.tsv")
    volumes.write_volumes({}, tmp_path / "none.tsv")
    table, names = volumes.read_volumes([tmp_path / f"{name}.tsv" for name in ("one", "two", "none")])
    assert table.index.tolist() == ["a", "b"] and list(table) == sorted(names) == list(names)
    assert table.dtypes.eq(np.float32).all()
    matrix, ids, _ = as_matrix([read_stats(path), fast])
    assert ids == list(table)
    np.testing.assert_array_equal(table.to_numpy(), matrix)
    assert table.loc["a", 17] == 0 and np.isnan(table.loc["b", 12001])
    assert read_table(tmp_path / "none.tsv").empty


def test_the_corpus_callosum_is_in_one_atlas_only():
    assert not set(CORPUS_CALLOSUM) & set(ATLASES["DKT"])
    assert set(CORPUS_CALLOSUM) <= set(ATLASES["aseg"])
