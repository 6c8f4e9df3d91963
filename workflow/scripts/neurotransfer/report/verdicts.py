"""What the tests allow to be said: comparisons in, verdicts and three sentences out, never more certain than they.

"Better" and "worse" are said of Holm-adjusted p-values; what only the unadjusted test (the paper's) shows is
said to be that; everything else is "not distinguishable", which is not "equal".  The paper's test is about the pool
at hand; which of its verdicts survive the tests about the population is said beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..statistics.inference import ADJUSTED, NULLS

NAMES = {"linear": "the linear model on regional volumes", "baseline": "the same network trained from scratch"}


@dataclass(frozen=True)
class Verdict:
    """What the paired test says of one pair of models at one n of one task.

    `direction` is 1 where the first model is better, -1 where it is worse, 0 where the test cannot tell;
    `adjusted` is whether that survives Holm's adjustment; `asked` are the tests about the population that were made
    (keys of inference.NULLS), and `survives` those whose adjusted p is below the threshold too.
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
        """In words, for a table."""
        word = {1: "better", -1: "worse", 0: "not distinguishable"}[self.direction]
        return word if self.adjusted or not self.direction else f"{word}, unadjusted only"

    @property
    def population(self) -> str:
        """How far it holds in the population, in words for a table; empty where there is nothing to hold."""
        if not (self.adjusted and self.asked):
            return ""
        return f"in the population by {len(self.survives)} of {len(self.asked)} tests"

    @property
    def kind(self) -> str:
        """A word for the page's style: better, worse, maybe or none."""
        if not self.direction:
            return "none"
        return ("better" if self.direction > 0 else "worse") if self.adjusted else "maybe"


def verdicts(comparisons: pd.DataFrame, *, alpha: float, statistic: str) -> list[Verdict]:
    """A verdict per row of comparisons.tsv; `statistic` ("mean" or "median") is the one that was tested."""
    found = []
    for row in comparisons.to_dict("records"):
        difference, p, p_holm = row[f"{statistic}_difference"], row["p_two_sided"], row["p_holm"]
        direction = 0 if not p < alpha or difference == 0 else (1 if difference > 0 else -1)
        names = (row["task"], row["n"], row["first"], row["second"])
        adjusted = bool(direction and p_holm < alpha)
        asked = tuple(test for test, null in NULLS.items() if null == "the population" and ADJUSTED[test] in row)
        agrees = adjusted and direction * row["mean_difference"] > 0  # the tests about the population are of means
        survives = tuple(test for test in asked if agrees and row[ADJUSTED[test]] < alpha)
        found.append(Verdict(*names, difference, p, p_holm, direction, adjusted, asked, survives))
    return found


def smallest_adjusted_p(comparisons: pd.DataFrame, replicates: int, statistic: str) -> float:
    """The smallest Holm-adjusted two-sided p that so many replicates and comparisons could give.

    Over all sign patterns the smallest two-sided p is 2 / 2**replicates for the mean and 2**-(replicates // 2) for
    the median, with `m` drawn patterns it is no smaller than 2 / (m + 1); Holm multiplies the smallest p by the
    number of comparisons.
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
    """Three sentences: transfer against training from scratch, against the linear model, and what limits them.

    Parameters
    ----------
    tasks : the configuration's tasks; `title` names one to a person
    alpha : the threshold of the adjusted p
    statistic : of the paired differences, "mean" or "median"
    """
    found = [verdict for verdict in verdicts(comparisons, alpha=alpha, statistic=statistic) if verdict.task in tasks]
    sentences = [
        _sentence(
            [verdict for verdict in found if (verdict.first, verdict.second) == ("transfer", other)], other, tasks
        )
        for other in ("baseline", "linear")
    ]
    replicates = int(medians["replicates"].min())
    least = smallest_adjusted_p(comparisons, replicates, statistic)
    scope = _scope([verdict for verdict in found if verdict.first == "transfer"])
    if least >= alpha:
        pairs = f"{len(comparisons)} comparison{'s' if len(comparisons) != 1 else ''}"
        many = f"{replicates} replicate{'s' if replicates != 1 else ''}"
        few = f"With {many} and {pairs} no adjusted p below {least:.2g} is possible, so nothing could be called better"
        return [*sentences, f"{few} or worse at {alpha:g}; more replicates would be needed, and even then {scope}."]
    told = f"“Better” and “worse” mean a Holm-adjusted p below {alpha:g} over all {len(comparisons)} comparisons"
    return [*sentences, f"{told}; “not distinguishable” does not mean equal, and {scope}."]


def _scope(found: Sequence[Verdict]) -> str:
    """What the verdicts are about, and how many of them hold in the population too."""
    pools = "this holds for the pools of images at hand, not for the populations that they come from"
    sure = [verdict for verdict in found if verdict.adjusted and verdict.asked]
    if not sure:
        return pools
    survived = [sum(test in verdict.survives for verdict in sure) for test in ("population", "corrected_t")]
    told = {0: "none holds", 1: "1 also holds"}.get(survived[0], f"{survived[0]} also hold")
    return (
        f"{pools}: of the {_verdicts(len(sure))} about transfer, {told} there by the test that reckons with shared "
        f"participants and {survived[1] or 'none'} by the corrected t-test, which is stricter"
    )


def _verdicts(count: int) -> str:
    return f"{count} verdicts" if count != 1 else "1 verdict"


def _sentence(found: Sequence[Verdict], other: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """How transfer did against another model over all tasks and n."""
    against = NAMES[other]
    if not found:
        return f"The pretrained network was not compared with {against}."
    places = {task: [verdict.n for verdict in found if verdict.task == task] for task in tasks}
    clauses: list[str] = []
    for word, sign in (("better", 1), ("worse", -1)):
        group = [verdict for verdict in found if verdict.adjusted and verdict.direction == sign]
        if group:
            whom, of = ("", "") if clauses else (f" than {against}", f" of {_cases(len(found))}")
            clauses.append(f"{word}{whom} in {len(group)}{of} ({_where(group, places, tasks)})")
    rest = sum(not verdict.adjusted for verdict in found)
    if rest == len(found):
        where = f"any of {_cases(rest)}" if rest > 1 else "the one case"
        clauses.append(f"not distinguishable from {against} in {where}")
    elif rest:
        clauses.append(
            f"not distinguishable in the other {rest}" if rest > 1 else "not distinguishable in the other one"
        )
    text = f"The pretrained network was {listed(clauses)}"
    hints = []
    for word, sign in (("better", 1), ("worse", -1)):
        group = [verdict for verdict in found if verdict.direction == sign and not verdict.adjusted]
        if group:
            hints.append(f"{word} for {_where(group, places, tasks)}")
    return f"{text}; only the unadjusted test would call it {' and '.join(hints)}." if hints else f"{text}."


def _cases(count: int) -> str:
    return f"{count} cases" if count != 1 else "1 case"


def _where(group: Iterable[Verdict], places: Mapping[str, list[int]], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Tasks and their n: "Alzheimer's disease or healthy at every n; ... at n = 100 and 200"."""
    parts = []
    by_task: dict[str, list[int]] = {}
    for verdict in group:
        by_task.setdefault(verdict.task, []).append(verdict.n)
    for task, sizes in by_task.items():
        every = len(sizes) == len(places[task]) > 1
        where = "every n" if every else f"n = {listed(sizes)}"
        parts.append(f"“{tasks[task].get('title', task)}” at {where}")
    return ", and ".join(parts)


def listed(words: Iterable[object]) -> str:
    """Words in a sentence: "a", "a and b", "a, b and c"."""
    *most, last = [str(word) for word in words]
    return f"{', '.join(most)} and {last}" if most else last
