"""Figures: all data are drawn, no text overlaps another, and the files are reproducible."""

import itertools
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from neurotransfer.files import read_table
from neurotransfer.report.figure1 import figure1, figure1_data, skill_rows
from neurotransfer.report.figure2 import figure2, figure2_data, latent_bounds
from neurotransfer.report.figure3 import figure3, figure3_data
from neurotransfer.report.style import drawing, save_figure
from neurotransfer.study.plan import MODELS
from synthetic_results import make_auc_results, make_results


def drawn2(results: SimpleNamespace, **options) -> Figure:
    tables = (results.aucs, results.medians, results.comparisons)
    return figure2(*tables, results.config["tasks"], alpha=0.05, **options)


def drawn1(results: SimpleNamespace) -> Figure:
    return figure1(results.images, results.history, results.metrics, results.predictions)


def texts_of(figure: Figure) -> list[tuple[str, object]]:
    """Every text of a figure that is drawn, with its box in pixels."""
    with drawing():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        beyond = set()  # tick labels beyond an axis' limits exist, but are not drawn
        for axis in figure.findobj(Axis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    beyond |= {tick.label1, tick.label2}
        drawn = [text for text in figure.findobj(Text) if text.get_visible() and text not in beyond]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in drawn if text.get_text().strip()]
    return [(text, box) for text, box in boxes if box.width > 0]


def assert_no_texts_overlap(figure: Figure) -> None:
    texts = texts_of(figure)
    assert len(texts) > 8
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 1, f"{one!r} overlaps {other!r}"
    edge = figure.bbox
    for name, box in texts:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= edge.x1 + 1 and box.y1 <= edge.y1 + 1, f"{name!r} is cut off"


FIVE, EIGHT = (100, 200, 300, 400, 500), (50, 100, 200, 300, 400, 500, 1000, 5000)


@pytest.mark.parametrize(("sizes", "count"), [((20,), 1), (EIGHT, 1), ((20, 40), 4), (FIVE, 4), (EIGHT, 4)])
def test_no_texts_of_figure_2_overlap(sizes, count):
    results = make_auc_results(("ad_hc", "scz_bd", "control", "another")[:count], sizes, replicates=4)
    assert_no_texts_overlap(drawn2(results, bounds={"ad_hc": 0.97}))


@pytest.mark.parametrize("cohorts", [3, 45])
def test_no_texts_of_figure_1_overlap(cohorts):
    names = tuple(f"cohort{number}" for number in range(cohorts))
    assert_no_texts_overlap(drawn1(make_results(("ad_hc",), (20,), 2, cohorts=names, people=8)))


@pytest.mark.parametrize(("given", "holdout"), [(True, True), (True, False), (False, False)])
def test_figure_1_needs_neither_history_nor_holdout(given, holdout):
    results = make_results(("ad_hc",), (20,), 2, given=given, holdout=holdout)
    figure = drawn1(results)
    assert_no_texts_overlap(figure)
    titles = {
        axes.get_title("left") for axes in figure.findobj(lambda a: hasattr(a, "get_title") and hasattr(a, "plot"))
    }
    assert ("Pretraining" in titles) == (not given)
    assert ("Age, unseen cohorts" in titles) == holdout
    assert ("Age, validation" in titles) == (not given)


def test_a_cells_opacity_is_the_share_of_images_with_the_target():
    found = make_results(("ad_hc",), (20,), 2, people=8)
    found.images.loc[found.images["cohort"] == "south", "neuroticism"] = np.nan
    found.images.loc[(found.images["cohort"] == "mood") & (np.arange(len(found.images)) % 2 == 0), "age"] = np.nan
    (panel,) = [axes for axes in drawn1(found).axes if axes.get_title("left") == "Known targets"]
    cells = [patch for patch in panel.patches if patch.get_alpha() is not None]
    sizes = found.images["cohort"].value_counts()
    assert len(cells) == 6 * len(sizes) and sizes.nunique() == 1  # so cohorts are in the order of their names
    targets = [label.get_text() for label in panel.get_xticklabels()]
    assert targets == ["age", "sex", "handedness", "BMI", "fluid int.", "neuroticism"]
    shares = np.array([cell.get_alpha() for cell in cells]).reshape(-1, 6) / cells[1].get_alpha()
    for cohort, row in zip(sorted(sizes.index), shares, strict=True):
        mine = found.images[found.images["cohort"] == cohort]
        assert row[[0, 3, 5]] == pytest.approx(
            [round(mine[name].count() / len(mine), 1) for name in ("age", "bmi", "neuroticism")]
        )
    data = figure1_data(found.images, found.history, found.metrics, found.predictions)
    known = data[(data["panel"] == "targets") & (data["item"] == "north")].set_index("group")["value"]
    assert known["bmi"] == 0 and known["sex"] == 1


@pytest.fixture(scope="module")
def results() -> SimpleNamespace:
    return make_auc_results(replicates=15)


def test_covariates_are_a_line_of_medians_without_dots(results):
    panels = [axes for axes in drawn2(results).axes if axes.get_xlabel()]
    for axes, task in zip(panels, results.config["tasks"], strict=True):
        rows = results.medians[(results.medians["task"] == task) & (results.medians["model"] == "covariates")]
        assert any(np.array_equal(line.get_ydata(), rows["median"]) for line in axes.lines)


def test_figure_3_shows_every_curve_and_an_arrow_if_the_baseline_needs_more_scans(results):
    figure = figure3(results.curves, results.worth, results.config["tasks"])
    assert_no_texts_overlap(figure)
    for axes, task in zip(figure.axes, results.config["tasks"], strict=True):
        curves = results.curves[results.curves["task"] == task]
        for model in MODELS:
            mine = curves[curves["model"] == model]["auc"]
            assert any(np.allclose(line.get_ydata(), mine) for line in axes.lines if len(line.get_ydata()) == len(mine))
        needs = results.worth[(results.worth["task"] == task) & (results.worth["question"] == "baseline needs")]
        more = (needs["scans"] > 1.02 * needs["n"].astype(float)).sum()
        assert sum(hasattr(text, "arrow_patch") and text.arrow_patch is not None for text in axes.texts) == more
    assert results.worth["scans"].eq(np.inf).any() and more
    data = figure3_data(results.curves, results.worth)
    assert len(data) == len(results.curves) + len(results.worth)


@pytest.mark.parametrize("sizes", [(20,), (20, 40), EIGHT])
def test_no_texts_of_figure_3_overlap(sizes):
    found = make_auc_results(n=sizes, replicates=4)
    assert_no_texts_overlap(figure3(found.curves, found.worth, found.config["tasks"]))


def test_every_replicate_is_a_dot_and_every_median_a_mark(results):
    figure = drawn2(results)
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    for axes, task in zip(panels, results.config["tasks"], strict=True):
        dots = np.concatenate(
            [scatter.get_offsets()[:, 1] for scatter in axes.collections if len(scatter.get_offsets()) == 75]
        )
        expected = results.aucs.loc[(results.aucs["task"] == task) & results.aucs["model"].isin(list(MODELS)), "auc"]
        assert np.allclose(np.sort(dots), np.sort(expected))
        for line, model in zip([bars.lines[0] for bars in axes.containers], MODELS, strict=True):
            rows = results.aucs[(results.aucs["task"] == task) & (results.aucs["model"] == model)]
            assert np.allclose(line.get_ydata(), rows.groupby("n")["auc"].median())


def test_marks_are_filled_by_holms_p_and_open_by_the_unadjusted_p(results):
    table = results.comparisons[results.comparisons["first"] == "transfer"]
    survives, plain = table["p_holm"] < 0.05, table["p_two_sided"] < 0.05
    expected = {"filled": survives.sum(), "open": (plain & ~survives).sum(), "dash": (~plain).sum()}
    assert all(expected.values()), "the fixture must have all three kinds"
    found = dict.fromkeys(expected, 0)
    for axes in drawn2(results).axes:
        if not axes.get_xlabel():
            for mark in axes.collections:
                closed = len(mark.get_paths()[0].vertices) > 2
                found["dash" if not closed else "filled" if len(mark.get_facecolor()) else "open"] += 1
    assert found == expected


def test_the_bound_is_the_latent_scores_auc_in_the_pool():
    generator = np.random.default_rng(3)
    truth = pd.DataFrame({"participant_id": [f"a_{i}" for i in range(60)], "task": "ad_hc"})
    truth["label"] = (generator.random(60) < 0.4).astype(float)
    truth["latent_score"] = truth["label"] + generator.normal(0, 1, 60)
    images = pd.DataFrame({"participant_id": truth["participant_id"], "role": ["train"] * 20 + ["test"] * 40})
    pool = truth.iloc[20:]
    sick, well = (pool.loc[pool["label"] == label, "latent_score"].to_numpy() for label in (1, 0))
    won = np.mean(sick[:, None] > well[None, :])
    unlabelled = truth.assign(task=None, label=None)
    assert latent_bounds(pd.concat([truth, unlabelled]), images) == pytest.approx({"ad_hc": won})
    assert latent_bounds(truth.assign(label=1.0), images) == {}


def test_the_same_tables_give_the_same_bytes(tmp_path):
    results = make_results(("ad_hc",), (20, 40), 3, people=8)
    for folder in ("one", "two"):
        data = figure1_data(results.images, results.history, results.metrics, results.predictions)
        save_figure(drawn1(results), data, tmp_path / folder / "figure1")
        bounds = {"ad_hc": 0.97}
        data = figure2_data(results.aucs, results.medians, results.comparisons, bounds)
        save_figure(drawn2(results, bounds=bounds), data, tmp_path / folder / "figure2")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [f"figure{n}.{ending}" for n in (1, 2) for ending in ("png", "svg", "tsv")]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    table = read_table(tmp_path / "one/figure2.tsv")
    dots = table[table["quantity"] == "AUC of a replicate"]
    assert np.allclose(dots["value"], results.aucs["auc"])
    everything = b"".join((tmp_path / "one" / name).read_bytes() for name in names if not name.endswith("png")).decode()
    for name in {*results.images["image_id"], *results.images["participant_id"]}:
        assert name not in everything


def test_a_hostile_title_is_drawn_as_plain_text(tmp_path):
    titles = {"ad_hc": "$x_{ <script>alert(1)</script> & 100 % --> \\frac " + "long " * 60}
    results = make_auc_results(("ad_hc",), (20, 40), 3, titles=titles)
    figure = drawn2(results)
    save_figure(figure, pd.DataFrame({"a": [1]}), tmp_path / "figure2")
    tags = {element.tag for element in ElementTree.parse(tmp_path / "figure2.svg").iter()}
    assert not any(isinstance(tag, str) and tag.endswith("script") for tag in tags)
    assert_no_texts_overlap(figure)


def test_a_figure_of_thousands_of_replicates_is_a_small_file(results, tmp_path):
    one = results.aucs[(results.aucs["n"] == 100) & (results.aucs["task"] == "ad_hc")]
    many = pd.concat([one.assign(replicate=f"{copy}") for copy in range(600)], ignore_index=True)
    medians, comparisons = (t[(t["n"] == 100) & (t["task"] == "ad_hc")] for t in (results.medians, results.comparisons))
    tasks = {"ad_hc": {"title": "many"}}
    save_figure(figure2(many, medians, comparisons, tasks, alpha=0.05), many[["auc"]], tmp_path / "figure2")
    assert (tmp_path / "figure2.svg").stat().st_size < 500_000


def test_skill_is_one_minus_the_share_of_the_dummys_error():
    row = {"split": "holdout", "target": "age", "metric": "mae", "value": 3.0, "low": 2.0, "high": 4.0, "dummy": 12.0}
    other = row | {"target": "sex", "metric": "auc", "value": 0.9, "low": 0.8, "high": 0.95, "dummy": 0.5}
    found = skill_rows(pd.DataFrame([row, other, row | {"metric": "r"}])).set_index("target")
    assert found.loc["age", ["skill", "low_skill", "high_skill"]].tolist() == pytest.approx([3 / 4, 2 / 3, 5 / 6])
    assert found.loc["sex", ["skill", "low_skill", "high_skill"]].tolist() == pytest.approx([0.8, 0.6, 0.9])


def test_a_users_matplotlibrc_has_no_effect(results, tmp_path):
    import matplotlib

    save_figure(drawn2(results), results.medians, tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 22, "axes.facecolor": "black", "lines.linewidth": 9}):
        save_figure(drawn2(results), results.medians, tmp_path / "styled")
        assert matplotlib.rcParams["font.size"] == 22
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "styled.svg").read_bytes()
