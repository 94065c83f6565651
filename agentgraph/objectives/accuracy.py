"""Mean mark; the budget is a limit, not a part of the utility."""

from agentgraph.budget import Cost
from agentgraph.objectives.base import Objective


class Accuracy(Objective):
    """Mean mark in [0, 1]."""

    def value(self, accuracy: float, cost: Cost) -> float:
        del cost
        return accuracy
