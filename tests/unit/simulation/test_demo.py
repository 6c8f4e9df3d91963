"""What the demo says of its own result."""

from unittest import mock

import pandas as pd
import pytest
from neurotransfer.jobs.snakemake_run import INTERRUPTED
from neurotransfer.simulation import demo
from neurotransfer.simulation.demo import CONTROL, PARTICIPANTS, TASK, finding
from runs import REPOSITORY


def test_the_finding_is_that_of_the_smallest_n_where_there_is_an_effect_and_where_there_is_none():
    medians = pd.DataFrame(
        [(task, n, model, 0.5 + n / 100 + (model == "transfer") * (task == TASK) * 0.1)
         for task in (TASK, CONTROL) for n in (40, 20) for model in ("transfer", "baseline")],
        columns=["task", "n", "model", "median"],
    )  # fmt: skip
    comparisons = pd.DataFrame(
        [(TASK, 20, "transfer", "baseline", 0.003), (TASK, 40, "transfer", "baseline", 0.9),
         (CONTROL, 20, "transfer", "baseline", 0.7), (CONTROL, 40, "transfer", "baseline", 0.01)],
        columns=["task", "n", "first", "second", "p_holm"],
    )  # fmt: skip
    text = finding(medians, comparisons, 0.05)
    assert text == (
        "with 20 training images, where two groups differ, transfer has AUC 0.80 and baseline 0.70: a difference "
        "(p = 0.003); where they do not, transfer has AUC 0.70 and baseline 0.70: no difference (p = 0.7)"
    )
    assert "no difference (p = 0.003)" in finding(medians, comparisons, 0.001)


def test_larger_pools_are_of_known_cohorts():
    from neurotransfer.simulation.demo import COHORTS

    assert set(PARTICIPANTS) < set(COHORTS)


def test_the_cost_and_the_name_of_each_job_of_the_demo_are_of_rules():
    from neurotransfer.simulation.demo import SECONDS, WORDS
    from neurotransfer.study.rules import RULES

    assert set(SECONDS) - {"all"} <= set(RULES) and set(WORDS) <= set(RULES)


@pytest.mark.parametrize(("status", "shown"), [(INTERRUPTED, 0), (1, 1)])
def test_jobs_that_a_person_has_stopped_are_not_shown_as_failed(tmp_path, monkeypatch, status, shown):
    failures = mock.Mock()
    monkeypatch.setattr(demo, "_print_failures", failures)
    monkeypatch.setattr(demo, "simulate_demo", mock.Mock())
    monkeypatch.setattr(demo, "_run_workflow", lambda *_: status)
    monkeypatch.setattr(demo, "demo_progress", mock.Mock())
    monkeypatch.setattr("neurotransfer.study.plan.read_study", mock.Mock())
    monkeypatch.setattr("neurotransfer.manifest.compile.compile_manifest", mock.Mock())
    monkeypatch.chdir(tmp_path)
    assert demo.run_demo(tmp_path, REPOSITORY, cores=1) == status
    assert failures.call_count == shown


def test_the_next_command_works_in_a_shell_that_has_not_activated_the_environment(monkeypatch):
    monkeypatch.setattr(demo.sys, "prefix", "/somewhere/.venv")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert demo._next_command() == ". /somewhere/.venv/bin/activate && neurotransfer init FOLDER"
    monkeypatch.setattr(demo.sys, "prefix", "/some where/.venv")
    assert demo._next_command() == ". '/some where/.venv/bin/activate' && neurotransfer init FOLDER"
    monkeypatch.setenv("VIRTUAL_ENV", "/some where/.venv")
    assert demo._next_command() == "neurotransfer init FOLDER"


@pytest.mark.parametrize(
    ("display", "answer", "opened"), [(":0", "y\n", 1), (":0", "\n", 1), (":0", "n\n", 0), ("", "y\n", 0)]
)
def test_the_report_is_opened_where_there_is_a_desktop_and_a_person_wants_it(monkeypatch, display, answer, opened):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, display)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(demo.sys, stream, mock.Mock(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda _: answer)
    browser = mock.Mock()
    monkeypatch.setattr("webbrowser.open", browser)
    demo._offer_to_open(REPOSITORY / "README.md")
    assert browser.call_count == opened
