"""Failed images on the quality page: each reason has examples, with slices of what can be read."""

import base64
import io

import nibabel
import numpy as np
import pandas as pd
from neurotransfer.files import write_table
from neurotransfer.preprocess.reasons import REASONS
from neurotransfer.quality import page
from PIL import Image


def test_failed_images_have_pictures_if_they_can_be_read_and_one_that_killed_is_not_opened(tmp_path):
    values = np.zeros((30, 40, 50), np.int16)
    values[20:, 20:, 20:] = 100  # right, anterior, superior
    for name, affine in (("a", np.diag([4.0, 4, 4, 1])), ("b", np.diag([-4.0, 4, -4, 1]))):
        turned = values if name == "a" else values[::-1, :, ::-1]
        nibabel.save(nibabel.Nifti1Image(turned, affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "c.nii.gz").write_bytes(b"no image")
    rows = [("a", "failed", "mask_failed", "<b>"), ("b", "failed", "killed", None), ("c", "failed", "truncated", None)]
    rows += [("d", "ok", None, None), *((f"e{at}", "failed", "missing", None) for at in range(30))]
    ledger, manifest = tmp_path / "A-0001/0000.tsv", tmp_path / "A-0001.tsv"
    ledger.parent.mkdir()
    write_table(pd.DataFrame(rows, columns=["image_id", "status", "reason", "detail"]), ledger)
    files = [f"{tmp_path}/{row[0]}.nii.gz" for row in rows]
    write_table(pd.DataFrame({"image_id": [row[0] for row in rows], "t1w": files}), manifest)

    found = {image["id"]: image for image in page.failed_images(page.read_ledgers([ledger]), [manifest])}
    assert found.keys() == {"a", "b", "c", *(f"e{at}" for at in range(10))}
    assert found["b"]["picture"] is None and found["c"]["picture"] is None and found["e3"]["of"] == 30
    assert found["a"]["remedy"] == REASONS["mask_failed"].remedy
    data = base64.b64decode(found["a"]["picture"].partition(",")[2])
    axial = np.asarray(Image.open(io.BytesIO(data)).convert("L"))[:, 720:]
    bright = np.argwhere(axial > 128).mean(axis=0)
    assert bright[0] < 180 and bright[1] < 180  # anterior is up, the person's right on the left
    # the same head in another order of axes has the same picture
    assert page.picture_of_file(tmp_path / "b.nii.gz") == found["a"]["picture"]

    settings = {"images": 1, "per_cohort": 1, "flag_below_mm3": None}
    text = page.quality_html(page.quality_content("s", [], [], [ledger], settings, {}, [manifest]))
    assert "Failed images" in text and "&lt;b&gt;" in text and found["a"]["picture"] in text
    assert "Failed images" not in page.quality_html(page.quality_content("s", [], [], [], settings, {}))


def test_a_long_thin_image_has_no_picture(tmp_path):
    """Three square slices of 9,000 pixels would take 243 MB, and of 32,767 more than a job has."""
    nibabel.save(nibabel.Nifti1Image(np.ones((9000, 2, 2), np.uint8), np.eye(4)), tmp_path / "long.nii.gz")
    assert page.picture_of_file(tmp_path / "long.nii.gz") is None
