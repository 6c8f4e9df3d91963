"""A small sample of a study's images, laid out as a study of its own that runs through the same rules.

Goes in: the compiled manifest and the configuration.  Comes out: a folder with a manifest of the sample and a file of
overrides (`rehearsal.yaml`).  Whatever costs or can break stays as the study has it: engine, container, voxel size,
crop, network, data type, devices.  Only numbers are small: images, training steps, replicates, settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError
from ..files import path_within, read_facts, read_table, table_text, write_text
from ..fit.settings import all_settings
from ..seeds import seed_from
from ..split.resampling import labelled
from ..split.roles import split_cohort
from ..study import layout
from ..study.access import REHEARSAL
from ..study.plan import CNNS, Study
from ..text import counted
from .plan import expected_draws

FOLDER = REHEARSAL
OVERRIDES = "rehearsal.yaml"
PER_COHORT, AT_LEAST, PER_CLASS = 2, 24, 8  # images per cohort and in all, participants per class of each task
STEPS = 30  # of pretraining
VALIDATION_SHARE = 0.3  # of the participants that pretrain
SET_SHARE = 0.5  # of n: images that validate and images that test
N = (16, 12, 8, 6, 4, 2)  # training images of a replicate; the largest that most draws can give is taken
REDRAWS = 1000
FIT_EPOCHS = 2
BOOTSTRAP = 100


@dataclass(frozen=True)
class Sample:
    """The images of a rehearsal, and what each part of it can do with them.

    `images` are rows of the manifest with paths that hold from everywhere.  `trains` counts the participants that
    pretrain by cohort, `n` is the number of training images of a replicate; 0 if no task's pool can give one.
    """

    images: pd.DataFrame
    trains: Mapping[str, int]
    n: int


def choose_sample(
    images: pd.DataFrame,
    study: Study,
    config: Mapping[str, Any],
    *,
    per_cohort: int = PER_COHORT,
    at_least: int = AT_LEAST,
    per_class: int = PER_CLASS,
) -> Sample:
    """Draw one image of each of a few participants, from every cohort, class of a task, and for pretraining.

    A person with several participant ids takes part under one of them.

    Parameters
    ----------
    images : results/manifest/images.tsv
    per_cohort : participants of each cohort, or all that it has
    at_least : images of the whole sample, if the study has as many
    per_class : participants of each class of each task, beside those that pretrain

    Returns
    -------
    the sample; the same study, configuration and numbers give the same one
    """
    order = images["image_id"].map(lambda name: seed_from(config["seed"], "rehearsal", name))
    ranked = images.loc[order.sort_values().index]
    ranked = ranked[~study.people.named(ranked)["participant_id"].duplicated()]
    healthy = ranked["diagnosis"].isna() | ranked["diagnosis"].isin(list(config["split"]["healthy"]))
    taken: set[str] = set()
    trains: dict[str, int] = {}
    if study.run == "multitask":
        wanted = max(math.ceil(config["pretrain"]["batch_size"] / (1 - VALIDATION_SHARE)), 12)
        cohorts = study.cohorts_of("pretraining")
        for cohort, people in _in_turns(ranked[healthy], cohorts, wanted, per_cohort).items():
            taken |= set(people)
            trains[cohort] = len(people)
    tests = ranked[~ranked["participant_id"].isin(taken)]
    for name, task in study.tasks.items():
        pool = labelled(tests[tests["cohort"].isin(study.cohorts_of(name))], task, "by_session")
        pool = pool.loc[pool["image_id"].map(order.set_axis(images["image_id"])).sort_values().index]
        for label in (0, 1):
            taken |= set(pool.loc[pool["label"] == label, "participant_id"].head(per_class))
    for cohort in study.cohorts:
        people = ranked.loc[ranked["cohort"] == cohort, "participant_id"]
        missing = per_cohort - int(people.isin(taken).sum())
        taken |= set(people[~people.isin(taken)].head(max(missing, 0)))
    missing = at_least - len(taken)
    taken |= set(tests.loc[~tests["participant_id"].isin(taken), "participant_id"].head(max(missing, 0)))
    chosen = ranked[ranked["participant_id"].isin(taken)].sort_index()
    return Sample(_from_anywhere(chosen), trains, _training_images(chosen, trains, study, config))


def _in_turns(people: pd.DataFrame, cohorts: Sequence[str], wanted: int, least: int) -> dict[str, list[str]]:
    """Participants by cohort: `least` of each, then one more of each in turn until there are as many as wanted."""
    queues = {name: people.loc[people["cohort"] == name, "participant_id"].tolist() for name in cohorts}
    taken = {name: queue[:least] for name, queue in queues.items()}
    while sum(map(len, taken.values())) < wanted:
        before = sum(map(len, taken.values()))
        for name, queue in queues.items():
            if len(taken[name]) < len(queue) and sum(map(len, taken.values())) < wanted:
                taken[name] = queue[: len(taken[name]) + 1]
        if sum(map(len, taken.values())) == before:
            break
    return {name: found for name, found in taken.items() if found}


def _from_anywhere(images: pd.DataFrame) -> pd.DataFrame:
    """The images with absolute paths and one shard per cohort."""
    absolute = {
        name: images[name].map(lambda path: path if pd.isna(path) else str(Path(path).absolute()))
        for name in ("t1w", "derivatives")
    }
    whole = {name: images[name].astype("Int64") for name in ("sex", "handedness")}  # written as 0 and 1, not 0.0
    return images.assign(**absolute, **whole, shard=images["cohort"] + "-0001")


def _training_images(images: pd.DataFrame, trains: Mapping[str, int], study: Study, config: Mapping[str, Any]) -> int:
    """The largest n of N that every task's pool gives in most draws; 0 if there is none."""
    settings = config["resampling"] | {"validation_share": SET_SHARE, "test_share": SET_SHARE, "min_per_class": 1}
    pools = []
    for name, task in study.tasks.items():
        pool = labelled(images[images["cohort"].isin(study.cohorts_of(name))], task, "by_session")
        for cohort, count in trains.items():  # as many of the cohort's healthy people pretrain and do not test
            healthy = pool[(pool["cohort"] == cohort) & pool["diagnosis"].isin(list(config["split"]["healthy"]))]
            pool = pool.drop(healthy.index[:count])
        pools.append(pool)
    for n in N:
        if all(
            expected_draws(pool, n, settings, seed_from(config["seed"], "rehearsal", n)).invalid < 0.5 for pool in pools
        ):
            return n
    return 0


def overrides(sample: Sample, config: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """What the rehearsal's configuration has in place of the study's; paths hold from everywhere."""
    steps = max(1, math.ceil(_training(sample, config, study) / config["pretrain"]["batch_size"]))
    found: dict[str, Any] = {
        "cohorts": str(Path(config["cohorts"]).absolute()),
        "withdrawn": str(Path(config["withdrawn"]).absolute()) if config["withdrawn"] else None,
        "same_people": None,  # the sample has each person under one name
        "split": {"validation_share": VALIDATION_SHARE, "waived_duplicates": _waived(sample, config, study)},
        "pretrain": {  # the full rate from the first step on, because that is where a run diverges
            "epochs": math.ceil(STEPS / steps),
            "warmup": 0,
            "patience": None,
            "on_divergence": "stop",
            "participants_key": "config/study.key",
        },
        "resampling": {
            "n": [sample.n],
            "replicates": 1,
            "validation_share": SET_SHARE,
            "test_share": SET_SHARE,
            "min_per_class": 1,
            "max_redraws": REDRAWS,
        },
        "models": {
            "linear": {"settings": all_settings(config["models"]["linear"]["settings"])[:2]},
            "cnn": {"epochs": FIT_EPOCHS, "warmup": 0},
            **{model: {"settings": _two_settings(config["models"][model]["settings"])} for model in CNNS},
        },
        "statistics": {"bootstrap": BOOTSTRAP},
        "report": {"truth": None},
        "confounding": {"waived": list(study.tasks)},  # a few images show nothing of it
    }
    if features := config["models"]["features"]:
        found["models"]["features"] = {name: str(Path(file).absolute()) for name, file in features.items()}
    if config["pretrain"]["weights"]:
        found["pretrain"]["weights"] = str(Path(config["pretrain"]["weights"]).absolute())
        found["pretrain"]["participants_key"] = str(Path(config["pretrain"]["participants_key"]).absolute())
    files = {name: config["preprocessing"]["fastsurfer"].get(name) for name in ("image", "script", "license")}
    absolute = {name: str(Path(file).absolute()) for name, file in files.items() if file and Path(file).exists()}
    if absolute:
        found["preprocessing"] = {"fastsurfer": absolute}
    return found


def _shares(sample: Sample, config: Mapping[str, Any]) -> dict[str, float]:
    """By cohort the share of the sample's healthy people that pretrains, which its split takes exactly."""
    healthy = sample.images["diagnosis"].isna() | sample.images["diagnosis"].isin(list(config["split"]["healthy"]))
    counts = sample.images[healthy].groupby("cohort").size()
    return {cohort: count / int(counts[cohort]) for cohort, count in sample.trains.items()}


def _training(sample: Sample, config: Mapping[str, Any], study: Study) -> int:
    """How many images train in the rehearsal, by its own split."""
    settings, shares = config["split"] | {"validation_share": VALIDATION_SHARE}, _shares(sample, config)
    parts = (sample.images[sample.images["cohort"] == cohort] for cohort in shares)
    return sum(
        int((split_cohort(part, study.roles[name], shares[name], settings, config["seed"])["role"] == "train").sum())
        for name, part in zip(shares, parts, strict=True)
    )


def _two_settings(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The setting with the largest learning rate, which breaks first, and the first of another rate."""
    every = all_settings(settings)
    largest = max(every, key=lambda setting: setting["learning_rate"])
    others = [setting for setting in every if setting["learning_rate"] != largest["learning_rate"]] or every
    return [largest, others[0]]


def _waived(sample: Sample, config: Mapping[str, Any], study: Study) -> list[list[str]]:
    """The waived pairs of which both are in the sample; of others the certificate would say that it has none.

    Names of one person are waived, too: a rehearsal takes them for two people, and keeps no result.
    """
    names = set(sample.images["image_id"]) | set(sample.images["participant_id"])
    same = [pair for group in study.people.groups for pair in combinations(group, 2)]
    return [list(pair) for pair in [*config["split"]["waived_duplicates"], *same] if set(pair) <= names]


def lay_out(sample: Sample, config: Mapping[str, Any], study: Study, folder: str | Path = FOLDER) -> Path:
    """Write the rehearsal's manifest and overrides into a folder; the path of the overrides.

    Files that would not change keep their times, so that a second rehearsal repeats only what it must.

    Raises
    ------
    InputError
        if the sample is too small to train or to draw a replicate from
    """
    if sample.n == 0:
        counts = f"its sample has {counted(len(sample.images), 'image')}"
        fix = "add cohorts to the tasks, or set a task that cannot be had to null"
        raise InputError(config["cohorts"], "roles", f"no replicate can be drawn for a rehearsal: {counts}", fix)
    import yaml

    folder = Path(folder)
    facts = read_facts(layout.SHARDS)
    shares = facts["pretraining_shares"] | _shares(sample, config)
    per_job = read_table(layout.SHARDS).drop_duplicates("cohort").set_index("cohort")["images_per_job"]
    rows = [
        (shard, part["cohort"].iloc[0], len(part), int(per_job[part["cohort"].iloc[0]]), 0)
        for shard, part in sample.images.groupby("shard", sort=False)
    ]
    shards = pd.DataFrame(rows, columns=["shard", "cohort", "images", "images_per_job", "withdrawn"])
    texts = {layout.IMAGES: table_text(sample.images)}
    texts[layout.EXCLUDED] = table_text(read_table(layout.EXCLUDED).iloc[:0])
    for shard, part in sample.images.groupby("shard", sort=False):
        texts[str(path_within(layout.SHARD_TABLES, f"{shard}.tsv"))] = table_text(part)
    texts[layout.SHARDS] = table_text(shards, facts | {"pretraining_shares": shares})
    texts[OVERRIDES] = yaml.safe_dump(overrides(sample, config, study), sort_keys=False)
    for old in (folder / layout.SHARD_TABLES).glob("*.tsv"):
        if str(old.relative_to(folder)) not in texts:
            old.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)
    return folder / OVERRIDES
