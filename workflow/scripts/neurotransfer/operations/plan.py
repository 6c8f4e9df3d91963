"""A forecast of a study before any GPU is used: jobs, hours, disk, the size of its pools, its power.

Goes in: the configuration, the compiled manifest, and the times of finished jobs of this study.  Comes out: text.
Nothing is written.
"""

from __future__ import annotations

import heapq
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ..files import read_table
from ..preprocess.engines.containers import BY_DIGEST, tagged_image
from ..seeds import seed_from
from ..split.resampling import INFEASIBLE, draw_rows, labelled, options_of, sizes
from ..split.roles import split_cohort
from ..statistics.populations import overlap
from ..study import layout
from ..study.plan import ARMS, CNNS, MODELS, Study, in_batches, seconds_of
from ..study.recipe import RECIPE
from ..study.rules import ON_REQUEST, PRETRAIN_MINUTES, PRETRAINING, RULES, SECOND_SEED, cores_of
from ..text import aligned, byte_size, counted, duration, number
from .costs import EVALUATION, Cost, cost_of, gather, read_rehearsed, share_without_volumes, steps_of_fit

DRAWS = 200  # simulated resamples per task and n
POWER_DRAWS = 400  # simulated test sets
POWER_IMAGES = 2_000  # of one of them, at most
# Of one image's folder, by preprocessing.keep: MB at 1 mm [assumed: with the scan, copied, and the corrected image; or
# conformed image, mask, segmentation and statistics], and files in it at most
DERIVATIVES = {"all": (26.0, 40), "needed": (8.0, 5)}
CACHE_FILES = 5  # per shard: the images, their table, volumes, small images and slices
# per replicate; Slurm writes two logs more
REPLICATE_FILES = {"resample": 1, "fits": len(ARMS), "logs": 1 + len(MODELS) + 2, "benchmarks": len(MODELS)}
COMPRESSED = 0.16  # of a cached image's bytes, by zstd; measured on four brains (benchmarks/README.md)
FIT_KB = {"linear": 12.0, "baseline": 20.0, "transfer": 20.0}  # [assumed] of one fit's record
AUC = 0.75  # [assumed] of both models, whose difference is tested
CORRELATION = 0.5  # [assumed] of two models' scores of one image, given its label
SEED_NOISE = 0.04  # [assumed] standard deviation of a network's AUC over random starts; docs/type-one.md simulates it
PERSONAL = 0.5  # [assumed] of a test set's variance, what its people bring along, whatever the fit
# by images that pretrain: the test AUC that transfer gained over random weights with GAINS_N training images, simulated
# (benchmarks/fewer_scans.py, docs/pretraining.md); the fewest paid already
GAINS = {32: 0.15, 64: 0.19, 128: 0.19, 256: 0.20, 512: 0.20, 1024: 0.21, 2048: 0.22}
GAINS_N = 24
DIFFERENCES = 4_000  # simulated studies behind the power about the population
Z = 1.959964 + 0.841621  # two-sided 5 %, power 80 %


def forecast(config: Mapping[str, Any], study: Study, *, gpus: int, cores: int) -> str:
    """The plan of a study as text, read from the study's folder.

    Parameters
    ----------
    gpus, cores : that the study may use at once, for the longest path
    """
    images = images_of_manifest()
    role = roles_of(images, study, config)
    rows = gather(study, config)
    work = work_of(study, config, images, role)
    rehearsed = read_rehearsed()
    costs = {rule: cost_of(rule, rows, config, rehearsed) for rule in work}
    pools = {name: pool_of(images, role, name, task, study, config) for name, task in study.tasks.items()}
    draws = {
        (name, n): expected_draws(pool, n, config["resampling"], seed_from(config["seed"], "plan", name, n))
        for name, pool in pools.items()
        for n in study.n
    }
    warnings = list(_older_recipe(study))
    if image := tagged_image(config["preprocessing"]):
        warnings.append(f"{image} is a tag, behind which its registry may put another image: {BY_DIGEST}")
    sections = [
        _head(config, images, role, study),
        _jobs(study, work, costs, config),
        _path(work, costs, gpus, cores, warnings),
        _disk(config, study, len(images), rehearsed.get("disk"), warnings),
        *([_pretraining(int((role == "train").sum()))] if study.run == "multitask" else []),
        _pools(config, study, pools, draws, warnings),
        _power(config, study, pools, draws),
    ]
    if warnings:
        sections.append("Problems, and what to check:\n" + "\n".join(f"  - {line}" for line in warnings))
    return "\n\n".join(sections)


def _older_recipe(study: Study) -> Iterator[str]:
    """A warning for networks that another recipe has trained, and that are trained again."""
    path = Path(layout.weights("multitask"))
    if study.run != "multitask" or not path.exists():
        return
    from ..pretrain.weight_file import read_checked

    recipe = read_checked(path)[1].get("recipe", 1)
    if recipe != RECIPE:
        fits = len(study.tasks) * len(study.n) * len(study.replicates) * len(CNNS)
        yield (
            f"recipe {recipe} trained the networks that are there, and this version trains by recipe {RECIPE}: "
            f"pretraining and {number(fits)} fits are done again (docs/pretraining.md)"
        )


def images_of_manifest() -> pd.DataFrame:
    """The images of the compiled manifest in the current folder.

    Raises
    ------
    InputError
        if there is none, or one without a column that a forecast, a plan or a rehearsal needs
    """
    return read_table(layout.IMAGES, "image_id", "participant_id", "cohort", "diagnosis")


def roles_of(images: pd.DataFrame, study: Study, config: Mapping[str, Any]) -> pd.Series:
    """The role of each image: from the split if it exists, else from a split in which no image has failed."""
    made = Path(layout.SPLIT_IMAGES)
    if made.exists():
        roles = read_table(made, "image_id", "role").set_index("image_id")["role"]
        return images["image_id"].map(roles).fillna("unused").set_axis(images.index)
    parts = []
    for cohort, index in images.groupby("cohort", sort=False):
        roles = sorted(study.roles[cohort])
        drawing = (roles, study.pretraining_shares[cohort], config["split"], config["seed"], study.people)
        part = split_cohort(index, *drawing)
        parts.append(part["role"].set_axis(index.index))
    return pd.concat(parts).reindex(images.index)


def pool_of(images: pd.DataFrame, role: pd.Series, name: str, task: Mapping, study: Study, config) -> pd.DataFrame:
    """A task's pool if no image fails."""
    unseen = images[images["cohort"].isin(study.cohorts_of(name)) & (role == "test")]
    return labelled(study.people.among(study.cohorts_of(name)).named(unseen), task, config["manifest"]["converters"])


def work_of(study: Study, config: Mapping[str, Any], images: pd.DataFrame, role: pd.Series) -> dict[str, list[float]]:
    """The units of work of every job (see costs.units_of), by rule, for rules with a cost.

    Pretraining, evaluation and the trunk's features count images in training steps.
    """
    work: dict[str, list[float]] = {"preprocess": [], "cache": []}
    share = share_without_volumes(config)
    for shard in study.shards.values():
        each = share if shard.cohort in study.without_volumes else 1.0
        work["preprocess"] += [each * shard.images_of_job(job) for job in shard.jobs]
        work["cache"].append(shard.images)
    train, validation, test = ((role == name).sum() for name in ("train", "validation", "test"))
    if study.run == "multitask":
        work["pretrain"] = [config["pretrain"]["epochs"] * (train + EVALUATION * validation)]
    work["evaluate"] = [EVALUATION * (validation + test)]
    if with_features := study.cohorts_with_features():
        pools = images.loc[role == "test", "cohort"].value_counts()
        work["features"] = [EVALUATION * int(pools.get(cohort, 0)) for cohort in with_features]
    keys = [n for _ in study.tasks for n in study.n for _ in study.replicates]
    work["resample"] = [1.0] * len(keys)
    for model in MODELS:
        network = model in CNNS
        work[model] = [steps_of_fit(model, n, config) for n in keys] if network else [1.0] * len(keys)
    if study.second_seeds:
        again = [(model, n) for _ in study.tasks for n in study.n for _ in study.second_seeds for model in CNNS]
        work[SECOND_SEED] = [steps_of_fit(model, n, config, settings=1) for model, n in again]
    return work


def jobs_of(study: Study, replicates_per_job: int = 1) -> dict[str, int]:
    """How many jobs each rule has; those of one or more replicates have so many."""
    cells = len(study.tasks) * len(study.n)
    first, second = (len(in_batches(names, replicates_per_job)) for names in (study.replicates, study.second_seeds))
    count = {
        ("shard", "job"): sum(len(shard.jobs) for shard in study.shards.values()),
        ("shard",): len(study.shards),
        ("cohort",): len(study.cohorts),
        ("task", "n", "replicate"): cells * first,
        ("task", "n", "replicate", "model"): cells * second * len(CNNS),
    }
    unused = (*ON_REQUEST, "adopt" if study.run == "multitask" else "pretrain")
    jobs = {name: count.get(rule.wildcards, 1) for name, rule in RULES.items() if name not in unused}
    jobs["features"] = len(study.cohorts_with_features())
    return {name: number for name, number in jobs.items() if number or name not in ("features", SECOND_SEED)}


def hours(rule: str, work: Sequence[float], cost: Cost) -> float:
    """Hours of all jobs of a rule.  Pretraining, evaluation and features that have run are measured as whole jobs."""
    if rule in (*PRETRAINING, "features") and cost.of_this_study:
        return cost.seconds * len(work) / 3600
    return sum(map(cost.of_job, work)) / 3600


def makespan(fits: Mapping[str, Sequence[float]], pretrain: float, gpus: int) -> float:
    """Hours until every fit is done, if pretraining uses one GPU first and transfer starts after it.

    Greedy, longest first, as Slurm would fill `gpus` from a queue.
    """
    free = [0.0] * max(gpus, 1)
    heapq.heapreplace(free, pretrain)
    for model, ready in (("baseline", 0.0), ("transfer", pretrain)):
        for length in sorted(fits.get(model, ()), reverse=True):
            heapq.heapreplace(free, max(free[0], ready) + length)
    return max(free)


def smallest_difference(test: int, positives: float, replicates: int, seed: int, noise: float = 0.0) -> float:
    """The smallest difference of two AUCs that the paired test over replicates detects with a power of 80 %.

    The normal approximation of the sign-flip test on the mean difference.  Training adds more spread, so this is the
    best case.

    Parameters
    ----------
    test : images of a test set
    positives : share of positive images, between 0 and 1
    noise : standard deviation of the difference over random starts
    """
    return float(Z * math.hypot(spread_of_difference(test, positives, seed), noise) / math.sqrt(replicates))


def smallest_in_population(
    spread: float, noise: float, *, replicates: int, seconds: int, shared: float, tested: float, seed: int
) -> float:
    """The smallest difference that the test about the population detects with a power of 80 %.

    Simulated: the test's own estimate of its error (populations.expected_value), in which the variance of fits that
    comes from shared training images is 0, but is not known to be.  Without second seeds the random starts' noise
    counts as such.

    Parameters
    ----------
    spread, noise : standard deviations of a replicate's difference over test sets, and over random starts
    seconds : replicates with a second seed
    shared : of two replicates' training images, from `expected_draws`
    tested : images of a test set as a share of the pool's
    """
    if replicates < 2:
        return math.inf
    generator = np.random.default_rng(seed)
    seen = spread**2 + noise**2
    between = PERSONAL * spread**2 * min(tested, 1.0)  # all replicates together test each of the pool's images
    uncertain = math.sqrt(2 / (replicates - 1) + (2 / seconds if seconds else 0)) * seen
    centre, degrees = (0.0, min(seconds, replicates - 1)) if seconds else (noise**2, replicates - 1)
    fits = np.maximum(0, generator.normal(centre, uncertain, DIFFERENCES)) * shared / (1 - shared)
    error = np.sqrt(between + fits + seen / replicates)
    off = generator.normal(0, math.sqrt(between + seen / replicates), DIFFERENCES)
    return float(np.quantile(stats.t.ppf(0.975, degrees) * error - off, 0.8))


def spread_of_difference(test: int, positives: float, seed: int) -> float:
    """The standard deviation, over test sets of `test` images, of the difference of two models' AUCs.

    Simulated: normal scores of two models with a correlation of CORRELATION.
    """
    if test > POWER_IMAGES:  # it falls with the root of their size
        return spread_of_difference(POWER_IMAGES, positives, seed) * math.sqrt(POWER_IMAGES / test)
    generator = np.random.default_rng(seed)
    count = min(max(round(test * positives), 1), test - 1)
    shift = math.sqrt(2) * _normal_quantile(AUC)
    shared = generator.standard_normal((POWER_DRAWS, 1, test))
    own = generator.standard_normal((POWER_DRAWS, 2, test))
    scores = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own
    scores[:, :, :count] += shift
    ranks = scores.argsort(axis=2).argsort(axis=2)[:, :, :count].sum(axis=2)  # of the positive images, from 0
    aucs = (ranks - count * (count - 1) / 2) / (count * (test - count))
    return float((aucs[:, 0] - aucs[:, 1]).std(ddof=1))


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


def _head(config, images, role, study) -> str:
    parts = {name: int((role == name).sum()) for name in ("train", "validation", "test", "unused")}
    listed = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count or name != "unused")
    people = study.people.named(images)["participant_id"].nunique()
    cohorts = counted(len(study.cohorts), "cohort")
    of_people = f"{counted(len(images), 'image')} of {counted(people, 'person', 'people')}"
    return f"{config['study']}: {of_people} in {cohorts} ({listed})"


def _jobs(study, work, costs, config) -> str:
    cells = [["rule", "jobs", "GPU hours", "core hours", "basis"]]
    totals = [0, 0.0, 0.0]
    for rule, count in jobs_of(study, config["models"]["replicates_per_job"]).items():
        totals[0] += count
        if rule not in work:
            cells.append([rule, number(count), "", "", ""])
            continue
        spent, cost = hours(rule, work[rule], costs[rule]), costs[rule]
        gpu, core = spent if cost.gpu else 0.0, spent * cores_of(rule, config)
        totals[1] += gpu
        totals[2] += core
        cells.append([rule, number(count), _in_hours(gpu), _in_hours(core), cost.basis])
    cells.append(["together", number(totals[0]), *map(_in_hours, totals[1:]), ""])
    return "Jobs, and what they cost:\n" + indent(aligned(cells, "lrrrl"), "  ")


def _in_hours(count: float) -> str:
    return "<0.1" if 0 < count < 0.05 else f"{count:,.1f}"


def _path(work, costs, gpus, cores, warnings) -> str:
    at_once = gpus if costs["preprocess"].gpu else cores
    lengths = [costs["preprocess"].of_job(units) / 3600 for units in work["preprocess"]]
    prepare = max(sum(lengths) / at_once, max(lengths, default=0.0))
    pretrain = hours("pretrain", work["pretrain"], costs["pretrain"]) if "pretrain" in work else 0.0
    fits = {m: [costs[m].of_job(units) / 3600 for units in work[m]] for m in CNNS}
    for at, model in enumerate(CNNS):  # they alternate among the fits with a second seed, each of which follows its own
        fits[model] += [costs[SECOND_SEED].of_job(units) / 3600 for units in work.get(SECOND_SEED, [])[at :: len(CNNS)]]
    rest = makespan(fits, pretrain, gpus if costs["transfer"].gpu else cores)
    with_gpus = f"{counted(gpus, 'GPU')} and " if any(cost.gpu for cost in costs.values()) else ""
    lines = [
        f"Longest path with {with_gpus}{counted(cores, 'core')} at once: {duration(3600 * (prepare + rest))}",
        f"  preprocessing {duration(3600 * prepare)}, then pretraining {duration(3600 * pretrain)} and the fits, "
        f"together {duration(3600 * rest)}",
        "  (without time in queues; linear fits run at the same time)",
    ]
    longest = max((max(lengths) for lengths in fits.values() if lengths), default=0.0)
    limit = PRETRAIN_MINUTES / 60
    if pretrain > limit:
        warnings.append(
            f"pretraining takes {duration(3600 * pretrain)}, longer than its job's {limit:.0f} hours: it continues "
            "from its checkpoint, and each time limit uses one of the profile's retries; raise retries, or its runtime"
        )
    if longest > 6:
        warnings.append(f"the longest fit takes {duration(3600 * longest)}: check models.cnn, and the gpus it asks for")
    return "\n".join(lines)


def _disk(config, study, images, rehearsed, warnings) -> str:
    voxels = math.prod(config["cache"]["crop"])
    scale = math.prod(config["preprocessing"]["grid"]) / 256**3
    replicates = len(study.tasks) * len(study.n) * len(study.replicates)
    mb, each = DERIVATIVES[config["preprocessing"]["keep"]]
    size, basis = max(mb * scale, 0.05) * 1e6, "assumed"
    if rehearsed:
        size, each, basis = rehearsed["bytes"], rehearsed["files"], "rehearsed"
    files, derivatives = images * each, images * size
    cache = images * voxels * (COMPRESSED if config["cache"]["compression"] else 1)
    fits = replicates * (sum(FIT_KB.values()) + 25) * 1e3
    needed = derivatives + cache + fits
    free = shutil.disk_usage(Path.cwd()).free
    written = [Path(layout.CACHE), Path(layout.PREPROCESSED)]
    if needed > free and not any(path.exists() for path in written):
        warnings.append(f"the study needs {byte_size(needed)}, and {byte_size(free)} are free in {Path.cwd()}")
    fit_files = f"{number(sum(REPLICATE_FILES.values()) * replicates)} files ({', '.join(REPLICATE_FILES)})"
    cells = [
        ["derivatives", byte_size(derivatives), f"in at most {number(files)} files [{basis}: {each} each]"],
        ["cache", byte_size(cache), f"in {number(CACHE_FILES * len(study.shards))} files"],
        ["fits", byte_size(fits), f"in {fit_files}"],
        ["free here", byte_size(free), ""],
    ]
    return "Disk:\n" + indent(aligned(cells, "lrl"), "  ")


def _pretraining(images: int) -> str:
    """What as many training images gave in simulated studies."""
    least = min(GAINS)
    lines = [
        f"Pretraining learns from {counted(images, 'image')}.  "
        "With simulated heads and a small network (docs/pretraining.md):"
    ]
    if images < least:
        lines += [f"  {least} images paid, and fewer were not tried; pretrain.weights takes published weights instead"]
        return "\n".join(lines)
    most = max(size for size in GAINS if size <= images)
    gain = f"{GAINS[most]:.2f} at n = {GAINS_N}"
    lines += [f"  {least} images paid already, and with {most:,} transfer gained an AUC of {gain}"]
    lines += ["  (other diseases, real heads and a larger network may need more)"]
    return "\n".join(lines)


class Draws(NamedTuple):
    """What simulated draws of one n gave: the share that was invalid, and means of the valid ones; NaN without any.

    `images` and `people` are distinct ones that train; `shared` is `populations.overlap` of the training sets.
    """

    invalid: float
    images: float = math.nan
    people: float = math.nan
    shared: float = math.nan


def expected_draws(pool: pd.DataFrame, n: int, settings: Mapping[str, Any], seed: int) -> Draws:
    """Draw resamples of a pool as the study would, with every option of `resampling`.

    Parameters
    ----------
    pool : `label` and `participant_id`, and `cohort` if test sets are of other cohorts
    settings : the configuration's `resampling`
    """
    if pool["label"].nunique() < 2:
        return Draws(1.0)
    labels, people = pool["label"].to_numpy(), pd.factorize(pool["participant_id"])[0]
    generator, trained, options = np.random.default_rng(seed), [], options_of(pool, settings)
    for _ in range(DRAWS):
        sets = draw_rows(labels, people, sizes(n, settings), settings["min_per_class"], generator, **options)
        if sets is not None:
            trained.append(sets[0])
    if not trained:
        return Draws(1.0)
    counts = np.stack([np.bincount(people[rows], minlength=people.max() + 1) for rows in trained])
    images = float(np.mean([len(np.unique(rows)) for rows in trained]))
    return Draws(1 - len(trained) / DRAWS, images, float((counts > 0).sum(1).mean()), overlap(counts))


def _pools(config, study, pools, draws, warnings) -> str:
    lines = ["Pools by task and n, from simulated resamples; distinct images and participants are those in training:"]
    cells = [["task", "n", "distinct images", "participants", "draws repeated"]]
    settings = config["resampling"]
    for name, pool in pools.items():
        counts = pool["label"].value_counts()
        images = f"{counts.get(1, 0):,} positive and {counted(counts.get(0, 0), 'negative image')}"
        people = counted(pool["participant_id"].nunique(), "person", "people")
        lines.append(f"  {name}: {images} of {people}")
        for n in study.n:
            drawn = draws[name, n]
            cells.append([name, str(n), f"{drawn.images:.0f}", f"{drawn.people:.0f}", f"{drawn.invalid:.1%}"])
            if drawn.invalid ** (settings["max_redraws"] + 1) > INFEASIBLE:
                warnings.append(f"task {name} cannot give n = {n}: choose a smaller n or add cohorts to the task")
    return "\n".join([*lines, indent(aligned(cells, "lrrrr"), "  ")])


def _power(config, study, pools, draws) -> str:
    settings, replicates = config["resampling"], config["resampling"]["replicates"]
    noise, seconds = math.sqrt(2) * SEED_NOISE, seconds_of(replicates, settings["second_seeds"])
    lines = [
        f"Smallest AUC difference of two networks that {replicates} replicates detect with 80 % power, in this pool at",
        f"best; in brackets, for the population that it comes from, with {seconds} second seeds:",
        f"  (simulated at an AUC of {AUC}, scores correlated by {CORRELATION}, a standard deviation of {SEED_NOISE}",
        "  in a network's AUC over random starts [assumed])",
    ]
    for name, pool in pools.items():
        if pool["label"].nunique() < 2:
            continue
        parts = []
        for n in study.n:
            if draws[name, n].invalid == 1:
                parts.append(f"n = {n}: none, it cannot be drawn")
                continue
            test, seed = sizes(n, settings)[2], seed_from(config["seed"], "power", n)
            positives = pool["label"].mean()
            least = smallest_difference(test, positives, replicates, seed, noise)
            wider = smallest_in_population(
                spread_of_difference(test, positives, seed),
                noise,
                replicates=replicates,
                seconds=seconds,
                shared=draws[name, n].shared,
                tested=test / len(pool),
                seed=seed,
            )
            parts.append(f"n = {n}: {least:.3f} ({wider:.3f})")
        lines.append(f"  {name}: " + ", ".join(parts))
    return "\n".join(lines)
