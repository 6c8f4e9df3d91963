"""Pretraining and fine-tuning on images with planted signals: learning, resuming, choosing."""

import signal

import numpy as np
import pandas as pd
import pytest
import torch
from neurotransfer import cache, finetuning, training
from neurotransfer.batches import Held, Images, augment, epoch_order
from neurotransfer.checkpoints import Checkpoints
from neurotransfer.errors import InputError
from neurotransfer.files import written_whole
from neurotransfer.selection import seeds_of_fit
from neurotransfer.targets import learn_targets

CPU = torch.device("cpu")
NETWORK = {"channels": [4, 8], "bottleneck": 8, "pooling": "average"}
TARGETS = {"age": {"kind": "continuous", "weight": 1.0, "loss": "squared"}, "sex": {"kind": "binary", "weight": 0.5}}
SETTINGS = {
    "epochs": 4, "batch_size": 8, "learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.0, "patience": None,
    "schedule": {"factor": 0.5, "every": 3}, "dropout": 0.1, "augmentation": {"shift": 1, "mirror": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """48 small images, brighter in the middle with age, and their table."""
    folder = tmp_path_factory.mktemp("cache")
    generator = np.random.default_rng(5)
    age = generator.uniform(20, 80, 48)
    images = generator.normal(100, 12, (48, 12, 12, 12))
    images[:, 4:8, 4:8, 4:8] += (age[:, None, None, None] - 50) * 1.5
    images = images.clip(0, 255).astype(np.uint8)
    with written_whole(folder / "x-0001.npy", "wb") as file:
        np.save(file, images)
    table = pd.DataFrame({"image_id": [f"i{n:02d}" for n in range(48)], "shard": "x-0001", "row": range(48)})
    table["checksum"] = [cache.checksum(image) for image in images]
    table["participant_id"] = table["image_id"]
    return folder, table.assign(age=age, sex=np.arange(48) % 2, label=(age > 50).astype(int))


def run(study, folder, **changes):
    cache_folder, table = study
    tables = (table[:36].reset_index(drop=True), table[36:].reset_index(drop=True))
    torch.set_num_threads(1)
    return training.pretrain(
        *(Images(part, cache_folder) for part in tables), tables, targets=learn_targets(TARGETS, tables[0]),
        network=NETWORK, settings=SETTINGS | changes, seed=3, device=CPU, checkpoints=Checkpoints(folder, "f"),
    )  # fmt: skip


def test_pretraining_learns_a_planted_signal(study, tmp_path):
    history = run(study, tmp_path, epochs=8).history
    assert history["validation_age_mae"].min() < 0.6 * (study[1]["age"][36:] - study[1]["age"][:36].mean()).abs().mean()


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop_at", [1, 7, 12, 19])
def test_a_stopped_and_resumed_run_gives_the_same_bytes(study, tmp_path, stop_at, monkeypatch):
    undisturbed = run(study, tmp_path / "a")
    steps = 0
    real = training.augment

    def counted(*arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(training, "augment", counted)
    with pytest.raises(SystemExit) as stopped:
        run(study, tmp_path / "b")
    assert stopped.value.code == 143
    resumed = run(study, tmp_path / "b")
    assert same(undisturbed.state, resumed.state)
    pd.testing.assert_frame_equal(undisturbed.history, resumed.history)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(study, tmp_path, caplog):
    undisturbed = run(study, tmp_path / "a")
    run(study, tmp_path / "b", epochs=3)
    newest = max((tmp_path / "b").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = run(study, tmp_path / "b")
    assert "damaged, ignored" in caplog.text
    assert same(undisturbed.state, resumed.state)


def test_a_checkpoint_of_another_configuration_is_ignored(tmp_path, caplog):
    Checkpoints(tmp_path, "one").save(1, {"x": 1})
    assert Checkpoints(tmp_path, "two").load() is None
    assert "another configuration" in caplog.text
    assert Checkpoints(tmp_path, "one").load() == {"x": 1}


def test_a_diverging_run_stops_with_the_step_and_what_to_try(study, tmp_path):
    with pytest.raises(InputError, match=r"not finite in epoch \d+, step \d+.*lower pretrain.learning_rate"):
        run(study, tmp_path, learning_rate=1e30)


def test_a_flipped_byte_stops_before_training_on_it(study, tmp_path):
    folder, table = study
    raw = bytearray((folder / "x-0001.npy").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "x-0001.npy").write_bytes(raw)
    images = Images(table, tmp_path)
    images.read(np.array([0, 1]))
    with pytest.raises(InputError, match=r"x-0001.npy: row 47"):
        images.read(np.array([47]))


def test_the_order_of_images_is_a_permutation_that_depends_on_seed_and_epoch():
    first, again, other = epoch_order(50, 8, 1, 0), epoch_order(50, 8, 1, 0), epoch_order(50, 8, 1, 1)
    assert sorted(np.concatenate(first)) == list(range(50))
    assert np.array_equal(np.concatenate(first), np.concatenate(again))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other))
    assert min(len(batch) for batch in epoch_order(49, 8, 1, 0)) > 1


def test_augmentation_shifts_and_mirrors_whole_images():
    images = torch.randint(1, 255, (20, 7, 8, 9), dtype=torch.uint8)
    moved = augment(images, {"shift": 2, "mirror": True}, 4)
    for before, after in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2,) * 6)
        candidates = [
            candidate[a : a + 7, b : b + 8, c : c + 9]
            for candidate in (padded, padded.flip(0))
            for a in range(5) for b in range(5) for c in range(5)
        ]  # fmt: skip
        assert any(torch.equal(after, candidate) for candidate in candidates)
    assert torch.equal(moved, augment(images, {"shift": 2, "mirror": True}, 4))
    assert torch.equal(images, augment(images, {"shift": 0, "mirror": False}, 4))


@pytest.fixture
def resample(study):
    table = study[1].copy()
    rows = np.r_[np.arange(12), np.arange(12), np.arange(20, 32), np.arange(34, 46)]
    role = ["train"] * 24 + ["validation"] * 12 + ["test"] * 12
    return table.iloc[rows].reset_index(drop=True).assign(role=role)


def settings_of(*rates):
    return [{"learning_rate": rate, "weight_decay": 0.0, "dropout": 0.0} for rate in rates]


def fits(study, resample, model, trunk, settings):
    seeds = [seeds_of_fit(1, "task", 24, "001", model, at) for at in range(len(settings))]
    return finetuning.fit_settings(
        Held(resample, study[0], CPU), resample, network=NETWORK, training=SETTINGS | {"epochs": 3}, settings=settings,
        seeds=seeds, trunk=trunk, device=CPU,
    )  # fmt: skip


def test_a_diverging_setting_is_recorded_and_the_others_go_on(study, resample):
    records, chosen, scores = fits(study, resample, "baseline", None, settings_of(1e30, 0.02))
    assert [record["status"] for record in records] == ["diverged", "ok"]
    assert chosen == 1
    assert len(scores) == 12


def test_where_every_setting_diverges_one_line_says_so(study, resample):
    with pytest.raises(InputError, match="every setting diverged"):
        fits(study, resample, "baseline", None, settings_of(1e30))


def test_a_fit_gives_the_same_scores_again(study, resample):
    first, second = (fits(study, resample, "baseline", None, settings_of(0.02))[2] for _ in range(2))
    assert np.array_equal(first, second)


def test_baseline_and_transfer_share_the_head_and_differ_in_the_trunk():
    seeds = {name: seeds_of_fit(1, "task", 24, "001", name, 0) for name in ("baseline", "transfer")}
    assert {key for key in seeds["baseline"] if seeds["baseline"][key] != seeds["transfer"][key]} == {"trunk"}
    trunk = finetuning.first_network(NETWORK, 0.0, {"trunk": 9, "head": 9}, None).trunk()
    baseline = finetuning.first_network(NETWORK, 0.0, seeds["baseline"], None)
    transfer = finetuning.first_network(NETWORK, 0.0, seeds["transfer"], trunk)
    assert torch.equal(baseline.head.weight, transfer.head.weight)
    assert same(transfer.trunk(), trunk)
    assert not torch.equal(baseline.blocks[0].conv.weight, transfer.blocks[0].conv.weight)


def test_pretraining_helps_a_fit_on_the_same_signal(study, resample, tmp_path):
    pretrained = run(study, tmp_path, epochs=8).state
    trunk = {name: value for name, value in pretrained.items() if not name.startswith("head.")}
    loss = {
        name: fits(study, resample, name, given, settings_of(0.02))[0][0]["validation_loss"]
        for name, given in (("baseline", None), ("transfer", trunk))
    }
    assert loss["transfer"] < loss["baseline"]


def test_a_participant_whom_pretraining_saw_is_refused(resample):
    with pytest.raises(InputError, match="1 of its participants were in the pretraining set"):
        finetuning.check_unseen(resample, [resample["participant_id"][0], "somebody"])
    finetuning.check_unseen(resample, ["somebody"])
