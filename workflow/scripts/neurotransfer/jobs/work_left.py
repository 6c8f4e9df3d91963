"""How long a run of Snakemake still takes, from what its jobs cost and how far they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..study.rules import PAGES, STATISTICS

OTHER_COST = 1.0  # seconds of a job of a rule whose costs are not given
ORDINARY = 20.0  # seconds of work for which a machine counts as ordinary before it has done any
LEAST_DONE = 0.05  # of the work, before which no time left is said
ALMOST = 0.9  # of a running job that is done at most, as long as it says nothing of itself


class Work:
    """The jobs of a run: waiting, running and finished.

    Parameters
    ----------
    costs : seconds of a job by its rule, on a core of an ordinary machine; without them the time left is not known
    images : of a job of `preprocess` on average, if its cost is given

    Attributes
    ----------
    jobs : of the whole run, by rule
    cores : that work at once
    images_done : by all jobs of `preprocess`
    said : the seconds that a rule's running job has said it still takes, and when it said so, by rule
    """

    def __init__(self, costs: Mapping[str, float], images: float | None) -> None:
        self.costs, self.images = costs, images
        self.jobs: Counter[str] = Counter()
        self.cores = 1
        self.images_done = 0
        self.said: dict[str, tuple[float, float]] = {}
        self._finished: Counter[str] = Counter()
        self._used = 0.0  # seconds of finished jobs
        self._open: dict[str, tuple[str, float]] = {}  # rule and begin of a running job, by its number

    def begin(self, number: str, name: str, seconds: float) -> None:
        """A job of the rule `name` begins, `seconds` after the run did."""
        self._open[number] = (name, seconds)

    def finish(self, number: str, name: str, seconds: float) -> None:
        """A job ends."""
        _, begun = self._open.pop(number, (name, seconds))
        self._finished[name] += 1
        self._used += seconds - begun
        self.said.pop(name, None)

    def fail(self, number: str, name: str) -> None:
        """A job fails: it runs no more and has done nothing; it begins again if it is tried again."""
        self._open.pop(number, None)
        self.said.pop(name, None)

    @property
    def running(self) -> list[str]:
        """The rules of the running jobs, each once, in the order in which they began."""
        return list(dict.fromkeys(name for name, _ in self._open.values()))

    def seconds_left(self, seconds: float) -> float | None:
        """The time left: until the cores have done the rest, times how much slower than ordinary the machine is.

        Running jobs count with the part that they say they have done, or else with their time.  None before a
        twentieth of the work is done.
        """
        if not self.costs:
            return None
        whole = sum(self._cost(name) * count for name, count in self.jobs.items())
        by_image = bool(self.images) and "preprocess" in self.jobs
        done = self._done_by_images() if by_image else 0.0
        for name, count in self._finished.items():
            done += 0.0 if by_image and name == "preprocess" else self._cost(name) * count
        spent, loads = self._used, [0.0] * self.cores
        silent: list[tuple[float, float]] = []
        for name, begun in self._open.values():
            age, cost = seconds - begun, self._cost(name)
            if by_image and name == "preprocess":
                spent += age
            elif name in self.said:
                to_go, when = self.said[name]
                part = age / (age + max(to_go - (seconds - when), 0.1 * to_go) + 1e-9)
                spent += age
                done += part * cost
                loads.append((1 - part) * cost)
            else:
                silent.append((age, cost))
        slowness = (spent + ORDINARY) / (done + ORDINARY)
        for age, cost in silent:
            if age > slowness * cost:  # it is slower than the others were
                spent += age
                done += ALMOST * cost
        if not LEAST_DONE * whole < done < whole:
            return None
        slowness = (spent + ORDINARY) / (done + ORDINARY)
        loads += [cost - min(age / slowness, ALMOST * cost) for age, cost in silent]
        return slowness * self._until_end(sorted(loads)[-self.cores :])

    def _until_end(self, loads: list[float]) -> float:
        """Ordinary seconds until all is done, from what the jobs on each core still take."""
        running = Counter(name for name, _ in self._open.values())
        waiting: list[float] = []
        last = chain = 0.0
        for name, count in self.jobs.items():
            cost, begun = self._cost(name), self._finished[name] + running[name]
            if name in (*STATISTICS, *PAGES):  # after all else, one after the other
                last += cost * (self._finished[name] == 0)
            elif name == "preprocess" and self.images:
                waiting += [(cost * count - self._done_by_images()) / count] * count
            else:
                waiting += [cost] * (count - begun)
                chain += cost * (begun == 0)  # of one job of each rule, most of which follow each other
        for cost in sorted(waiting, reverse=True):
            loads[loads.index(min(loads))] += cost
        return max(max(loads), chain) + last

    def _cost(self, name: str) -> float:
        return self.costs.get(name, OTHER_COST)

    def _done_by_images(self) -> float:
        """The costs of the images that are preprocessed; jobs differ much in their number of images."""
        count, cost = self.jobs["preprocess"], self._cost("preprocess")
        if self._finished["preprocess"] >= count:
            return cost * count
        return min(cost * self.images_done / (self.images or 1), cost * count)
