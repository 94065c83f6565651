"""A trial: a plan, its marks question by question, its price and its charge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentgraph.budget import Cost
from agentgraph.plan import Plan

__all__ = ["Answer", "Trial", "stderr"]


def stderr(marks: Sequence[float]) -> float:
    """Standard error of the mean of marks with half a success and half a failure added, so that it is never 0."""
    n = len(marks)
    mean = (sum(marks) + 0.5) / (n + 1)
    return float(np.sqrt(mean * (1 - mean) / (n + 1)))


@dataclass(frozen=True)
class Answer:
    """What a plan made of one question.

    Parameters
    ----------
    question
        The question's id.
    mark
        In [0, 1]; ``None`` if the service failed, which is not an answer.
    charge
        Measured cost, as if the plan had paid for every call itself.
    outcomes
        How often a model's reply was 'empty', 'cut' or 'unparseable' after it was asked again.
    text
        The answer, '' if there is none.
    stages
        Marks of what stages alone have done, by name, where they can be marked by themselves.
    spent
        Calls, tokens and seconds of each stage that was asked, in order.
    """

    question: str
    mark: float | None
    charge: Cost = field(default_factory=Cost)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    text: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    spent: Sequence[Cost] = ()


@dataclass
class Trial:
    """Everything known of one plan on train questions; a plan drawn again adds marks to its one trial.

    Parameters
    ----------
    number
        Rank in the order in which plans were first drawn.
    round
        Round in which it was first drawn.
    price
        Forecast cost of one question.
    marks
        Mark in [0, 1] by question id.
    charged
        Sum of measured costs over the marked questions.
    stage_marks
        Mark of what a stage alone has done, by stage and question id; only stages that can be marked.
    """

    number: int
    plan: Plan
    round: int
    price: Cost
    marks: dict[str, float] = field(default_factory=dict)
    charged: Cost = field(default_factory=Cost)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    stage_marks: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        """Take in one answer; a question that has a mark keeps it."""
        if answer.mark is None:
            self.failures += 1
        elif answer.question not in self.marks:
            self.marks[answer.question] = answer.mark
            self.charged = self.charged + answer.charge
            self.outcomes.update(answer.outcomes)
            for stage, mark in answer.stages.items():
                self.stage_marks.setdefault(stage, {})[answer.question] = mark

    def merge(self, new: Trial) -> None:
        """Take in what a later round found of the same plan, on questions without a mark."""
        self.marks.update(new.marks)
        self.charged = self.charged + new.charged
        self.outcomes.update(new.outcomes)
        self.failures += new.failures
        for stage, marks in new.stage_marks.items():
            self.stage_marks.setdefault(stage, {}).update(marks)

    @property
    def accuracy(self) -> float:
        """Mean mark, in [0, 1]; 0 without marks."""
        return float(np.mean(list(self.marks.values()))) if self.marks else 0.0

    @property
    def stderr(self) -> float:
        """Standard error of the accuracy, never 0."""
        return stderr(list(self.marks.values()))

    @property
    def charge(self) -> Cost:
        """Mean measured cost of one question."""
        return self.charged.over(max(1, len(self.marks)))
