"""What is said of the population and of scans, against models whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError
from neurotransfer.statistics.aggregation import compare, summarise
from neurotransfer.statistics.inference import ADJUSTED, NULLS, P_VALUES, PRIMARY, curves, draws_for, infer, worth
from neurotransfer.statistics.populations import draw_participants, expected_value
from neurotransfer.statistics.tests import corrected_t_test, holm
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

SIZES = (50, 100, 200, 400)


def study(shifts, tasks=("one",), replicates=12, seed=0, people=400, sizes=SIZES):
    """Scores of models whose classes lie `shifts[model](n)` apart: aucs, predictions and pools."""
    generator = np.random.default_rng(seed)
    aucs, predictions, pools = [], [], []
    for task in tasks:
        for n in sizes:
            pools.append(
                {"task": task, "n": n, "replicates": replicates, "train": n, "test": 60, "participants": people,
                 "overlap": 0.1}
            )  # fmt: skip
            for replicate in range(1, replicates + 1):
                key = {"task": task, "n": n, "replicate": f"{replicate:03d}"}
                person = generator.choice(people, 60, replace=False)
                table = pd.DataFrame({"person": person, "label": person % 2}).assign(**key)
                common = generator.normal(size=60)
                for model, shift in shifts.items():
                    table[model] = shift(n) * table["label"] + 0.8 * common + 0.6 * generator.normal(size=60)
                    aucs.append(key | {"model": model, "auc": roc_auc_score(table["label"], table[model])})
                predictions.append(table)
    return pd.DataFrame(aucs), pd.concat(predictions, ignore_index=True), pd.DataFrame(pools)


def inferred(aucs, predictions, pools, draws=300):
    medians = summarise(aucs, bootstrap=50, seed=1)
    table = compare(aucs, statistic="mean", permutations=4096, bootstrap=50, seed=1)
    return infer(medians, table, predictions, pools, draws=draws, seed=1)


GROWING = {
    "linear": lambda n: 0.9,
    "baseline": lambda n: 0.5 * np.log(n / 20),
    "transfer": lambda n: 0.5 * np.log(n / 10),  # as the baseline with twice the scans
}


@pytest.fixture(scope="module")
def growing():
    return inferred(*study(GROWING, replicates=40))


def test_the_columns_about_the_population_are_those_of_the_tests_themselves():
    aucs, predictions, pools = study(GROWING, tasks=("one", "two"), sizes=(50, 100))
    medians, table, _ = inferred(aucs, predictions, pools)
    wide = aucs.query("task == 'two' and n == 100").pivot(index="replicate", columns="model", values="auc")
    row = table.query("task == 'two' and n == 100 and second == 'linear'").iloc[0]
    t = corrected_t_test(wide["transfer"], wide["linear"], train=100, test=60)
    assert (row["p_corrected_t"], row["low_corrected_t"]) == pytest.approx((t.two_sided, t.low), abs=1e-6)
    assert not [name for name in table if "holm" in name and "corrected_t" in name]  # it decides nothing
    for test in ("population", "participants"):
        assert table[f"holm_{test}"].to_numpy() == pytest.approx(holm(table[f"p_{test}"]))
        assert (table[f"low_{test}"] < table["mean_difference"]).all()
        assert (table["mean_difference"] < table[f"high_{test}"]).all()
    assert set(P_VALUES.values()) | set(ADJUSTED.values()) <= set(table.columns)
    assert table["seed_sd"].isna().all() and medians["seed_sd"].isna().all()
    assert (medians["expected_low"] < medians["mean"]).all() and (medians["mean"] < medians["expected_high"]).all()


def test_the_interval_of_the_expected_auc_is_that_of_its_scores():
    aucs, predictions, pools = study(GROWING, sizes=(50,))
    medians, *_ = inferred(aucs, predictions, pools, draws=2000)
    for model in GROWING:
        found = draw_participants(
            predictions[[model]].to_numpy().T, predictions["label"].to_numpy(), predictions["person"].to_numpy(),
            predictions["replicate"].astype(int).to_numpy() - 1, people=400, draws=2000, seed=77,
        )  # fmt: skip
        expected = expected_value(found.aucs[0], found.drawn[0], 0.1)
        row = medians[medians["model"] == model].iloc[0]
        assert (row["expected_low"], row["expected_high"]) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_another_task_changes_no_unadjusted_number():
    one, two = (study(GROWING, tasks=tasks, sizes=(50, 100)) for tasks in (("one",), ("one", "two")))
    for alone, beside in zip(inferred(*one)[:2], inferred(*two)[:2], strict=True):
        columns = [name for name in alone if "holm" not in name]
        beside = beside[beside["task"] == "one"].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone[columns], beside[columns])


def test_twice_the_scans_are_found_to_be_worth_twice_the_scans(growing):
    found = worth(growing[2]).query("question == 'baseline needs'").set_index("n")
    for n in (50, 100, 200):
        row = found.loc[n]
        assert row["low"] <= 2 * n <= row["high"]
        assert n == 200 or row["scans"] == pytest.approx(2 * n, rel=0.35)  # 400 is the largest, reached or not
    assert found.loc[400, "scans"] == np.inf and found.loc[400, "reached"] < 0.3


def test_the_crossing_with_a_flat_model_is_where_the_growing_one_passes_it(growing):
    row = worth(growing[2]).query("question == 'transfer overtakes linear'").iloc[0]
    assert row["low"] <= 10 * np.exp(1.8) <= row["high"]
    assert pd.isna(row["n"]) and row["reached"] > 0.95


def test_a_model_that_is_never_passed_is_not_reached():
    shifts = GROWING | {"linear": lambda n: 4.0}
    found = worth(inferred(*study(shifts))[2]).set_index("question")
    row = found.loc["transfer overtakes linear"]
    assert (row["scans"], row["low"], row["high"], row["reached"]) == (np.inf, np.inf, np.inf, 0.0)
    assert (found.loc["linear needs", "scans"] == 50).all()  # at most the smallest n


def test_curves_rise_and_their_bands_hold_the_truth(growing):
    table = curves(growing[2])
    assert len(table) == 3 * len(SIZES)
    for model, part in table.groupby("model"):
        assert (part.sort_values("n")["auc"].diff().dropna() >= 0).all()
        truth = norm.cdf([GROWING[model](n) / np.sqrt(2) for n in part["n"]])
        assert ((part["low"] - 0.01 <= truth) & (truth <= part["high"] + 0.01)).all()


def test_one_n_and_one_replicate_give_tables_without_intervals_where_there_are_none():
    medians, table, cells = inferred(*study(GROWING, replicates=1, sizes=(50,)), draws=40)
    assert medians["expected_low"].isna().all() and (table["p_population"] == 1).all()
    assert len(worth(cells)) == 3 and len(curves(cells)) == 3


def test_a_model_without_scores_is_refused():
    aucs, predictions, pools = study(GROWING, sizes=(50,))
    with pytest.raises(InputError, match="scores of linear are missing for one, n = 50"):
        inferred(aucs, predictions.drop(columns="linear"), pools)


def test_every_test_says_which_null_it_speaks_to():
    assert NULLS["sign_flip"] == "this pool"
    assert {NULLS[test] for test in list(NULLS)[1:]} == {"the population"}
    assert list(P_VALUES) == list(ADJUSTED) == list(NULLS)
    assert {NULLS[test] for test in PRIMARY} == {"this pool", "the population"} and len(PRIMARY) == 2


def test_the_noise_of_random_starts_is_taken_out_of_the_error_about_the_population():
    """Transfer's scores vary by a random start; a second seed shows it, and the linear model has none."""
    generator = np.random.default_rng(5)
    aucs, predictions, pools = study({"linear": lambda n: 1.0, "transfer": lambda n: 1.0}, replicates=40, sizes=(50,))
    starts = {name: generator.normal(0, 1.5, 40) for name in ("first", "second")}
    at = predictions["replicate"].astype(int).to_numpy() - 1
    models = {name: predictions["transfer"] + values[at] * predictions["label"] for name, values in starts.items()}
    first = predictions.assign(transfer=models["first"])
    second = predictions[["task", "n", "replicate", "person", "label"]].assign(transfer=models["second"])
    second = second[predictions["replicate"] <= "020"]
    noisy = [
        {"auc": roc_auc_score(part["label"], part["transfer"]), "model": "transfer", "task": "one", "n": 50,
         "replicate": replicate} for replicate, part in first.groupby("replicate")
    ]  # fmt: skip
    aucs = pd.concat([aucs[aucs["model"] == "linear"], pd.DataFrame(noisy)])
    medians = summarise(aucs, bootstrap=20, seed=1)
    table = compare(aucs, statistic="mean", permutations=500, bootstrap=20, seed=1)
    pools = pools.assign(overlap=0.4)
    (_, without, _), (alone, found, _) = (
        infer(medians, table, first, pools, draws=100, seed=1, second=seconds) for seconds in (None, second)
    )
    width = [float((part["high_population"] - part["low_population"]).iloc[0]) for part in (without, found)]
    assert width[1] < 0.6 * width[0]
    spread = np.std([norm.cdf((1 + start) / np.sqrt(2)) for start in generator.normal(0, 1.5, 4000)])
    by_model = alone.set_index("model")["seed_sd"]
    assert by_model["linear"] == 0 and by_model["transfer"] == pytest.approx(spread, rel=0.3)
    assert found["seed_sd"].iloc[0] == pytest.approx(by_model["transfer"], rel=0.2)
    assert (found["p_two_sided"] == without["p_two_sided"]).all()  # nothing about this pool changes


def test_draws_are_as_many_as_holms_adjustment_needs():
    pairs = pd.DataFrame({"first": ["transfer"] * 51, "second": ["linear"] * 51})
    assert 2000 < (needed := draws_for(pairs, 0.05)) < 2100 and draws_for(pairs[:50], 0.05) == 2000
    assert 51 * 2 / (needed + 1) < 0.05 <= 51 * 2 / needed
    further = pairs.assign(second="frozen")
    assert draws_for(pd.concat([pairs[:10], further]), 0.05) == needed  # each family by itself
