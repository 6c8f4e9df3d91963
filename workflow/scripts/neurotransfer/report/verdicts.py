"""Comparisons into verdicts and three sentences, which claim no more than the tests show.

"Better" and "worse" require a Holm-adjusted p below the threshold.  If only the unadjusted p (the paper's test) is
below it, the text says so.  Everything else is "not distinguishable", which is not "equal".  The paper's test is about
this pool of images; each verdict also says how many of the tests about the population agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..statistics.aggregation import of_paper
from ..statistics.inference import ADJUSTED, NULLS
from ..study.plan import FROZEN

OPPONENTS = {"linear": "the linear model on regional volumes", "baseline": "the same network trained from scratch"}
TEST_NAMES = {  # on pages; inference.NULLS has the null of each
    "sign_flip": "paired sign-flip",
    "corrected_t": "corrected t",
    "participants": "participants resampled",
    "population": "participants and overlap",
}


@dataclass(frozen=True)
class Verdict:
    """The result of the paired test for one pair of models at one n of one task.

    `direction` is 1 if the first model is better, -1 if it is worse, 0 if they are not distinguishable; `adjusted` is
    true if the direction survives Holm's adjustment.  `asked` are the tests about the population that were made (keys
    of inference.NULLS), `survives` those that agree: same direction, adjusted p below the threshold.
    """

    task: str
    n: int
    first: str
    second: str
    difference: float
    p: float
    p_holm: float
    direction: int
    adjusted: bool
    asked: tuple[str, ...] = ()
    survives: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The verdict in words, for a table."""
        word = {1: "better", -1: "worse", 0: "not distinguishable"}[self.direction]
        return word if self.adjusted or not self.direction else f"{word}, unadjusted only"

    @property
    def population(self) -> str:
        """How many tests about the population agree, for a table; empty without an adjusted verdict or such tests."""
        if not (self.adjusted and self.asked):
            return ""
        return f"in the population by {len(self.survives)} of {len(self.asked)} tests"

    @property
    def kind(self) -> str:
        """The CSS class on the page: better, worse, maybe or none."""
        if not self.direction:
            return "none"
        return ("better" if self.direction > 0 else "worse") if self.adjusted else "maybe"


def verdicts(comparisons: pd.DataFrame, *, alpha: float, statistic: str) -> list[Verdict]:
    """A verdict per row of comparisons.tsv; `statistic` is the tested one, "mean" or "median"."""
    found = []
    for row in comparisons.to_dict("records"):
        difference, p, p_holm = row[f"{statistic}_difference"], row["p_two_sided"], row["p_holm"]
        direction = 0 if not p < alpha or difference == 0 else (1 if difference > 0 else -1)
        adjusted = bool(direction and p_holm < alpha)
        asked = tuple(test for test, null in NULLS.items() if null == "the population" and ADJUSTED[test] in row)
        agrees = adjusted and direction * row["mean_difference"] > 0  # the tests about the population test the mean
        survives = tuple(test for test in asked if agrees and row[ADJUSTED[test]] < alpha)
        found.append(
            Verdict(
                task=row["task"],
                n=row["n"],
                first=row["first"],
                second=row["second"],
                difference=difference,
                p=p,
                p_holm=p_holm,
                direction=direction,
                adjusted=adjusted,
                asked=asked,
                survives=survives,
            )
        )
    return found


def smallest_adjusted_p(comparisons: pd.DataFrame, replicates: int, statistic: str) -> float:
    """The smallest Holm-adjusted two-sided p that is possible with so many replicates and comparisons.

    With all sign patterns, the smallest two-sided p is 2 / 2**replicates for the mean and 2**-(replicates // 2) for the
    median; with m random patterns it is at least 2 / (m + 1).  Holm multiplies the smallest p by the number of
    comparisons.
    """
    if comparisons.empty:
        return 1.0
    least = 2.0 ** (1 - replicates) if statistic == "mean" else 2.0 ** -(replicates // 2)
    if not comparisons["exact"].all():
        least = max(least, 2 / (int(comparisons["permutations"].max()) + 1))
    return min(1.0, least * len(comparisons))


def answer(
    comparisons: pd.DataFrame,
    medians: pd.DataFrame,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    alpha: float,
    statistic: str,
) -> list[str]:
    """Sentences: transfer against training from scratch, against the linear model, and the limits of both.

    Each further arm gets one more sentence, after these three.

    Parameters
    ----------
    tasks : the configuration's tasks, with `title`
    alpha : threshold of the adjusted p
    statistic : of the paired differences, "mean" or "median"
    """
    found = [verdict for verdict in verdicts(comparisons, alpha=alpha, statistic=statistic) if verdict.task in tasks]
    comparisons, others = comparisons[of_paper(comparisons)], comparisons[~of_paper(comparisons)]
    of_transfer = [verdict for verdict in found if verdict.first == "transfer" and verdict.second in OPPONENTS]
    sentences = [
        _sentence([verdict for verdict in of_transfer if verdict.second == other], other, tasks)
        for other in ("baseline", "linear")
    ]
    replicates = int(medians["replicates"].min())
    least = smallest_adjusted_p(comparisons, replicates, statistic)
    scope = _scope(of_transfer)
    if least >= alpha:
        counts = f"{_counted(replicates, 'replicate')} and {_counted(len(comparisons), 'comparison')}"
        limit = (
            f"With {counts} no adjusted p below {least:.2g} is possible, so nothing could be called better or worse at "
            f"{alpha:g}; more replicates would be needed, and even then {scope}."
        )
    else:
        limit = (
            f"“Better” and “worse” mean a Holm-adjusted p below {alpha:g} over all {len(comparisons)} comparisons; "
            f"“not distinguishable” does not mean equal, and {scope}."
        )
    further = [verdict for verdict in found if verdict.first == "transfer" and verdict.second not in OPPONENTS]
    further_sentences = []
    for arm in dict.fromkeys(verdict.second for verdict in further):
        sentence = _sentence([verdict for verdict in further if verdict.second == arm], arm, tasks).removesuffix(".")
        family = _counted(len(others), "comparison")
        limit_of_arm = f"; this arm is not the paper's, and its p is adjusted over the {family} with such arms"
        further_sentences.append(f"{sentence}{limit_of_arm}.")
    return [*sentences, limit, *further_sentences]


def _scope(found: Sequence[Verdict]) -> str:
    """The scope of the verdicts, and how many of them also hold in the population."""
    pools = "this holds for the pools of images at hand, not for the populations that they come from"
    sure = [verdict for verdict in found if verdict.adjusted and verdict.asked]
    if not sure:
        return pools
    by_overlap, by_t = (sum(test in verdict.survives for verdict in sure) for test in ("population", "corrected_t"))
    holding = {0: "none holds", 1: "1 also holds"}.get(by_overlap, f"{by_overlap} also hold")
    return (
        f"{pools}: of the {_counted(len(sure), 'verdict')} about transfer, {holding} there by the test that accounts "
        f"for shared participants and {by_t or 'none'} by the corrected t-test, which is stricter"
    )


def opponent(arm: str) -> str:
    """A further arm in words."""
    features = "the pretrained network's features" if arm == FROZEN else f"the features “{arm}”"
    return f"logistic regression on {features}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _sentence(found: Sequence[Verdict], other: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison of transfer with another model, over all tasks and n."""
    against = OPPONENTS.get(other) or opponent(other)
    if not found:
        return f"The pretrained network was not compared with {against}."
    sizes = Counter(verdict.task for verdict in found)
    clauses: list[str] = []
    for word, sign in (("better", 1), ("worse", -1)):
        group = [verdict for verdict in found if verdict.adjusted and verdict.direction == sign]
        if group:
            than, of = ("", "") if clauses else (f" than {against}", f" of {_counted(len(found), 'case')}")
            clauses.append(f"{word}{than} in {len(group)}{of} ({_cells(group, sizes, tasks)})")
    rest = sum(not verdict.adjusted for verdict in found)
    if rest == len(found):
        cases = f"any of {rest} cases" if rest > 1 else "the one case"
        clauses.append(f"not distinguishable from {against} in {cases}")
    elif rest:
        clauses.append(
            f"not distinguishable in the other {rest}" if rest > 1 else "not distinguishable in the other one"
        )
    text = f"The pretrained network was {listed(clauses)}"
    hints = []
    for word, sign in (("better", 1), ("worse", -1)):
        group = [verdict for verdict in found if verdict.direction == sign and not verdict.adjusted]
        if group:
            hints.append(f"{word} for {_cells(group, sizes, tasks)}")
    return f"{text}; only the unadjusted test would call it {' and '.join(hints)}." if hints else f"{text}."


def _cells(group: Iterable[Verdict], sizes: Mapping[str, int], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Tasks and their n: "“Alzheimer's disease or healthy” at every n, and ... at n = 100 and 200".

    Parameters
    ----------
    sizes : by task, the number of n that were compared
    """
    by_task: dict[str, list[int]] = {}
    for verdict in group:
        by_task.setdefault(verdict.task, []).append(verdict.n)
    parts = []
    for task, found in by_task.items():
        at = "every n" if len(found) == sizes[task] > 1 else f"n = {listed(found)}"
        parts.append(f"“{tasks[task].get('title', task)}” at {at}")
    return ", and ".join(parts)


def listed(words: Iterable[object]) -> str:
    """Words joined as in a sentence: "a", "a and b", "a, b and c"."""
    *most, last = [str(word) for word in words]
    return f"{', '.join(most)} and {last}" if most else last
