"""A rehearsal's sample, its overrides, and what is read from a run that went well or did not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from neurotransfer.errors import InputError
from neurotransfer.files import read_table, write_json, write_table
from neurotransfer.jobs.snakemake_run import Ended, run_snakemake
from neurotransfer.operations import costs, plan, rehearsal, rehearsal_sample
from neurotransfer.split.resampling import draw, pool_of_task
from neurotransfer.split.roles import split_cohort
from neurotransfer.study import layout
from neurotransfer.study.configuration import load_config, merge
from neurotransfer.study.plan import read_study
from neurotransfer.study.same_people import people_of
from runs import REPOSITORY

COHORTS = {  # name: images, diagnoses in turn, roles
    "big": (300, [None], ["pretraining"]),
    "tiny": (1, ["HC"], ["pretraining"]),
    "mixed": (200, ["AD", "HC"], ["pretraining", "ad_hc"]),
    "clinic": (80, ["SCZ", "BD", "BD", "MDD"], ["scz_bd"]),
    "unseen": (5, ["HC"], ["holdout"]),
}


@pytest.fixture
def config():
    found = load_config(REPOSITORY)
    return found | {"preprocessing": found["preprocessing"] | {"engine": "builtin"}}


@pytest.fixture
def study(tmp_path, monkeypatch, config):
    """A compiled manifest of five cohorts in the working directory; scans are named, but there are none."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for cohort, (count, words, _) in COHORTS.items():
        for at in range(count):
            person = f"{cohort}_{at // 2:03d}" if cohort == "clinic" else f"{cohort}_{at:03d}"
            row = {"image_id": f"{person}_ses-{at % 2}", "participant_id": person, "cohort": cohort}
            word = words[at // 2 % len(words)] if cohort == "clinic" else words[at % len(words)]
            rows.append(row | {"t1w": f"data/{person}_{at % 2}.nii.gz", "diagnosis": word, "shard": f"{cohort}-0001"})
    images = pd.DataFrame(rows).assign(age=50.0, sex=1, handedness=np.nan, derivatives=None)
    write_table(images, "results/manifest/images.tsv")
    write_table(images.iloc[:0], "results/manifest/excluded.tsv")
    Path("config").mkdir()
    Path("config/cohorts.tsv").write_text("x\n")
    facts = {
        "cohorts_sha256": "00", "roles": {name: roles for name, (_, _, roles) in COHORTS.items()},
        "pretraining_shares": {"big": 1.0, "tiny": 1.0, "mixed": 0.5, "clinic": 0.0, "unseen": 0.0}, "derivatives": [],
    }  # fmt: skip
    shards = [(f"{name}-0001", name, count, 64) for name, (count, _, _) in COHORTS.items()]
    shards = pd.DataFrame(shards, columns=["shard", "cohort", "images", "images_per_job"])
    write_table(shards, "results/manifest/shards.tsv", facts)
    return read_study(config, stale_too=True)


def chosen(study, config, **options):
    return rehearsal_sample.choose_sample(read_table("results/manifest/images.tsv"), study, config, **options)


def roles_in(folder: Path, config) -> pd.Series:
    """The roles that the rehearsal's own split gives its images."""
    small: dict = {}
    merge(small, config)
    merge(small, yaml.safe_load((folder / "rehearsal.yaml").read_text()))
    study = read_study(small, folder / "results/manifest/shards.tsv", stale_too=True)
    images = read_table(folder / "results/manifest/images.tsv")
    parts = [
        split_cohort(part, study.roles[name], study.pretraining_shares[name], small["split"], small["seed"])
        for name, part in images.groupby("cohort", sort=False)
    ]
    return small, study, images, pd.concat(parts)


def test_the_sample_has_every_cohort_both_classes_and_enough_that_pretrain(study, config):
    sample = chosen(study, config)
    images = sample.images
    assert images["participant_id"].is_unique and len(images) >= 24
    assert set(images["cohort"]) == set(COHORTS)
    assert images.groupby("cohort").size().drop("tiny").min() >= 2
    assert sum(sample.trains.values()) == 12 and sample.trains["tiny"] == 1
    classes = images[images["cohort"] == "mixed"]["diagnosis"].value_counts()
    assert classes["AD"] == 8 and classes["HC"] == 8 + sample.trains["mixed"]
    assert images["diagnosis"].value_counts()[["SCZ", "BD"]].tolist() == [8, 8]
    assert images["t1w"].map(lambda path: Path(path).is_absolute()).all()


def test_a_person_under_several_names_takes_part_once(study, config):
    names = [f"clinic_{at:03d}" for at in range(10)]
    study = replace(study, people=people_of([names[:4], names[4:]], study.roles))
    sample = chosen(study, config)
    drawn = study.people.named(sample.images)["participant_id"]
    assert drawn.is_unique and sample.images["participant_id"].isin(names).sum() == 2


def test_the_same_seed_gives_the_same_sample_and_another_one_another(study, config):
    first, again = chosen(study, config), chosen(study, config)
    pd.testing.assert_frame_equal(first.images, again.images)
    other = chosen(study, config | {"seed": config["seed"] + 1})
    assert set(other.images["image_id"]) != set(first.images["image_id"])


def test_the_layout_splits_and_draws_as_the_study_would(study, config):
    """Its own split trains and validates as many as were meant to, and leaves each task a pool that gives resamples."""
    sample = chosen(study, config)
    overrides = rehearsal_sample.lay_out(sample, config, study)
    small, own, images, split = roles_in(overrides.parent, config)
    counts = split["role"].value_counts()
    assert counts["train"] >= config["pretrain"]["batch_size"] and counts["validation"] >= 2
    assert counts["train"] + counts["validation"] == 12
    for name, task in own.tasks.items():
        indices = [images[images["cohort"] == cohort] for cohort in own.cohorts_of(name)]
        pool = pool_of_task(indices, [split], task, "by_session")
        resample, _ = draw(pool, sample.n, small["resampling"], seed=3)
        assert resample["role"].value_counts().to_dict() == {
            "train": sample.n, "validation": sample.n // 2, "test": sample.n // 2
        }  # fmt: skip
    assert small["network"] == config["network"] and small["cache"] == config["cache"]
    steps = small["pretrain"]["epochs"] * -(-counts["train"] // config["pretrain"]["batch_size"])
    assert steps >= 30
    largest = max(setting["learning_rate"] for setting in config["models"]["baseline"]["settings"])
    assert [s["learning_rate"] == largest for s in small["models"]["baseline"]["settings"]] == [True, False]


def test_a_second_layout_touches_nothing_and_a_smaller_one_leaves_no_old_shard(study, config):
    rehearsal_sample.lay_out(chosen(study, config), config, study)
    files = {path: path.stat().st_mtime_ns for path in Path("rehearsal").rglob("*") if path.is_file()}
    rehearsal_sample.lay_out(chosen(study, config), config, study)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    sample = chosen(study, config)
    smaller = rehearsal_sample.Sample(sample.images[sample.images["cohort"] != "unseen"], sample.trains, sample.n)
    rehearsal_sample.lay_out(smaller, config, study)
    assert not Path("rehearsal/results/manifest/shards/unseen-0001.tsv").exists()


def test_a_task_without_a_pool_is_refused_in_one_line(study, config):
    sample = chosen(study, config)
    with pytest.raises(InputError, match="no replicate can be drawn for a rehearsal"):
        rehearsal_sample.lay_out(rehearsal_sample.Sample(sample.images, sample.trains, 0), config, study)


def test_a_waived_pair_is_kept_only_if_both_are_in_the_sample(study, config):
    sample = chosen(study, config)
    inside = sample.images["participant_id"].tolist()[:2]
    waived = [inside, ["big_000", "nobody"]]
    changed = config | {"split": config["split"] | {"waived_duplicates": waived}}
    assert rehearsal_sample.overrides(sample, changed, study)["split"]["waived_duplicates"] == [inside]


def test_a_plan_goes_by_the_rehearsal_until_a_job_of_the_study_has_finished(config):
    measured = {"baseline": {"seconds": 0.5, "start": 20.0, "basis": "rehearsed on a day"}}
    cost = costs.cost_of("transfer", [], config, measured)  # it borrows from the other network's fits
    assert (cost.seconds, cost.start, cost.basis, cost.gpu) == (0.5, 20.0, "rehearsed on a day", True)
    assert plan.hours("transfer", [100.0, 300.0], cost) == pytest.approx((2 * 20 + 400 * 0.5) / 3600)
    row = {"rule": "transfer", "seconds": 30.0, "units": 10.0, "device": None}
    assert costs.cost_of("transfer", [row], config, measured).seconds == 3.0


def test_a_rehearsal_measures_what_an_image_costs_if_images_share_a_gpu(study, config, tmp_path):
    """Two images took 50 s side by side, of which the network 10 s: a full job needs no 50 s for each."""
    fast = config | {"preprocessing": config["preprocessing"] | {"engine": "fastsurfer"}}
    folder = tmp_path / "small"
    for at in range(2):
        status = {"state": "ok", "seconds": 50.0, "parts": {"start": 10.0, "network": 10.0, "bias field": 30.0}}
        write_json(folder / f"{layout.SUBJECTS}/tiny-0001/tiny_{at}/status.json", status)
    row = {"rule": "preprocess", "key": "tiny-0001/0000", "seconds": 55.0, "units": 2, "device": None}
    found = rehearsal._costs([row], None, fast, folder)["preprocess"]
    assert found["parts"] == {"start": 10.0, "network": 10.0, "bias field": 30.0}
    assert found["seconds"] == pytest.approx(40 / 3)  # 40 s of work on three cores
    assert found["seconds"] * 2 + found["start"] == pytest.approx(55)
    assert costs.cost_of("preprocess", [], fast, {"preprocess": found}).seconds == found["seconds"]
    others = rehearsal._costs([row], None, config, folder)["preprocess"]
    assert others["seconds"] == pytest.approx(27.5)  # the images' own clocks counted the same seconds twice


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("sbatch: error: invalid partition specified: gpus", "partition"),
        ("WorkflowError: the library is not there", "configuration or the profile"),
    ],
)
def test_a_job_that_could_not_be_sent_is_named_with_the_schedulers_words(tmp_path, line, fix):
    (finding,) = rehearsal._failures(tmp_path, Ended(1, ("Building DAG of jobs...", line, line), 3.0))
    assert finding.lines == (line,) and fix in finding.fix
    assert list(rehearsal._failures(tmp_path, Ended(0, (line,), 3.0))) == []


def test_a_job_that_failed_is_no_second_failure_to_send_one(tmp_path):
    end = ("WorkflowError:", "At least one job did not complete successfully.")
    assert list(rehearsal._failures(tmp_path, Ended(1, ("Exiting because a job execution failed.", *end), 3.0))) == []
    other = ("WorkflowError:", "Failed to open source file")
    (finding,) = rehearsal._failures(tmp_path, Ended(1, (*other, *end), 3.0))
    assert finding.lines == other


def test_images_that_were_refused_have_an_example_for_each_reason(tmp_path):
    images = [("a_1", "mask_failed", "25% lies outside"), ("a_2", "mask_failed", "30%"), ("a_3", "flat", "8 voxels")]
    names = [name for name, _, _ in images]
    manifest = pd.DataFrame({"image_id": names, "cohort": "a", "shard": "a-0001"})
    write_table(manifest, tmp_path / "manifest/images.tsv")
    ledger = pd.DataFrame(images, columns=["image_id", "reason", "detail"]).assign(status="failed")
    write_table(ledger[["image_id", "status", "reason", "detail"]], tmp_path / "preprocessed/a-0001/1.tsv")
    masks, flat = rehearsal._refused(tmp_path)
    assert masks[0] == "2" and masks[-1] == "a_1: 25% lies outside" and flat[-1] == "a_3: 8 voxels"
    found = rehearsal.Report("s", 3, 3, 1, 8, Ended(0, (), 1.0), refused=[masks, flat])
    assert "for example a_1: 25% lies outside" in found.text()


def test_a_crop_that_cuts_brains_is_found_with_the_multiple_that_a_larger_one_needs(tmp_path, config):
    write_table(pd.DataFrame({"image_id": ["a_1", "a_2"], "outside_crop": [0.0, 0.02]}), tmp_path / "quality/a.tsv")
    (finding,) = rehearsal._cut_masks(tmp_path, config)
    assert "cuts 1 of 2 brains, by up to 2.0% of the mask" in finding.what
    assert len(config["network"]["channels"]) == 5 and finding.fix.endswith("each axis is a multiple of 32")


def test_a_run_beyond_its_minutes_is_interrupted():
    script = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(7))\nprint('1 of 2 steps')\n"
    ended = run_snakemake(["python3", "-u", "-c", f"{script}time.sleep(60)"], "test", minutes=1 / 60)
    assert (ended.status, ended.out_of_time, ended.lines) == (7, True, ("1 of 2 steps",))
    assert ended.seconds < 30
