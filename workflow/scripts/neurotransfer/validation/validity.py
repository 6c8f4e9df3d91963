"""Validity of the statistics on simulated studies: coverage, rejections, and planted leaks.

Features replace images; resampling, fitting, choice of settings, statistics and guards are the workflow's own
functions.  `make validate` writes docs/validity.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from ..errors import InputError
from ..files import write_json, write_table
from ..fit import linear
from ..fit.settings import choose, fingerprint_of_fit, fit_record
from ..report.verdicts import TEST_NAMES
from ..seeds import seed_from
from ..split import resampling
from ..statistics.aggregation import read_fits
from ..statistics.inference import NULLS, PRIMARY
from .simulated_pools import RESAMPLING, Population, aucs_of_pools, draw_pool
from .type_one import Plan, one_thread, rejections, run_studies

SMALL = Population(240, 300, separations=(1.3, 1.3))
STARTS = {"steady": SMALL, "noisy": replace(SMALL, noise=1.1)}  # by how much random starts change a fit
INTERVALS = {
    "population": "participants and overlap (`expected_low`, `expected_high`)",
    "participants": "participants resampled, fits not repeated",
    "replicates": "bootstrap over replicates (about this pool)",
}
COVERS = "population"  # the interval that must cover the expected AUC in the population
LEAST_COVERAGE = 0.93
CLAIMS = tuple((test, NULLS[test]) for test in PRIMARY)
GRID = [{"c": 10.0**power} for power in range(-4, 5)]
PARTS = 20  # of the pools behind a true AUC, each with its own seed; independent of the number of processes
SCANNER = 20.0  # standard deviations, error of a volume on a scanner whose images are segmented wrongly
SHIFT = 1000.0  # factor on test rows, to detect whether a fit depends on them


def coverage(
    starts: str, n: int, *, studies: int, pools: int, replicates: int, processes: int, seed: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Many small studies at one n, compared with the truth from independent pools.

    Parameters
    ----------
    starts : a key of STARTS

    Returns
    -------
    intervals : starts, n, interval, truth, truth_error, covered, error, width (mean), studies
    tests : starts, n, scenario, test, null, rejected, error, studies
    """
    population = STARTS[starts]
    truth, truth_error = expected_auc(population, n, pools, processes, seed)
    intervals, tests = [], []
    for scenario in ("this pool", "the population"):
        plan = Plan(f"small, {starts} starts", population, scenario, n, replicates=replicates)
        found = run_studies(plan, studies, processes, seed)
        tests += [{"starts": starts, "n": n, "scenario": scenario, **row} for row in rejections(found)]
        if scenario == "this pool":
            continue
        for name in INTERVALS:
            low, high = found[f"low_{name}"], found[f"high_{name}"]
            covered = float(((low <= truth) & (truth <= high)).mean())
            error, width = float(np.sqrt(covered * (1 - covered) / studies)), float((high - low).mean())
            row = {"starts": starts, "n": n, "interval": name, "covered": covered}
            row |= {"truth": truth, "truth_error": truth_error}
            intervals.append({**row, "error": error, "width": width, "studies": studies})
    return pd.DataFrame(intervals), pd.DataFrame(tests)


def expected_auc(population: Population, n: int, pools: int, processes: int, seed: int) -> tuple[float, float]:
    """The mean test AUC at n over independent pools, one replicate in each, and its standard error."""
    counts = [pools // PARTS + (part < pools % PARTS) for part in range(PARTS)]
    seeds = [seed_from("truth", seed, n, part) for part in range(PARTS)]
    if processes == 1:
        found = [_part(population, n, *each) for each in zip(counts, seeds, strict=True)]
    else:
        with ProcessPoolExecutor(processes, initializer=one_thread) as workers:
            found = list(workers.map(partial(_part, population, n), counts, seeds))
    aucs = np.concatenate(found)
    return float(aucs.mean()), float(aucs.std(ddof=1) / np.sqrt(len(aucs)))


def _part(population: Population, n: int, count: int, seed: int) -> np.ndarray:
    return aucs_of_pools(population, n, count, np.random.default_rng(seed))


def broken_claims(intervals: pd.DataFrame, tests: pd.DataFrame, leaks: Sequence[Leak]) -> list[str]:
    """The promises that did not hold, in words."""
    broken = []
    for row in intervals[intervals["interval"] == COVERS].itertuples():
        if row.covered < LEAST_COVERAGE:
            what = f"the interval covers in {row.covered:.3f} of studies, not {LEAST_COVERAGE}"
            broken.append(f"{row.starts} starts, n = {row.n}: {what}")
    for test, null in CLAIMS:
        for row in tests[(tests["test"] == test) & (tests["scenario"] == null)].itertuples():
            most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / row.studies)
            if row.rejected > most:
                what = f"{TEST_NAMES[test]} rejects {row.rejected:.3f}, more than {most:.3f}"
                broken.append(f"{row.starts} starts, n = {row.n}: {what}")
    for leak in leaks:
        if not leak.caught or leak.false_alarm:
            fault = "reports a leak that does not exist" if leak.caught else "does not find it"
            broken.append(f"{leak.what}: the guard {fault}")
    return broken


@dataclass(frozen=True)
class Leak:
    """A planted leak and its effect.

    Attributes
    ----------
    honest, leaky : mean test AUC over replicates without and with it
    moved, error : the mean of their paired differences and its standard error
    guard : the check that should find it
    caught : whether the guard found it
    false_alarm : whether the guard also reports a leak in the honest study
    """

    what: str
    honest: float
    leaky: float
    moved: float
    error: float
    guard: str
    caught: bool
    false_alarm: bool


def leaks(replicates: int, seed: int = 1) -> list[Leak]:
    """The three leaks, the second in two pools, each measured on replicates of one simulated pool."""
    with threadpool_limits(1):  # matrices this small are slower on several cores
        return [
            _participant_on_both_sides(replicates, seed),
            _scaled_on_all(replicates, seed, scanner=False),
            _scaled_on_all(replicates, seed, scanner=True),
            _chosen_on_test(replicates, seed),
        ]


def _pool(population: Population, seed: int, *, null: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """A pool's images and their features; with `null`, labels are independent of the features."""
    generator = np.random.default_rng(seed)
    pool = draw_pool(population, generator)
    labels = pool.labels
    if null:
        labels = generator.permutation(np.arange(population.participants) % 2)[pool.people]
    images = pd.DataFrame({"participant_id": [f"p{person:04d}" for person in pool.people], "label": labels})
    images["image_id"] = [f"i{image:05d}" for image in range(len(images))]
    images["index_row"] = np.arange(len(images))
    return images, pool.features[0].astype(float)


def _fit(features: np.ndarray, resample: pd.DataFrame) -> tuple[list[dict[str, Any]], float]:
    """The linear model's records, and the chosen setting's test AUC."""
    labels, roles = resample["label"].to_numpy(), resample["role"].to_numpy(str)
    records, _, scores, _ = linear.fit_settings(features, labels, roles, GRID, 5000)
    return records, float(roc_auc_score(labels[roles == "test"], scores))


def _leak(what: str, honest: list[float], leaky: list[float], guard: str, caught: bool, false_alarm: bool) -> Leak:
    moved = np.subtract(leaky, honest)
    error = float(moved.std(ddof=1) / np.sqrt(len(moved)))
    return Leak(
        what, float(np.mean(honest)), float(np.mean(leaky)), float(moved.mean()), error, guard, caught, false_alarm
    )


def _refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except InputError:
        return True
    return False


def _participant_on_both_sides(replicates: int, seed: int) -> Leak:
    """Images drawn as if each were a participant; labels are random, and a person has three similar scans."""
    images, features = _pool(Population(100, 300, features=60, stable=0.95), seed, null=True)
    alone = images.assign(participant_id=images["image_id"])
    people = images.set_index("image_id")["participant_id"]
    aucs: dict[str, list[float]] = {"honest": [], "leaky": []}
    alarms: dict[str, list[bool]] = {"honest": [], "leaky": []}
    for replicate in range(replicates):
        for name, pool in (("honest", images), ("leaky", alone)):
            drawn, _ = resampling.draw(pool, 100, RESAMPLING, seed_from("both sides", seed, replicate))
            aucs[name].append(_fit(features[drawn["index_row"]], drawn)[1])
            named = drawn.assign(participant_id=drawn["image_id"].map(people))
            alarms[name].append(_refused(partial(resampling.check_disjoint, named)))
    guard = "`resampling.check_disjoint`, when a resample is drawn and again before every fit"
    caught, false_alarm = all(alarms["leaky"]), any(alarms["honest"])
    return _leak("a participant on both sides", aucs["honest"], aucs["leaky"], guard, caught, false_alarm)


def _scaled_on_all(replicates: int, seed: int, *, scanner: bool) -> Leak:
    """Volumes standardised by the mean and spread of all three sets instead of the training set's.

    If the sets have the same distribution, the effect is small.  With `scanner`, half of the test images come from a
    scanner on which a quarter of the volumes are wrong by SCANNER standard deviations.  The spread of all three sets
    then includes this error, so standardisation shrinks these volumes and the scanner's effect.
    """
    images, features = _pool(Population(240, 300, features=60, separations=(1.3, 1.3)), seed, null=False)
    spread = features.std(0)
    honest, leaky, alarms = [], [], {}
    for replicate in range(replicates):
        generator = np.random.default_rng(seed_from("scanner", seed, replicate))
        drawn, _ = resampling.draw(images, 60, RESAMPLING, seed_from("scaled", seed, replicate))
        chosen = features[drawn["index_row"]]
        test = (drawn["role"] == "test").to_numpy()
        if scanner:
            volumes = generator.permutation(features.shape[1])[: features.shape[1] // 4]
            foreign = np.flatnonzero(test)[generator.random(test.sum()) < 0.5]
            chosen[np.ix_(foreign, volumes)] += SCANNER * spread[volumes]
        honest.append(_fit(chosen, drawn)[1])
        leaky.append(_fit_scaled_on_all(chosen, drawn)[1])
        if replicate == 0:  # do validation losses depend on test rows?
            changed = np.where(test[:, None], SHIFT * chosen, chosen)
            for name, fitted in (("honest", _fit), ("leaky", _fit_scaled_on_all)):
                before, after = (
                    [record["validation_loss"] for record in fitted(x, drawn)[0]] for x in (chosen, changed)
                )
                alarms[name] = before != after
    what = "volumes standardised on all data, " + ("a scanner in the test set only" if scanner else "sets alike")
    guard = "scaling and imputing are steps of `linear.pipeline`, fitted on training rows; a test changes the test rows"
    return _leak(what, honest, leaky, guard, alarms["leaky"], alarms["honest"])


def _fit_scaled_on_all(features: np.ndarray, resample: pd.DataFrame) -> tuple[list[dict[str, Any]], float]:
    """Like `_fit`, but the scaler is fitted on all rows; the other steps are the workflow's own."""
    labels, roles = resample["label"].to_numpy(), resample["role"].to_numpy(str)
    scaled = (features - features.mean(0)) / features.std(0)
    records, models = [], []
    for values in GRID:
        model = linear.pipeline(values["c"], 5000).set_params(standardscaler="passthrough")
        model.fit(scaled[roles == "train"], labels[roles == "train"])
        records.append(_record(values, model.predict_proba(scaled[roles == "validation"])[:, 1], labels, roles))
        models.append(model)
    scores = models[choose(records)].predict_proba(scaled[roles == "test"])[:, 1]
    return records, float(roc_auc_score(labels[roles == "test"], scores))


def _record(values: dict[str, float], scores: np.ndarray, labels: np.ndarray, roles: np.ndarray) -> dict[str, Any]:
    """A setting's record from its scores of the validation rows."""
    known = labels[roles == "validation"]
    auc, loss = float(roc_auc_score(known, scores)), float(log_loss(known, scores, labels=[0, 1]))
    return {"values": values, "status": "ok", "epoch": None, "validation_auc": auc, "validation_loss": loss}


def _chosen_on_test(replicates: int, seed: int) -> Leak:
    """The setting with the best test AUC of nine is chosen; labels are random."""
    images, features = _pool(Population(240, 300, features=60), seed, null=True)
    honest, leaky = [], []
    alarms: dict[str, list[bool]] = {"honest": [], "leaky": []}
    for replicate in range(replicates):
        drawn, _ = resampling.draw(images, 60, RESAMPLING, seed_from("chosen", seed, replicate))
        chosen, labels, roles = features[drawn["index_row"]], drawn["label"].to_numpy(), drawn["role"].to_numpy(str)
        records, scores = [], []
        for values in GRID:
            model = linear.pipeline(values["c"], 5000).fit(chosen[roles == "train"], labels[roles == "train"])
            validation = model.predict_proba(chosen[roles == "validation"])[:, 1]
            records.append(_record(values, validation, labels, roles))
            scores.append(model.predict_proba(chosen[roles == "test"])[:, 1])
        aucs = [float(roc_auc_score(labels[roles == "test"], score)) for score in scores]
        settings = {"honest": choose(records), "leaky": int(np.argmax(aucs))}
        honest.append(aucs[settings["honest"]])
        leaky.append(aucs[settings["leaky"]])
        for name, setting in settings.items():
            if name == "honest" or setting != settings["honest"]:
                alarms[name].append(_fit_is_refused(drawn, records, setting, aucs[setting], scores[setting]))
    guard = "`aggregation.read_fits` chooses again from the validation numbers of every fit and refuses another choice"
    caught, false_alarm = bool(alarms["leaky"]) and all(alarms["leaky"]), any(alarms["honest"])
    return _leak("the setting chosen on the test set", honest, leaky, guard, caught, false_alarm)


def _fit_is_refused(
    drawn: pd.DataFrame, records: list[dict[str, Any]], chosen: int, auc: float, scores: np.ndarray
) -> bool:
    """Whether the aggregation refuses a fit with this chosen setting, written as the workflow writes it."""
    fitting = {"linear": {"settings": GRID, "max_iterations": 5000}}
    facts = {"task": "null", "n": 60, "replicate": "001"}
    test = np.flatnonzero(drawn["role"] == "test")
    with tempfile.TemporaryDirectory() as folder:
        resample = Path(folder, "resamples/null/n60/001.tsv")
        write_table(drawn, resample, facts)
        weights = Path(folder, "weights")
        weights.touch()
        record = fit_record(
            facts=facts,
            model="linear",
            settings=records,
            chosen=chosen,
            test_auc=auc,
            test={
                "position": test.tolist(),
                "label": drawn["label"].to_numpy()[test].tolist(),
                "score": scores.tolist(),
            },
            seeds={},
            fingerprint=fingerprint_of_fit("linear", fitting["linear"], resample, None),
        )
        fit = Path(folder, "fits/null/n60/001/linear.json")
        write_json(fit, record)
        return _refused(lambda: read_fits([fit], fitting, weights, Path(folder, "resamples")))


def validity_markdown(
    intervals: pd.DataFrame, tests: pd.DataFrame, found: Sequence[Leak], broken: Sequence[str], setting: str
) -> str:
    """The page in Markdown: the promises, the measurements, and whether the promises hold.

    Parameters
    ----------
    intervals, tests : from `coverage`
    found : from `leaks`
    broken : from `broken_claims`
    setting : the numbers of studies and pools, as a sentence
    """
    lines = [
        "# Validity of the statistics on simulated studies",
        "",
        f"Made by `make validate`: {setting} Features replace images; the functions that draw, fit, choose, test and "
        "guard are the workflow's own. Noisy random starts change a fit's AUC, steady ones hardly do; a fifth of the "
        "replicates are fitted with a second seed. [statistics.md](statistics.md) describes tests and simulation, "
        "[type-one.md](type-one.md) measures the tests at the paper's sizes.",
        "",
        "**Every promise on this page held.**" if not broken else "**Broken: " + "; ".join(broken) + ".**",
        "",
        "## Coverage of the interval for a model's expected AUC at n",
        "",
        "The truth is the mean AUC of the independent pools stated above, with one replicate each. Promise: the first "
        f"interval covers it in at least {100 * LEAST_COVERAGE:.0f} % of studies. The other intervals show why it is "
        "needed.",
        "",
        "| random starts | n | true AUC | interval | covers | mean width |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in intervals.itertuples():
        lines.append(
            f"| {row.starts} | {row.n} | {row.truth:.4f} ± {row.truth_error:.4f} | {INTERVALS[row.interval]} "
            f"| {row.covered:.3f} ± {row.error:.3f} | {row.width:.3f} |"
        )
    lines += [
        "",
        "## Rejections without a difference",
        "",
        "Share of studies with p ≤ 0.05. Promise: at most 0.05, within chance, for the tests in bold, which are made "
        "for that null hypothesis.",
        "",
        "| random starts | n | true null hypothesis | " + " | ".join(TEST_NAMES[test] for test in NULLS) + " |",
        "| --- | ---: | --- | " + " | ".join("---:" for _ in NULLS) + " |",
    ]
    for (starts, n, scenario), part in tests.groupby(["starts", "n", "scenario"], sort=False):
        shares = part.set_index("test")["rejected"]
        cells = [f"**{shares[test]:.3f}**" if (test, scenario) in CLAIMS else f"{shares[test]:.3f}" for test in NULLS]
        lines.append(f"| {starts} | {n} | no difference in {scenario} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Planted leaks: their effect, and the check that finds them",
        "",
        "Mean test AUC of the linear model over replicates, without and with a planted leak. Promise: the check finds "
        "the leak, and reports none without it.",
        "",
        "| leak | without | with | change of the AUC | found | by |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for leak in found:
        moved = f"{leak.moved:+.3f} ± {leak.error:.3f}".replace("-", "−")
        verdict = "yes" if leak.caught else "**no**"
        lines.append(f"| {leak.what} | {leak.honest:.3f} | {leak.leaky:.3f} | {moved} | {verdict} | {leak.guard} |")
    return "\n".join([*lines, "", "± is one standard error throughout.", ""])
