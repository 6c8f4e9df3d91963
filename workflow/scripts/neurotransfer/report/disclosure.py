"""Which counts of a study can stand side by side in what can be mailed, if none of few people may follow from them.

Goes in: groups of people, and sums of groups in the order of their importance.  Comes out: the sums that are hidden.
A sum is shown if no number of few people follows from it and the sums before it: not by linear equations, not as the
difference of two sums, and not because counts are whole, never negative, and "< 5" or "hidden" (complementary cell
suppression; Willenborg & de Waal, 2001, chapter 4).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

Name = Hashable
TOGETHER = 3  # tries with all numbers at once, of little use, before each is tried by itself
NOTHING = 1e-7  # of a residual of a sum of groups, whose entries are 0 and 1
LITTLE = 1e-5  # of the square of a residual, from which on it is computed again, without loss of digits


def hidden_sums(
    groups: Mapping[Any, Collection[str]],
    sums: Mapping[Any, Collection[Any]],
    smallest: int,
    shown: Collection[Any] = (),
    hidden: Collection[Any] = (),
    free: Collection[Any] = (),
    beside: Mapping[Any, Collection[Any]] | None = None,
) -> set[Any]:
    """The names of the sums that must not be shown.

    Parameters
    ----------
    groups : by name, the people of each image, so that a person with two images is there twice; disjoint images
    sums : by name, the groups that are counted; the most important first
    smallest : number of people; a sum of fewer is always hidden
    shown, hidden : names of sums that another page shows, or hides, in any case
    free : names of groups that may follow by themselves, although they are of few people: further scans of people who
        are counted by another group
    beside : by name, the groups of a second sum that is shown, or hidden, together with the first

    Examples
    --------
    Of three groups one has two people, so another is hidden beside the sum of both:

    >>> groups = {name: [f"{name}{at}" for at in range(size)] for name, size in {"a": 40, "b": 2, "c": 9}.items()}
    >>> sums = {"all": "abc", "first": "ab", "a": "a", "b": "b", "c": "c"}
    >>> sorted(hidden_sums(groups, sums, 5))
    ['a', 'b']
    """
    names = [name for name, people in groups.items() if len(people)]
    place = {name: at for at, name in enumerate(names)}
    images = np.array([len(groups[name]) for name in names], float)
    people = [frozenset(groups[name]) for name in names]
    rows = {name: np.zeros((2, len(names))) for name in sums}
    for at, some in enumerate((sums, beside or {})):
        for name, parts in some.items():
            rows[name][at, [place[part] for part in parts if part in place]] = 1
    counted = {name: both[both.any(1)] for name, both in rows.items() if both.any()}  # a sum of nobody is 0, and known
    table = _Table(people, images, smallest, np.array([name in free for name in names], bool))
    few = {name for name, both in counted.items() if any(table.is_few(row) for row in both)}
    alone = np.array([len(mine) < smallest for mine in people], bool) & ~table.free
    if not few and not alone.any():
        return set()
    table.watch([*np.eye(len(names))[alone], *(row for name in few for row in counted[name] if table.is_few(row))])
    for name in [*(name for name in shown if name in counted), *counted]:
        if name not in few and name not in table.shown and name not in hidden:
            table.show(name, counted[name], always=name in shown)
    table.hide_what_bounds_tell({name: both for name, both in counted.items() if name not in table.shown})
    return counted.keys() - table.shown.keys()


class _Table:
    """Sums that are shown, and what follows from them."""

    def __init__(self, people: Sequence[frozenset[str]], images: np.ndarray, smallest: int, free: np.ndarray) -> None:
        self.people, self.images, self.smallest, self.free = people, images, smallest, free
        self.shown: dict[Name, np.ndarray] = {}
        self.always: set[Name] = set()
        self.tries = 0  # with all numbers at once, of little use
        self.basis = np.zeros((0, len(people)))  # orthonormal, of the shown sums
        self.targets = np.zeros((0, len(people)))  # sums of few people
        self.left = np.zeros(0)  # squares of the sizes of their parts outside the basis

    def is_few(self, row: np.ndarray) -> bool:
        """Whether a sum is of some people, but of fewer than the smallest cell."""
        inside = np.flatnonzero(row > 0.5)
        if not len(inside):
            return False
        everyone: set[str] = set()
        for at in inside.tolist():
            everyone |= self.people[at]
            if len(everyone) >= self.smallest:
                return False
        return True

    def watch(self, rows: Iterable[np.ndarray]) -> None:
        """Sums that must not follow."""
        self.targets = np.unique(np.array(list(rows)), axis=0)
        self.sparse, self.left = csr_array(self.targets), self.targets.sum(1)

    def show(self, name: Name, rows: np.ndarray, always: bool) -> None:
        """Show a sum, or two, if nothing of few people follows from it and those that are shown."""
        left, basis = self.left, self.basis
        for at, row in enumerate(rows):
            new = row - basis.T @ (basis @ row)
            new -= basis.T @ (basis @ new)
            size = np.linalg.norm(new)
            if size > NOTHING:
                new /= size
                left, basis = left - (self.sparse @ new) ** 2, np.vstack([basis, new])
            others = [*self.shown.values(), rows[:at]]
            if not always and (self._follows(left, basis) or self._has_few_between(row, others, self._known(basis))):
                return
        self.shown[name], self.left, self.basis = rows, left, basis
        if always:
            self.always.add(name)

    def _follows(self, left: np.ndarray, basis: np.ndarray) -> bool:
        """Whether a sum of few people follows from a basis, outside of which little of it may be left."""
        rest = self.targets[left < LITTLE]
        for _ in range(2):
            rest = rest - (rest @ basis.T) @ basis
        return bool(len(rest) and np.linalg.norm(rest, axis=1).min() < NOTHING)

    def _known(self, basis: np.ndarray) -> np.ndarray:
        """Whether the number of each group follows."""
        return (basis**2).sum(0) > 1 - NOTHING

    def _has_few_between(self, row: np.ndarray, shown: Sequence[np.ndarray], known: np.ndarray) -> bool:
        """Whether few people are the rest of a sum, or between two sums of which one has all groups of the other."""
        open_ = ~known
        others, mine = np.vstack([*shown, row]) * open_, row * open_
        sizes, common = others.sum(1), others @ mine
        rests = [*others]
        rests += [mine - other for other in others[(common == sizes) & (sizes < mine.sum())]]
        rests += [other - mine for other in others[(common == mine.sum()) & (sizes > common)]]
        weights = np.array(rests) @ self.images
        open_rests = [rest for rest, weight in zip(rests, weights, strict=True) if weight and (rest * ~self.free).any()]
        return any(self.is_few(rest) for rest in open_rests)

    def hide_what_bounds_tell(self, hidden: dict[Name, np.ndarray]) -> None:
        """Hide more, from the least important on, until each number of few people may be one of two at least."""
        if self.smallest <= 2:  # "< 2" is 1
            return
        generator = np.random.default_rng(0)
        while (certain := self._with_one_value(generator, hidden)) is not None:
            target, sides = certain
            names = [name for name, weight in sides.items() if weight > NOTHING and name not in self.always]
            names = names or [name for name in self.shown if name not in self.always]
            if not names:
                return
            hidden[names[-1]] = self.shown.pop(names[-1])
            self.targets = np.vstack([self.targets, target])

    def _with_one_value(
        self, generator: np.random.Generator, hidden: Mapping[Name, np.ndarray]
    ) -> tuple[np.ndarray, dict[Name, float]] | None:
        """A number of few people with one possible value, and the weights of sums behind it; None if each has two.

        `targets` lose those that have two.  Counts that give many of them another value at once are tried first.
        """
        names = [name for name, rows in self.shown.items() for _ in rows]
        sums = np.vstack([*self.shown.values(), np.zeros((0, len(self.images)))])
        rows = [(row, self.is_few(row)) for both in hidden.values() for row in both]
        upper = [row for row, few in rows if few and row @ self.images < self.smallest]
        lower = [-row for row, _ in rows]
        limits = [self.smallest - 1.0] * len(upper) + [-1.0 if few else -self.smallest for _, few in rows]
        more = {"A_ub": csr_array(np.array(upper + lower)), "b_ub": limits} if hidden else {}
        more |= {"A_eq": csr_array(sums), "b_eq": sums @ self.images} if names else {}

        def extreme(goal: np.ndarray) -> Any:
            return linprog(goal, bounds=(0, self.images.sum()), method="highs", **more)

        while len(self.targets):
            alone = self.tries >= TOGETHER
            chosen = self.targets[:1] if alone else self.targets * generator.choice([-1, 1], (len(self.targets), 1))
            ends = [extreme(sign * chosen.sum(0)) for sign in (1, -1)]
            if any(end.status for end in ends):
                self.targets = self.targets[1:] if alone else self.targets
                self.tries += 1
                continue
            counts = np.array([self.images, *(end.x for end in ends)]) @ self.targets.T
            two = np.floor(counts.max(0) + 1e-6) - np.ceil(counts.min(0) - 1e-6) >= 1
            self.tries += two.mean() < 0.2
            if alone and not two[0]:
                target, self.targets = self.targets[0], self.targets[1:]
                weights = sum(np.abs(end.eqlin.marginals) for end in ends) if names else []
                sides = dict.fromkeys(names, 0.0)
                for name, weight in zip(names, weights, strict=True):
                    sides[name] += weight
                return target, sides
            self.targets = self.targets[~two]
        return None
