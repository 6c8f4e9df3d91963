"""Features for further arms: of the pretrained trunk, once per image, and tables from elsewhere."""

import numpy as np
import pandas as pd
import pytest
import torch
from neurotransfer.cache.shard_file import checksum
from neurotransfer.errors import InputError
from neurotransfer.fit.features import drawable, read_features, read_table_of_features
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain.step import features_of
from torch.nn import functional

RESAMPLE = pd.DataFrame(
    {"image_id": ["b1", "a2", "a0", "a2"], "cohort": ["b", "a", "a", "a"], "index_row": [1, 2, 0, 2]}
)


def test_a_task_may_draw_test_images_of_people_whom_pretraining_has_not_seen():
    index = pd.DataFrame({"image_id": ["a0", "a1", "a2", "a3"], "participant_id": ["p0", "p1", "p2", "p2"]})
    split = pd.DataFrame({"image_id": ["a3", "a2", "a1", "a0"], "role": ["test", "test", "train", "test"]})
    assert drawable(index, split, ()).tolist() == [0, 2, 3]
    assert drawable(index, split, ["p2", "p9"]).tolist() == [0]


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_features_are_what_torchs_own_layers_give(tmp_path, pooling):
    torch.manual_seed(0)
    model = SFCN([3, 4], 5, 2, pooling, 0.5).eval()
    for norm in (*(block.norm for block in model.blocks), model.norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    voxels = np.random.default_rng(0).integers(0, 255, (3, 8, 9, 8), dtype=np.uint8)
    np.save(tmp_path / "a-0001.npy", voxels)
    table = pd.DataFrame({"shard": "a-0001", "row": range(3), "checksum": [checksum(image) for image in voxels]})
    rows, device = np.array([0, 2]), torch.device("cpu")
    trunk = features_of(model, table, tmp_path, rows, 1, device, layers="trunk")
    blocks = features_of(model, table, tmp_path, rows, 2, device, layers="blocks")
    pool = torch.amax if pooling == "max" else torch.mean
    with torch.no_grad():
        x, expected = torch.from_numpy(voxels[rows]).float()[:, None], []
        for block in model.blocks:
            x = functional.relu(functional.max_pool3d(block.norm(block.conv(x)), 2))
            expected.append(pool(x, (2, 3, 4)))
        expected.append(pool(functional.relu(model.norm(model.bottleneck(x))), (2, 3, 4)))
    assert np.isnan(trunk[1]).all() and np.isnan(blocks[1]).all()
    np.testing.assert_allclose(blocks[rows], torch.cat(expected, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(trunk[rows], expected[-1], rtol=1e-4, atol=1e-4)


def test_features_of_a_resample_are_those_of_its_rows(tmp_path):
    for cohort, first in (("a", 0), ("b", 10)):
        np.save(tmp_path / f"{cohort}.npy", first + np.arange(6, dtype=np.float32).reshape(3, 2))
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    assert read_features(RESAMPLE, files).tolist() == [[12, 13], [4, 5], [0, 1], [4, 5]]
    np.save(tmp_path / "a.npy", np.array([[0, 1], [np.nan] * 2, [np.nan] * 2], np.float32))
    with pytest.raises(InputError, match="2 images have no features, such as a2: pretraining has seen their people"):
        read_features(RESAMPLE, files)
    np.save(tmp_path / "a.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match="it has 2 rows, fewer than its index"):
        read_features(RESAMPLE, files)


def test_a_table_from_elsewhere_is_read_by_image_in_any_order_of_rows_and_columns(tmp_path):
    path = tmp_path / "features.tsv"
    path.write_bytes("\ufefff1\timage_id\tf2\r\n1\ta0\t-2e3\r\nnonsense\ta9\r\n\ta2\tNA\r\n3\tb1\t0.5\r\n".encode())
    found = read_table_of_features(RESAMPLE, path)
    np.testing.assert_equal(found, [[3, 0.5], [np.nan, np.nan], [1, -2000], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\tf\na0\t1\n", "its columns are image, f; give a TSV with the column image_id"),
        ("image_id\na0\n", "its columns are image_id"),
        ("image_id\tf\na0\t1\nb1\t2\n", "no row for 1 of the resample's images, such as a2"),
        ("image_id\tf\na0\t1\na0\t2\n", "line 3: a0 is there twice"),
        ("image_id\tf\na0\tleft\n", "line 2, f: 'left' is no finite number"),
        ("image_id\tf\na0\tinf\n", "line 2, f: 'inf' is no finite number"),
        ("image_id\tf\tg\na0\t1\n", "line 2: it has 2 cells, the first line has 3"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "features.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table_of_features(RESAMPLE, path)
