"""A methods text for a paper, generated from the configuration and the ledger, with its references."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from .. import __version__
from ..fit.covariates import in_words
from ..fit.settings import all_settings
from ..study.imported_weights import is_unchecked
from ..study.plan import FROZEN, MODELS, further_arms, seconds_of
from ..study.targets import learnt_targets
from .references import Reference, number_citations
from .verdicts import listed

TARGETS = {"bmi": "body mass index", "fluid_intelligence": "fluid intelligence"}
HEADS = "conformed, skull-stripped"  # by every engine
ENGINES = {  # the processing, by the engine's name in the ledger
    "builtin": f"{HEADS} by an affine registration to the MNI152 template and segmented into tissues and template "
    f"regions by the builtin engine, version {{version}}, of neurotransfer {__version__}, in the layout of FastSurfer "
    "[@henschel2020]",
    "fastsurfer": f"{HEADS} and segmented by FastSurfer {{version}} [@henschel2020]",
    "freesurfer": f"{HEADS} and segmented by FreeSurfer {{version}} [@fischl2012]",
    "unknown": f"{HEADS} and segmented by software that its outputs do not name",
}

NORMALISED = {
    "mask": "divided by the brain mask's",
    "etiv": "divided by the estimated total intracranial volume",
    "residual": "of which a line through the training images, volume by brain mask's volume, was subtracted",
    "none": "in mm³, with the head's size in them",
}


def methods(
    config: Mapping[str, Any],
    run: str,
    weights: Mapping[str, Any],
    tasks: Mapping[str, Mapping[str, Any]],
    ledger: pd.DataFrame,
    without: Collection[str] = (),
) -> tuple[list[str], list[Reference]]:
    """Paragraphs of plain text, and the references for the numbers in brackets.

    Parameters
    ----------
    config : the study's configuration
    run : "multitask", or "given" if the weights were given instead of pretrained
    weights : metadata of the weights
    tasks : the configuration's enabled tasks
    ledger : of preprocessing: `status`, `engine` and `engine_version` of every image
    without : counts that are not said, because one of few people would follow: "train" (who pretrained) and "engines"
    """
    paragraphs = [
        _images(config, ledger, counted="engines" not in without),
        _pretraining(config, run, weights, counted="train" not in without),
        _comparison(config, tasks),
        _testing(config),
    ]
    return number_citations(" ".join(paragraph.split()) for paragraph in paragraphs)


def _images(config: Mapping[str, Any], ledger: pd.DataFrame, *, counted: bool = True) -> str:
    crop = " × ".join(str(edge) for edge in config["cache"]["crop"])
    existing = ""
    if config["preprocessing"]["engine"] == "derivatives":
        existing = " These outputs existed before the study and were taken as they were."
    made = made_by_in_words(ledger, counted=counted)
    return f"""
        The study follows Leonardsen et al. [@leonardsen2025]. T1-weighted images were {made},
        masked, and cropped or padded to {crop} voxels of {config["preprocessing"]["voxel_size"]:g} mm around the
        brain.{existing}"""


def made_by_in_words(ledger: pd.DataFrame, *, counted: bool = True) -> str:
    """The processing of the usable images and its software, from the ledger; `counted` if there are several."""
    usable = ledger[ledger["status"] == "ok"].fillna({"engine": "unknown", "engine_version": "unknown"})
    clauses = []
    for engine, mine in sorted(usable.groupby("engine"), key=lambda group: -len(group[1])):
        versions = mine["engine_version"].value_counts()
        named = listed("of unknown version" if version == "unknown" else version for version in versions.index)
        what = ENGINES.get(engine, f"processed by {engine} {{version}}").replace("{version}", named)
        clauses.append((what, len(mine)))
    if len(clauses) == 1 or not counted:
        return " or ".join(what for what, _ in clauses)
    return " or ".join(f"{what} ({_count(images, 'image')})" for what, images in clauses)


def _pretraining(config: Mapping[str, Any], run: str, weights: Mapping[str, Any], *, counted: bool = True) -> str:
    network, settings = config["network"], config["pretrain"]
    channels = ", ".join(str(count) for count in network["channels"])
    shape = f"""a Simple Fully Convolutional Network [@peng2021] ({channels} channels, a bottleneck of
        {network["bottleneck"]}, global {network["pooling"]} pooling)"""
    if run == "given":
        source = weights.get("source")
        origin = f"its weights are those of {source['citation']}" if source else "its weights were given"
        caveat = ", and it has not been checked that they predict what was published" if is_unchecked(weights) else ""
        return f"The pretrained network, {shape}, was not trained here: {origin}{caveat}."
    learnt = learnt_targets(weights)
    names = [name for name in config["targets"] if name in learnt] or list(config["targets"])
    targets = listed(TARGETS.get(name, name) for name in names)
    together = " together" if len(names) > 1 else ""
    facts = weights.get("training", {})
    people = ""
    if counted and "images" in facts and "participants" in facts:
        people = f" ({facts['images']:,} images of {facts['participants']:,} participants)"
    best = f" Epoch {facts['epoch'] + 1} had the lowest validation loss and was kept." if "epoch" in facts else ""
    augmentation = settings["augmentation"]
    intensity = augmentation.get("intensity", 0)
    mirrored = " and mirrored at random" if augmentation["mirror"] else ""
    scaled = f", with intensities scaled by up to {100 * intensity:.3g} % at random" if intensity else ""
    return f"""
        The pretrained network, {shape}, learned {targets}{together} from healthy participants{people}, by a weighted
        loss without a term for missing targets. {100 * config["split"]["validation_share"]:.3g} % of the
        participants, with one image each, were held out to choose the epoch. It was trained for
        {_count(settings["epochs"], "epoch")}{" at most" if settings["patience"] is not None else ""} by
        {_optimisation(settings, facts)} in batches of {settings["batch_size"]} with a dropout of
        {settings["dropout"]:g}, on images
        shifted by up to {_count(augmentation["shift"], "voxel")}{mirrored}{scaled}.
        {best}"""


def _optimisation(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The optimiser with its rate, schedule and limits.

    Parameters
    ----------
    facts : `training` of the weights' metadata, with `times_lowered` if the rate was lowered after a divergence
    """
    if settings["optimiser"] == "adamw":
        name, momentum = "AdamW [@loshchilov2019]", "first decay"
    else:
        name, momentum = "stochastic gradient descent", "momentum"
    schedule, parts = settings["schedule"], [f"learning rate {settings['learning_rate']:g}"]
    match schedule["kind"]:
        case "step":
            parts.append(f"times {schedule['factor']:g} every {_count(schedule['every'], 'epoch')}")
        case "cosine":
            parts.append("falling along a cosine")
    if settings["warmup"]:
        parts.append(f"after a linear warm-up of {_count(settings['warmup'], 'step')}")
    parts += [f"{momentum} {settings['momentum']:g}", f"weight decay {settings['weight_decay']:g}"]
    if settings["clip_norm"] is not None:
        parts.append(f"gradients limited to a norm of {settings['clip_norm']:g}")
    if settings["weight_average"] is not None:
        parts.append(f"an exponential moving average of the weights with a decay of {settings['weight_average']:g}")
    if lowered := facts.get("times_lowered"):
        parts.append(f"lowered to a third {_count(lowered, 'time')} because the loss was not finite")
    return f"{name} ({', '.join(parts)})"


def _comparison(config: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    resampling, models = config["resampling"], config["models"]
    titles = listed(f"“{task.get('title', name)}”" for name, task in tasks.items())
    counts = [len(all_settings(models[name]["settings"])) for name in MODELS]
    settings = f"{listed(counts)} settings, in this order"
    if len(set(counts)) == 1:
        settings = f"{_count(counts[0], 'setting')} each"
    sizes = ", ".join(str(n) for n in resampling["n"])
    structures = models["linear"]["structures"]
    volumes = "regional volumes" if structures is None else f"the volumes of {listed(structures)},"
    normalised = NORMALISED[models["linear"].get("normalise", "mask")]
    used = {values.get("penalty", "l2") for values in all_settings(models["linear"]["settings"])}
    penalties = " or ".join(name for key, name in (("l2", "ridge"), ("l1", "lasso")) if key in used)
    return f"""
        For {"each of the tasks" if len(tasks) > 1 else "the task"} {titles} and each n in {{{sizes}}},
        {_count(resampling["replicates"], "resample")} were drawn from images that pretraining never saw: n training
        images with replacement, then {resampling["validation_share"]:g} n validation and
        {resampling["test_share"]:g} n test images without replacement, from participants not drawn yet. Each set had
        at least {_count(resampling["min_per_class"], "image")} of each class, or the draw was
        redone.{_options(resampling)} On each
        resample, logistic regression with a {penalties} penalty on {volumes} {normalised}
        (linear), the network from random weights (baseline) and the network from the pretrained weights (transfer)
        were fitted with {settings};
        both networks for {_count(models["cnn"]["epochs"], "epoch")}, with the same order of the data. The setting
        with the highest validation AUC was scored once on the test images.{_further(config)}"""


def _further(config: Mapping[str, Any]) -> str:
    """The arms beyond the paper's, and the family of their comparisons."""
    arms = further_arms(config["models"])
    if not arms:
        return ""
    layers = " and the pooled outputs of its blocks" if config["models"].get(FROZEN) == "blocks" else ""
    features = [
        f"the pooled features of the pretrained network without training it further{layers} ({arm})"
        if arm == FROZEN
        else f"features from elsewhere ({arm})"
        for arm in arms
    ]
    return f"""
        Logistic regression with the settings of the linear model was also fitted on {listed(features)}. Comparisons
        with {"this arm" if len(arms) == 1 else "these arms"} are a second family, adjusted apart."""


def _options(resampling: Mapping[str, Any]) -> str:
    """Sentences on how the draw differs from the paper's."""
    said = {
        "Test images were of cohorts that trained and validated nothing in that resample.": resampling["by"]
        == "cohort",
        "One image of each participant took part in a resample.": resampling["per_participant"] == "one",
        "Each set had the pool's share of positive images.": resampling["stratify"],
    }
    return "".join(f" {sentence}" for sentence, holds in said.items() if holds)


def _testing(config: Mapping[str, Any]) -> str:
    statistics = config["statistics"]
    return f"""
        Models were compared by paired sign-flip permutation tests of the {statistics["statistic"]} difference in
        test AUC over resamples, two-sided, with all sign patterns if there are at most
        {statistics["permutations"]:,} and as many random ones otherwise [@phipson2010]; this is our reading of the
        paper's test, and that it is two-sided is assumed. P-values were adjusted by Holm's method over
        all comparisons of these three models [@holm1979], at {statistics["alpha"]:g}. Intervals are 95 % percentile
        bootstrap intervals ({statistics["bootstrap"]:,} resamples). This test is about the pool of images at hand; for
        the population that the pool comes from it would be too liberal, because resamples share the pool. The mean
        difference in the population was tested by Student's t, with a variance of three parts: that over draws of the
        pool's participants ({statistics["bootstrap"]:,} at least, with which each resample's test images were weighted,
        without repeating fits); that of fits whose training images overlap, estimated from the overlap and from the
        resamples' variance beyond that of their test sets{_second_seeds(config)}; and that of a finite number of
        resamples. It was adjusted in the same way. Learning curves of the mean AUC were made monotone by isotonic
        regression and interpolated linearly in the logarithm of n. A logistic regression on
        {in_words(config["models"]["covariates"])}, and one on the names of cohort and scanner, outside the comparisons,
        show the AUC of these confounders alone; AUCs within one cohort, scanner, age band, sex and third of the mask
        volume are over pairs of images of the same
        stratum [@janes2009]."""


def _second_seeds(config: Mapping[str, Any]) -> str:
    """What the noise of random starts was measured by, if it was."""
    resampling = config["resampling"]
    count = seconds_of(resampling["replicates"], resampling["second_seeds"])
    if not count:
        return ""
    return f"""
        and random starts, which {_count(count, "resample")} of each task and n measured, on which both networks were
        fitted once more with the chosen setting and another seed"""


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
