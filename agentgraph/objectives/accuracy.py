"""Mean mark; the budget is a limit, not a part of the utility."""

from agentgraph.objectives.base import Objective
from agentgraph.trial import Trial


class Accuracy(Objective):
    """Mean mark in [0, 1]."""

    def utility(self, trial: Trial) -> float:
        return trial.accuracy
