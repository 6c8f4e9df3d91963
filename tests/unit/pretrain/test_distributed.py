"""Two processes that torchrun starts train as one does; SIGTERM and mistakes reach whoever started them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.files import read_table, write_table
from neurotransfer.jobs.job import start_of
from neurotransfer.pretrain import distributed, job
from neurotransfer.pretrain.weights import read_weights
from neurotransfer.study import layout
from runs import REPOSITORY

START = (
    "import json, sys; from neurotransfer.pretrain import job; "
    "job.pretrain_in(2, job.PretrainingJob(**json.load(sys.stdin)), None)"
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study's cache, index and split in the working directory; the fields of its job except those it writes."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    Path(layout.CACHE).mkdir(parents=True)
    table = planted.plant(Path(layout.CACHE))
    write_table(table.drop(columns="label"), "index.tsv")
    roles = np.where(np.arange(len(table)) < planted.TRAINING, "train", "validation")
    write_table(table[["image_id"]].assign(role=roles), "split.tsv")
    preprocessing = {"engine": "builtin", "voxel_size": 1.0, "grid": [12, 12, 12]}
    return {
        "indices": ["index.tsv"], "splits": ["split.tsv"], "key": "study.key", "checkpoint_minutes": 10,
        "targets": planted.TARGETS, "network": planted.NETWORK, "training": planted.SETTINGS | {"device": "cpu"},
        "preprocessing": preprocessing, "crop": [12, 12, 12], "seed": 3, "threads": 1,
    }  # fmt: skip


def trained(study, gpus, name, **changes):
    """State, metadata and history of a run in so many processes."""
    paths = written_by(name)
    job.pretrain_in(gpus, job.PretrainingJob(**study | paths | {"training": study["training"] | changes}), None)
    return *read_weights(paths["weights"]), read_table(paths["history"])


def written_by(name):
    """The fields of a job that say where it writes."""
    return {key: f"{name}-{key}" for key in ("weights", "history", "participants", "checkpoints")}


def test_two_ranks_take_the_step_of_one(study):
    """One step from the same weights moves each of them by its gradient, whoever had which targets."""
    step = {"epochs": 1, "batch_size": 37, "learning_rate": 1e-3, "weight_decay": 0.0}
    one, together = (trained(study, gpus, f"{gpus}", **step) for gpus in (1, 2))
    none = trained(study, 1, "none", **step | {"learning_rate": 1e-30})[0]
    assert together[2]["train_loss"][0] == pytest.approx(one[2]["train_loss"][0], rel=1e-6)
    for name, first in none.items():
        if name.endswith(("weight", "bias")):
            gradient, ours = ((first - state[name]) / 1e-3 for state in (one[0], together[0]))
            assert torch.allclose(ours, gradient, rtol=1e-3, atol=2e-4 * gradient.abs().max() + 1e-4), name


ADAMW = {
    "optimiser": "adamw", "learning_rate": 0.002, "warmup": 3, "schedule": {"kind": "cosine"}, "clip_norm": 1.0,
    "weight_average": 0.8,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{"accumulate": 2}, ADAMW], ids=["sgd", "adamw"])
def test_two_ranks_choose_the_epoch_of_one_and_have_its_losses(study, changes):
    """36 images in batches of 8 and 7: neither the ranks nor the passes have shares of one size."""
    one, together = (trained(study, gpus, f"{gpus}", **changes) for gpus in (1, 2))
    pd.testing.assert_frame_equal(one[2], together[2], rtol=1e-3)
    assert one[1]["training"]["epoch"] == together[1]["training"]["epoch"]
    # batch norm removes a convolution's bias, so its gradient is rounding, which AdamW turns into whole steps; the
    # running mean follows the bias
    names = [
        name for name in one[0] if not changes.get("optimiser") or not name.endswith(("conv.bias", "running_mean"))
    ]
    assert all(torch.allclose(one[0][name], together[0][name], rtol=1e-2, atol=1e-3) for name in names)
    assert one[1]["participants"] == together[1]["participants"]


def test_ended_by_signals_and_started_again_the_bytes_are_the_same(study):
    """SIGTERM lets all ranks save; after kill -9 of the one who started them none of them goes on alone."""
    settings = {"epochs": 12}
    undisturbed = trained(study, 2, "undisturbed", **settings)
    fields = study | written_by("stopped") | {"training": study["training"] | settings}
    growing = Path("stopped-checkpoints/history.tsv")
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before = growing.read_text() if growing.exists() else ""
        process = subprocess.Popen([sys.executable, "-c", START], stdin=subprocess.PIPE, text=True, env=environment())
        process.stdin.write(json.dumps(fields))
        process.stdin.close()
        while not growing.exists() or growing.read_text() == before:
            assert process.poll() is None
            time.sleep(0.01)
        mine = children_of(process.pid)
        assert len(mine) == 3  # torchrun and its two
        process.send_signal(number)
        assert process.wait(100) == status
        end = time.monotonic() + 100
        while any(start_of(pid) not in (None, "dead") for pid in mine):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert list(growing.parent.glob("*.pt")) and not os.path.exists("stopped-weights")
    job.pretrain_in(2, job.PretrainingJob(**fields), None)
    resumed = read_weights("stopped-weights")[0]
    assert all(torch.equal(resumed[name], undisturbed[0][name]) for name in resumed)
    pd.testing.assert_frame_equal(read_table("stopped-history"), undisturbed[2])
    assert not growing.parent.exists()


def children_of(pid):
    """Processes below one, at any depth."""
    direct = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            direct += [int(child) for child in (thread / "children").read_text().split()]
    return direct + [below for child in direct for below in children_of(child)]


def environment():
    return os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow/scripts")}


def test_a_damaged_shard_stops_all_ranks_with_its_name(study):
    content = np.load(f"{layout.CACHE}/x-0002.npy")
    content[3, 5, 5, 5] ^= 1
    np.save(f"{layout.CACHE}/x-0002.npy", content)
    with pytest.raises(InputError, match=r"x-0002\.npy"):
        trained(study, 2, "damaged")
    assert not os.path.exists("damaged-weights")


def test_a_batch_too_small_for_all_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "ranks", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: 3)
    with pytest.raises(InputError, match="a batch of 7 images is too small for 4 GPUs and 2 passes"):
        distributed.passes_of(7, 2)
    assert [places.tolist() for places in distributed.passes_of(9, 2)] == [[4], [8]]


@pytest.mark.parametrize("count", [1, 7, 8])
def test_every_row_is_in_some_rank_s_share_and_all_shares_are_alike(monkeypatch, count):
    monkeypatch.setattr(distributed, "ranks", lambda: 3)
    shares = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares.append(distributed.share_of(count))
    assert len({len(share) for share in shares}) == 1
    assert np.stack(shares, 1).ravel()[:count].tolist() == list(range(count))
