"""Figures of images against voxel-by-voxel references, z-scores against their definition, and who is left out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from neurotransfer.cache.image_figures import FIGURES, bounding_box, contrast, holes, parts
from neurotransfer.errors import InputError
from neurotransfer.preprocess.volumes import Statistics
from neurotransfer.quality.judge import accepted, cached_images, judge, robust_z, why_empty
from scipy import ndimage, stats
from synthetic_quality import SETTINGS, figures

VOLUMES = arrays(bool, st.tuples(*[st.integers(1, 9)] * 3), elements=st.booleans())


def in_order(volume: np.ndarray, order: str) -> np.ndarray:
    """The same volume in one of three layouts in memory; images from files have the second."""
    if order == "view":
        return np.pad(volume, 1)[1:-1, 1:-1, 1:-1]
    return np.array(volume, order=order)


@settings(max_examples=150, deadline=None)
@given(VOLUMES, st.sampled_from(["C", "F", "view"]), st.booleans())
def test_parts_are_those_of_scipys_labels(volume, order, corners):
    labels, count = ndimage.label(volume, np.ones((3, 3, 3)) if corners else None)
    expected = np.sort(np.bincount(labels.ravel())[1:]) if count else []
    found = parts(in_order(volume, order), corners)
    assert np.sort(found).tolist() == list(expected)


@settings(max_examples=150, deadline=None)
@given(VOLUMES, st.sampled_from(["C", "F", "view"]))
def test_holes_are_what_filling_them_adds(volume, order):
    added = ndimage.binary_fill_holes(volume) & ~volume
    count = ndimage.label(added)[1]
    found = holes(in_order(volume, order))
    assert len(found) == count
    assert found.sum() == added.sum()


@settings(max_examples=80, deadline=None)
@given(arrays(bool, st.tuples(*[st.integers(1, 18)] * 3), elements=st.booleans()), st.sampled_from(["C", "F", "view"]))
def test_a_bounding_box_is_the_smallest(volume, order):
    volume[tuple(size // 2 for size in volume.shape)] = True
    expected = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(volume))
    assert bounding_box(in_order(volume, order)) == expected


@pytest.mark.parametrize("shape", [(16, 8, 24), (24, 16, 8)])
def test_a_bounding_box_in_whole_words_is_the_smallest(shape):
    for place in [(0, 0, 0), (3, 5, 7), tuple(size - 1 for size in shape)]:
        for order in "CF":
            volume = np.zeros(shape, bool, order=order)
            volume[place] = True
            assert bounding_box(volume) == tuple(slice(at, at + 1) for at in place)


def test_contrast_is_that_of_cerebral_tissue_or_else_of_the_cerebellum():
    voxels = {2: 100, 41: 300, 1002: 50, 2002: 150, 7: 10, 8: 10}
    means = {2: 100.0, 41: 120.0, 1002: 70.0, 2002: 80.0, 7: 90.0, 8: 60.0}
    names = dict.fromkeys(means, "")
    white, grey = (100 * 100 + 300 * 120) / 400, (50 * 70 + 150 * 80) / 200
    found = contrast(Statistics({}, names, 1.0, voxels, means))
    assert found == pytest.approx((white - grey) / ((white + grey) / 2))
    small = Statistics({}, names, 1.0, voxels, {7: 90.0, 8: 60.0})  # as in FreeSurfer's aseg.stats
    assert contrast(small) == pytest.approx(30 / 75)
    assert np.isnan(contrast(Statistics({}, names, 1.0)))


def test_a_robust_z_is_distance_from_the_median_in_robust_deviations():
    values = np.random.default_rng(0).gamma(2.0, size=101)
    values[7] = np.nan
    known = values[~np.isnan(values)]
    expected = (values - np.median(known)) / stats.median_abs_deviation(known, scale="normal")
    assert robust_z(values, 1e-9) == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert abs(robust_z(np.random.default_rng(1).normal(size=100_000), 1e-9).std() - 1) < 0.02


def test_one_voxel_more_among_images_that_are_all_alike_is_nothing_to_look_at():
    table = figures(500, np.random.default_rng(0)).assign(image_id=[f"i{at}" for at in range(500)])
    table.loc[3, "mask_loose"] = 1e-6
    table.loc[4, "mask_loose"] = 0.05
    found = judge(table, SETTINGS)
    assert (found["z_mask_parts"] == 0).all()
    assert abs(found["z_mask_loose"][3]) < 0.1 and found["z_mask_loose"][4] > 5


def test_an_image_is_compared_with_its_age_band_and_with_its_cohort_where_the_band_is_small():
    generator = np.random.default_rng(2)
    young, old = figures(200, generator), figures(200, generator)
    young["age"], old["age"] = generator.uniform(20, 29.9, 200), generator.uniform(60, 69.9, 200)
    old["mask_volume_mm3"] -= 4e5
    rare = figures(5, generator).assign(age=[91, 92, 93, np.nan, np.nan])
    table = pd.concat([young, old, rare], ignore_index=True)
    table["image_id"] = [f"i{at}" for at in range(len(table))]
    found = judge(table, SETTINGS)
    assert found["group"].value_counts().to_dict() == {"20 to 30": 200, "60 to 70": 200, "all": 5}
    volume = table["mask_volume_mm3"].to_numpy()
    for rows, others in (
        (slice(0, 200), slice(0, 200)),
        (slice(200, 400), slice(200, 400)),
        (slice(400, 405), slice(0, 405)),
    ):
        spread = stats.median_abs_deviation(volume[others], scale="normal")
        expected = (volume[rows] - np.median(volume[others])) / spread
        assert found["z_mask_volume_mm3"].to_numpy()[rows] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("mask_volume_mm3", "contrast")])
def test_a_figure_that_is_better_than_all_others_is_not_unusual(name):
    """0 % clipped, no hole, nothing outside the crop."""
    table = figures(40, np.random.default_rng(3)).assign(age=np.nan, image_id=[f"i{at}" for at in range(40)])
    table[name] = np.linspace(0.5, 0.6, len(table)) * (20 if FIGURES[name].unit == "" else 1)
    table.loc[[4, 5], name] = [1.0 if name == "mask_parts" else 0.0, table[name].max() * 1000]
    found = judge(table, SETTINGS)
    assert found[f"z_{name}"][4] < -3.5 and found["why"][4] != name
    assert found["unusual"][4] < -found[f"z_{name}"][4]
    assert found["why"][5] == name and found["unusual"][5] == found[f"z_{name}"][5] > 3.5


def test_the_most_unusual_figure_is_named():
    table = figures(100, np.random.default_rng(3)).assign(image_id=[f"i{at}" for at in range(100)])
    table.loc[10, "contrast"] = -0.1
    table.loc[11, "mask_parts"] = 30
    table.loc[12, "contrast"] = np.nan
    found = judge(table, SETTINGS)
    assert found["why"][10] == "contrast" and found["unusual"][10] == -found["z_contrast"][10] > 5
    assert found["why"][11] == "mask_parts"
    assert found["why"][12] != "contrast" and np.isfinite(found["unusual"][12])


def exclude(**rules):
    return SETTINGS | {"exclude": SETTINGS["exclude"] | rules}


def test_rules_are_off_but_for_the_impossible_ones():
    table = figures(60, np.random.default_rng(4)).assign(image_id=[f"i{at}" for at in range(60)])
    table.loc[0, "mask_volume_mm3"] = 312_000
    table.loc[1, "mask_volume_mm3"] = 2_900_000
    table.loc[2, ["mask_parts", "contrast", "clipped"]] = [90, -0.5, 0.9]
    found = judge(table, SETTINGS)
    assert found.loc[found["status"] == "excluded", "image_id"].tolist() == ["i0", "i1"]
    assert found["reason"][:3].fillna("").tolist() == ["mask_volume_mm3_min", "mask_volume_mm3_max", ""]
    assert found["detail"][0] == "312000, limit 400000"


def test_a_rule_excludes_beyond_its_limit_and_not_at_it():
    table = figures(60, np.random.default_rng(5)).assign(image_id=[f"i{at}" for at in range(60)])
    table.loc[:3, "mask_parts"] = [2, 3, 4, 5]
    table.loc[4, "contrast"] = np.nan
    found = judge(table, exclude(mask_parts={"max": 3}, contrast={"min": 0.0, "max": None}))
    assert found.loc[found["status"] == "excluded", "reason"].to_dict() == dict.fromkeys([2, 3], "mask_parts_max")
    found = judge(table, exclude(z={"max": 6.0}))
    assert set(found.loc[found["status"] == "excluded", "image_id"]) == set(found.loc[found["unusual"] > 6, "image_id"])


def cached(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Manifest rows and cache rows of a cohort; the second image failed and the third was withdrawn."""
    ids = [f"i{at}" for at in range(count)]
    table = figures(count, np.random.default_rng(6))
    manifest = pd.DataFrame({"image_id": ids, "cohort": "x", "shard": "x-0001", "age": table["age"], "t1w": "f"})
    rows = table.drop(columns="age").assign(image_id=ids, row=range(count), status="ok", reason=None, checksum="c")
    rows["engine"], rows["engine_version"] = "builtin", "1"
    rows.loc[1, ["status", "reason", "checksum"]] = ["failed", "empty", None]
    rows.loc[2, ["status", "checksum"]] = ["withdrawn", None]
    return manifest, rows


def test_the_index_has_what_is_cached_and_not_excluded_with_its_engine():
    manifest, rows = cached(40)
    rows.loc[5, "mask_volume_mm3"] = 100.0
    judged = judge(cached_images(manifest, rows), SETTINGS)
    index = accepted(manifest, judged)
    assert index["image_id"].tolist() == [f"i{at}" for at in range(40) if at not in (1, 2, 5)]
    assert set(index["engine"]) == {"builtin"} and set(index["engine_version"]) == {"1"}
    assert {"row", "checksum", "t1w", *FIGURES} <= set(index)


def test_a_cohort_without_a_usable_image_is_told_in_one_line():
    manifest, rows = cached(4)
    rows.loc[[0, 3], "mask_volume_mm3"] = 100.0
    judged = judge(cached_images(manifest, rows), SETTINGS)
    index = accepted(manifest, judged)
    assert index.empty and {"image_id", "row", "checksum", "age"} <= set(index)
    line = why_empty("x", rows, judged)
    assert line.startswith("cohort x: none of its 4 images is usable (2 excluded mask_volume_mm3_min")
    assert "1 failed empty" in line and "1 withdrawn" in line and "\n" not in line


def test_a_cohort_all_of_whose_images_failed_has_an_empty_table():
    manifest, rows = cached(3)
    judged = judge(cached_images(manifest, rows.assign(status="failed")), SETTINGS)
    assert judged.empty and accepted(manifest, judged).empty


def test_a_cohort_without_any_image_is_a_mistake():
    manifest, rows = cached(3)
    with pytest.raises(InputError, match="the cohort has no image"):
        cached_images(manifest[:0], rows)
