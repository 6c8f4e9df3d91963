"""The rules of the workflow: the wildcards, result, stage, cores and GPU of each.

The files in workflow/rules define how a result is made; a test compares them with this table.  Standard library only,
because the Snakefile is parsed again inside each cluster job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import layout
from .demands import has_gpu
from .plan import CNNS

PRETRAIN_MINUTES = 48 * 60  # of the first attempt at pretraining; each later attempt has as many more


@dataclass(frozen=True)
class Rule:
    """One rule.

    `result` is the path that asks Snakemake for the rule's job, with its wildcards in braces in the order in which
    Snakemake lists them.  `stage` is the stage in which the rule's hours count; None if they do not.
    """

    name: str
    result: str
    stage: str | None = None

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Names of its wildcards, in order."""
        return tuple(re.findall(r"\{(\w+)\}", self.result))

    def target(self, values: Sequence[str]) -> str:
        """The path that asks for one job, by the values of its wildcards; the rule's name if one is missing."""
        if len(values) < len(self.wildcards):
            return self.name
        return self.result.format(**dict(zip(self.wildcards, values, strict=False)))


SECOND_SEED = "second_seed"  # the rule that fits a network's chosen setting once more


def _fit(model: str) -> str:
    return layout.FIT.replace("{model}", model)


RULES = {  # in the order in which data passes them
    rule.name: rule
    for rule in (
        Rule("preprocess", layout.LEDGER, "preprocessing"),
        Rule("cache", layout.CACHED, "cache"),
        Rule("quality", layout.JUDGED),
        Rule("index", layout.INDEXED),
        Rule("split", layout.COHORT_SPLIT),
        Rule("heads", layout.HEADS),
        Rule("quality_page", layout.QUALITY_PAGE),
        Rule("duplicates", layout.PAIRS),
        Rule("certificate", layout.CERTIFICATE),
        Rule("pretrain", layout.weights("multitask"), "pretraining"),
        Rule("adopt", layout.weights("given")),
        Rule("evaluate", layout.METRICS, "pretraining"),
        Rule("features", layout.FEATURES, "features of the trunk"),
        Rule("resample", layout.RESAMPLE, "resampling"),
        Rule("linear", _fit("linear"), "linear fits"),
        *(Rule(model, _fit(model), f"{model} fits") for model in CNNS),
        Rule(SECOND_SEED, layout.SECOND_SEED, "second seeds"),
        Rule("best", layout.BEST),
        Rule("final", layout.FINAL),
        Rule("aggregate", layout.AUCS),
        Rule("confounding", layout.CONFOUNDING),
        Rule("classifiers", layout.CLASSIFIERS),
        Rule("compare", layout.COMPARISONS),
        Rule("figures", layout.FIGURE2),
        Rule("report", layout.REPORT),
        Rule("predict", layout.PREDICTED),
    )
}
ON_REQUEST = ("best", "final", "predict")  # rules on whose results no other result of a study depends
KEEPING = ("best", "final")  # rules that train a network of a task beside its fits
# between the cache and pretraining
OF_COHORT = tuple(name for name, rule in RULES.items() if rule.wildcards == ("cohort",) and name != "features")
OF_ALL_COHORTS = ("quality_page", "duplicates", "certificate")
STATISTICS = ("aggregate", "confounding", "classifiers", "compare")
PAGES = ("figures", "report")
PRETRAINING = ("pretrain", "evaluate")
STAGES: dict[str, tuple[str, ...]] = {}  # the rules whose cost is counted, by stage
for _rule in RULES.values():
    if _rule.stage:
        STAGES[_rule.stage] = (*STAGES.get(_rule.stage, ()), _rule.name)


def base_name(name: str) -> str:
    """A rule's own name, also if another workflow took it in under a name with a prefix or suffix, as nt_cache.

    A rule for several replicates of a job is its rule's, too: see `name_for_batch`.
    """
    name = name.removesuffix(f"_{first_of_batch(name)}")
    fitting = [known for known in RULES if name == known or name.endswith(f"_{known}") or name.startswith(f"{known}_")]
    return max(fitting, key=lambda known: (name == known, len(known)), default=name)


def name_for_batch(name: str, batch: Sequence[str] | None) -> str:
    """The name of the rule whose jobs each work on these replicates, as baseline_011; of one for each, as it is."""
    return f"{name}_{batch[0]}" if batch else name


def first_of_batch(name: str) -> str | None:
    """The first replicate of the jobs of a rule for several replicates; None for another rule."""
    found = re.search(r"_(\d{3,})$", name)
    return found[1] if found else None


def target_of(name: str, values: Sequence[str]) -> str:
    """The path or rule that asks Snakemake for a job's result, by the values of the job's wildcards."""
    rule = RULES.get(name)
    return rule.target(values) if rule else name


def cores_of(name: str, config: Mapping[str, Any]) -> int:
    """Cores that a job of a rule asks for, as far as the configuration decides it; else 1."""
    if name == "preprocess":
        return config["preprocessing"]["threads"]
    if name in (*PRETRAINING, "predict"):
        return config["pretrain"]["threads"]
    if name in (*CNNS, SECOND_SEED, *KEEPING, "features"):
        return config["models"]["cnn"]["threads"]
    return config["models"]["linear"]["threads"] if name == "linear" else 1


def uses_gpu(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a rule's jobs ask for a GPU."""
    if name == "preprocess":
        return has_gpu(config["preprocessing"])
    if name in (*PRETRAINING, "predict"):
        return bool(config["pretrain"]["gpus"])
    return name in (*CNNS, SECOND_SEED, *KEEPING, "features") and bool(config["models"]["cnn"]["gpus"])
