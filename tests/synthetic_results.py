"""Synthetic results of a study: every table that figures and report read, from a seeded generator.

Tables that a real run computes from others (medians, comparisons, metrics, certificate) are computed by the library's
own functions, so their columns are those of a real run.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from neurotransfer.files import read_table
from neurotransfer.preprocess.reasons import MEANINGS
from neurotransfer.pretrain.evaluation import calibration, evaluate, evaluate_groups, long_form
from neurotransfer.pretrain.targets import learn_targets
from neurotransfer.report import page
from neurotransfer.report.figure1 import figure1, figure1_data
from neurotransfer.report.figure2 import figure2, figure2_data, published_medians
from neurotransfer.report.figure3 import figure3, figure3_data
from neurotransfer.report.style import save_figure
from neurotransfer.split.certificate import certify
from neurotransfer.split.confounding import confounding_of
from neurotransfer.split.duplicates import COLUMNS as PAIR
from neurotransfer.statistics import classifiers
from neurotransfer.statistics.aggregation import compare, summarise
from neurotransfer.statistics.confounding import confounding, describe_sets, gains, strata_of
from neurotransfer.statistics.inference import curves, infer, worth
from neurotransfer.statistics.settings_search import search_table, winners
from neurotransfer.study.configuration import load_config, merge
from neurotransfer.study.plan import ARMS, CNNS

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLISHED = REPOSITORY / "workflow/resources/published.tsv"
TABLES = ("images", "excluded", "metrics", "groups", "calibration", "medians", "comparisons", "worth", "search")
TABLES += (
    "settings",
    "resamples",
    "confounding",
    "within",
    "gains",
    "sets",
    "classifiers",
    "calibration_curves",
    "subgroups",
)
DUPLICATES = {
    "images": 360, "images_compared": 360, "pairs_compared": 64620, "least_similarity": 4.2, "pairs_found": 3,
    "pairs_listed": 3, "scans": 1, "heads": 2,
}  # fmt: skip
# by task: expected AUC of each of ARMS at the smallest n, and its gain at the largest n
SHAPES = {
    "ad_hc": ((0.90, 0.72, 0.86, 0.62), (0.02, 0.18, 0.08, 0.01)),
    "scz_bd": ((0.52, 0.55, 0.61, 0.53), (0.15, 0.03, 0.07, 0.0)),
}
TITLES = {"ad_hc": "Alzheimer's disease or healthy", "scz_bd": "Schizophrenia or bipolar disorder"}


def make_results(
    tasks=("ad_hc", "scz_bd"),
    n=(100, 200, 300, 400, 500),
    replicates=20,
    *,
    seed=0,
    people=60,
    cohorts=("north", "south", "memory", "mood"),
    given=False,
    holdout=True,
    titles=None,
    study="synthetic",
    further=(),
) -> SimpleNamespace:
    """All tables of a study, its configuration and its defaults.

    The first cohorts pretrain, the last but one is in both training and test, the last is unseen.
    """
    generator = np.random.default_rng(seed)
    found, scores = _of_aucs(tasks, n, replicates, generator, titles or TITLES, study, given, further)
    aucs, config, options = found.aucs, found.config, {"bootstrap": 100, "seed": 1}
    tried = _settings(aucs, config)
    index = _index(cohorts, people, generator)
    splits = [
        _split(part, place, len(cohorts), given) for place, (_, part) in enumerate(index.groupby("cohort", sort=False))
    ]
    indices = [part.reset_index(drop=True) for _, part in index.groupby("cohort", sort=False)]
    roles = {part["cohort"].iloc[0]: ["pretraining", "holdout"] for part in indices}
    proof = certify(splits, indices, roles, pd.DataFrame(columns=PAIR), key=b"k" * 32) | {"duplicates": DUPLICATES}
    images = pd.concat(splits, ignore_index=True)
    about = pd.concat(indices, ignore_index=True)
    images = pd.concat(
        [images, about[["age", "sex", "handedness", "bmi", "fluid_intelligence", "neuroticism"]]], axis=1
    )
    images["diagnosis"] = about["diagnosis"]
    few = scores[scores["replicate"] <= "003"]  # enough for tables of which no test needs the numbers
    pools, drawn = _drawn(few, tasks, cohorts, generator)
    proof["confounding"] = {task: confounding_of(pool) for task, pool in pools.items()}
    strata = {task: strata_of(pool.set_index("image_id"), 10) for task, pool in pools.items()}
    known = {task: pool.set_index("image_id") for task, pool in pools.items()}
    _, measures, within = confounding(few, drawn, strata, **options)
    behind = _behind_aucs(few, drawn, known, people=2 * max(n))
    predictions, metrics, groups, calibrated = _predictions(images, config, generator, given, holdout)
    return SimpleNamespace(
        **vars(found),
        images=images,
        history=None if given else _history(generator),
        metrics=metrics,
        groups=groups,
        calibration=calibrated,
        predictions=predictions,
        settings=tried,
        selection=winners(tried),
        search=search_table(aucs, tried, **options),
        resamples=_resamples(tasks, n, replicates, generator),
        confounding=measures,
        within=within,
        gains=gains(aucs, [*ARMS[:-1], *further], statistic="mean", permutations=2000, **options),
        sets=describe_sets(drawn, known),
        **behind,
        ledger=_ledger(images),
        excluded=pd.DataFrame(
            {
                "cohort": [cohorts[0], cohorts[0], cohorts[-1]],
                "file": [f"data/{cohorts[0]}/sub-X{i}/anat/sub-X{i}_T1w.nii.gz" for i in range(3)],
                "reason": ["no_participants_row", "no_participants_row", "broken_link"],
                "detail": [
                    "participants.tsv has no row sub-X0",
                    "participants.tsv has no row sub-X1",
                    "a link to sub-X2",
                ],
            }
        ),
        certificate=proof,
        weights={"version": "0.0.1", "training": {"epoch": 17, "images": 480, "participants": 300}},
        run="given" if given else "multitask",
    )


def make_auc_results(
    tasks=("ad_hc", "scz_bd"), n=(100, 200, 300, 400, 500), replicates=20, *, seed=0, titles=None, further=()
) -> SimpleNamespace:
    """What Figures 2 and 3 are drawn from: the same tables as `make_results` has, in a tenth of its time."""
    generator = np.random.default_rng(seed)
    return _of_aucs(tasks, n, replicates, generator, titles or TITLES, "synthetic", False, further)[0]


def _of_aucs(tasks, n, replicates, generator, titles, study, given, further) -> tuple[SimpleNamespace, pd.DataFrame]:
    """Configuration, AUCs and the tables that are computed from them and from test scores; and the scores."""
    defaults = load_config(REPOSITORY)
    config = load_config(REPOSITORY)
    settings = [{"learning_rate": rate, "weight_decay": 0.001, "dropout": 0.2} for rate in (0.003, 0.01, 0.03)]
    words = {"positive": ["AD"], "negative": ["HC"], "seed": 0}
    config["tasks"] = {task: words | {"title": titles.get(task, task)} for task in tasks}
    overlay = {"study": study, "seed": 7, "resampling": {"n": list(n), "replicates": replicates}}
    overlay |= {"models": {"baseline": {"settings": settings}, "transfer": {"settings": settings}}}
    merge(config, overlay)
    if given:
        config["pretrain"]["weights"] = "weights/brain.safetensors"
    config["models"]["frozen"] = "trunk" if "frozen" in further else None
    config["models"]["features"] = {name: f"{name}.tsv" for name in further if name != "frozen"}
    aucs, scores, pools = _aucs(tasks, n, replicates, generator, further)
    options = {"bootstrap": 100, "seed": 1}
    comparisons = compare(aucs, statistic="mean", permutations=2000, **options)
    medians, comparisons, cells = infer(summarise(aucs, **options), comparisons, scores, pools, draws=60, seed=1)
    found = SimpleNamespace(config=config, defaults=defaults, aucs=aucs, medians=medians, comparisons=comparisons)
    found.curves, found.worth = curves(cells), worth(cells)
    return found, scores


def _aucs(tasks, n, replicates, generator, further=()) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """AUCs, test scores with exactly these AUCs, and facts about the pools."""
    rows, scores, pools = [], [], []
    for task in tasks:
        starts, gains = SHAPES.get(task, ((0.5,) * 4, (0.0,) * 4))
        for place, size in enumerate(n):
            share = place / max(1, len(n) - 1)
            half = max(5, size // 10)  # of the test images
            people = 2 * max(n)
            row = {"task": task, "n": size, "replicates": replicates, "train": size, "test": 2 * half}
            pools.append(row | {"participants": people, "overlap": size / (people + size)})
            for replicate in range(1, replicates + 1):
                key = {"task": task, "n": size, "replicate": f"{replicate:03d}"}
                hard = generator.normal(0, 0.03)  # a test set is hard for all models equally
                table = {"label": np.arange(2 * half) % 2, "position": np.arange(2 * half) + size + size // 5}
                table["person"] = generator.choice(people, 2 * half, replace=False)
                shapes = {model: shape for model, *shape in zip(ARMS, starts, gains, strict=True)}
                for model, (start, gain) in (shapes | dict.fromkeys(further, (0.8, 0.05))).items():
                    value = np.clip(start + gain * share + hard + generator.normal(0, 0.04), 0.05, 1)
                    table[model] = _scores(table["label"], round(value * half**2), generator)
                    auc = round(value * half**2) / half**2
                    row = key | {"model": model, "auc": auc}
                    rows.append(row | {"validation_auc": min(1.0, auc + 0.02), "setting": replicate % 3})
                scores.append(pd.DataFrame(table).assign(**key))
    return pd.DataFrame(rows), pd.concat(scores, ignore_index=True), pd.DataFrame(pools)


def _drawn(scores, tasks, cohorts, generator) -> tuple[dict, dict]:
    """The pool of each task, and resamples whose test images are those of the scores."""
    pools, drawn = {}, {}
    for task in tasks:
        mine = scores[scores["task"] == task]
        people = 1 + int(mine["person"].max())
        pool = pd.DataFrame({"participant_id": [f"{cohorts[-1]}_Q{person:04d}x" for person in range(people)]})
        pool["image_id"], pool["label"] = pool["participant_id"], np.arange(people) % 2
        pool["cohort"] = np.where(generator.random(people) < 0.3 + 0.3 * pool["label"], cohorts[-1], cohorts[-2])
        pool["age"], pool["sex"] = generator.normal(60, 9, people), generator.integers(0, 2, people)
        pool["mask_volume_mm3"] = generator.normal(1.4e6, 1e5, people)
        pools[task] = pool
        for (n, replicate), part in mine.groupby(["n", "replicate"], sort=False):
            rest = pool.drop(index=part["person"])
            rows = [rest.sample(n, replace=True, random_state=n).assign(role="train")]
            rows += [rest.sample(n // 5, random_state=n + 1).assign(role="validation")]
            rows.append(pool.loc[part["person"]].assign(role="test", label=part["label"].to_numpy()))
            drawn[task, n, replicate] = pd.concat(rows, ignore_index=True)
    return pools, drawn


def _behind_aucs(scores, drawn, known, people) -> dict[str, pd.DataFrame]:
    """Tables of classifiers, of scores that are squeezed into probabilities, or logits."""
    table, options = scores.copy(), {"bootstrap": 20, "seed": 1}
    for model in classifiers.models_of(scores):
        logits = (scores[model] - scores[model].mean()) / scores[model].std()
        table[model] = logits if model in CNNS else 1 / (1 + np.exp(-logits))
    kept = {
        (*key, model): {"label": part["label"], "score": part[model]}
        for key, part in table.groupby(["task", "n", "replicate"])
        for model in classifiers.models_of(scores)
    }
    images = pd.concat(known.values()).loc[lambda rows: ~rows.index.duplicated()]
    groups = classifiers.subgroups_of(table, drawn, images, 10)
    return {
        "classifiers": classifiers.classifier_figures(table, kept, **options),
        "calibration_curves": classifiers.calibration_curves(table, 5, **options),
        "subgroups": classifiers.subgroup_aucs(table, groups, dict.fromkeys(known, people), 5, **options),
    }


def _scores(labels, pairs, generator) -> np.ndarray:
    """Scores for which so many (positive, negative) pairs are in the right order."""
    half = len(labels) // 2
    above = np.full(half, pairs // half)  # negatives below each positive
    above[: pairs % half] += 1
    for first, second in generator.integers(0, half, (4 * half, 2)):
        if above[first] < half and above[second] > 0:
            above[first] += 1
            above[second] -= 1
    scores = np.empty(len(labels))
    scores[labels == 0] = generator.permutation(half) + 0.5
    scores[labels == 1] = above
    return scores


def _index(cohorts, people, generator) -> pd.DataFrame:
    rows = []
    for place, cohort in enumerate(cohorts):
        for person in range(people):
            age = float(np.clip(generator.normal(35 + 40 * place / len(cohorts), 12), 6, 95))
            for session in range(1 + person % 2):
                name = f"{cohort}_P{person:03d}x"
                row = {"image_id": f"{name}_ses-{session + 1:02d}", "participant_id": name, "cohort": cohort}
                row |= {"age": age + session, "sex": person % 2, "handedness": float(person % 9 == 0)}
                row |= {"bmi": generator.normal(25, 4), "fluid_intelligence": generator.normal(0, 1)}
                row |= {"neuroticism": generator.normal(0, 1), "diagnosis": "AD" if person % 3 == 0 else "HC"}
                rows.append(
                    row
                    | {"checksum": f"{place:04x}{person:04x}{session:04x}", "engine": "builtin", "engine_version": "1"}
                )
    table = pd.DataFrame(rows)
    table["cohort"] = pd.Categorical(table["cohort"], categories=cohorts)  # grouped in their order
    table.loc[table["cohort"] == cohorts[0], "bmi"] = np.nan
    return (
        table.groupby("cohort", observed=True)
        .apply(lambda part: part, include_groups=False)
        .reset_index(0)
        .astype({"cohort": str})
    )


def _split(index: pd.DataFrame, place: int, count: int, given: bool) -> pd.DataFrame:
    table = index[["image_id", "participant_id", "cohort"]].reset_index(drop=True)
    person = table["participant_id"].str.extract(r"P(\d+)x")[0].astype(int)
    table["role"], table["reason"] = "test", None
    if place < count - 1 and not given:
        pretrains = person % 4 != 0 if place < count - 2 else person % 4 == 1
        validates = pretrains & (person % 5 == 1)
        first = ~table["participant_id"].duplicated()
        table.loc[pretrains, "role"] = "train"
        table.loc[validates & first, "role"] = "validation"
        table.loc[validates & ~first, ["role", "reason"]] = ["unused", "validation_takes_one_image"]
        if place < count - 2:
            table.loc[~pretrains, ["role", "reason"]] = ["unused", "not_healthy"]
    return table


def _predictions(images, config, generator, given, holdout) -> tuple[pd.DataFrame, ...]:
    targets = learn_targets(config["targets"], images)
    columns = ["image_id", "participant_id", "cohort", "split", "target", "truth", "prediction"]
    parts = []
    for split, role in (("validation", "validation"), ("holdout", "test")):
        table = images[images["role"] == role].reset_index(drop=True)
        if table.empty or (split == "validation" and given) or (split == "holdout" and not holdout):
            continue
        values = np.column_stack([
            np.clip(table[t.name] * 0.5 + 0.25 + generator.normal(0, 0.3, len(table)), 0, 1) if t.kind == "binary"
            else table[t.name] + generator.normal(0, t.sd * 0.6, len(table)) for t in targets
        ])  # fmt: skip
        parts.append(long_form(table, values, targets, split))
    predictions = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    drawn = {"resamples": 20, "seed": 1}
    groups = evaluate_groups(predictions, images, targets, **drawn)
    return predictions, evaluate(predictions, targets, **drawn), groups, calibration(predictions, targets, **drawn)


def _history(generator) -> pd.DataFrame:
    epochs = np.arange(40)
    train = 0.6 + 2.2 * np.exp(-epochs / 6) + generator.normal(0, 0.02, 40)
    validation = 0.9 + 2.0 * np.exp(-epochs / 5) + 0.006 * epochs + generator.normal(0, 0.05, 40)
    return pd.DataFrame({"epoch": epochs, "learning_rate": 0.01, "train_loss": train, "validation_loss": validation})


def _settings(aucs, config) -> pd.DataFrame:
    rows = []
    for fit in aucs.to_dict("records"):
        values_of = config["models"][fit["model"] if fit["model"] in ("baseline", "transfer") else "linear"]["settings"]
        for place, values in enumerate(values_of):
            row = {name: fit[name] for name in ("task", "n", "replicate", "model")}
            row |= {"setting": place, "values": json.dumps(values, sort_keys=True), "status": "ok"}
            row |= {"validation_auc": fit["validation_auc"], "validation_loss": 0.6, "epoch": 3}
            rows.append(row | {"chosen": int(place == fit["setting"])})
    table = pd.DataFrame(rows)
    table.loc[(table["model"] == "baseline") & (table["setting"] == 2) & (table["n"] == table["n"].min()), "status"] = (
        "diverged"
    )
    return table


def _resamples(tasks, n, replicates, generator) -> pd.DataFrame:
    rows = []
    for task in tasks:
        for size in n:
            for replicate in range(1, replicates + 1):
                row = {
                    "task": task,
                    "n": size,
                    "replicate": f"{replicate:03d}",
                    "redraws": int(generator.random() < 0.1),
                }
                row |= {"train_distinct_images": round(size * 0.8), "train_participants": round(size * 0.7)}
                rows.append(row | {"validation_images": size // 5, "test_images": size // 5})
    return pd.DataFrame(rows)


def _ledger(images) -> pd.DataFrame:
    table = images[["image_id", "cohort"]].assign(status="ok", reason=None, detail=None, engine="builtin")
    failed = pd.DataFrame(
        {"image_id": ["north_P900x", "mood_P901x", "mood_P902x"], "cohort": ["north", "mood", "mood"]}
    )
    failed = failed.assign(status="failed", reason=["truncated", "mask_failed", "mask_failed"], engine="builtin")
    failed["detail"] = ["data/north/sub-P900x_T1w.nii.gz ends early", "no brain", "no brain"]
    return pd.concat([table, failed], ignore_index=True).assign(engine_version="1")


def draw_figures(results: SimpleNamespace, folder: Path) -> Path:
    """Draw the figures of some results into a folder, like the rule; returns the folder."""
    smallest = results.config["report"]["smallest_cell"]
    first = figure1(results.images, results.history, results.metrics, results.predictions, smallest)
    tables = (results.aucs, results.medians, results.comparisons)
    overlay = published_medians(read_table(PUBLISHED), results.medians)
    second = figure2(*tables, results.config["tasks"], alpha=0.05, published=overlay)
    third = figure3(results.curves, results.worth, results.config["tasks"])
    data1 = figure1_data(results.images, results.history, results.metrics, results.predictions, smallest)
    save_figure(first, data1, folder / "figure1")
    save_figure(second, figure2_data(*tables, published=overlay), folder / "figure2")
    save_figure(third, figure3_data(results.curves, results.worth), folder / "figure3")
    return folder


def page_of(results: SimpleNamespace, drawings: Path, **options) -> str:
    """The whole page of some results, with the figures in a folder."""
    published = read_table(PUBLISHED)
    content = page.report_content(
        {name: getattr(results, name) for name in TABLES} | {"published": published},
        ledger=results.ledger,
        certificate=results.certificate,
        weights=results.weights,
        figures={name: page.embed(drawings / name) for name in ("figure1", "figure2", "figure3")},
        config=results.config,
        defaults=results.defaults,
        tasks=results.config["tasks"],
        run=results.run,
        reasons=MEANINGS,
        **options,
    )
    return page.report_html(content)
