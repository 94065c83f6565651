"""Scores plans on a split: marks question by question, charge, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentgraph.budget import Cost, total
from agentgraph.execute import Executor, Job
from agentgraph.plan import Plan
from agentgraph.roles.base import Role
from agentgraph.score import interval, paired_difference
from agentgraph.tasks.base import Question

__all__ = ["Candidate", "Scored", "evaluate"]


@dataclass(frozen=True)
class Candidate:
    """A plan to score.

    Parameters
    ----------
    name
        What tables call it.
    price
        Forecast cost of one question.
    roles
        Roles of the plan that are not the search's, by name.
    """

    name: str
    plan: Plan
    price: Cost
    roles: Mapping[str, Role] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A candidate with its marks on one set of questions; a failed question has ``None`` and counts nowhere."""

    candidate: Candidate
    marks: Sequence[float | None]
    charge: Cost
    outcomes: Mapping[str, int]

    @property
    def known(self) -> list[float]:
        """Marks of the questions that the service answered."""
        return [mark for mark in self.marks if mark is not None]

    @property
    def failures(self) -> int:
        """Questions left unmarked because the service failed."""
        return len(self.marks) - len(self.known)

    @property
    def accuracy(self) -> float:
        """Mean mark, in [0, 1]."""
        return float(np.mean(self.known)) if self.known else 0.0

    def interval(self) -> tuple[float, float, float]:
        """Mean mark with its 95 % interval."""
        return interval(self.known) if self.known else (0.0, 0.0, 1.0)

    def less(self, other: Scored) -> tuple[float, float, float]:
        """Mean paired difference to another on the same questions, with its 95 % interval."""
        pairs = [(a, b) for a, b in zip(self.marks, other.marks, strict=True) if a is not None and b is not None]
        return paired_difference([a for a, _ in pairs], [b for _, b in pairs]) if pairs else (0.0, -1.0, 1.0)


def evaluate(
    executor: Executor, candidates: Sequence[Candidate], questions: Sequence[Question], *, replicate: int
) -> list[Scored]:
    """Score candidates on the same questions, all at once."""
    jobs = [Job(candidate.plan, questions, replicate, candidate.roles) for candidate in candidates]
    result = []
    for candidate, answers in zip(candidates, executor.run(jobs), strict=True):
        marked = [answer for answer in answers if answer.mark is not None]
        outcomes: Counter[str] = Counter()
        for answer in marked:
            outcomes.update(answer.outcomes)
        charge = total(answer.charge for answer in marked).over(max(1, len(marked)))
        result.append(Scored(candidate, [answer.mark for answer in answers], charge, dict(sorted(outcomes.items()))))
    return result
