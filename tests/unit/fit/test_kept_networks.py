"""Networks of a task that are kept: they predict what their fits did, and the final one learns from all images."""

import numpy as np
import planted
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.files import write_json
from neurotransfer.fit import final, finetuning, kept
from neurotransfer.network.sfcn import trunk_of
from neurotransfer.pretrain.batches import Images
from neurotransfer.pretrain.step import predict
from neurotransfer.pretrain.weight_file import show
from neurotransfer.pretrain.weights import network_from, read_weights, write_weights
from neurotransfer.split.resampling import write_resample
from neurotransfer.study import layout
from sklearn.metrics import roc_auc_score

CPU = torch.device("cpu")
TASK = {"name": "old", "title": "Old or young", "positive": ["old"], "negative": ["young"]}
SETTINGS = [{"learning_rate": rate, "weight_decay": 0.0, "dropout": 0.2} for rate in (0.001, 0.1)]
MADE_WITH = {
    "network": planted.NETWORK, "crop": [12, 12, 12],
    "preprocessing": {"engine": "builtin", "voxel_size": 1.0, "grid": [12, 12, 12], "threads": 1},
}  # fmt: skip
FITTING = MADE_WITH | {
    "seed": 1, "training": planted.SETTINGS | {"epochs": 4, "device": "cpu", "threads": 1}, "settings": SETTINGS,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study's folder with a cache, a resample and its two fits; the table, records and states."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    (folder / layout.CACHE).mkdir(parents=True)
    table = planted.plant(folder / layout.CACHE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        path = layout.resample("old", 24, "001")
        write_resample(planted.resample_of(table), path, {"task": "old", "n": 24, "replicate": "001"})
        records, states = {}, {}
        for model, trunk in (("baseline", None), ("transfer", {})):
            if trunk is not None:
                trunk = trunk_of(_pretrained()[0])
                write_weights("w.safetensors", *_pretrained())
            weights = None if trunk is None else "w.safetensors"
            records[model], states[model] = finetuning.fit(model, path, FITTING, weights=weights, trunk=trunk)
            write_json(layout.fit("old", 24, "001", model), records[model])
    return folder, table, records, states, trunk


def _pretrained():
    model = finetuning.first_network(planted.NETWORK, 0.0, {"trunk": 8, "head": 9}, None)
    target = {"name": "age", "kind": "continuous", "weight": 1.0, "loss": "squared", "mean": 50.0, "sd": 9.0}
    return model.state_dict(), MADE_WITH | {"scaling": "none", "targets": [target | {"positive_weight": 1.0}]}


@pytest.fixture(autouse=True)
def inside(study, monkeypatch):
    monkeypatch.chdir(study[0])


def outputs_of(path, table, rows):
    state, metadata = read_weights(path)
    model = network_from(metadata)
    model.load_state_dict(state)
    return predict(model, Images(table, layout.CACHE), rows, 8, CPU)[:, 0]


@pytest.mark.parametrize("model", ["baseline", "transfer"])
def test_a_kept_network_scores_the_test_images_as_its_fit_did(study, tmp_path, model):
    _, table, records, states, _ = study
    resample = planted.resample_of(table)
    path = tmp_path / "kept.safetensors"
    given = (states[model], records[model], layout.resample("old", 24, "001"), TASK)
    kept.keep(path, *given, made_with=MADE_WITH, key=None)
    test = np.array(records[model]["test"]["position"])
    assert outputs_of(path, resample, test) == pytest.approx(records[model]["test"]["score"], abs=1e-5)
    facts = read_weights(path)[1]
    assert facts["targets"][0]["name"] == "old" and facts["training"]["images"] == 12  # of 24 rows drawn
    assert facts["images_made_by"] == [["builtin", "1"]]
    assert not any(name in show(path) for name in table["participant_id"])
    kept.keep(path, *given, made_with=MADE_WITH, key=b"k" * 32)
    assert len(read_weights(path)[1]["participants"]["digests"]) == 12


def test_trained_again_from_its_seeds_it_is_the_same_network(study, caplog):
    _, _, records, states, trunk = study
    for model, first in (("baseline", None), ("transfer", trunk)):
        again = kept.repeat(records[model], FITTING, first)
        assert all(torch.equal(again[name], value) for name, value in states[model].items())
    kept.repeat(records["baseline"], FITTING, trunk)  # another start than the record's
    assert "trained again, its validation AUC is" in caplog.text


def record(validation, test, chosen=0, epoch=3):
    settings = [{"validation_auc": auc, "validation_loss": 1 - auc, "epoch": epoch} for auc in validation]
    return {"settings": settings, "chosen": chosen, "test_auc": test, "n": 24}


def test_the_best_network_is_chosen_on_validation_alone():
    records = [record([0.8], 0.9), record([0.9], 0.6), record([0.9], 0.99)]
    assert kept.best_of(records) is records[1]


def test_the_setting_that_won_most_often_and_its_median_epochs():
    won = [record([0.8, 0.7, 0.9], 0.5, 2, epoch) for epoch in (1, 5, 9)]
    others = [record([0.8, 0.9, 0.1], 0.5, at, 99) for at in (1, 1, 0)]
    assert final.settings_that_won([*won, *others]) == (2, 3, 6)
    assert final.settings_that_won([won[0], others[0]]).position == 1  # a tie goes to the higher mean validation AUC
    assert final.expectation([record([1], auc) for auc in (0.6, 0.7, 0.9)])["median"] == 0.7


def test_fits_of_another_configuration_are_refused(study):
    paths = [layout.fit("old", 24, "001", model) for model in ("baseline", "transfer")]
    both = {"baseline": FITTING, "transfer": FITTING}
    assert len(kept.read_fits(paths, both, "w.safetensors")) == 2
    with pytest.raises(InputError, match="it was made with other settings"):
        kept.read_fits(paths, both | {"baseline": FITTING | {"seed": 2}}, "w.safetensors")


def test_the_final_network_learns_from_all_images_and_is_the_same_each_time(study):
    _, table, _, _, trunk = study
    pool = table.assign(label=table["label"].astype(int))
    longer = FITTING | {"training": FITTING["training"] | {"epochs": 12}}
    state, again = (final.fit_final(pool, "old", final.Winner(1, 1, 12), longer, trunk) for _ in range(2))
    assert all(torch.equal(again[name], value) for name, value in state.items())
    kept.write_network("final.safetensors", state, pool, TASK, made_with=MADE_WITH, fit={}, made_by=[], key=None)
    scores = outputs_of("final.safetensors", pool, np.arange(len(pool)))
    assert roc_auc_score(pool["label"], scores) > 0.9
    facts = read_weights("final.safetensors")[1]
    assert sum(cell["participants"] for cell in facts["people"]) == facts["training"]["participants"] == 48


def test_a_frozen_trunk_stays_as_it_was_pretrained(study):
    _, table, _, _, trunk = study
    pool = table.assign(label=table["label"].astype(int))
    frozen = FITTING | {"settings": [SETTINGS[0] | {"freeze": "trunk"}]}
    state = final.fit_final(pool, "old", final.Winner(0, 1, 1), frozen, trunk)
    assert all(torch.equal(state[name], value) for name, value in trunk.items())
