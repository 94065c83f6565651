"""Figures of many searches: regret at equal effort, effort until a plan is near the best, and intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .one_run import Point
from .results import Run
from .worlds import Best

NEAR = 1.0
"""Points from the optimum at which a search has come near."""
SHARE = 0.90
"""Of the intervals."""


@dataclass(frozen=True)
class Mean:
    """Mean over seeds, and half of its interval by Student's t; ``nan`` of one seed."""

    value: float
    half: float
    count: int


@dataclass(frozen=True)
class Group:
    """The searches of one world by one method, seed by seed."""

    method: str
    best: Best
    runs: Sequence[Run]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Group:
        """Runs of one world and method."""
        return cls(runs[0].method, Best(**runs[0].world_facts["best"]), runs)

    @property
    def has_agent(self) -> bool:
        """Whether an agent is part of the method."""
        return "agent" in self.runs[0].settings["optimizer"]

    @property
    def evaluations(self) -> int:
        """Budget that every seed was run to."""
        return min(run.evaluations for run in self.runs)

    def regrets(self, effort: str, most: float) -> tuple[list[float], list[float]]:
        """Points lost on search and on unseen questions by what each seed had chosen after at most that effort.

        ``effort`` is a field of `Point`, 'evaluations' or 'calls'. Seeds that had no plan yet are left out.
        """
        found = [point for run in self.runs if (point := _at(run.points, effort, most)) and point.search is not None]
        return (
            [100 * (self.best.search - point.search) for point in found],
            [100 * (self.best.unseen - point.unseen) for point in found],
        )

    def needed(self, effort: str) -> list[float]:
        """Effort of each seed until its choice first was near the optimum; ``inf`` for those that never were."""
        return [_needed(run.points, effort, self.best.search) for run in self.runs]

    def spent(self, effort: str) -> float:
        """Least effort at which a seed ended: what censored ones are known to need more than."""
        return min(getattr(run.points[-1], effort) for run in self.runs)

    def mean(self, what: str) -> float:
        """Mean over seeds of an entry of the outcome."""
        return statistics.fmean(run.outcome.get(what, math.nan) for run in self.runs)

    def thinking(self) -> float:
        """Mean seconds of a search that the optimizer itself took."""
        return statistics.fmean(run.points[-1].seconds for run in self.runs)


def _at(points: Sequence[Point], effort: str, most: float) -> Point | None:
    """The last point that took at most so much; an ended search keeps its choice."""
    return next((point for point in reversed(points) if getattr(point, effort) <= most), None)


def _needed(points: Sequence[Point], effort: str, best: float) -> float:
    for point in points:
        if point.search is not None and 100 * (best - point.search) <= NEAR + 1e-9:
            return float(getattr(point, effort))
    return math.inf


def mean_of(values: Sequence[float]) -> Mean:
    """Mean with its interval."""
    n = len(values)
    if n < 2:
        return Mean(values[0] if values else math.nan, math.nan, n)
    quantile = float(stats.t.ppf((1 + SHARE) / 2, n - 1))
    return Mean(statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(n), n)


def difference(a: Sequence[float], b: Sequence[float]) -> Mean:
    """Mean of a less mean of b with Welch's interval; half is 0 where neither varies."""
    gap = statistics.fmean(a) - statistics.fmean(b)
    if min(len(a), len(b)) < 2:
        return Mean(gap, math.nan, min(len(a), len(b)))
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    total = sum(parts)
    if total == 0:
        return Mean(gap, 0.0, min(len(a), len(b)))
    freedom = total**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    return Mean(gap, float(stats.t.ppf((1 + SHARE) / 2, freedom)) * math.sqrt(total), min(len(a), len(b)))
