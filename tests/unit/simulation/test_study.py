"""The simulated study: valid BIDS, the same bytes for any number of processes, and the planned effects."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from neurotransfer.errors import InputError
from neurotransfer.files import read_table, write_json
from neurotransfer.simulation import study as study_module
from neurotransfer.simulation.study import COHORTS, CohortDesign, _people, best_predictions, simulate_study
from sklearn.linear_model import LogisticRegression, QuantileRegressor
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    simulate_study(folder, participants=0.2, voxel_size=6.0, processes=2)
    return folder


def test_the_number_of_processes_changes_no_byte(study, tmp_path):
    simulate_study(tmp_path, participants=0.2, voxel_size=6.0, processes=1, cohorts=["gamma"])
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (study / path.relative_to(tmp_path)).read_bytes()


def test_every_cohort_is_a_bids_data_set(study):
    for cohort in COHORTS:
        root = study / "data" / cohort.name
        description = json.loads((root / "dataset_description.json").read_text())
        assert {"Name", "BIDSVersion"} <= set(description)
        people = pd.read_csv(root / "participants.tsv", sep="\t", dtype=str)
        assert people.columns[0] == "participant_id"
        assert set(people.columns[1:]) == set(json.loads((root / "participants.json").read_text()))
        assert set(people["participant_id"]) == {path.name for path in root.glob("sub-*")}
        for scan in root.rglob("*_T1w.nii.gz"):
            assert scan.parent.name == "anat"
            assert scan.with_name(scan.name.replace(".nii.gz", ".json")).exists()


def test_sessions_age_and_keep_their_anatomy(study):
    truth = read_table(study / "truth.tsv")
    repeated = truth[truth.duplicated("participant_id", keep=False)]
    assert len(repeated) >= 2
    for _, visits in repeated.groupby("participant_id"):
        assert (visits["age"].diff().dropna() > 0).all()
        assert visits["latent_size"].nunique() == 1
        assert (visits["latent_ventricle"].diff().dropna() > 0).all()


def test_each_cohort_has_only_some_of_the_labels():
    having = {label: sum(label in cohort.labels for cohort in COHORTS) for label in ("handedness", "bmi", "height")}
    assert having["handedness"] >= 3
    assert having["bmi"] + having["height"] == 2
    assert all("bmi" not in cohort.labels for cohort in COHORTS if cohort.name in ("memory", "mood", "coin"))


def test_the_strong_disease_has_the_largest_effect_and_the_control_task_none(tmp_path):
    from neurotransfer.simulation.study import _people, _truth

    images = [image for cohort in COHORTS[-3:] for image in _people(replace(cohort, people=4000), 7)]
    truth = _truth(images)
    auc = {task: roc_auc_score(rows["label"].astype(int), rows["latent_score"]) for task, rows in truth.groupby("task")}
    assert 0.88 < auc["ad_hc"] < 0.96
    assert 0.65 < auc["scz_bd"] < 0.85
    assert abs(auc["control"] - 0.5) < 0.03


def test_running_again_does_nothing_and_another_study_is_refused(study):
    times = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    simulate_study(study, participants=0.2, voxel_size=6.0)
    assert times == {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    with pytest.raises(InputError, match="another simulated study"):
        simulate_study(study, participants=0.2, voxel_size=5.0)


@pytest.mark.parametrize("name", ["cohorts.tsv", "my-study.yaml", "data/A/participants.tsv", "results/a.tsv"])
def test_a_study_that_is_not_simulated_is_never_overwritten(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}: the folder contains a study that is not simulated"):
        simulate_study(".", participants=0.2, voxel_size=6.0, cohorts=["alpha"])
    assert [file.read_text() for file in tmp_path.rglob("*") if file.is_file()] == ["mine"]


def test_a_simulation_that_was_stopped_goes_on(tmp_path, monkeypatch):
    chosen = {"participants": 0.1, "voxel_size": 9.0, "cohorts": ["alpha"]}
    with monkeypatch.context() as stopped:
        stopped.setattr(study_module, "write_json", stop_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            simulate_study(tmp_path, **chosen)
    assert (tmp_path / "cohorts.tsv").exists() and not (tmp_path / "simulated.json").exists()
    with pytest.raises(InputError, match="another simulated study"):
        simulate_study(tmp_path, **chosen | {"voxel_size": 8.0})
    simulate_study(tmp_path, **chosen)
    assert (tmp_path / "simulated.json").exists() and not list(tmp_path.glob(".simulation*"))


def stop_at_the_end(path, value):
    if path.name == "simulated.json":
        raise KeyboardInterrupt
    write_json(path, value)


def test_an_unknown_cohort_is_refused(tmp_path):
    with pytest.raises(InputError, match="no cohort 'omega'"):
        simulate_study(tmp_path, cohorts=["omega"])


def test_ageing_shrinks_grey_matter_and_widens_ventricles():
    from neurotransfer.simulation.anatomy import image_at

    grid = np.stack(
        np.meshgrid(np.arange(-40.0, 41, 3), np.arange(-60.0, 41, 3), np.arange(0.0, 45, 3), indexing="ij"), -1
    )
    zero = dict.fromkeys(("ventricle", "cortex", "hippocampus", "frontal", "size", "cerebellum"), 0.0)
    young, _ = image_at(grid, zero | {"ventricle": -1.5, "cortex": -1.5}, 1, 3.0)
    old, _ = image_at(grid, zero | {"ventricle": 2.5, "cortex": 2.5}, 1, 3.0)
    assert (old < 120).sum() > 1.5 * (young < 120).sum() > 0
    assert old.mean() < young.mean()


def test_no_model_of_the_latent_values_predicts_better_than_the_best_predictions():
    """With 1,500 simulated people; the other models are fitted and evaluated on the same people."""
    design = CohortDesign("alpha", "pretraining", 1500, (20, 85))
    people = pd.DataFrame(_people(design, 3))
    best = best_predictions(people)
    latents = people.filter(regex="^latent_(?!disease)")
    assert 0.70 < roc_auc_score(people["sex"], best["sex"]) < 1
    opponent = LogisticRegression().fit(latents, people["sex"]).predict_proba(latents)[:, 1]
    assert roc_auc_score(people["sex"], best["sex"]) > roc_auc_score(people["sex"], opponent) - 0.005
    for target in ("age", "bmi", "fluid_intelligence", "neuroticism"):
        opponent = QuantileRegressor(alpha=0).fit(latents, people[target]).predict(latents)  # least absolute errors
        error, others, dummy = (
            (people[target] - values).abs().mean() for values in (best[target], opponent, people[target].median())
        )
        assert error < 1.01 * others and error < dummy, target
    assert best["handedness"].to_numpy() == pytest.approx(people["handedness"].mean(), abs=0.03)
