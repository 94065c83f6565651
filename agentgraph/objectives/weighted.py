"""Accuracy less what its cost is worth: accuracy - sum of weight · amount over the resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentgraph.budget import Cost
from agentgraph.objectives.base import Amounts, Objective, amount


@dataclass(frozen=True)
class Weighted(Amounts, Objective):
    """A weight is the accuracy that one of a resource is worth: ``seconds=0.1`` gives up 0.1 to save one second.

    Notes
    -----
    Among given plans a larger weight never chooses one that costs more of that resource. Let a be chosen at weight v and b
    at w > v; adding u(a) - v·c(a) >= u(b) - v·c(b) and u(b) - w·c(b) >= u(a) - w·c(a) gives (w - v)·(c(a) - c(b)) >= 0.
    Two searches, each with its own weight, evaluate different plans: of them this is not promised.
    """

    zero: ClassVar[bool] = True

    def value(self, accuracy: float, cost: Cost) -> float:
        return accuracy - sum(weight * amount(cost, resource, self.unit) for resource, weight in self.given.items())

    def __str__(self) -> str:
        return "accuracy" + "".join(f" - {weight:g}·{resource}" for resource, weight in self.given.items())
