"""A methods text for a paper, generated from the configuration, and its references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import __version__
from .conclusions import listed
from .selection import all_settings


@dataclass(frozen=True)
class Reference:
    """A paper; `pages` are its pages or its article number, a name is "Surname Initials"."""

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    journal: str = ""
    volume: str = ""
    pages: str = ""
    doi: str = ""

    @property
    def text(self) -> str:
        """As a list of references writes it."""
        place = f"{self.year}; {self.volume}: {self.pages}" if self.volume else f"{self.year}"
        link = f" doi:{self.doi}" if self.doi else ""
        journal = f"{self.journal} " if self.journal else ""
        return f"{', '.join(self.authors)}. {self.title}. {journal}{place}.{link}"

    @property
    def bibtex(self) -> str:
        """As an entry of a .bib file."""
        authors = " and ".join(
            f"{name.rpartition(' ')[0]}, {'. '.join(name.rpartition(' ')[2])}." for name in self.authors
        )
        fields = {"author": authors, "title": f"{{{self.title}}}", "journal": self.journal, "year": str(self.year)}
        fields |= {"volume": self.volume, "pages": self.pages.replace("-", "--"), "doi": self.doi}
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{'article' if self.journal else 'misc'}{{{self.key},", *lines, "}"])


LIBRARY = (
    Reference(
        "leonardsen2025",
        ("Leonardsen EH", "Wolfers T", "Wang Y", "Westlye LT"),
        "On the Utility of Large-Scale Pretrained Convolutional Neural Networks in Clinical Neuroimaging",
        2025,
    ),
    Reference(
        "peng2021",
        ("Peng H", "Gong W", "Beckmann CF", "Vedaldi A", "Smith SM"),
        "Accurate brain age prediction with lightweight deep neural networks",
        2021,
        "Medical Image Analysis",
        "68",
        "101871",
        "10.1016/j.media.2020.101871",
    ),
    Reference(
        "henschel2020",
        ("Henschel L", "Conjeti S", "Estrada S", "Diers K", "Fischl B", "Reuter M"),
        "FastSurfer - A fast and accurate deep learning based neuroimaging pipeline",
        2020,
        "NeuroImage",
        "219",
        "117012",
        "10.1016/j.neuroimage.2020.117012",
    ),
    Reference(
        "phipson2010",
        ("Phipson B", "Smyth GK"),
        "Permutation P-values should never be zero: calculating exact P-values when permutations are randomly drawn",
        2010,
        "Statistical Applications in Genetics and Molecular Biology",
        "9",
        "39",
        "10.2202/1544-6115.1585",
    ),
    Reference(
        "holm1979",
        ("Holm S",),
        "A simple sequentially rejective multiple test procedure",
        1979,
        "Scandinavian Journal of Statistics",
        "6",
        "65-70",
    ),
    Reference(
        "nadeau2003",
        ("Nadeau C", "Bengio Y"),
        "Inference for the generalization error",
        2003,
        "Machine Learning",
        "52",
        "239-281",
        "10.1023/A:1024068626366",
    ),
)
REFERENCES = tuple(reference.text for reference in LIBRARY)
BIBLIOGRAPHY = "\n\n".join(reference.bibtex for reference in LIBRARY) + "\n"
TARGETS = {"bmi": "body mass index", "fluid_intelligence": "fluid intelligence"}
ENGINES = {
    "builtin": "conformed, skull-stripped by an affine registration to the MNI152 template and segmented into tissues "
    "and template regions by the builtin engine of neurotransfer {version}, in the layout of FastSurfer [3]",
    "fastsurfer": "conformed, skull-stripped and segmented by FastSurfer {fastsurfer} [3], run by neurotransfer "
    "{version}",
    "derivatives": "taken from existing FastSurfer [3] derivatives by neurotransfer {version}",
}


def methods(
    config: Mapping[str, Any], run: str, weights: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Paragraphs of plain text; numbers in brackets are places in REFERENCES.

    Parameters
    ----------
    config : the study's configuration
    run : "multitask", or "given" where weights took the place of pretraining
    weights : metadata of the weights
    tasks : the configuration's tasks that are on
    """
    paragraphs = [_images(config), _pretraining(config, run, weights), _comparison(config, tasks), _testing(config)]
    return [" ".join(paragraph.split()) for paragraph in paragraphs]


def _images(config: Mapping[str, Any]) -> str:
    engine, voxel = config["preprocessing"]["engine"], config["preprocessing"]["voxel_size"]
    how = ENGINES.get(engine, f"processed by the engine {engine} of neurotransfer {{version}}")
    how = how.replace("{fastsurfer}", config["preprocessing"]["fastsurfer"]["version"])
    crop = " × ".join(str(edge) for edge in config["cache"]["crop"])
    return f"""
        The study follows Leonardsen et al. [1]. T1-weighted images were {how.replace("{version}", __version__)},
        masked, and cropped or padded to {crop} voxels of {voxel:g} mm around the brain."""


def _pretraining(config: Mapping[str, Any], run: str, weights: Mapping[str, Any]) -> str:
    network, settings = config["network"], config["pretrain"]
    channels = ", ".join(str(count) for count in network["channels"])
    shape = f"""a Simple Fully Convolutional Network [2] ({channels} channels, a bottleneck of {network["bottleneck"]},
        global {network["pooling"]} pooling)"""
    if run == "given":
        return f"The pretrained network, {shape}, was not trained here: its weights were given."
    targets = listed(TARGETS.get(name, name) for name in config["targets"])
    facts = weights.get("training", {})
    people = ""
    if "images" in facts and "participants" in facts:
        people = f" ({facts['images']:,} images of {facts['participants']:,} participants)"
    best = f" Epoch {facts['epoch'] + 1} had the lowest validation loss and was kept." if "epoch" in facts else ""
    schedule, augmentation = settings["schedule"], settings["augmentation"]
    intensity = augmentation.get("intensity", 0)
    changed = " and mirrored at random" * augmentation["mirror"]
    changed += f", with intensities scaled by up to {100 * intensity:.3g} % at random" if intensity else ""
    return f"""
        The pretrained network, {shape}, learned {targets} together from healthy participants{people}, by a weighted
        loss in which missing targets cost nothing. {100 * config["split"]["validation_share"]:.3g} % of the
        participants, with one image each, were kept apart to choose the epoch. It was trained for
        {_count(settings["epochs"], "epoch")}{" at most" if settings["patience"] is not None else ""} by stochastic
        gradient descent (learning rate {settings["learning_rate"]:g}, times {schedule["factor"]:g} every
        {_count(schedule["every"], "epoch")}, momentum {settings["momentum"]:g}, weight decay
        {settings["weight_decay"]:g}, batches of {settings["batch_size"]}, dropout {settings["dropout"]:g}) on images
        shifted by up to {_count(augmentation["shift"], "voxel")}{changed}.
        {best}"""


def _comparison(config: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    resampling, models = config["resampling"], config["models"]
    titles = listed(f"“{task.get('title', name)}”" for name, task in tasks.items())
    counts = [len(all_settings(models[name]["settings"])) for name in ("linear", "baseline", "transfer")]
    settings = f"{listed(counts)} settings, in this order"
    if len(set(counts)) == 1:
        settings = f"{_count(counts[0], 'setting')} each"
    sizes = ", ".join(str(n) for n in resampling["n"])
    structures = models["linear"]["structures"]
    volumes = "regional volumes" if structures is None else f"the volumes of {listed(structures)},"
    used = {values.get("penalty", "l2") for values in all_settings(models["linear"]["settings"])}
    penalties = " or ".join(name for key, name in (("l2", "ridge"), ("l1", "lasso")) if key in used)
    return f"""
        For {"each of the tasks" if len(tasks) > 1 else "the task"} {titles} and each n in {{{sizes}}},
        {_count(resampling["replicates"], "resample")} were drawn from images that pretraining never saw: n training
        images with replacement, then {resampling["validation_share"]:g} n validation and
        {resampling["test_share"]:g} n test images without replacement, from participants not drawn yet. Each set had
        at least {_count(resampling["min_per_class"], "image")} of each class, or the draw was redone. On each
        resample, logistic regression with a {penalties} penalty on {volumes} divided by the brain mask's
        (linear), the network from random weights (baseline) and the network from the pretrained weights (transfer)
        were fitted with {settings};
        both networks for {_count(models["cnn"]["epochs"], "epoch")}, with the same order of the data. The setting
        with the highest validation AUC was scored once on the test images."""


def _testing(config: Mapping[str, Any]) -> str:
    statistics = config["statistics"]
    return f"""
        Models were compared by paired sign-flip permutation tests of the {statistics["statistic"]} difference in
        test AUC over resamples, two-sided, with all sign patterns where there are at most
        {statistics["permutations"]:,} and as many random ones otherwise [4], and with Holm's adjustment over all
        comparisons [5], at {statistics["alpha"]:g}. Intervals are 95 % percentile bootstrap intervals
        ({statistics["bootstrap"]:,} resamples). This test speaks about the pool of images at hand; about the
        population that the pool comes from it would be too generous, since resamples share the pool. The mean
        difference in the population was tested by the corrected resampled t-test [6], by a bootstrap over the pool's
        participants ({statistics["bootstrap"]:,} draws) that weighed each resample's test images and averaged the
        AUCs within resamples, without repeating fits, and by the same with an estimate of how fits vary with the
        pool, from the overlap of training sets; each was adjusted by Holm. Learning curves of the mean AUC were made
        monotone by isotonic regression and read on a line over the logarithm of n. A logistic regression on age, sex
        and mask volume, outside the comparisons, shows what these predict alone."""


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
