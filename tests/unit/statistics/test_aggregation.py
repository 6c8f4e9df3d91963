"""From resamples to tables by the rules' own scripts, and every fit that must be refused on the way."""

import contextlib
import json
import re
import runpy
import shutil
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError, InputErrors
from neurotransfer.files import digest_of_file, read_facts, read_json, read_table, write_json, write_table
from neurotransfer.fit.settings import choose, fingerprint_of_fit, fingerprint_of_second, fit_record
from neurotransfer.jobs import batch, job
from neurotransfer.statistics.aggregation import (
    check_resamples,
    compare,
    describe_resamples,
    headline,
    read_fits,
    read_second_seeds,
    summarise,
)
from neurotransfer.statistics.inference import NULLS
from scipy import stats
from sklearn.metrics import roc_auc_score

SCRIPTS = Path(__file__).resolve().parents[3] / "workflow/scripts"
MODELS = ("linear", "baseline", "transfer")
ARMS = (*MODELS, "covariates")
N, REPLICATES = (20, 40), ("001", "002", "003")
PLAN = {"validation_share": 0.4, "test_share": 0.4, "min_per_class": 2, "max_redraws": 100}
FITTING = {
    "linear": {"seed": 1, "settings": [{"c": 0.01}, {"c": 1.0}], "structures": None, "max_iterations": 1000},
    "covariates": {"seed": 1, "settings": [{"c": 1.0}], "max_iterations": 1000},
    "baseline": {"seed": 1, "settings": [{"learning_rate": 0.01}]},
    "transfer": {"seed": 1, "settings": [{"learning_rate": 0.01}]},
}
AGGREGATED = ("aucs", "settings", "resamples", "predictions", "pools", "second_seeds")
REFITTED = ("001", "002")  # with a second seed
COMPARED = ("medians", "comparisons", "curves", "worth", "selection", "search")
STATISTICS = {"alpha": 0.05, "permutations": 1000, "statistic": "mean", "bootstrap": 200}
TASK = {"title": "t", "positive": ["AD"], "negative": ["HC"], "seed": 0}
DRAWING = {"seed": 1, "tasks": {"ad_hc": TASK}, "settings": PLAN, "converters": "by_session"}

CERTIFIED = {
    "indices": ["results/index/a.tsv"],
    "splits": ["results/split/cohorts/a.tsv"],
    "certificate": "results/split/certificate.json",
}


class Named(list):
    """A list of files with names, like Snakemake's."""

    def __init__(self, **files):
        super().__init__(files.values())
        self.__dict__.update(files)

    def get(self, name):
        return self.__dict__.get(name)


def run_script(rule, monkeypatch, *, given, output, wildcards=None, **params):
    """Run a rule's script in this process with a stand-in for Snakemake's object."""
    fake = SimpleNamespace(
        input=given,
        output=output,
        wildcards=SimpleNamespace(**(wildcards or {"replicate": "001"})),
        params=SimpleNamespace(**params),
        config={"cohorts": "cohorts.tsv", "withdrawn": None},
    )
    for module in (job, batch):
        monkeypatch.setattr(module, "job", lambda snakemake, lease=None: contextlib.nullcontext())
    runpy.run_path(str(SCRIPTS / f"{rule}.py"), init_globals={"snakemake": fake})


def write_cohort(generator, participants=90):
    """An index with its volumes and split; some people have two images, the last few pretrain."""
    people = np.r_[np.arange(participants), np.arange(0, participants, 3)]
    label = people % 2
    index = pd.DataFrame(
        {
            "image_id": [f"a_{image:03d}" for image in range(len(people))],
            "participant_id": [f"a_{person:02d}" for person in people],
            "cohort": "a",
            "diagnosis": np.where(label, "AD", "HC"),
            "age": np.where(people % 10 == 0, np.nan, 60 + 8 * label + generator.normal(0, 5, len(people))),
            "sex": np.where(people % 7 == 0, np.nan, people % 3 == 0),
            "shard": "a-0001",
            "row": np.arange(len(people)),
            "checksum": "c",
            "engine": "builtin",
            "engine_version": "1",
        }
    )
    masks = generator.uniform(1e6, 2e6, (len(people), 1))
    shares = generator.normal(0.1, 0.01, (len(people), 6))
    shares[:, 0] += 0.008 * label
    write_table(index, "results/index/a.tsv")
    np.save("results/index/a.volumes.npy", np.hstack([masks, masks * shares]).astype(np.float32))
    write_json("results/index/a.volumes.json", {"seg_ids": [-1, 2, 3, 4, 5, 6, 7]})
    role = np.where(people >= participants - 10, "train", "test")
    write_table(index[["image_id", "participant_id", "cohort"]].assign(role=role), "results/split/cohorts/a.tsv")
    files = {path: digest_of_file(path) for path in (*CERTIFIED["indices"], *CERTIFIED["splits"])}
    write_json(CERTIFIED["certificate"], {"files": files})


def write_cnn_fit(model, n, replicate, resample, weights, generator, folder="fits"):
    """A network's fit with made-up scores; the record is as the rule leaves it."""
    made_of = fingerprint_of_fit(model, FITTING[model], resample, weights if model == "transfer" else None)
    table = read_table(resample)
    test = np.flatnonzero(table["role"] == "test")
    labels = table["label"].to_numpy()[test]
    scores = labels * (1.0 if model == "transfer" else 0.3) + generator.normal(size=len(test))
    record = fit_record(
        facts=read_facts(resample),
        model=model,
        settings=[
            {
                "values": FITTING[model]["settings"][0],
                "status": "ok",
                "validation_auc": 0.7,
                "validation_loss": 0.6,
                "epoch": 2,
            }
        ],
        chosen=0,
        test_auc=float(roc_auc_score(labels, scores)),
        test={"position": test.tolist(), "label": labels.tolist(), "score": scores.tolist()},
        seeds={"head": 1},
        fingerprint=made_of if folder == "fits" else fingerprint_of_second(made_of, 0),
    )
    write_json(f"results/{folder}/ad_hc/n{n}/{replicate}/{model}.json", record)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of one task up to its statistics: resample, linear, aggregate and compare by their scripts."""
    folder = tmp_path_factory.mktemp("aggregation")
    generator = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("results/index").mkdir(parents=True)
        write_cohort(generator)
        weights = Path("results/pretrain/multitask/weights.safetensors")
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights")
        for n in N:
            for replicate in REPLICATES:
                resample = f"results/resamples/ad_hc/n{n}/{replicate}.tsv"
                wildcards = {"task": "ad_hc", "n": str(n), "replicate": replicate}
                run_script(
                    "resample",
                    patch,
                    given=SimpleNamespace(**CERTIFIED),
                    output=Named(resample=resample),
                    wildcards=wildcards,
                    seed=1,
                    task=TASK,
                    resampling=PLAN,
                    converters="by_session",
                )
                run_script(
                    "linear",
                    patch,
                    given=SimpleNamespace(
                        resample=resample,
                        indices=["results/index/a.tsv"],
                        volumes=["results/index/a.volumes.npy"],
                        names=["results/index/a.volumes.json"],
                    ),
                    output=Named(
                        fit=f"results/fits/ad_hc/n{n}/{replicate}/linear.json",
                        covariates=f"results/fits/ad_hc/n{n}/{replicate}/covariates.json",
                    ),
                    wildcards=wildcards,
                    fitting=FITTING["linear"],
                    covariates=FITTING["covariates"],
                )
                for model in ("baseline", "transfer"):
                    write_cnn_fit(model, n, replicate, resample, weights, generator)
                    if replicate in REFITTED:
                        write_cnn_fit(model, n, replicate, resample, weights, generator, "second_seeds")
        folder_of = Path("results/statistics")
        fits = [f"results/fits/ad_hc/n{n}/{replicate}/{model}.json"
                for n in N for replicate in REPLICATES for model in ARMS]  # fmt: skip
        resamples = [f"results/resamples/ad_hc/n{n}/{replicate}.tsv" for n in N for replicate in REPLICATES]
        tables = {name: folder_of / f"{name}.tsv" for name in AGGREGATED}
        second = [f"results/second_seeds/ad_hc/n{n}/{replicate}/{model}.json"
                  for n in N for replicate in REFITTED for model in MODELS[1:]]  # fmt: skip
        files = {"fits": fits, "second_seeds": second, "resamples": resamples, "weights": weights, "participants": []}
        run_script(
            "aggregate",
            patch,
            given=SimpleNamespace(**files, **CERTIFIED),
            output=Named(**tables),
            fitting=FITTING,
            drawing=DRAWING,
        )
        summaries = {name: folder_of / f"{name}.tsv" for name in COMPARED}
        run_script(
            "compare",
            patch,
            given=Named(**{name: path for name, path in tables.items() if name != "resamples"}),
            output=Named(**summaries),
            seed=1,
            statistics=STATISTICS,
        )
    return folder


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy that a test may break, as the working directory."""
    shutil.copytree(finished, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def all_fits():
    return sorted(Path("results/fits").rglob("*.json"))


def read(paths=None, fitting=FITTING):
    return read_fits(
        paths or all_fits(), fitting, "results/pretrain/multitask/weights.safetensors", "results/resamples"
    )


def change(path, **values):
    write_json(path, read_json(path) | values)


def refused(**options):
    """The files that are refused."""
    with pytest.raises(InputError) as error:
        read(**options)
    errors = error.value.errors if isinstance(error.value, InputErrors) else [error.value]
    assert all("delete it, then run the same command again" in str(line) for line in errors)
    return {line.file for line in errors}


def test_the_tables_have_the_promised_columns_and_rows(finished):
    columns = {
        "aucs": "task n replicate model auc validation_auc setting",
        "settings": "task n replicate model setting values status validation_auc validation_loss epoch chosen",
        "resamples": "task n replicate redraws train_distinct_images train_participants validation_images test_images",
        "predictions": "task n replicate position person label linear baseline transfer covariates",
        "pools": "task n replicates train test participants overlap",
        "medians": "task n model replicates median mean q1 q3 q025 q975 low high expected_low expected_high seed_sd",
        "comparisons": "task n first second mean_difference median_difference low high wins wins_low wins_high"
        " p_two_sided p_greater p_less p_holm p_error exact permutations"
        " seed_sd"
        + "".join(f" p_{test} holm_{test} low_{test} high_{test}" for test in list(NULLS)[1:])
        + " p_corrected_t low_corrected_t high_corrected_t",
        "second_seeds": "task n replicate position person label baseline transfer",
        "curves": "task model n auc low high",
        "worth": "task question n auc scans low high reached",
        "selection": "task n model setting values fits chosen share diverged",
        "search": "task n model fits settings tied validation_auc test_auc optimism optimism_low optimism_high"
        " one_setting all_settings enough",
    }
    rows = {"aucs": 24, "settings": 30, "resamples": 6, "predictions": 3 * (8 + 16), "pools": 2, "medians": 8}
    rows |= {"second_seeds": 2 * (8 + 16), "comparisons": 6, "curves": 8, "worth": 5, "selection": 10, "search": 8}
    for name, wanted in columns.items():
        table = read_table(finished / f"results/statistics/{name}.tsv")
        assert table.columns.tolist() == wanted.split(" ")
        assert len(table) == rows[name]
    assert set(read_table(finished / "results/statistics/aucs.tsv")["replicate"]) == set(REPLICATES)
    noise = read_table(finished / "results/statistics/medians.tsv").set_index(["model", "n"])["seed_sd"]
    assert (noise[["linear", "covariates"]] == 0).all() and (noise >= 0).all()  # they have no random start
    facts = read_facts(finished / "results/statistics/comparisons.tsv")
    assert facts["null"] == NULLS and set(facts["p"].values()) <= set(columns["comparisons"].split(" "))


def test_further_arms_are_fitted_tested_and_adjusted_apart(study):
    index = read_table("results/index/a.tsv")
    generator = np.random.default_rng(1)
    Path("results/features").mkdir()
    features = (index["diagnosis"] == "AD").to_numpy()[:, None] + generator.normal(size=(len(index), 3))
    np.save("results/features/a.npy", features.astype(np.float32))
    write_table(index[["image_id"]].assign(f=generator.normal(size=len(index))), "radiomics.tsv")
    regression = {"settings": [{"c": 1.0}], "max_iterations": 1000}
    further = {"frozen": {"layers": "trunk", **regression}, "radiomics": {"file": "radiomics.tsv", **regression}}
    weights = "results/pretrain/multitask/weights.safetensors"
    before = {path: path.read_bytes() for path in all_fits()}
    with pytest.MonkeyPatch.context() as patch:
        for resample in sorted(Path("results/resamples").rglob("*.tsv")):
            folder = Path("results/fits", *resample.parts[-3:-1], resample.stem)
            files = {"indices": ["results/index/a.tsv"], "volumes": ["results/index/a.volumes.npy"]}
            files |= {"names": ["results/index/a.volumes.json"], "features": ["results/features/a.npy"]}
            arms = {name: folder / f"{name}.json" for name in further}
            run_script(
                "linear",
                patch,
                given=SimpleNamespace(resample=resample, weights=weights, **files),
                output=Named(fit=folder / "linear.json", covariates=folder / "covariates.json", **arms),
                fitting=FITTING["linear"],
                covariates=FITTING["covariates"],
                further=further,
            )
    assert {path: path.read_bytes() for path in before} == before  # the paper's fits are the same bytes
    aucs = read(fitting=FITTING | further)[0]
    options = {"statistic": "mean", "permutations": 1000, "bootstrap": 200, "seed": 1}
    paper, table = compare(aucs[aucs["model"].isin(ARMS)], **options), compare(aucs, **options)
    pd.testing.assert_frame_equal(
        table[table["family"] == "paper"].drop(columns="family").reset_index(drop=True), paper
    )
    write_table(table, "comparisons.tsv")
    pd.testing.assert_frame_equal(read_table("comparisons.tsv"), table, check_dtype=False)
    second = table[table["family"] == "further"]
    pairs = {("transfer", arm) for arm in further} | {(arm, model) for arm in further for model in MODELS[:2]}
    assert set(second[["first", "second"]].itertuples(index=False, name=None)) == pairs and len(second) == 2 * 6
    ordered = np.sort(second["p_two_sided"])  # Holm by hand: the running maximum of (m - i) p(i)
    steps = np.minimum(1, np.maximum.accumulate(ordered * (len(ordered) - np.arange(len(ordered)))))
    np.testing.assert_allclose(np.sort(second["p_holm"]), steps)
    Path("radiomics.tsv").write_text("image_id\tf\n")
    assert refused(fitting=FITTING | further) == {str(path) for path in all_fits() if path.stem == "radiomics"}
    Path(weights).write_bytes(b"other weights")
    stems = {Path(path).stem for path in refused(fitting=FITTING | further)}
    assert stems == {"transfer", "frozen", "radiomics"}


def test_the_linear_script_leaves_a_record_that_its_resample_explains(finished):
    resample = read_table(finished / "results/resamples/ad_hc/n40/002.tsv")
    fit = read_json(finished / "results/fits/ad_hc/n40/002/linear.json")
    tested = resample.iloc[fit["test"]["position"]]
    assert (tested["role"] == "test").all() and len(tested) == (resample["role"] == "test").sum()
    assert tested["label"].tolist() == fit["test"]["label"]
    assert fit["test_auc"] == roc_auc_score(fit["test"]["label"], fit["test"]["score"])
    assert fit["chosen"] == choose(fit["settings"])
    for setting in fit["settings"]:
        assert set(setting) == {"values", "status", "validation_auc", "validation_loss", "epoch"}


def test_resamples_hold_nobody_who_pretrains_and_say_what_they_are(finished):
    split = read_table(finished / "results/split/cohorts/a.tsv")
    pretrains = set(split.loc[split["role"] == "train", "participant_id"])
    for path in (finished / "results/resamples").rglob("*.tsv"):
        table, facts = read_table(path), read_facts(path)
        assert not pretrains & set(table["participant_id"])
        assert (table.groupby("participant_id")["role"].nunique() == 1).all()
        assert set(facts) == {"task", "n", "replicate", "redraws", "fingerprint", "images_made_by", "rows"}
        assert facts["images_made_by"] == [["builtin", "1"]]
        assert (facts["task"], f"n{facts['n']}", facts["replicate"]) == (*path.parts[-3:-1], path.stem)
        index = read_table(finished / "results/index/a.tsv")
        assert (index["image_id"].to_numpy()[table["index_row"]] == table["image_id"]).all()


def test_every_setting_is_listed_and_one_is_chosen(finished):
    settings = read_table(finished / "results/statistics/settings.tsv")
    aucs = read_table(finished / "results/statistics/aucs.tsv").set_index(["task", "n", "replicate", "model"])
    for key, group in settings.groupby(["task", "n", "replicate", "model"]):
        chosen = group[group["chosen"] == 1]
        assert chosen["setting"].tolist() == [aucs.loc[key, "setting"]]
        assert chosen["validation_auc"].tolist() == [aucs.loc[key, "validation_auc"]]
    assert json.loads(settings.query("model == 'linear'")["values"].iloc[1]) == {"c": 1.0}


def test_resamples_are_counted_as_they_are(study):
    paths = sorted(Path("results/resamples").rglob("*.tsv"))
    for row, path in zip(describe_resamples(paths).itertuples(), paths, strict=True):
        lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        at = {name: lines[0].index(name) for name in ("image_id", "participant_id", "role")}
        train = [line for line in lines[1:] if line[at["role"]] == "train"]
        assert row.train_distinct_images == len({line[at["image_id"]] for line in train})
        assert row.train_participants == len({line[at["participant_id"]] for line in train})
        assert len(lines) - 1 == row.n + row.validation_images + row.test_images
        assert row.validation_images == row.test_images == 0.4 * row.n


def test_a_changed_parameter_refuses_that_models_fits_and_no_others(study):
    changed = FITTING | {"linear": FITTING["linear"] | {"max_iterations": 7}}
    assert refused(fitting=changed) == {str(path) for path in all_fits() if path.stem == "linear"}


def test_other_weights_refuse_the_transfer_fits_alone(study):
    Path("results/pretrain/multitask/weights.safetensors").write_bytes(b"other weights")
    assert refused() == {str(path) for path in all_fits() if path.stem == "transfer"}


def test_a_changed_resample_refuses_its_fits(study):
    with Path("results/resamples/ad_hc/n20/002.tsv").open("a") as file:
        file.write("\n")
    assert refused() == {f"results/fits/ad_hc/n20/002/{model}.json" for model in ARMS}


@pytest.mark.parametrize(
    "values, why",
    [
        ({"test_auc": 0.123}, "not the AUC of the scores"),
        ({"fingerprint": "0" * 64}, "another configuration, resample or weights"),
        ({"replicate": "003"}, "not the one of its name"),
        ({"model": "baseline"}, "not the one of its name"),
        ({"n": 40}, "not the one of its name"),
        ({"task": "other"}, "not the one of its name"),
        ({"test": {}}, "can't be read as a fit"),
        ({"chosen": 9}, "can't be read as a fit"),
        ({"chosen": -1}, "not the setting that validation chooses"),
    ],
)
def test_a_fit_that_contradicts_itself_is_refused(study, values, why):
    path = Path("results/fits/ad_hc/n20/001/transfer.json")
    change(path, **values)
    with pytest.raises(InputError, match=re.escape(why)):
        read()
    assert refused() == {str(path)}


def test_a_resample_drawn_with_another_configuration_is_refused_by_name(study):
    paths = sorted(Path("results/resamples").rglob("*.tsv"))
    check_resamples(paths, **DRAWING)
    with pytest.raises(InputErrors) as caught:
        check_resamples(paths, **DRAWING | {"seed": 2})
    assert len(caught.value.lines) == len(paths)
    shutil.copy(paths[0], paths[1])
    with pytest.raises(InputError, match="not the one of its name") as caught:
        check_resamples(paths, **DRAWING)
    assert str(caught.value).startswith(str(paths[1]))


def test_a_fit_without_an_auc_is_refused(study):
    path = Path("results/fits/ad_hc/n20/001/linear.json")
    fit = read_json(path)
    fit["test"]["label"] = [1] * len(fit["test"]["label"])
    path.write_text(json.dumps(fit | {"test_auc": float("nan")}))
    with pytest.warns(Warning, match="Only one class"):
        assert refused() == {str(path)}


@pytest.mark.parametrize(
    ("change_of", "values", "why"),
    [
        ("second_seeds", {"test_auc": 0.123}, "not the AUC of the scores"),
        ("second_seeds", {"replicate": "003"}, "not the one of its name"),
        ("second_seeds", {"fingerprint": "x"}, "the second fit of another first one"),
        ("fits", {"fingerprint": "x"}, "the second fit of another first one"),
        (
            "second_seeds",
            {"test": {"position": [1, 2], "label": [0, 1], "score": [0.5, 0.6]}, "test_auc": 1.0},
            "not those of its first fit",
        ),
        ("second_seeds", {"test": None}, "it can't be read as a fit"),
    ],
)
def test_a_second_fit_that_does_not_belong_to_its_first_is_refused_by_name(study, change_of, values, why):
    change(f"results/{change_of}/ad_hc/n20/001/transfer.json", **values)
    paths = sorted(Path("results/second_seeds").rglob("*.json"))
    predictions = read_table("results/statistics/predictions.tsv")
    with pytest.raises(InputError, match=why) as error:
        read_second_seeds(paths, "results/fits", predictions)
    assert error.value.file == "results/second_seeds/ad_hc/n20/001/transfer.json"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_file_that_is_no_fit_is_refused_by_name(study, content):
    path = Path("results/fits/ad_hc/n20/001/linear.json")
    path.write_text(content)
    assert refused() == {str(path)}


def test_all_that_is_wrong_is_said_at_once(study):
    paths = all_fits()[:3]
    for path in paths:
        change(path, test_auc=0.0)
    assert refused() == set(map(str, paths))


def aucs_of(tasks, replicates=6, seed=0, n=(20,)):
    generator = np.random.default_rng(seed)
    rows = [
        {"task": task, "n": size, "replicate": f"{replicate:03d}", "model": model, "auc": generator.uniform(0.4, 1)}
        for task in tasks
        for size in n
        for replicate in range(1, replicates + 1)
        for model in MODELS
    ]
    return pd.DataFrame(rows)


def compared(aucs, **options):
    return compare(aucs, **({"statistic": "mean", "permutations": 1000, "bootstrap": 300, "seed": 1} | options))


def test_medians_and_quartiles_are_numpys_and_lie_in_their_interval():
    aucs = aucs_of(["a", "b"], replicates=30)
    for row in summarise(aucs, bootstrap=500, seed=1).itertuples():
        values = aucs.query("task == @row.task and model == @row.model")["auc"].to_numpy()
        assert row.replicates == 30
        assert (row.q1, row.median, row.q3) == pytest.approx(tuple(np.percentile(values, (25, 50, 75))))
        assert row.mean == pytest.approx(np.mean(values))
        assert values.min() <= row.low <= row.median <= row.high <= values.max()


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_comparisons_are_scipys_paired_by_replicate(statistic):
    aucs = aucs_of(["a"]).sample(frac=1, random_state=3)  # the order of rows does not matter
    function = getattr(np, statistic)
    table = compared(aucs, statistic=statistic)
    pairs = [("transfer", "baseline"), ("transfer", "linear"), ("linear", "baseline")]
    assert list(zip(table["first"], table["second"], strict=True)) == pairs
    for row in table.itertuples():
        first, second = (aucs[aucs["model"] == m].sort_values("replicate")["auc"] for m in (row.first, row.second))
        d = first.to_numpy() - second.to_numpy()
        for alternative, p in (("two-sided", row.p_two_sided), ("greater", row.p_greater), ("less", row.p_less)):
            theirs = stats.permutation_test(
                (d,), function, permutation_type="samples", n_resamples=np.inf, alternative=alternative
            )
            assert p == pytest.approx(theirs.pvalue)
        assert (row.mean_difference, row.median_difference) == pytest.approx((d.mean(), np.median(d)))
        assert row.low <= function(d) <= row.high
        assert (row.exact, row.permutations) == (1, 64)


def test_holm_is_over_the_family_of_all_comparisons():
    table = compared(aucs_of(["a", "b"], replicates=12, n=(20, 40)), permutations=4096)
    p = table["p_two_sided"].to_numpy()
    assert len(p) == 12
    order = np.argsort(p)
    running = 0.0
    for rank, position in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[position]))
        assert table["p_holm"].iloc[position] == pytest.approx(running)


def test_another_task_changes_no_interval_and_no_unadjusted_p():
    one, two = aucs_of(["a"], replicates=20), aucs_of(["a", "b"], replicates=20)
    unadjusted = [name for name in compared(one).columns if name != "p_holm"]
    pd.testing.assert_frame_equal(compared(one)[unadjusted], compared(two).query("task == 'a'")[unadjusted])
    options = {"bootstrap": 100, "seed": 1}
    pd.testing.assert_frame_equal(summarise(one, **options), summarise(two, **options).query("task == 'a'"))


def test_replicates_without_an_auc_or_without_their_pair_are_refused():
    aucs = aucs_of(["a"])
    gap = aucs.assign(auc=aucs["auc"].where(aucs.index != 4))
    for function in (compared, lambda table: summarise(table, bootstrap=10, seed=1)):
        with pytest.raises(InputError, match="task a, n 20, replicate 002, model baseline: it has no AUC"):
            function(gap)
        with pytest.raises(InputError, match="it is there twice"):
            function(pd.concat([aucs, aucs.iloc[:1]], ignore_index=True))
    with pytest.raises(InputError, match="do not have the same replicates for a, n = 20"):
        compared(aucs.drop(index=4))


def test_the_headline_shows_each_median_and_both_comparisons_of_transfer():
    aucs = aucs_of(["ad_hc", "a_task_with_a_long_name"], n=(20, 400))
    medians, comparisons = summarise(aucs, bootstrap=50, seed=1), compared(aucs)
    text = headline(medians, comparisons)
    header, *lines = text.splitlines()[2:]
    assert len(lines) == 4
    found = comparisons.set_index(["task", "n", "first", "second"])
    for line in lines:
        task, n, *numbers = line.replace("(", "").replace(")", "").split()
        key = (task, int(n))
        expected = [medians.set_index(["task", "n", "model"]).loc[(*key, model), "median"] for model in MODELS]
        for other in ("baseline", "linear"):
            expected += found.loc[(*key, "transfer", other), ["p_two_sided", "p_holm"]].tolist()
        assert [float(number) for number in numbers] == pytest.approx(expected, abs=6e-4)
        # columns stand under their names
        for name, number in zip(("linear", "baseline", "transfer"), numbers, strict=False):
            end = header.index(name) + len(name)
            assert line[:end].endswith(number)


def test_test_scores_of_all_models_stand_beside_each_other_with_a_number_for_each_person(finished):
    predictions = read_table(finished / "results/statistics/predictions.tsv")
    aucs = read_table(finished / "results/statistics/aucs.tsv").set_index(["n", "replicate", "model"])["auc"]
    people: dict = {}
    for (n, replicate), part in predictions.groupby(["n", "replicate"]):
        resample = read_table(finished / f"results/resamples/ad_hc/n{n}/{replicate}.tsv")
        tested = resample.iloc[part["position"]]
        assert (tested["role"] == "test").all() and tested["label"].tolist() == part["label"].tolist()
        for model in ARMS:
            assert roc_auc_score(part["label"], part[model]) == pytest.approx(aucs[n, replicate, model])
        for name, number in zip(tested["participant_id"], part["person"], strict=True):
            assert people.setdefault(number, name) == name  # a number is one person at every n
    assert len(set(people.values())) == len(people)
    assert not predictions.astype(str).apply(lambda column: column.str.contains("a_")).any(axis=None)


def test_pools_tell_the_sizes_and_how_much_training_sets_share(finished):
    pools = read_table(finished / "results/statistics/pools.tsv").set_index("n")
    everybody = set()
    for n in N:
        tables = [read_table(finished / f"results/resamples/ad_hc/n{n}/{name}.tsv") for name in REPLICATES]
        everybody |= set().union(*(table["participant_id"] for table in tables))
        trained = [table[table["role"] == "train"]["participant_id"].value_counts() for table in tables]
        squares = np.mean([(counts**2).sum() for counts in trained])
        pairs = [first.mul(second, fill_value=0).sum() for first, second in combinations(trained, 2)]
        assert pools.loc[n, "overlap"] == pytest.approx(np.mean(pairs) / squares)
        assert (pools.loc[n, "train"], pools.loc[n, "test"], pools.loc[n, "replicates"]) == (n, 0.4 * n, 3)
    assert (pools["participants"] == len(everybody)).all()


def test_fits_of_one_resample_that_test_other_images_are_refused(study):
    path = Path("results/fits/ad_hc/n20/001/transfer.json")
    fit = read_json(path)
    turned = {name: values[::-1] for name, values in fit["test"].items()}
    change(path, test=turned)
    with pytest.raises(InputError, match="not those of its resample's other fits"):
        read()


def test_covariates_are_fitted_on_what_is_known_and_stay_out_of_the_comparisons(finished):
    fit = read_json(finished / "results/fits/ad_hc/n40/001/covariates.json")
    assert fit["model"] == "covariates" and len(fit["settings"]) == 1
    assert np.isfinite(fit["test"]["score"]).all()  # though ages and sexes are missing
    comparisons = read_table(finished / "results/statistics/comparisons.tsv")
    assert "covariates" not in set(comparisons["first"]) | set(comparisons["second"])
    medians = read_table(finished / "results/statistics/medians.tsv")
    assert (medians.query("model == 'covariates'")["median"] > 0.6).all()  # cases are eight years older
