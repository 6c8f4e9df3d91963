"""Scanners are read from the JSON files that BIDS lets describe an image, and whatever lies there does no harm."""

import json
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neurotransfer.manifest.scanners import NOT_STATED, names_of_scanners, scanners_of, with_scanner

SIEMENS = {"Manufacturer": "Siemens", "ManufacturersModelName": "Prisma", "MagneticFieldStrength": 2.8936}


def describe(path, facts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(facts if isinstance(facts, str) else json.dumps(facts))


def images_in(root, *labels):
    paths = [str(root / f"sub-{label}/anat/sub-{label}_T1w.nii.gz") for label in labels]
    return pd.DataFrame({"image_id": [f"A_{label}" for label in labels], "cohort": "A", "t1w": paths})


def test_the_file_nearest_to_the_image_wins(tmp_path):
    images = images_in(tmp_path, "01", "02", "03")
    describe(tmp_path / "T1w.json", SIEMENS)
    describe(tmp_path / "sub-02/sub-02_T1w.json", {"ManufacturersModelName": "Skyra"})
    describe(tmp_path / "sub-03/anat/sub-03_T1w.json", {"MagneticFieldStrength": 1.5, "Manufacturer": "GE"})
    names = names_of_scanners(images["image_id"], scanners_of(images, {"A": tmp_path}))
    assert names.tolist() == ["Siemens Prisma 2.9 T", "Siemens Skyra 2.9 T", "GE Prisma 1.5 T"]


def test_an_image_without_facts_is_named_so_and_without_any_there_is_no_scanner(tmp_path):
    images = images_in(tmp_path, "01", "02")
    assert "scanner" not in with_scanner(images, scanners_of(images, {"A": tmp_path}))
    describe(tmp_path / "sub-02/anat/sub-02_T1w.json", SIEMENS)
    assert with_scanner(images, scanners_of(images, {"A": tmp_path}))["scanner"].tolist()[0] == NOT_STATED
    assert scanners_of(images, {}).empty


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=40), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=200),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(
        st.sampled_from(["Manufacturer", "ManufacturersModelName", "MagneticFieldStrength"]), value, max_size=3),
    max_leaves=8).map(json.dumps)))  # fmt: skip
def test_any_content_gives_short_printable_names(tmp_path, content):
    images = images_in(tmp_path, "01")
    describe(Path(images["t1w"][0]).with_name("sub-01_T1w.json"), content)
    for name in names_of_scanners(images["image_id"], scanners_of(images, {"A": tmp_path})):
        assert name and name.isprintable() and len(name) < 140
