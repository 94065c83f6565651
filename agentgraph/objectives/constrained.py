"""Accuracy within limits on what was measured: an ε-constraint."""

from __future__ import annotations

from dataclasses import dataclass

from agentgraph.budget import Cost
from agentgraph.objectives.base import Amounts, Objective, amount


@dataclass(frozen=True)
class Constrained(Amounts, Objective):
    """Mean mark while every limit is kept, else below 0 in proportion to the excess, so that a search can climb back.

    A budget forbids plans by their price, before they run; a limit here binds the mean measured cost. A plan that exceeds
    one is never the best, however accurate.
    """

    def met(self, cost: Cost) -> bool:
        return not self._excess(cost)

    def value(self, accuracy: float, cost: Cost) -> float:
        excess = self._excess(cost)
        return accuracy - 1 - excess if excess else accuracy

    def _excess(self, cost: Cost) -> float:
        """Sum of the shares by which limits are exceeded, rounding of floats apart."""
        shares = [amount(cost, resource, self.unit) / limit - 1 for resource, limit in self.given.items()]
        return sum(share for share in shares if share > 1e-9)

    def __str__(self) -> str:
        return "accuracy" + "".join(f", at most {limit:g} {resource}" for resource, limit in self.given.items())
