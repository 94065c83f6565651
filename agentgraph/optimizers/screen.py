"""Screening: which of many drawn plans to pay for, by what is known of them without a new call.

Two sources say how good a plan may be before it is run: earlier calls, which give its marks for nothing where all its
calls were made before (`agentgraph.lookup`), and the trials of plans like it (`agentgraph.forecast`). Both enter one
joint posterior, so that a lucky look among thousands is drawn back to what similar plans did. Plans to run are drawn from it by
Thompson sampling, dear ones at a small handicap. What was looked at and what decides are kept apart: the winner of a run is
chosen on validation questions with fresh replies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agentgraph.forecast import INSIGHTS, Forecast
from agentgraph.lookup import Known
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["Screen", "Screened"]

Values = NDArray[np.float64]
_SWEEPS: Final = 4  # of the alternating fit of plans and questions
_FEWEST: Final = 8  # marks from which on a look counts
_GLANCE: Final = 8  # questions of the first look at a plan
_LOOKED: Final = 128  # questions that plans are looked up on, at most


@dataclass(frozen=True)
class Screened:
    """Plans chosen, and how they came to be.

    Parameters
    ----------
    plans
        In the order of choice.
    candidates, free, cheap
        How many plans were looked through, how many of them need no new call, and how many need some but not all.
    """

    plans: Sequence[Plan]
    candidates: int
    free: int
    cheap: int

    def text(self) -> str:
        """One line for the account of a round."""
        return (
            f"{len(self.plans)} plans were chosen of {self.candidates} drawn; of these {self.free} need no new call, "
            f"{self.cheap} share some calls with earlier plans."
        )


class Screen:
    """Forecasts, looks and chooses.

    Parameters
    ----------
    space, objective
        Those of the search.
    look
        What earlier calls say of a plan; ``None`` chooses by forecasts alone.
    insights
        Those the forecast may use.
    boldness
        Factor on the posterior's standard deviation when drawing, >= 0: 0 takes the best forecast.
    thrift
        Utility that a plan must be better by if all its calls are new.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        look: Look | None,
        *,
        insights: Collection[int] = INSIGHTS,
        boldness: float = 1.0,
        thrift: float = 0.02,
    ) -> None:
        self.space, self.objective, self.look = space, objective, look
        self.boldness, self.thrift = boldness, thrift
        self.forecast = Forecast(space, insights)
        self._difficulty: dict[str, float] = {}
        self._questions: list[str] = []  # those that plans are looked up on: the most often answered
        self._noise = 0.25  # variance of a mark about what plan and question say of it

    def fit(self, trials: Sequence[Trial]) -> None:
        """Learn from all trials."""
        marked = sorted((trial for trial in trials if trial.marks), key=lambda trial: trial.number)
        self._fit_questions(marked)
        values = np.array([self._level(trial) for trial in marked])
        errors = np.array([np.sqrt(self._noise / len(trial.marks)) for trial in marked])
        self.forecast.fit([trial.plan for trial in marked], values, errors)

    def beliefs(self, trials: Sequence[Trial]) -> tuple[Values, Values]:
        """Mean and standard deviation of the trials' utilities, by their own marks and those of plans like them; (n,)."""
        if not trials:
            return np.zeros(0), np.zeros(0)
        mean, covariance = self.forecast.predict([trial.plan for trial in trials])
        return mean, np.sqrt(np.clip(np.diag(covariance), 0.0, None))

    def choose(self, candidates: Sequence[Plan], k: int, rng: np.random.Generator) -> Screened:
        """The ``k`` candidates most worth running."""
        if not candidates or k < 1:
            return Screened([], 0, 0, 0)
        mean, covariance = self.forecast.predict(candidates)
        new = np.ones(len(candidates))
        if self.look is not None:
            looked = [self._look(self.look, plan) for plan in candidates]
            new = np.array([known.new_calls / max(1, known.calls) for known in looked])
            mean, covariance = self._updated(candidates, [known.marks for known in looked], mean, covariance)
        chosen = self._draw(mean - self.thrift * new, covariance, k, rng)
        free = int((new == 0).sum())
        return Screened([candidates[i] for i in chosen], len(candidates), free, int((new < 1).sum()) - free)

    def _look(self, look: Look, plan: Plan) -> Known:
        """What is known of a plan; of one that is not known on any of a few questions the rest is not looked up."""
        first = look(plan, self._questions[:_GLANCE])
        return first if np.isnan(first.marks).all() else look(plan, self._questions)

    def _draw(self, mean: Values, covariance: Values, k: int, rng: np.random.Generator) -> list[int]:
        """Different plans, each the best in a draw from the posterior; the first by the mean alone."""
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
        chosen = [int(mean.argmax())]
        while len(chosen) < min(k, len(mean)):
            drawn = mean + self.boldness * root @ rng.standard_normal(len(mean))
            drawn[chosen] = -np.inf
            chosen.append(int(drawn.argmax()))
        return chosen

    def _updated(
        self, plans: Sequence[Plan], marks: Sequence[Values], mean: Values, covariance: Values
    ) -> tuple[Values, Values]:
        """The posterior once the marks that were looked up are taken in."""
        difficulty = np.array([self._difficulty[question] for question in self._questions])
        rows, levels, noise = [], [], []
        for i, row in enumerate(marks):
            there = ~np.isnan(row)
            if there.sum() >= _FEWEST:
                shift = self.objective.utility(self._trial(plans[i], row[there])) - row[there].mean()
                rows.append(i)
                levels.append(float((row[there] - difficulty[: len(row)][there]).mean()) + shift)
                noise.append(self._noise / int(there.sum()))
        if not rows:
            return mean, covariance
        gain = np.linalg.solve(covariance[np.ix_(rows, rows)] + np.diag(noise), covariance[rows]).T
        return mean + gain @ (np.array(levels) - mean[rows]), covariance - gain @ covariance[rows]

    def _trial(self, plan: Plan, marks: Values) -> Trial:
        """A trial that was never paid for: marks as looked up, charge as forecast."""
        price = self.space.price(plan)
        named = {str(i): float(mark) for i, mark in enumerate(marks)}
        return Trial(-1, plan, 0, price, named, price.times(len(named)))

    def _level(self, trial: Trial) -> float:
        """Utility of a trial had it been marked on average questions."""
        shift = float(np.mean([self._difficulty[question] for question in trial.marks]))
        return self.objective.utility(trial) - shift

    def _fit_questions(self, trials: Sequence[Trial]) -> None:
        """How much easier than the average each question is: plans marked on different questions become comparable."""
        names = {q: i for i, q in enumerate(dict.fromkeys(q for trial in trials for q in trial.marks))}
        rows = [np.array([names[q] for q in trial.marks]) for trial in trials]
        marks = [np.array(list(trial.marks.values())) for trial in trials]
        ease, count = np.zeros(len(names)), np.zeros(len(names))
        for row in rows:
            count[row] += 1
        residual: list[Values] = []
        for _ in range(_SWEEPS):
            level = [float((mark - ease[row]).mean()) for row, mark in zip(rows, marks, strict=True)]
            sums = np.zeros(len(names))
            for row, mark, mean in zip(rows, marks, level, strict=True):
                sums[row] += mark - mean
            ease = sums / (count + 1)
            ease -= float(np.average(ease, weights=count)) if names else 0.0
        for row, mark in zip(rows, marks, strict=True):
            residual.append(mark - ease[row] - (mark - ease[row]).mean())
        spread = np.concatenate(residual) if residual else np.zeros(0)
        self._noise = max(0.02, float(spread.var())) if len(spread) > 1 else 0.25
        self._difficulty = {q: float(ease[i]) for q, i in names.items()}
        self._questions = sorted(names, key=lambda q: (-count[names[q]], names[q]))[:_LOOKED]
