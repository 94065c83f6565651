"""Contract of an agent: reads the round's evidence and writes the textual gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentgraph.distribution import Distribution
from agentgraph.request import Reply, Request
from agentgraph.trial import Trial

__all__ = ["Agent", "Evidence", "ModelCall"]

ModelCall = Callable[[Request, str], Reply]
"""One stored request to a named backend: how an agent reaches its model."""


@dataclass(frozen=True)
class Evidence:
    """What an agent may see: trials and tables, nothing of the task.

    Parameters
    ----------
    round, rounds
        Round that just ended and how many there are.
    trials
        The round's trials.
    archive
        All trials so far, best first.
    distribution
        The tables as they stand.
    objective_mean
        Mean utility of the round's trials.
    predicted, realised
        Change of the mean utility of a round that the last feedback foresaw, and what happened; ``None`` at first.
    """

    round: int
    rounds: int
    trials: Sequence[Trial]
    archive: Sequence[Trial]
    distribution: Distribution
    objective_mean: float
    predicted: float | None = None
    realised: float | None = None


class Agent(ABC):
    """Writes text in the JSON formats of `agentgraph.agents.feedback`; what it writes is parsed, never trusted."""

    name: str

    def connect(self, call: ModelCall) -> None:
        """Receive the way to reach a model; agents that ask none ignore it."""
        del call

    @abstractmethod
    def feedback(self, evidence: Evidence, complaint: str = "") -> str:
        """Critique and nudges as JSON text; ``complaint`` says what was wrong with the last try."""

    @abstractmethod
    def choose(self, evidence: Evidence, mixes: Sequence[Sequence[int]], count: int, complaint: str = "") -> str:
        """Which ``count`` of the mixes (models per pool entry) to start from, as JSON text."""
