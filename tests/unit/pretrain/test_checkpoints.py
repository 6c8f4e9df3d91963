"""Checkpoints: whole, of this training, the newest that is sound."""

import multiprocessing
import signal
import time

import numpy as np
import pandas as pd
import planted
import pytest
import torch
from neurotransfer.pretrain.checkpoints import Checkpoints, asked_to_stop

CPU = torch.device("cpu")


def test_what_is_saved_is_loaded(tmp_path):
    state = {"x": torch.arange(6.0).reshape(2, 3), "history": [{"epoch": 0, "loss": 0.5}], "none": None}
    Checkpoints(tmp_path, "one").save(1, state)
    loaded = Checkpoints(tmp_path, "one").load()
    assert torch.equal(loaded.pop("x"), state.pop("x"))
    assert loaded == state


def test_without_a_checkpoint_there_is_no_state(tmp_path):
    assert Checkpoints(tmp_path / "none", "one").load() is None


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path, "one")
    for step in (8, 9, 10, 1000):
        checkpoints.save(step, {"step": step})
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoints.load() == {"step": 1000}


def test_checkpoints_of_another_configuration_are_ignored_and_make_room(tmp_path, caplog):
    """A training that starts anew has done fewer steps than the stale one whose files lie there."""
    for step in (900, 901):
        Checkpoints(tmp_path, "one").save(step, {"step": step})
    new = Checkpoints(tmp_path, "two")
    assert new.load() is None
    assert "another configuration" in caplog.text
    new.save(1, {"step": 1})
    assert Checkpoints(tmp_path, "two").load() == {"step": 1}
    assert Checkpoints(tmp_path, "one").load() is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path, "one")
    for step in (1, 2):
        checkpoints.save(step, {"weights": torch.full((100,), float(step))})
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-9], "flipped": content, "empty": b"", "foreign": b"text" * 99}[damage])
    assert checkpoints.load()["weights"][0] == 1
    assert "damaged" in caplog.text


def test_success_leaves_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "here", "one")
    checkpoints.save(1, {})
    checkpoints.delete()
    assert not (tmp_path / "here").exists()


def test_sigterm_is_noted_within_and_handled_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as asked:
        assert not asked
        signal.raise_signal(signal.SIGTERM)
        assert asked
    assert signal.getsignal(signal.SIGTERM) == before


def test_killed_at_ten_random_moments_and_resumed_the_bytes_are_those_of_an_undisturbed_run(tmp_path, monkeypatch):
    """kill -9 of real processes, wherever they are: in a step, in validation, in the writing of a checkpoint."""
    torch.set_num_threads(1)
    table = planted.plant(tmp_path)
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: True)  # one after every step
    began = time.monotonic()
    undisturbed = planted.pretrained(tmp_path, table, tmp_path / "undisturbed", CPU, epochs=24)
    whole = time.monotonic() - began
    moments, steps = np.random.default_rng(11), []
    for _ in range(10):
        process = multiprocessing.get_context("fork").Process(
            target=planted.pretrained, args=(tmp_path, table, tmp_path / "killed", CPU), kwargs={"epochs": 24}
        )
        process.start()
        time.sleep(moments.uniform(0.03, 0.09) * whole)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it was at work still
        steps.append(max((path.name for path in (tmp_path / "killed").glob("*.pt")), default=""))
    assert steps == sorted(steps) and len(set(steps)) > 3  # each went on from where the one before had come
    resumed = planted.pretrained(tmp_path, table, tmp_path / "killed", CPU, epochs=24)
    assert all(torch.equal(value, resumed.state[name]) for name, value in undisturbed.state.items())
    pd.testing.assert_frame_equal(undisturbed.history, resumed.history)
    growing = pd.read_csv(tmp_path / "killed/history.tsv", sep="\t")
    pd.testing.assert_frame_equal(growing, resumed.history, check_dtype=False)
