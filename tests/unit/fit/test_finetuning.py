"""Binary fits on one resample: what baseline and transfer share, what is refused, what is recorded."""

import json
import resource
import subprocess
import sys

import numpy as np
import planted
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.fit import finetuning
from neurotransfer.fit.settings import fingerprint_of_second, seeds_of_fit
from neurotransfer.network.sfcn import trunk_of
from neurotransfer.pretrain.batches import ResidentImages
from neurotransfer.pretrain.study_key import digests_of
from neurotransfer.pretrain.targets import as_metadata, learn_targets
from neurotransfer.pretrain.weights import write_weights
from neurotransfer.split.resampling import write_resample
from sklearn.metrics import log_loss, roc_auc_score

CPU = torch.device("cpu")
KEY = b"k" * 32
PREPROCESSING = {"engine": "builtin", "voxel_size": 1.0, "grid": [12, 12, 12], "threads": 1}
FITTING = {
    "seed": 1, "network": planted.NETWORK, "crop": [12, 12, 12], "preprocessing": PREPROCESSING,
    "training": planted.SETTINGS | {"epochs": 3, "device": "cpu", "threads": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    return folder, planted.plant(folder)


@pytest.fixture
def resample(study):
    return planted.resample_of(study[1])


@pytest.fixture(scope="module")
def trunk(study, tmp_path_factory):
    return trunk_of(planted.pretrained(*study, tmp_path_factory.mktemp("checkpoints"), CPU, epochs=8).state)


def settings_of(*rates):
    return [{"learning_rate": rate, "weight_decay": 0.0, "dropout": 0.0} for rate in rates]


def test_batch_norm_is_settled_over_the_first_images_of_an_epoch():
    passes = [np.arange(3), np.arange(3, 6), np.arange(6, 8)]
    assert [len(finetuning.first_of(passes, images)) for images in (None, 2, 3, 4, 6, 7, 100)] == [3, 1, 1, 2, 2, 3, 3]


def test_fewer_images_settle_batch_norm_only_if_the_configuration_says_so(study, resample, monkeypatch):
    counted = []
    monkeypatch.setattr(finetuning, "as_input", lambda images: counted.append(len(images)) or images.unsqueeze(1))
    for wanted, per_epoch in ((None, 24), (8, 8)):
        counted.clear()
        monkeypatch.setitem(FITTING["training"], "calibration_images", wanted)
        fits(study, resample, "baseline", None, settings_of(0.01))
        assert sum(counted) == per_epoch * FITTING["training"]["epochs"]


def fits(study, resample, model, trunk, settings):
    seeds = [seeds_of_fit(1, "task", 24, "001", model, at) for at in range(len(settings))]
    return finetuning.fit_settings(
        ResidentImages(resample, study[0], CPU), resample, network=planted.NETWORK, training=FITTING["training"],
        settings=settings, seeds=seeds, trunk=trunk, device=CPU,
    )  # fmt: skip


def test_a_diverging_setting_is_recorded_and_the_others_go_on(study, resample):
    records, chosen, scores, _, validated = fits(study, resample, "baseline", None, settings_of(1e30, 0.02))
    assert [record["status"] for record in records] == ["diverged", "ok"]
    assert records[0]["validation_auc"] is None
    assert chosen == 1
    assert len(scores) == 12 and len(validated) == (resample["role"] == "validation").sum()
    truth = resample.loc[resample["role"] == "validation", "label"]
    assert records[1]["validation_auc"] == roc_auc_score(truth, validated)


def test_where_every_setting_diverges_one_line_says_so(study, resample):
    with pytest.raises(InputError, match="every setting diverged"):
        fits(study, resample, "baseline", None, settings_of(1e30))


def seconds_of_cpu(code: str) -> float:
    """User and system time of a Python that runs the code: other work on the machine does not lengthen it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_fit_starts_in_little_more_than_its_libraries():
    """As a ratio within one run, because machines differ: torch, pandas and scipy.stats alone need 4 to 6 seconds."""
    libraries = seconds_of_cpu("import torch, pandas, scipy.stats")
    assert 0 < seconds_of_cpu("import neurotransfer.fit.finetuning, neurotransfer.jobs.job") < 1.3 * libraries


def test_settings_do_not_disturb_each_other(study, resample):
    """A setting's result follows from its seeds alone, whichever settings were fitted before it."""
    alone = fits(study, resample, "baseline", None, settings_of(0.02))
    together = fits(study, resample, "baseline", None, settings_of(0.02, 1e-9))
    assert alone[0][0] == together[0][0]
    torch.manual_seed(99)
    assert np.array_equal(alone[2], fits(study, resample, "baseline", None, settings_of(0.02))[2])


@pytest.mark.parametrize("first", [1, 2, "trunk"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_frozen_layers_stay_as_they_are_and_the_others_learn(study, resample, trunk, monkeypatch, first, pretrained):
    states = []
    real = finetuning.fit_setting

    def watched(images, labels, rows, model, *arguments):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        record, state = real(images, labels, rows, model, *arguments)
        states.append(state)
        return record, state

    monkeypatch.setattr(finetuning, "fit_setting", watched)
    values = settings_of(0.02)[0] | {"freeze": first}
    records, _, scores, *_ = fits(study, resample, "transfer", trunk if pretrained else None, [values])
    before, after = states
    frozen = tuple(f"blocks.{block}." for block in range(2 if first == "trunk" else first))
    frozen += ("bottleneck.", "norm.") if first == "trunk" else ()
    for name, value in before.items():
        if not name.endswith(
            ("conv.bias", "bottleneck.bias", "tracked")
        ):  # batch norm takes biases out: they never learn
            assert torch.equal(value, after[name]) == name.startswith(frozen), name
        if pretrained and name.startswith(frozen):
            assert torch.equal(value, trunk[name])
    assert records[0]["values"]["freeze"] == first and records[0]["status"] == "ok"
    assert np.isfinite(scores).all() and scores.std() > 0


def test_passes_add_up_to_their_batch(study, resample, trunk, monkeypatch):
    """On a frozen trunk, where batch norm does not see the batch, dropout and augmentation included."""
    values = [settings_of(0.02)[0] | {"freeze": "trunk", "dropout": 0.4}]
    whole = fits(study, resample, "transfer", trunk, values)
    monkeypatch.setitem(FITTING["training"], "accumulate", 3)
    parts = fits(study, resample, "transfer", trunk, values)
    assert parts[0][0]["validation_loss"] == pytest.approx(whole[0][0]["validation_loss"], rel=1e-5)
    assert parts[2] == pytest.approx(whole[2], rel=1e-4)


@pytest.mark.parametrize("by", ["loss", "auc"])
def test_the_epoch_is_the_best_by_what_the_configuration_says(study, resample, monkeypatch, by):
    """Each epoch's figures are seen by the way; the one that is kept is the best of them."""
    seen = []
    real = finetuning.point_metrics

    def metrics(truth, outputs, kind):
        found = real(truth, outputs, kind)
        loss = log_loss(truth, 1 / (1 + np.exp(-outputs.astype(float))), labels=[0, 1])
        seen.append((found["auc"], loss))
        return found

    monkeypatch.setattr(finetuning, "point_metrics", metrics)
    monkeypatch.setitem(FITTING["training"], "epoch_by", by)
    monkeypatch.setitem(FITTING["training"], "epochs", 9)
    record = fits(study, resample, "baseline", None, settings_of(0.05))[0][0]
    best = max(seen, key=lambda pair: (pair[0], -pair[1])) if by == "auc" else min(seen, key=lambda pair: pair[1])
    assert record["epoch"] == seen.index(best)
    assert len({auc for auc, _ in seen}) > 1


def test_nothing_of_the_test_images_reaches_the_fit(study, resample):
    """With other labels and images for the test, training and validation are the same to the last bit."""
    other = resample.copy()
    test = other["role"] == "test"
    other.loc[test, ["shard", "row", "checksum"]] = other.loc[test, ["shard", "row", "checksum"]].to_numpy()[::-1]
    other.loc[test, "label"] = 1 - other.loc[test, "label"]
    first, second = (fits(study, rows, "baseline", None, settings_of(0.02, 0.005)) for rows in (resample, other))
    assert first[:2] == second[:2]
    assert np.allclose(first[2], second[2][::-1], atol=1e-5)


def test_baseline_and_transfer_share_the_head_and_differ_in_the_trunk():
    seeds = {name: seeds_of_fit(1, "task", 24, "001", name, 0) for name in ("baseline", "transfer")}
    assert {key for key in seeds["baseline"] if seeds["baseline"][key] != seeds["transfer"][key]} == {"trunk"}
    given = trunk_of(finetuning.first_network(planted.NETWORK, 0.0, {"trunk": 9, "head": 9}, None).state_dict())
    baseline = finetuning.first_network(planted.NETWORK, 0.0, seeds["baseline"], None)
    transfer = finetuning.first_network(planted.NETWORK, 0.0, seeds["transfer"], given)
    assert torch.equal(baseline.head.weight, transfer.head.weight)
    assert torch.equal(baseline.head.bias, transfer.head.bias)
    assert all(torch.equal(value, given[name]) for name, value in trunk_of(transfer.state_dict()).items())
    assert not torch.equal(baseline.blocks[0].conv.weight, transfer.blocks[0].conv.weight)


def test_a_fit_begins_without_an_opinion(study, resample, trunk):
    """The first head calls no image a case or a control, whichever trunk it stands on."""
    images = torch.cat(list(ResidentImages(resample, study[0], CPU).batches([np.arange(len(resample))], CPU)))
    for first in (None, trunk):
        model = finetuning.first_network(planted.NETWORK, 0.0, {"trunk": 1, "head": 2}, first)
        with torch.no_grad():
            outputs = model.train()(images.unsqueeze(1).float())
        assert 0 < outputs.abs().max() < 0.3


def test_pretraining_helps_a_fit_on_the_same_signal(study, resample, trunk):
    baseline, transfer = (
        fits(study, resample, name, first, settings_of(0.1))[0][0]
        for name, first in (("baseline", None), ("transfer", trunk))
    )
    assert transfer["validation_loss"] < baseline["validation_loss"]
    assert transfer["validation_auc"] >= baseline["validation_auc"]


def test_a_record_holds_what_scikit_learn_computes_from_it(study, resample, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning.layout, "CACHE", study[0])
    path = tmp_path / "001.tsv"
    write_resample(resample.assign(index_row=0), path, {"task": "task", "n": 24, "replicate": "001"})
    record, _ = finetuning.fit("baseline", path, FITTING | {"settings": settings_of(0.005, 0.02)})
    test = record["test"]
    assert record["test_auc"] == pytest.approx(roc_auc_score(test["label"], test["score"]))
    assert resample.loc[test["position"], "role"].eq("test").all()
    assert resample.loc[test["position"], "label"].tolist() == test["label"]
    best = max(record["settings"], key=lambda setting: setting["validation_auc"])
    assert record["settings"][record["chosen"]] == best
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    again, _ = finetuning.fit("baseline", path, FITTING | {"settings": settings_of(0.005, 0.02)})
    assert json.dumps(again) == json.dumps(record)


def test_a_second_seed_trains_the_chosen_setting_alone_from_another_start(study, resample, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning.layout, "CACHE", study[0])
    path = tmp_path / "001.tsv"
    write_resample(resample.assign(index_row=0), path, {"task": "task", "n": 24, "replicate": "001"})
    fitting = FITTING | {"settings": settings_of(0.005, 0.02)}
    first, _ = finetuning.fit("baseline", path, fitting)
    second, _ = finetuning.fit("baseline", path, fitting, first=first)
    assert [setting["values"] for setting in second["settings"]] == [fitting["settings"][first["chosen"]]]
    assert not set(first["seeds"].values()) & set(second["seeds"].values())
    assert second["test"]["position"] == first["test"]["position"]
    assert second["test"]["score"] != first["test"]["score"]
    assert second["fingerprint"] == fingerprint_of_second(first["fingerprint"], first["chosen"])
    assert finetuning.fit("baseline", path, fitting, first=first)[0] == second
    with pytest.raises(InputError, match="made with another configuration"):
        finetuning.fit("baseline", path, fitting | {"seed": 2}, first=first)


def test_a_second_seed_that_diverges_gives_way_to_the_next(study, resample, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning.layout, "CACHE", study[0])
    path = tmp_path / "001.tsv"
    write_resample(resample.assign(index_row=0), path, {"task": "task", "n": 24, "replicate": "001"})
    fitting = FITTING | {"settings": settings_of(0.02)}
    first, _ = finetuning.fit("baseline", path, fitting)
    real, tried = finetuning.fit_settings, []

    def diverging(*arguments, seeds, **options):
        tried.append(seeds[0])
        if len(tried) in divergent:
            raise InputError("", "settings", "every setting diverged", "lower the learning rates of this model")
        return real(*arguments, seeds=seeds, **options)

    monkeypatch.setattr(finetuning, "fit_settings", diverging)
    divergent = {1}
    second, _ = finetuning.fit("baseline", path, fitting, first=first)
    assert len(tried) == 2 and second["seeds"] == tried[1] != tried[0]
    divergent = set(range(10))
    with pytest.raises(InputError, match="every setting diverged"):
        finetuning.fit("baseline", path, fitting, first=first)


def test_validation_figures_are_those_of_scikit_learn(study, resample):
    images = ResidentImages(resample, study[0], CPU)
    labels = torch.tensor(resample["label"].to_numpy(), dtype=torch.float32)
    rows = {role: np.flatnonzero(resample["role"] == role) for role in ("train", "validation", "test")}
    seeds = seeds_of_fit(1, "task", 24, "001", "baseline", 0)
    model = finetuning.first_network(planted.NETWORK, 0.0, seeds, None)
    settings = FITTING["training"] | settings_of(0.02)[0]
    record, state = finetuning.fit_setting(images, labels, rows, model, settings, seeds, CPU)
    model.load_state_dict(state)
    logits = finetuning.predict(model, images, rows["validation"], 5, CPU)[:, 0]
    truth = labels[rows["validation"]].numpy()
    assert record["validation_auc"] == pytest.approx(roc_auc_score(truth, logits))
    assert record["validation_loss"] == pytest.approx(
        log_loss(truth, 1 / (1 + np.exp(-logits.astype(float)))), abs=1e-4
    )


@pytest.fixture
def files(study, resample, trunk, tmp_path):
    """A resample's file and weights that know 5 participants, none of them in it."""
    write_resample(resample.assign(index_row=0), tmp_path / "001.tsv", {"task": "task", "n": 24, "replicate": "001"})
    head = {"head.weight": torch.zeros(2, 8), "head.bias": torch.zeros(2)}
    facts = {"network": planted.NETWORK, "crop": [12, 12, 12], "preprocessing": PREPROCESSING, "scaling": "none"}
    facts["images_made_by"] = [["builtin", "1"], ["fastsurfer", "2.4.2"]]
    facts["targets"] = as_metadata(learn_targets(planted.TARGETS, study[1]))

    def write(participants):
        known = {"participants": digests_of(participants, KEY)} if participants else {}
        write_weights(tmp_path / "w.safetensors", trunk | head, facts | known)
        return tmp_path / "w.safetensors", FITTING, tmp_path / "001.tsv"

    return write


def test_transfer_starts_from_the_trunk_without_the_head(files, trunk):
    read = finetuning.pretrained_trunk(*files(["x_15"]), None, key=KEY)
    assert read.keys() == trunk.keys()
    assert all(torch.equal(read[name], trunk[name]) for name in trunk)


def test_a_participant_whom_pretraining_saw_is_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"001.tsv: participant_id: 1 of its participants .* such as x_03"):
        finetuning.pretrained_trunk(*files(["x_15", "x_03"]), None, key=KEY)
    (tmp_path / "participants.tsv").write_text("participant_id\trole\nx_15\ttrain\nx_25\tvalidation\n")
    with pytest.raises(InputError, match="such as x_25"):
        finetuning.pretrained_trunk(*files(["x_15"]), tmp_path / "participants.tsv", key=None)


@pytest.mark.parametrize(
    ("people", "key", "why"),
    [
        ([], b"k" * 32, "holds no digests"),
        (["x_03"], None, "there is no study key"),
        (["x_03"], b"another key".ljust(32), "is not the one of the weights"),
    ],
)
def test_an_overlap_that_cannot_be_known_is_logged_with_the_reason(files, caplog, people, key, why):
    finetuning.pretrained_trunk(*files(people), None, key=key)
    assert "participants of this resample is unknown" in caplog.text and why in caplog.text


def test_images_of_an_engine_that_the_weights_did_not_learn_from_are_refused(files, resample, tmp_path, caplog):
    weights, fitting, path = files(["x_15"])
    facts = {"task": "task", "n": 24, "replicate": "001"}
    write_resample(resample.assign(index_row=0, engine_version="2"), path, facts)
    with pytest.raises(InputError, match=r"of builtin 1, fastsurfer 2\.4\.2, these images are of builtin 2; .* true"):
        finetuning.pretrained_trunk(weights, fitting, path, None, key=KEY)
    finetuning.pretrained_trunk(weights, fitting, path, None, key=KEY, accept_other_preprocessing=True)
    assert "which the configuration accepts" in caplog.text


def test_a_resample_whose_rows_were_changed_is_refused(files, tmp_path):
    weights, fitting, path = files(["x_15"])
    path.write_text(path.read_text().replace("x_03", "x_04"))
    with pytest.raises(InputError, match=r"001\.tsv: its rows have changed since they were drawn"):
        finetuning.pretrained_trunk(weights, fitting, path, None, key=KEY)
    with pytest.raises(InputError, match=r"001\.tsv: its rows have changed since they were drawn"):
        finetuning.fit("baseline", path, FITTING)


def test_a_crop_by_another_rule_is_refused_unless_the_configuration_accepts_it(files):
    weights, fitting, resample = files([])
    fitting = fitting | {"crop_rule": "pyment"}
    with pytest.raises(InputError, match=r'crop_rule: .* "bounding_box", this study has "pyment"'):
        finetuning.pretrained_trunk(weights, fitting, resample, None, key=KEY)
    finetuning.pretrained_trunk(weights, fitting, resample, None, key=KEY, accept_other_preprocessing=True)


def test_weights_of_another_crop_are_refused(files):
    weights, fitting, resample = files([])
    with pytest.raises(InputError, match=r"crop: the weights were made with \[12, 12, 12\], this study has \[32,"):
        finetuning.pretrained_trunk(weights, fitting | {"crop": [32, 32, 32]}, resample, None, key=KEY)


def test_a_late_epoch_that_is_not_finite_keeps_an_earlier_good_one(study, resample, monkeypatch):
    real, calls = finetuning.predict, []

    def failing(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 3 else 1)

    undisturbed = fits(study, resample, "baseline", None, settings_of(0.1))[0][0]
    assert "diverged_epoch" not in undisturbed
    monkeypatch.setattr(finetuning, "predict", failing)
    record = fits(study, resample, "baseline", None, settings_of(0.1))[0][0]
    assert record["status"] == "ok" and record["diverged_epoch"] == 2 and record["epoch"] < 2
