"""The pretraining loop on images with planted signals: it learns, stops, goes on, and says when it can't."""

import os
import signal

import numpy as np
import pandas as pd
import planted
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.network.device import place
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain import loop, progress, step
from neurotransfer.pretrain.batches import Images, as_input
from neurotransfer.pretrain.optimiser import Momentum, learning_rate
from neurotransfer.pretrain.step import predictions_of
from neurotransfer.pretrain.targets import encode, learn_targets, masked_loss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    return folder, planted.plant(folder)


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory):
    return planted.pretrained(*study, tmp_path_factory.mktemp("undisturbed"), CPU)


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_pretraining_learns_a_planted_signal(study, tmp_path):
    history = planted.pretrained(*study, tmp_path, CPU, epochs=8).history
    train, validation = (table["age"] for table in planted.sides(study[1]))
    assert history["validation_age_mae"].min() < 0.6 * (validation - train.mean()).abs().mean()


def test_the_epoch_with_the_lowest_validation_loss_is_kept(undisturbed):
    assert undisturbed.epoch == undisturbed.history["validation_loss"].idxmin()
    assert undisturbed.history["step"].tolist() == [5, 10, 15, 20]
    assert undisturbed.history["learning_rate"].tolist() == [0.1, 0.1, 0.1, 0.05]


@pytest.mark.parametrize("stop_at", [1, 5, 20])  # within an epoch, at its end, at the end of all
def test_a_run_stopped_by_sigterm_goes_on_to_the_same_bytes(study, undisturbed, tmp_path, stop_at, monkeypatch):
    steps = 0
    real = step.augment

    def stopping(*arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(step, "augment", stopping)
    with pytest.raises(SystemExit) as stopped:
        planted.pretrained(*study, tmp_path, CPU)
    assert (stopped.value.code, steps) == (143, stop_at)
    resumed = planted.pretrained(*study, tmp_path, CPU)
    assert steps == 20  # no step was done twice
    assert same(undisturbed.state, resumed.state)
    pd.testing.assert_frame_equal(undisturbed.history, resumed.history)


def test_a_sigterm_between_two_passes_of_a_step_does_not_wait_for_the_others(study, tmp_path, monkeypatch):
    undisturbed = planted.pretrained(*study, tmp_path / "undisturbed", CPU, accumulate=2)
    real, passes = step.augment, []

    def stopping(*arguments):
        passes.append(1)
        if len(passes) == 5:  # the first of the third step
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(step, "augment", stopping)
    with pytest.raises(SystemExit) as stopped:
        planted.pretrained(*study, tmp_path / "stopped", CPU, accumulate=2)
    assert (stopped.value.code, len(passes)) == (143, 5)
    resumed = planted.pretrained(*study, tmp_path / "stopped", CPU, accumulate=2)
    assert len(passes) == 2 * 20 + 1  # the step's first pass was done twice
    assert same(undisturbed.state, resumed.state)
    pd.testing.assert_frame_equal(undisturbed.history, resumed.history)


def test_a_sigterm_during_validation_loses_no_step(study, undisturbed, tmp_path, monkeypatch):
    real, calls = loop.calibrate, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(loop, "calibrate", stopping)
    with pytest.raises(SystemExit):
        planted.pretrained(*study, tmp_path, CPU)
    resumed = planted.pretrained(*study, tmp_path, CPU)
    assert same(undisturbed.state, resumed.state)
    pd.testing.assert_frame_equal(undisturbed.history, resumed.history)


def test_a_process_killed_at_any_moment_goes_on_from_its_last_checkpoint(study, undisturbed, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    monkeypatch.setattr(loop.Checkpoints, "is_due", lambda self: True)  # a checkpoint after every step
    real, calls = Momentum.step, []

    def dying(self, rate):
        calls.append(1)
        if len(calls) in (3, 9, 14):
            raise Killed
        return real(self, rate)

    monkeypatch.setattr(Momentum, "step", dying)
    for _ in range(3):
        with pytest.raises(Killed):
            planted.pretrained(*study, tmp_path, CPU)
    resumed = planted.pretrained(*study, tmp_path, CPU)
    assert len(calls) == 20 + 3  # each death costs the step it happened in
    assert same(undisturbed.state, resumed.state)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(study, undisturbed, tmp_path, caplog):
    planted.pretrained(*study, tmp_path, CPU, epochs=3)
    newest = max(tmp_path.glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = planted.pretrained(*study, tmp_path, CPU)
    assert "damaged, ignored" in caplog.text
    assert same(undisturbed.state, resumed.state)


def test_training_stops_when_patience_is_over(study, tmp_path):
    result = planted.pretrained(*study, tmp_path, CPU, learning_rate=1e-12, epochs=30, patience=2)
    assert len(result.history) == result.epoch + 1 + 2


def test_a_diverging_run_stops_with_the_step_the_rate_and_what_to_try(study, tmp_path):
    with pytest.raises(
        InputError,
        match=r"learning_rate: .*not finite in epoch \d+, step \d+, .* 1e\+30; .*age.*gradient norm .*; lower it",
    ):
        planted.pretrained(*study, tmp_path, CPU, learning_rate=1e30)


def test_a_compressed_cache_gives_the_same_weights(study, undisturbed, tmp_path):
    table = planted.plant(tmp_path / "cache", "zstd")
    compressed = planted.pretrained(tmp_path / "cache", table, tmp_path / "checkpoints", CPU)
    assert same(compressed.state, undisturbed.state)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_damaged_shard_stops_training_with_its_name_before_the_network_sees_it(tmp_path, monkeypatch, compression):
    table = planted.plant(tmp_path, compression)
    raw = bytearray((tmp_path / "x-0001.npy").read_bytes())
    raw[-9] ^= 1
    (tmp_path / "x-0001.npy").write_bytes(raw)
    seen = []
    monkeypatch.setattr(step, "as_input", lambda images: seen.extend(images.numpy()) or as_input(images))
    with pytest.raises(InputError, match=r"x-0001\.npy: row 23"):
        still = {"shift": 0, "mirror": False}
        planted.pretrained(tmp_path, table, tmp_path / "checkpoints", CPU, augmentation=still, epochs=1)
    sound = {image.tobytes() for image in planted.drawn()[1]}
    assert all(image.tobytes() in sound for image in seen)


def test_a_target_that_nobody_has_leaves_the_others_alone(study, tmp_path):
    folder, table = study
    result = planted.pretrained(folder, table.assign(sex=np.nan), tmp_path, CPU, epochs=2)
    assert np.isfinite(result.history["validation_loss"]).all()
    assert "validation_sex_auc" not in result.history
    assert all(torch.isfinite(value).all() for value in result.state.values())


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.01), (0.0, 0.0), (0.5, 0.1)])
def test_momentum_is_torchs_own(momentum, weight_decay):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = {"momentum": momentum, "weight_decay": weight_decay}
    optimiser, reference = Momentum(ours, settings), torch.optim.SGD(theirs.parameters(), lr=1.0, **settings)
    for rate in (0.1, 0.1, 0.03):
        x = torch.randn(5, 4)
        for model in (ours, theirs):
            model.zero_grad()
            model(x).square().sum().backward()
        optimiser.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
    assert torch.allclose(ours.weight, theirs.weight, rtol=1e-6)


def test_a_line_a_minute_says_where_training_is_how_good_and_how_long_it_takes(monkeypatch, caplog):
    """100 images a minute: the second half of an epoch of 400 images and two more take ten minutes."""
    caplog.set_level("INFO", "neurotransfer")
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines_of = progress.Progress(400, 4, 0)
    for number in range(40):
        now += 6.1
        lines_of.tell(0, number + 1, 10, 0.25)
    figures = {"train_loss": 0.5, "validation_loss": 0.75, "validation_age_mae": 6.5}
    lines_of.conclude({"epoch": 0, "step": 40, "learning_rate": 0.1, **figures})
    for number in range(20):
        now += 6.1
        lines_of.tell(1, number + 1, 10, 0.125)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4 + 1 + 2
    assert lines[4].startswith("epoch 0: train_loss 0.500, loss 0.750, age_mae 6.500; 1.6 images/s, 12 min to go")
    expected = "epoch 1, step 20: loss 0.1250 (after epoch 0: loss 0.750, age_mae 6.500); 1.6 images/s, 10 min to go"
    assert lines[-1] == expected


def test_the_loss_in_bfloat16_stays_within_the_spread_of_seeds_in_float32(study):
    """Over 200 steps, in stretches of 20, another data type moves the curve less than another seed does."""
    table = planted.sides(study[1])[0]
    targets = learn_targets(planted.TARGETS, table)
    images, truth = as_input(Images(table, study[0]).read(np.arange(len(table)))), encode(table, targets)

    def curve(seed: int, data_type: str) -> np.ndarray:
        torch.manual_seed(seed)
        model = place(SFCN([4, 8], 8, 2, "average", 0.1), CPU, data_type).train()
        optimiser, losses = Momentum(model, {"momentum": 0.9, "weight_decay": 0.0}), []
        for _ in range(200):
            batch = torch.randperm(len(table))[:8]
            optimiser.clear()
            loss = masked_loss(model(images[batch]), truth[batch], targets)
            loss.backward()
            optimiser.step(0.02)
            losses.append(float(loss.detach()))
        return np.reshape(losses, (10, 20)).mean(1)

    exact = np.stack([curve(seed, "float32") for seed in range(3)])
    moved = curve(0, "bfloat16") - exact[0]
    spread = np.ptp(exact, axis=0)
    assert 0 < np.square(moved).mean() < np.square(spread).mean()
    assert exact[:, -1].max() < 0.7 * exact[:, 0].min()


def test_the_learning_rate_falls_in_steps():
    settings = {"learning_rate": 1.0, "schedule": {"factor": 0.5, "every": 3}}
    assert [learning_rate(settings, epoch) for epoch in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_predictions_have_a_row_per_image_and_known_target(study, undisturbed):
    tables = planted.sides(study[1])
    model = SFCN([4, 8], 8, 2, "average", 0.0)
    model.load_state_dict(undisturbed.state)
    targets = learn_targets(planted.TARGETS, tables[0])
    parts = {"validation": tables[1], "holdout": tables[1][:0]}
    found = predictions_of(model, parts, study[0], targets, 5, CPU)
    assert len(found) == tables[1]["age"].notna().sum() + tables[1]["sex"].notna().sum()
    mae = (found["truth"] - found["prediction"])[found["target"] == "age"].abs().mean()
    assert mae == pytest.approx(undisturbed.history["validation_age_mae"][undisturbed.epoch], rel=1e-4)


NEW = {
    "optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.01, "schedule": {"kind": "cosine"}, "warmup": 6,
    "clip_norm": 0.5, "weight_average": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("stop_at", [3, 5, 13])  # in the warm-up, at an epoch's end, within an epoch
def test_adamw_and_averages_go_on_to_the_same_bytes(study, tmp_path, monkeypatch, stop_at):
    whole = planted.pretrained(*study, tmp_path / "whole", CPU, **NEW)
    real, steps = step.augment, []

    def stopping(*arguments):
        steps.append(1)
        if len(steps) == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(step, "augment", stopping)
    with pytest.raises(SystemExit):
        planted.pretrained(*study, tmp_path / "stopped", CPU, **NEW)
    resumed = planted.pretrained(*study, tmp_path / "stopped", CPU, **NEW)
    assert same(whole.state, resumed.state)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert not same(
        whole.state, planted.pretrained(*study, tmp_path / "raw", CPU, **NEW | {"weight_average": None}).state
    )


def test_the_first_loss_is_what_predicting_the_means_gives(study, tmp_path, caplog):
    caplog.set_level("INFO", "neurotransfer")
    planted.pretrained(*study, tmp_path, CPU, epochs=1)
    line = next(text for text in caplog.messages if text.startswith("the first batch's loss is"))
    first, dummy = (float(word.rstrip(";")) for word in (line.split()[5], line.split()[-1]))
    assert first == pytest.approx(dummy, rel=0.02)


def test_the_state_that_leaves_needs_no_scale(study, undisturbed):
    """The head's weights hold the factor of the pooled features: a plain network gives the history's metrics."""
    tables = planted.sides(study[1])
    model = SFCN([4, 8], 8, 2, "average", 0.0)
    model.load_state_dict(undisturbed.state)
    targets = learn_targets(planted.TARGETS, tables[0])
    found = predictions_of(model, {"validation": tables[1]}, study[0], targets, 5, CPU)
    ages = found[found["target"] == "age"]
    best = undisturbed.history["validation_age_mae"][undisturbed.epoch]
    assert (ages["truth"] - ages["prediction"]).abs().mean() == pytest.approx(best, rel=1e-4)


def test_dead_features_are_counted_and_more_than_half_is_a_warning(study, tmp_path, caplog, monkeypatch):
    alive = planted.pretrained(*study, tmp_path / "alive", CPU, epochs=1)
    assert alive.history["dead_features"].tolist() == [0]
    real = loop.live_features

    def dying(model, batches):
        with torch.no_grad():
            model.norm.weight[:5], model.norm.bias[:5] = 0.0, -1.0
        return real(model, batches)

    monkeypatch.setattr(loop, "live_features", dying)
    dead = planted.pretrained(*study, tmp_path / "dead", CPU, epochs=1)
    assert dead.history["dead_features"].tolist() == [5]
    assert "5 of 8 pooled features are zero" in caplog.text and "lower pretrain.learning_rate" in caplog.text


def test_a_run_that_diverges_continues_at_a_lower_rate_if_asked_and_says_so(study, tmp_path, caplog):
    """A rate of 1e30 is not finite in its second step; from there each try has a third of it, five at most."""
    rate = 3.0**3 * 1e8
    with pytest.raises(InputError):
        planted.pretrained(*study, tmp_path / "stop", CPU, learning_rate=rate, epochs=2)
    lowered = planted.pretrained(
        *study, tmp_path / "lower", CPU, learning_rate=0.1, epochs=2, on_divergence="lower_rate"
    )
    assert lowered.history["times_lowered"].tolist() == [0, 0]
    with pytest.raises(InputError, match="not finite"):
        settings = {"learning_rate": 1e30, "on_divergence": "lower_rate"}
        planted.pretrained(*study, tmp_path / "never", CPU, epochs=2, **settings)
    assert caplog.text.count("back to the start of epoch 0, at a lower rate") == loop.LOWERINGS


@pytest.mark.parametrize("looks", [1, 3])
def test_losses_that_are_read_late_say_the_same(study, tmp_path, monkeypatch, looks):
    """As on a GPU, where reading each of them would make the host wait: 5 steps in an epoch here."""
    monkeypatch.setitem(loop.LOOKS, "cpu", looks)
    real, calls = loop.add_gradients, []
    whole = planted.pretrained(*study, tmp_path / "whole", CPU, epochs=2)
    assert whole.history["largest_loss"].gt(0).all() and whole.history["train_loss"].gt(0).all()
    monkeypatch.setitem(loop.LOOKS, "cpu", 1)
    assert whole.history.equals(planted.pretrained(*study, tmp_path / "each", CPU, epochs=2).history)
    monkeypatch.setitem(loop.LOOKS, "cpu", looks)

    def failing(parameters, losses, asked):
        calls.append(1)
        found = real(parameters, losses, asked)
        return found * float("nan") if len(calls) == 7 else found

    monkeypatch.setattr(loop, "add_gradients", failing)
    with pytest.raises(InputError, match="not finite in epoch 1, step 1,"):
        planted.pretrained(*study, tmp_path / "failing", CPU, epochs=2)
    assert len(calls) <= 6 + looks


def test_a_stop_between_two_looks_loses_no_loss(study, tmp_path, monkeypatch):
    monkeypatch.setitem(loop.LOOKS, "cpu", 4)
    whole = planted.pretrained(*study, tmp_path / "whole", CPU, epochs=2)
    real, calls = loop.add_gradients, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, "add_gradients", stopping)
        planted.pretrained(*study, tmp_path / "stopped", CPU, epochs=2)
    assert len(calls) == 7
    resumed = planted.pretrained(*study, tmp_path / "stopped", CPU, epochs=2)
    assert whole.history.equals(resumed.history) and same(whole.state, resumed.state)


def test_a_loss_that_is_not_finite_once_is_passed_at_a_lower_rate(study, tmp_path, monkeypatch):
    real, calls = loop.add_gradients, []

    def failing(parameters, losses, asked):
        calls.append(1)
        found = real(parameters, losses, asked)
        return found * float("nan") if len(calls) == 8 else found

    monkeypatch.setattr(loop, "add_gradients", failing)
    result = planted.pretrained(*study, tmp_path, CPU, on_divergence="lower_rate")
    assert result.history["times_lowered"].tolist() == [0, 1, 1, 1]
    assert result.history["learning_rate"].tolist() == pytest.approx([0.1, 0.1 / 3, 0.1 / 3, 0.05 / 3])
