"""From shards to batches: the right images, verified, in an order and under changes that seeds decide."""

import os

import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain import batches, distributed
from neurotransfer.pretrain.batches import Images, ResidentImages, as_input, augment, dropout_mask, epoch_order
from neurotransfer.seeds import seed_from

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[None, "zstd"], ids=["plain", "zstd"])
def study(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, planted.plant(folder, request.param)


def stored(table, positions):
    """The planted images at rows of a table, which has them in any order."""
    return planted.drawn()[1][table["index_row"].to_numpy()[positions]]


def test_batches_hold_the_images_that_the_order_names(study):
    order = epoch_order(48, 7, 1, 0)
    for images in (Images(study[1], study[0]), ResidentImages(study[1], study[0], CPU)):
        found = [batch.clone() for batch in images.batches(order, CPU)]
        assert len(found) == len(order)
        for batch, positions in zip(found, order, strict=True):
            assert batch.dtype == torch.uint8
            assert np.array_equal(batch.numpy(), stored(study[1], positions))


def test_no_shard_stays_open(study):
    """The paper's study has 1,786 of them, and a process may often open 1,024 files."""
    before = os.listdir("/proc/self/fd")
    images = Images(study[1], study[0])
    positions = np.array([0, 30, 1, 31, 2])
    assert np.array_equal(images.read(positions).numpy(), stored(study[1], positions))
    assert os.listdir("/proc/self/fd") == before


def test_an_image_that_a_resample_has_twice_is_held_once(study):
    resample = planted.resample_of(study[1])
    held = ResidentImages(resample, study[0], CPU)
    assert len(held.images) == resample["image_id"].nunique() < len(resample)
    found = torch.cat(list(held.batches([np.arange(48)], CPU)))
    assert np.array_equal(found.numpy(), stored(resample, np.arange(48)))


def test_a_flipped_byte_stops_before_it_is_used(study, tmp_path):
    folder, table = study
    raw = bytearray((folder / "x-0001.npy").read_bytes())
    raw[-9] ^= 1
    (tmp_path / "x-0001.npy").write_bytes(raw)
    images = Images(table, tmp_path)
    images.read([0, 1])
    with pytest.raises(InputError, match=r"x-0001.npy: row 23"):
        images.read([1, 23])
    with pytest.raises(InputError, match=r"x-0001.npy: row 23"):
        ResidentImages(table[:24], tmp_path, CPU)


def test_the_batches_before_a_damaged_image_come_and_its_own_never_does(study, tmp_path):
    folder, table = study
    raw = bytearray((folder / "x-0001.npy").read_bytes())
    raw[-9] ^= 1  # of image 23
    (tmp_path / "x-0001.npy").write_bytes(raw)
    reading = Images(table, tmp_path).batches([np.array(rows) for rows in ([0, 1], [2, 3], [4, 23], [5])], CPU)
    found = torch.cat([next(reading).clone() for _ in range(2)])
    assert np.array_equal(found.numpy(), stored(table, np.arange(4)))
    with pytest.raises(InputError, match=r"x-0001.npy: row 23"):
        next(reading)


def test_a_missing_shard_and_a_short_one_are_named(study, tmp_path):
    images = Images(study[1], tmp_path)
    with pytest.raises(InputError, match=r"x-0001.npy: the shard can't be read"):
        images.read([0])
    np.save(tmp_path / "x-0001.npy", planted.drawn()[1][:5])
    with pytest.raises(InputError, match=r"x-0001.npy: it holds 5 images"):
        images.read([20])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(2, 20), st.integers(0, 99))
def test_an_epoch_shows_every_image_once_in_batches_of_about_one_size(count, size, seed):
    order = epoch_order(count, size, seed, 3)
    lengths = [len(batch) for batch in order]
    assert sorted(np.concatenate(order)) == list(range(count))
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_the_order_is_a_function_of_seed_and_epoch():
    first, again, later, other = (np.concatenate(epoch_order(50, 8, *at)) for at in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("readers", "processes", "accumulate"), [(1, 1, 1), (8, 1, 2), (2, 2, 1), (3, 4, 2)])
def test_a_batch_has_the_same_images_however_many_read_it_and_train_on_it(
    study, monkeypatch, readers, processes, accumulate
):
    monkeypatch.setattr(batches, "READERS", readers)
    monkeypatch.setattr(distributed, "ranks", lambda: processes)
    order = epoch_order(48, 12, seed=1, epoch=2)
    found = [np.zeros((len(batch), 12, 12, 12), np.uint8) for batch in order]
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts = [distributed.passes_of(len(batch), accumulate) for batch in order]
        mine = [batch[places] for batch, part in zip(order, parts, strict=True) for places in part]
        reading = Images(study[1], study[0]).batches(mine, CPU)
        for batch, part in zip(found, parts, strict=True):
            for places in part:
                batch[places] = next(reading)
    alone = np.random.default_rng(seed_from(1, "epoch", 2)).permutation(48)
    assert np.array_equal(np.concatenate(found), stored(study[1], alone))


def test_intensities_go_in_as_they_are():
    images = torch.tensor([0, 1, 200, 255], dtype=torch.uint8).reshape(1, 2, 2, 1)
    found = as_input(images)
    assert found.shape == (1, 1, 2, 2, 1)
    assert found.flatten().tolist() == [0.0, 1.0, 200.0, 255.0]


def test_augmentation_shifts_and_mirrors_whole_images():
    images = torch.randint(1, 255, (40, 7, 8, 9), dtype=torch.uint8)
    moved = augment(images, {"shift": 2, "mirror": True}, 4)
    seen = set()
    for before, after in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2,) * 6)
        candidates = {
            (mirror, a, b, c): one[a : a + 7, b : b + 8, c : c + 9]
            for mirror, one in enumerate((padded, padded.flip(0)))
            for a in range(5) for b in range(5) for c in range(5)
        }  # fmt: skip
        found = [how for how, candidate in candidates.items() if torch.equal(after, candidate)]
        assert len(found) == 1
        seen.add(found[0])
    for part in range(4):  # mirrored and not, and shifts of every size along every axis
        assert {how[part] for how in seen} == set(range(2 if part == 0 else 5))


def test_augmentation_follows_from_its_seed_and_can_be_off():
    images = torch.randint(1, 255, (6, 7, 8, 9), dtype=torch.uint8)
    assert torch.equal(*(augment(images, {"shift": 2, "mirror": True}, 4) for _ in range(2)))
    assert not torch.equal(*(augment(images, {"shift": 2, "mirror": True}, seed) for seed in (4, 5)))
    assert torch.equal(images, augment(images, {"shift": 0, "mirror": False}, 4))


@pytest.mark.parametrize("intensity", [0.0, 0.3])
def test_a_share_of_a_batch_is_augmented_as_in_the_whole(intensity):
    images, settings = torch.randint(1, 255, (9, 7, 8, 9), dtype=torch.uint8), {"shift": 2, "mirror": True}
    settings["intensity"] = intensity
    whole = augment(images, settings, 4)
    for places in np.array_split(np.arange(9), 4):
        assert torch.equal(augment(images[places], settings, 4, places, 9), whole[places])


def test_intensities_grow_and_shrink_by_no_more_than_the_configured_share_and_end_at_255():
    images = torch.full((200, 2, 2, 2), 200, dtype=torch.uint8)
    images[:, 0] = 10
    found = augment(images, {"shift": 0, "mirror": False, "intensity": 0.4}, 1).int()
    assert found[:, 0].min() >= 6 and found[:, 0].max() <= 14  # not wrapped around 256
    assert found[:, 1].min() in range(120, 126) and found[:, 1].max() == 255
    assert len(found[:, 1, 0, 0].unique()) > 50


def test_dropout_of_a_share_is_that_of_the_whole_batch_and_as_torch_draws_it():
    model = SFCN([4], 6, 2, "average", 0.4)
    features = torch.randn(9, 6)
    torch.manual_seed(8)
    expected = torch.nn.functional.dropout(features, 0.4)
    state = torch.random.get_rng_state()
    assert torch.allclose(features * dropout_mask(model, 9, 8), expected)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing else that is random notices
