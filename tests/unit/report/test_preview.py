"""The preliminary page: the finished fits, the missing ones, and no test."""

import json
import os
from dataclasses import replace

import pytest
from browsers import chromium, visit
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain.weights import write_weights
from neurotransfer.report import preview
from neurotransfer.study.plan import Study


@pytest.fixture
def study(tmp_path):
    tasks = {"ad_hc": {"title": "Alzheimer's disease or healthy"}}
    plan = Study({}, {}, {}, tasks, (100,), ("001", "002", "003"), "multitask")
    results = tmp_path / "results"
    write(results / "pretrain/multitask/weights.safetensors", "", age=50)
    for replicate in plan.replicates:
        write(results / f"resamples/ad_hc/n100/{replicate}.tsv", "", age=100)
    aucs = {("001", "linear"): 0.7, ("001", "transfer"): 0.8, ("002", "linear"): 0.6, ("003", "transfer"): 0.9}
    for (replicate, model), auc in aucs.items():
        write(results / f"fits/ad_hc/n100/{replicate}/{model}.json", json.dumps({"test_auc": auc}), age=10)
    return plan, results


def write(path, text, age):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))


def page(plan, results):
    return preview.preview_html({"study": "x"}, plan, results)


def test_missing_fits_are_counted_and_the_page_is_marked(study):
    text = page(*study)
    assert "<h1>Preliminary: x</h1>" in text
    assert "5 of 9 fits are missing" in text


def test_a_difference_is_over_the_replicates_that_both_have(study):
    row = preview.preview_rows(study[0], preview.finished_fits(*study)[0])[0]
    assert row["pairs"]["transfer − linear"] == {"count": 1, "mean": pytest.approx(0.1)}
    assert row["pairs"]["transfer − baseline"] == {"count": 0, "mean": None}
    assert row["models"]["transfer"] == {"count": 2, "median": pytest.approx(0.85)}


def test_a_fit_older_than_its_inputs_is_left_out(study):
    plan, results = study
    write(results / "pretrain/multitask/weights.safetensors", "", age=5)
    aucs, left_out = preview.finished_fits(plan, results)
    assert {model for *_, model in aucs} == {"linear"}
    assert left_out == {"older than its resample or weights": 2}
    assert "2 more are left out" in page(plan, results)


def test_unchecked_weights_are_named(study):
    plan, results = study
    plan, path = replace(plan, run="given"), results / "pretrain/given/weights.safetensors"
    target = {"name": "age", "kind": "continuous", "weight": 1.0, "loss": "squared", "mean": 0.0, "sd": 1.0}
    facts = {
        "network": {"channels": [2], "bottleneck": 2, "pooling": "max"},
        "targets": [target | {"positive_weight": 1.0}],
    }
    path.parent.mkdir(parents=True)
    for answers, said in (({"state": "unchecked"}, True), ({"state": "passed"}, False)):
        write_weights(path, SFCN([2], 2, 1, "max", 0.0).state_dict(), facts | {"known_answers": answers})
        assert ("The given weights are unchecked" in page(plan, results)) == said
    assert "unchecked" not in page(*study)


def test_a_fit_that_cannot_be_read_is_left_out(study):
    plan, results = study
    write(results / "fits/ad_hc/n100/001/linear.json", "{", age=1)
    assert preview.finished_fits(plan, results)[1] == {"not readable as a fit": 1}


def test_a_study_without_results_has_a_page(study, tmp_path):
    assert "9 of 9 fits are missing" in page(study[0], tmp_path / "empty")


def test_failures_are_mentioned(study):
    write(study[1] / "failures/transfer/ad_hc-100-002.json", "{}", age=0)
    assert "1 transfer" in page(*study)


def test_numbers_stand_above_how_many_replicates_they_are_of(study):
    text = page(*study)
    assert "<td>0.850<small>of 2</small></td>" in text and "<td>+0.100<small>of 1</small></td>" in text
    assert "<td>–<small>of 0</small></td>" in text


@pytest.mark.browser
def test_the_page_has_the_reports_dark_theme_and_fits_a_phone(study, tmp_path):
    path = tmp_path / "preview.html"
    path.write_text(page(*study))
    with chromium(tmp_path / "profile") as browser:
        visit(browser, path, width=390, theme="dark")
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        beyond = (
            "return [...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth)"
        )
        assert browser.execute_script(beyond) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
