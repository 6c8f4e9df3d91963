"""The plan: hours, pools and power, each against something computed another way."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fan_out import fan_out
from neurotransfer.files import write_json, write_table
from neurotransfer.network.sfcn import SFCN
from neurotransfer.operations import costs, plan
from neurotransfer.pretrain.weights import write_weights
from neurotransfer.statistics.populations import overlap
from neurotransfer.statistics.tests import sign_flip_test
from neurotransfer.study import layout
from neurotransfer.study.configuration import load_config, merge
from neurotransfer.study.plan import Shard, Study, read_study, seconds_of
from neurotransfer.study.recipe import RECIPE
from neurotransfer.study.same_people import people_of
from runs import REPOSITORY


@pytest.fixture
def config():
    return load_config(REPOSITORY)


@pytest.fixture
def planned():
    shards = {"A-0001": Shard("A-0001", "A", 100, 64), "A-0002": Shard("A-0002", "A", 30, 64)}
    roles = {"A": frozenset(["pretraining", "ad_hc"])}
    tasks = {"ad_hc": {"positive": ["AD"], "negative": ["HC"], "seed": 0}}
    return Study(shards, roles, {"A": 0.5}, tasks, (100, 200), ("001", "002"), "multitask")


def auc_pairs(replicates: int, test: int, share: float, difference: float, generator) -> np.ndarray:
    """AUCs [replicates, 2] of two models that differ by `difference`, by counting pairs one by one."""
    from scipy.stats import norm

    positives, pairs = round(test * share), []
    for _ in range(replicates):
        shared, aucs = generator.standard_normal(test), []
        for auc in (plan.AUC, plan.AUC + difference):
            rho = plan.CORRELATION
            scores = np.sqrt(rho) * shared + np.sqrt(1 - rho) * generator.standard_normal(test)
            scores[:positives] += np.sqrt(2) * norm.ppf(auc)
            aucs.append(np.mean(scores[:positives, None] > scores[None, positives:]))
        pairs.append(aucs)
    return np.array(pairs)


def test_the_smallest_difference_is_found_by_the_studys_own_test_four_times_of_five():
    replicates, test, share = 30, 40, 0.5
    difference = plan.smallest_difference(test, share, replicates, seed=1)
    generator, found = np.random.default_rng(2), 0
    for number in range(200):
        aucs = auc_pairs(replicates, test, share, difference, generator)
        options = {"statistic": "mean", "permutations": 400, "seed": number}
        found += sign_flip_test(aucs[:, 1], aucs[:, 0], **options).two_sided <= 0.05
    assert 0.68 < found / 200 < 0.92


def test_the_power_about_the_population_is_that_of_its_test_in_simulated_pools(config):
    """With the components of docs/type-one.md's pool TOP at n = 500, of which the test's error is made here again."""
    from neurotransfer.validation.simulated_pools import TOP, draw_pool

    images = draw_pool(TOP, np.random.default_rng(1))
    pool = pd.DataFrame({"participant_id": images.people, "label": images.labels})
    shared = plan.expected_draws(pool, 500, config["resampling"], seed=1).shared
    generator = np.random.default_rng(0)
    counts = np.array([np.bincount(generator.choice(images.people, 500), minlength=861) for _ in range(200)])
    assert shared == pytest.approx(overlap(counts), rel=0.02)
    options = {"replicates": 100, "shared": shared, "tested": 100 / 1037, "seed": 1}
    steady, noisy, blind = (
        plan.smallest_in_population(0.07, noise, seconds=seconds, **options)
        for noise, seconds in ((0.0, 20), (0.057, 20), (0.057, 0))
    )
    assert 0.03 < steady < noisy < blind
    assert plan.smallest_in_population(0.07, 0.0, seconds=100, **options) < steady
    assert plan.smallest_difference(100, 0.5, 100, 1) < steady


def test_distinct_images_are_as_many_as_drawing_with_replacement_gives(config):
    people = 300
    pool = pd.DataFrame({"image_id": range(people), "participant_id": range(people), "label": np.arange(people) % 2})
    drawn = plan.expected_draws(pool, 100, config["resampling"], seed=1)
    assert drawn.invalid == 0
    assert drawn.images == drawn.people == pytest.approx(people * (1 - (1 - 1 / people) ** 100), rel=0.01)


def test_a_pool_that_cannot_give_an_n_is_told(config):
    pool = pd.DataFrame({"image_id": range(30), "participant_id": range(30), "label": np.arange(30) % 2})
    assert plan.expected_draws(pool, 100, config["resampling"], seed=1).invalid == 1.0


def test_training_sets_share_more_people_where_whole_cohorts_test(config):
    """Two cohorts alike: one tests, so two replicates train on the same half of the people or on none in common."""
    people = np.arange(400)
    pool = pd.DataFrame({"participant_id": people, "label": people % 2, "cohort": np.where(people < 200, "a", "b")})
    all_of_them = plan.expected_draws(pool, 50, config["resampling"], seed=1).shared
    cohorts = plan.expected_draws(pool, 50, config["resampling"] | {"by": "cohort"}, seed=1).shared
    same = 1 / 400
    assert all_of_them == pytest.approx(50 * same / (1 + 49 * same), rel=0.03)  # as drawing with replacement gives
    half = 1 / 200
    assert cohorts == pytest.approx(50 * half / (1 + 49 * half) / 2, rel=0.1)
    by_one = config["resampling"] | {"per_participant": "one"}
    twice = pd.concat([pool, pool])
    assert plan.expected_draws(twice, 50, by_one, seed=1).shared == pytest.approx(all_of_them, rel=0.05)


def test_the_longest_path_of_a_few_jobs_is_the_one_a_person_draws():
    fits = {"baseline": [1.0, 1.0], "transfer": [1.0, 1.0]}
    assert plan.makespan(fits, 3.0, gpus=2) == 4.0  # pretraining beside the baselines, then both transfers
    assert plan.makespan(fits, 3.0, gpus=1) == 7.0
    assert plan.makespan(fits, 0.0, gpus=4) == 1.0


def test_jobs_of_a_shard_and_of_a_replicate_are_counted(planned):
    jobs = plan.jobs_of(planned)
    assert jobs["preprocess"] == 2 + 1
    assert jobs["cache"] == 2
    assert jobs["linear"] == jobs["baseline"] == jobs["transfer"] == jobs["resample"] == 4


def test_second_seeds_cost_a_setting_of_each_network(planned, config):
    assert seconds_of(100, 0.2) == 20 and seconds_of(3, 0.2) == 1 and seconds_of(9, 0.0) == 0
    assert costs.SECOND_SEED not in plan.jobs_of(planned)
    planned = replace(planned, second_seeds=("001",))
    assert plan.jobs_of(planned)[costs.SECOND_SEED] == 2 * 2  # n, networks
    images = pd.DataFrame({"cohort": ["A"] * 130})
    work = plan.work_of(planned, config, images, pd.Series(["train"] * 130))
    assert sum(work[costs.SECOND_SEED]) == pytest.approx(2 * sum(work["transfer"]) / 9 / 2)  # of half the replicates
    parts = ["ad_hc", "n200", "001", "baseline"]
    assert costs.units_of(costs.SECOND_SEED, parts, planned, config) == work[costs.SECOND_SEED][-1]
    assert "measured elsewhere" in costs.cost_of(costs.SECOND_SEED, [], config).basis


def test_images_that_nothing_uses_are_counted(config, tmp_path, monkeypatch):
    monkeypatch.chdir(fan_out(tmp_path / "study", 45))
    names = [f"C01_{at}" for at in range(100)]
    images = pd.DataFrame({"image_id": names, "participant_id": names, "cohort": "C01", "age": 40.0, "sex": 0})
    write_table(images.assign(diagnosis="HC"), "results/manifest/images.tsv")
    roles = ["train"] * 70 + ["validation"] * 10 + ["test"] * 19 + ["unused"]
    write_table(pd.DataFrame({"image_id": names, "role": roles}), layout.SPLIT_IMAGES)
    merge(config, {"cohorts": "config/cohorts.tsv", "resampling": {"n": [100]}})
    text = plan.forecast(config, read_study(config), gpus=8, cores=64)
    assert "100 images of 100 people in 45 cohorts (70 train, 10 validation, 19 test, 1 unused)" in text


def test_the_plan_says_what_there_is_to_know_before_a_gpu_is_touched(config, tmp_path, monkeypatch):
    """Jobs, hours with their basis, disk, the longest path, pools, power, and what will not work."""
    study_folder = fan_out(tmp_path / "study", 45)
    monkeypatch.chdir(study_folder)
    people = {"ADNI": (900, ("AD", "HC")), "TOP": (60, ("SCZ", "BD")), "C01": (200, ("HC",))}
    rows = [
        {"image_id": f"{cohort}_{at}", "participant_id": f"{cohort}_{at}", "cohort": cohort, "age": 20.0 + at % 60,
         "sex": at % 2, "diagnosis": diagnoses[at % len(diagnoses)]}
        for cohort, (count, diagnoses) in people.items() for at in range(count)
    ]  # fmt: skip
    write_table(pd.DataFrame(rows), "results/manifest/images.tsv")
    merge(config, {"cohorts": "config/cohorts.tsv", "resampling": {"n": [100]}})
    study = read_study(config)
    text = plan.forecast(config, study, gpus=8, cores=64)
    lines = [line.split() for line in text.splitlines()]
    assert "1,160 images of 1,160 people in 45 cohorts (287 train, 48 validation, 825 test)" in text

    def row(name: str) -> list[str]:
        return next(line for line in lines if line and line[0] == name)

    passes = 9 * 30 * (100 + (100 + 20) / 3)  # settings, epochs; forward alone is a third
    assert float(row("baseline")[2]) == pytest.approx(200 * passes / 390 / 3600, abs=0.1)
    assert row("baseline")[1] == "200" and row("baseline")[4] == "measured"
    together = int(row("together")[1].replace(",", ""))
    assert together == sum(plan.jobs_of(study).values())
    shared = plan.jobs_of(study, 30)
    assert shared["baseline"] == shared["resample"] == 2 * 4 and shared["second_seed"] == 2 * 2
    assert shared["cache"] == plan.jobs_of(study)["cache"]
    assert row("cache")[1] == "45"
    assert f"cache {len(rows) * 224 * 192 * 224 / 1e9:9.0f} GB".split() in [line[:3] for line in lines]
    assert any(line[:5] == ["Longest", "path", "with", "8", "GPUs"] for line in lines)
    pool = next(line for line in lines if line[:1] == ["ad_hc:"])
    assert int(pool[1]) + int(pool[4]) < 900  # some of its healthy people pretrain
    distinct, participants = (int(word) for word in next(line for line in lines if line[:2] == ["ad_hc", "100"])[2:4])
    assert 80 < distinct == participants < 100  # of one image each
    assert "Smallest AUC difference of two networks that 100 replicates detect" in text
    assert "with 20 second seeds" in text
    assert re.search(r"Pretraining learns from \d+ images", text)
    assert "task scz_bd cannot give n = 100" in text  # 60 people
    assert not Path("results/split").exists()  # nothing is written
    assert f"{len(rows):,} images of {len(rows):,} people" in text
    named = replace(study, people=people_of([["ADNI_1", "C01_1"], ["TOP_3", "TOP_4", "TOP_5"]], study.roles))
    text = plan.forecast(config, named, gpus=8, cores=64)
    assert f"{len(rows):,} images of {len(rows) - 3:,} people" in text
    assert "scz_bd: 30 positive and 30 negative images of 58 people" in text
    merge(config, {"preprocessing": {"gpus": 0}, "pretrain": {"gpus": 0}, "models": {"cnn": {"gpus": 0}}})
    assert "Longest path with 64 cores at once" in plan.forecast(config, study, gpus=8, cores=64)


@pytest.mark.parametrize(
    ("images", "said"),
    [(31, "32 images paid, and fewer were not tried"), (300, "with 256 transfer gained an AUC of 0.20 at n = 24")],
)
def test_the_plan_says_from_how_many_images_on_pretraining_paid(images, said):
    """By the largest simulated study that has no more images."""
    text = plan._pretraining(images)
    assert f"learns from {images} images" in text and said in text


def test_the_gains_of_the_plan_are_those_of_the_documentation():
    page = (
        (REPOSITORY / "docs/pretraining.md").read_text(encoding="utf-8").partition("## Pretraining with fewer scans")[2]
    )
    rows = [line.split("|") for line in page.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    shown = {int(row[1].replace(",", "")): float(row[5].split()[0]) for row in rows[1:]}
    assert shown == plan.GAINS


def test_finished_jobs_of_the_study_are_the_basis_of_its_costs(planned, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "results/benchmarks/preprocess/A-0001/0001.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\th:m:s\tmax_rss\n72.0\t0:01:12\t800.5\n")
    log = tmp_path / "logs/preprocess/A-0001/0001.log"
    log.parent.mkdir(parents=True)
    log.write_text("2026-01-01 00:00:00,000 INFO computing on NVIDIA H100 80GB HBM3\n")
    rows = costs.gather(planned, config)
    assert [(row["rule"], row["units"], row["device"]) for row in rows] == [("preprocess", 36, "NVIDIA H100 80GB HBM3")]
    cost = costs.cost_of("preprocess", rows, config)
    assert cost.seconds == pytest.approx(2.0)
    assert "1 finished job of this study on NVIDIA H100" in cost.basis
    assert "measured elsewhere" in costs.cost_of("transfer", rows, config).basis


def test_only_finished_jobs_of_pretraining_are_counted_whole(planned, config):
    """A rehearsal gives seconds per image in a training step, whatever its basis is called."""
    rehearsed = {"pretrain": {"seconds": 0.5, "basis": "rehearsed on a day, from 1 finished job"}}
    work = [7200.0]
    assert plan.hours("pretrain", work, costs.cost_of("pretrain", [], config, rehearsed)) == pytest.approx(1.0)
    row = {"rule": "pretrain", "seconds": 10_800.0, "units": 1.0, "device": None}
    assert plan.hours("pretrain", work, costs.cost_of("pretrain", [row], config, rehearsed)) == pytest.approx(3.0)


def test_images_that_share_a_gpu_and_images_without_volumes_are_counted_as_such(planned, config):
    """A minute per image becomes the 16 s in which the GPU works, because other images fill the rest."""
    minute = {"start": 20.0, "network": 16.0, "bias field": 20.0, "statistics": 4.0}
    config["preprocessing"]["measured"] = minute
    cost = costs.cost_of("preprocess", [], config)
    assert cost.gpu and "60 s for an image alone, and 4 at once share a GPU" in cost.basis
    work = plan.work_of(planned, config, pd.DataFrame(), pd.Series(["train"] * 130))["preprocess"]
    ends = 3 * (36 - 16)  # of three jobs, at whose ends fewer images overlap; without volumes, as most are
    assert plan.hours("preprocess", work, cost) == pytest.approx((130 * 16 + ends) / 3600)
    of_all = config | {"quality": {"exclude": {"z": {"max": 5.0}}}}  # which needs all volumes
    assert costs.cost_of("preprocess", [], of_all).start == 60 - 16
    merge(config, {"preprocessing": {"images_at_once": 1}})
    cost = costs.cost_of("preprocess", [], config)
    assert plan.hours("preprocess", work, cost) == pytest.approx(130 * 60 / 3600)
    without = replace(planned, without_volumes=frozenset(["A"]))
    work = plan.work_of(without, config, pd.DataFrame(), pd.Series(["train"] * 130))["preprocess"]
    assert plan.hours("preprocess", work, cost) == pytest.approx(130 * 36 / 3600)
    # if the bias field is slow, the job's three threads are the limit, and not the GPU
    parts = {"measured": minute | {"bias field": 220.0}, "images_at_once": None}
    slow = costs.cost_of("preprocess", [], config | {"preprocessing": config["preprocessing"] | parts})
    assert slow.seconds == pytest.approx((20 + 220 + 4) / 3)
    merge(config, {"preprocessing": {"gpus": 0}})
    assert plan.work_of(without, config, pd.DataFrame(), pd.Series(["train"] * 130))["preprocess"] == [64, 36, 30]


def test_the_parts_of_an_image_are_medians_and_the_networks_of_images_that_are_hardly_disturbed(tmp_path, config):
    assert costs.parts_measured(tmp_path) == {} and costs.rows_of_parts({}, config) == []
    subjects = tmp_path / layout.SUBJECTS / "A-0001"
    write_json(subjects / "A_0/status.json", {"state": "ok", "seconds": 0.1, "parts": {"start": 0.1, "network": 0.0}})
    assert costs.parts_measured(tmp_path) == {}
    for at in range(11):
        parts = {"statistics": 4.0, "start": 2.0 + at, "network": 10.0 + at}
        write_json(subjects / f"A_{at}/status.json", {"state": "ok", "seconds": 40.0, "parts": parts})
    write_json(subjects / "A_f/status.json", {"state": "failed", "seconds": 1.0, "parts": {"start": 0.0}})
    write_json(subjects / "A_o/status.json", {"state": "ok", "seconds": 30.0})  # of an older version, without logs
    assert costs.parts_measured(tmp_path) == {"start": 7.0, "network": 11.0, "statistics": 4.0}
    log = tmp_path / "logs" / layout.SUBJECTS / "A-0001/A_0/scripts/deep-seg.log"
    log.parent.mkdir(parents=True)
    log.write_text("Coronal inference on x finished in 5.5 seconds\nAxial inference on x finished in 4.5 seconds\n")
    write_json(log.parents[1] / "status.json", {"state": "ok", "seconds": 40.0})
    parts = costs.parts_measured(tmp_path / "logs")
    assert parts == {"network": 10.0, costs.REST: 30.0}
    assert costs.rows_of_parts(parts, config)[-2:] == [
        ["together", "40.0", "100%"], ["per image, 4 at once", "10.0", "25%"]
    ]  # fmt: skip


def test_a_fits_work_is_its_passes_over_images(config):
    n, settings, epochs = 100, 9, 30
    trained = settings * epochs * n
    forward = settings * epochs * (n + n / 5)
    assert costs.steps_of_fit("baseline", n, config) == pytest.approx(trained + forward / 3)


def test_costs_are_summed_by_rule_and_device():
    rows = [
        {"rule": "transfer", "key": str(number), "seconds": 60.0 * number, "memory_mb": 100.0, "device": device}
        for number, device in ((1, "A100"), (2, "A100"), (3, "H100"))
    ]
    found = {row["device"]: row for row in costs.summary(rows)}
    assert found["A100"]["jobs"] == 2
    assert found["A100"]["hours"] == pytest.approx(0.05)
    assert found["H100"]["median_seconds"] == 180


@pytest.mark.parametrize(("recipe", "said"), [({}, True), ({"recipe": RECIPE}, False)])
def test_networks_of_an_older_recipe_are_announced(tmp_path, monkeypatch, planned, recipe, said):
    monkeypatch.chdir(tmp_path)
    assert list(plan._older_recipe(planned)) == []
    target = {"name": "age", "kind": "continuous", "weight": 1.0, "loss": "squared", "mean": 50.0, "sd": 9.0}
    network = {"channels": [4], "bottleneck": 2, "pooling": "max"}
    state = SFCN([4], 2, 1, "max", 0.0).state_dict()
    metadata = {"network": network, "targets": [target | {"positive_weight": 1.0}], **recipe}
    write_weights(layout.weights("multitask"), state, metadata)
    found = list(plan._older_recipe(planned))
    assert bool(found) == said
    if said:
        assert "pretraining and 8 fits are done again" in found[0]
