"""Comparisons into verdicts and three sentences, which claim no more than the tests show.

"Better" and "worse" require a Holm-adjusted p below the threshold.  If only the unadjusted p is below it, the text
says so.  Everything else is "not distinguishable", which is not "equal".  There are two questions, each with one test
and its own verdict: the paper's test is about this pool of images, the other about the population that it comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..statistics.aggregation import of_paper
from ..statistics.inference import ADJUSTED, P_VALUES, PRIMARY
from ..study.plan import FROZEN

OPPONENTS = {"linear": "the linear model on regional volumes", "baseline": "the same network trained from scratch"}
TEST_NAMES = {  # on pages; inference.NULLS has the null of each
    "sign_flip": "paired sign-flip",
    "population": "participants and overlap",
    "participants": "participants resampled",
}
SCOPES = {"sign_flip": "In this pool of images", "population": "In the population that it comes from"}  # of PRIMARY


@dataclass(frozen=True)
class Verdict:
    """The result of one test for one pair of models at one n of one task.

    `direction` is 1 if the first model is better, -1 if it is worse, 0 if they are not distinguishable; `adjusted` is
    true if the direction survives Holm's adjustment.
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

    @property
    def text(self) -> str:
        """The verdict in words, for a table."""
        word = {1: "better", -1: "worse", 0: "not distinguishable"}[self.direction]
        return word if self.adjusted or not self.direction else f"{word}, unadjusted only"

    @property
    def kind(self) -> str:
        """The CSS class on the page: better, worse, maybe or none."""
        if not self.direction:
            return "none"
        return ("better" if self.direction > 0 else "worse") if self.adjusted else "maybe"


def verdicts(comparisons: pd.DataFrame, *, alpha: float, statistic: str, test: str = "sign_flip") -> list[Verdict]:
    """A verdict per row of comparisons.tsv.

    Parameters
    ----------
    statistic : that the sign-flip test tests, "mean" or "median"; a test about the population tests the mean
    test : one of inference.PRIMARY
    """
    found = []
    for row in comparisons.to_dict("records"):
        difference = row[f"{statistic if test == 'sign_flip' else 'mean'}_difference"]
        p, p_holm = row[P_VALUES[test]], row[ADJUSTED[test]]
        direction = 0 if not p < alpha or difference == 0 else (1 if difference > 0 else -1)
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
                adjusted=bool(direction and p_holm < alpha),
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
    """Sentences: transfer against training from scratch and against the linear model, and the limits of both.

    Each comparison has two, about this pool and about the population.  Each further arm gets two more at the end.

    Parameters
    ----------
    tasks : the configuration's tasks, with `title`
    alpha : threshold of the adjusted p
    statistic : of the paired differences, "mean" or "median"
    """
    shown = comparisons[comparisons["task"].isin(list(tasks)) & (comparisons["first"] == "transfer")]
    found = {test: verdicts(shown, alpha=alpha, statistic=statistic, test=test) for test in PRIMARY}
    comparisons, others = comparisons[of_paper(comparisons)], comparisons[~of_paper(comparisons)]

    def both(other: str) -> list[str]:
        return [
            _sentence([verdict for verdict in found[test] if verdict.second == other], other, tasks, SCOPES[test])
            for test in PRIMARY
        ]

    replicates = int(medians["replicates"].min())
    least = smallest_adjusted_p(comparisons, replicates, statistic)
    family = _counted(len(comparisons), "comparison")
    if least >= alpha:
        limit = (
            f"With {_counted(replicates, 'replicate')} and {family} no adjusted p below {least:.2g} is possible in "
            f"this pool, so nothing could be called better or worse there at {alpha:g}; more replicates are needed."
        )
    else:
        limit = (
            f"“Better” and “worse” mean a p below {alpha:g} after Holm's adjustment over the {family} of the paper's "
            "three models; “not distinguishable” does not mean equal."
        )
    further = []
    for arm in dict.fromkeys(verdict.second for verdict in found["sign_flip"] if verdict.second not in OPPONENTS):
        pool, population = both(arm)
        further += [
            pool,
            f"{population.removesuffix('.')}; this arm is not the paper's, and its p is adjusted over the "
            f"{_counted(len(others), 'comparison')} with such arms.",
        ]
    return [*both("baseline"), *both("linear"), limit, *further]


def opponent(arm: str) -> str:
    """A further arm in words."""
    features = "the pretrained network's features" if arm == FROZEN else f"the features “{arm}”"
    return f"logistic regression on {features}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _sentence(found: Sequence[Verdict], other: str, tasks: Mapping[str, Mapping[str, Any]], scope: str) -> str:
    """The comparison of transfer with another model by one test, over all tasks and n."""
    against = OPPONENTS.get(other) or opponent(other)
    if not found:
        return f"{scope}, the pretrained network was not compared with {against}."
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
    text = f"{scope}, the pretrained network was {listed(clauses)}"
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
