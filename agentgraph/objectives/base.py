"""Contract of an objective: what is maximised."""

from __future__ import annotations

from abc import ABC, abstractmethod

from agentgraph.trial import Trial

__all__ = ["Objective"]


class Objective(ABC):
    """Turns a trial into one number; larger is better."""

    @abstractmethod
    def utility(self, trial: Trial) -> float:
        """Utility of a trial; comparable between trials of one search."""
