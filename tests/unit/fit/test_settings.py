"""Which setting is chosen, from which seeds a fit runs, and what its record promises."""

import hashlib
import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurotransfer import __version__
from neurotransfer.errors import InputError
from neurotransfer.files import read_json, write_json
from neurotransfer.fit.settings import all_settings, choose, fingerprint_of_fit, fit_record, seeds_of_fit


def setting(auc, loss, status="ok"):
    return {"values": {}, "status": status, "validation_auc": auc, "validation_loss": loss, "epoch": 1}


def test_the_highest_validation_auc_is_chosen():
    assert choose([setting(0.6, 0.1), setting(0.8, 0.9), setting(0.7, 0.1)]) == 1


def test_a_tie_goes_to_the_lower_loss_and_then_to_the_first():
    assert choose([setting(0.8, 0.5), setting(0.8, 0.4), setting(0.8, 0.4)]) == 1


def test_a_diverged_setting_is_never_chosen_whatever_its_numbers():
    assert choose([setting(1.0, 0.0, "diverged"), setting(None, None, "diverged"), setting(0.4, 2.0)]) == 2


@pytest.mark.parametrize("auc, loss", [(math.nan, 0.1), (0.9, math.nan), (0.9, math.inf), (None, 0.1)])
def test_a_setting_without_finite_numbers_is_never_chosen_wherever_it_stands(auc, loss):
    good = setting(0.5, 1.0)
    assert choose([setting(auc, loss), good]) == 1
    assert choose([good, setting(auc, loss)]) == 0


def test_a_fit_whose_settings_all_diverged_says_what_to_do():
    with pytest.raises(InputError, match="every setting diverged; lower the learning rates"):
        choose([setting(None, None, "diverged")] * 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_choosing_agrees_with_a_stable_sort_of_the_table(rows):
    records = [setting(auc / 4, loss / 4, "ok" if ok else "diverged") for auc, loss, ok in rows]
    table = pd.DataFrame(records).query("status == 'ok'")
    if table.empty:
        with pytest.raises(InputError):
            choose(records)
        return
    by = table.sort_values("validation_loss", kind="stable").sort_values(
        "validation_auc", ascending=False, kind="stable"
    )
    assert choose(records) == by.index[0]


def test_baseline_and_transfer_share_every_seed_but_the_trunks():
    baseline, transfer = (seeds_of_fit(1, "ad_hc", 100, "001", model, 3) for model in ("baseline", "transfer"))
    assert {name for name in baseline if baseline[name] != transfer[name]} == {"trunk"}


def test_seeds_differ_with_each_name_and_among_themselves():
    names = (1, "ad_hc", 100, "001", "baseline", 3)
    others = [(2, *names[1:]), (1, "scz_bd", *names[2:]), (*names[:2], 200, *names[3:])]
    others += [(*names[:3], "002", *names[4:]), (*names[:5], 4)]
    mine = seeds_of_fit(*names)
    assert len(set(mine.values())) == len(mine)
    for other in others:
        assert not set(mine.values()) & set(seeds_of_fit(*other).values())
    again = [seeds_of_fit(*names, another=attempt) for attempt in (1, 2)]
    assert len({*mine.values(), *again[0].values(), *again[1].values()}) == 3 * len(mine)


def test_an_n_from_a_wildcard_gives_the_same_seeds_as_the_number():
    assert seeds_of_fit(1, "a", "100", "001", "baseline", 0) == seeds_of_fit(1, "a", 100, "001", "baseline", 0)


def test_a_fingerprint_is_the_digest_of_all_that_a_fit_depends_on(tmp_path):
    resample, weights = tmp_path / "001.tsv", tmp_path / "weights.safetensors"
    resample.write_bytes(b"rows")
    weights.write_bytes(b"weights")
    parameters = {"seed": 1, "settings": [{"c": 1.0}]}
    facts = {
        "model": "transfer",
        "parameters": parameters,
        "resample": hashlib.sha256(b"rows").hexdigest(),
        "weights": hashlib.sha256(b"weights").hexdigest(),
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    found = fingerprint_of_fit("transfer", parameters, resample, weights)
    assert found == hashlib.sha256(text.encode()).hexdigest()
    assert found == fingerprint_of_fit("transfer", dict(reversed(parameters.items())), resample, weights)

    changed = {fingerprint_of_fit("transfer", parameters | {"seed": 2}, resample, weights)}
    changed |= {fingerprint_of_fit("baseline", parameters, resample, weights)}
    changed |= {fingerprint_of_fit("transfer", parameters, resample, None)}
    resample.write_bytes(b"other rows")
    changed |= {fingerprint_of_fit("transfer", parameters, resample, weights)}
    resample.write_bytes(b"rows")
    weights.write_bytes(b"other weights")
    changed |= {fingerprint_of_fit("transfer", parameters, resample, weights)}
    assert len(changed | {found}) == 6


def test_a_record_holds_a_diverged_setting_as_null_and_reads_back_the_same(tmp_path):
    record = fit_record(
        facts={"task": "ad_hc", "n": 100, "replicate": "001", "redraws": 3},
        model="baseline",
        settings=[setting(math.nan, math.inf, "diverged"), setting(0.75, 0.5)],
        chosen=1,
        test_auc=1 / 3,
        test={"position": [7, 8], "label": [0, 1], "score": [0.1, 0.2]},
        seeds={"head": 1},
        fingerprint="f",
    )
    write_json(tmp_path / "fit.json", record)
    read = read_json(tmp_path / "fit.json")
    assert read == record
    assert read["settings"][0]["validation_auc"] is None and read["settings"][0]["validation_loss"] is None
    names = {"task", "n", "replicate", "model", "settings", "chosen", "test_auc", "test", "seeds", "fingerprint"}
    assert set(read) == names | {"version"} and read["version"] == __version__


def test_lists_in_a_setting_are_the_grid_of_their_values():
    grid = [{"learning_rate": [0.1, 0.2], "dropout": 0.5, "freeze": [0, "trunk"]}, {"learning_rate": 0.3}]
    assert all_settings(grid) == [
        {"learning_rate": 0.1, "dropout": 0.5, "freeze": 0},
        {"learning_rate": 0.1, "dropout": 0.5, "freeze": "trunk"},
        {"learning_rate": 0.2, "dropout": 0.5, "freeze": 0},
        {"learning_rate": 0.2, "dropout": 0.5, "freeze": "trunk"},
        {"learning_rate": 0.3},
    ]
    assert all_settings(all_settings(grid)) == all_settings(grid)
