"""Images compared with those that a network has learnt from."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.cache.image_figures import FIGURES
from neurotransfer.quality.judge import judge
from neurotransfer.quality.reference import compare, reference_of
from synthetic_quality import figures

EXCLUDE = {"mask_volume_mm3": {"min": 400_000, "max": 2_800_000}, "z": {"max": 1.0}}


@pytest.fixture(scope="module")
def images():
    return figures(200, np.random.default_rng(3)).reset_index(drop=True)


def test_against_themselves_images_are_as_unusual_as_in_their_cohort(images):
    table = images.assign(image_id=[f"i{at}" for at in range(len(images))], age=np.nan)
    judged = judge(table, {"age_band": 10, "min_group": 30, "exclude": {}})
    found = compare(images, reference_of(images), {})
    assert found["unusual"].to_numpy() == pytest.approx(judged["unusual"].to_numpy())
    assert found["why"].tolist() == judged["why"].tolist()


def test_limits_and_unusual_figures_are_flagged_and_other_images_are_not(images):
    odd = pd.concat([images.median().to_frame().T] * 3, ignore_index=True)
    odd.loc[1, "mask_volume_mm3"] = 300_000
    odd.loc[2, "mask_holes"] = 500
    flags = compare(odd, reference_of(images), EXCLUDE)["flags"].fillna("").tolist()
    assert flags == ["", "mask_volume_mm3_min, unusual_mask_volume_mm3", "unusual_mask_holes"]


def test_without_a_reference_only_limits_count(images):
    assert reference_of(images[:20]) is None
    found = compare(images[:2].assign(mask_volume_mm3=[1e6, 3e6]), None, EXCLUDE)
    assert found["flags"].fillna("").tolist() == ["", "mask_volume_mm3_max"]
    assert found["unusual"].isna().all() and found["why"].isna().all()


def test_a_figure_that_no_image_has_is_no_part_of_the_reference(images):
    assert set(reference_of(images.assign(contrast=np.nan))) == set(FIGURES) - {"contrast"}
