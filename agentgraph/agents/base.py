"""Contract of an agent: reads the round's evidence and writes the textual gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agentgraph.agents.feedback import Note, Prediction
from agentgraph.agents.guidelines import History
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.plan import Plan
from agentgraph.request import Reply, Request
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["Agent", "Evidence", "ModelCall"]

ModelCall = Callable[[Request, str], Reply]
"""One stored request to a named backend: how an agent reaches its model."""


@dataclass(frozen=True)
class Evidence:
    """What an agent may see: trials and tables; of the task what it is called, and the questions of the trials.

    Parameters
    ----------
    round, rounds
        Round that just ended and how many there are.
    trials
        The round's new trials.
    archive
        All trials so far, best first.
    distribution
        The tables as they stand.
    objective_mean
        Mean utility of the round's trials.
    predicted, realised
        Change of the mean utility of a round that the last feedback foresaw, and what happened; ``None`` at first.
    task
        The task's name and instructions.
    questions
        Text and gold answer of train questions by id; those that plans failed on are shown.
    objective
        What is maximised; ``None`` for accuracy.
    history
        What the agent said in its last `Agent.history` rounds.
    predictions
        The nudges of its last feedback against what happened.
    plans
        How many whole plans are wanted of it; 0 if it may only nudge.
    insights
        Which of the paper's insights the search uses; an agent is told no other.
    """

    round: int
    rounds: int
    trials: Sequence[Trial]
    archive: Sequence[Trial]
    distribution: Distribution
    objective_mean: float
    predicted: float | None = None
    realised: float | None = None
    task: str = ""
    questions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    objective: Objective | None = None
    history: Sequence[Note] = ()
    predictions: Sequence[Prediction] = ()
    plans: int = 0
    insights: Collection[int] = (1, 2, 3)

    def utility(self, trial: Trial) -> float:
        """Utility of a trial."""
        return trial.accuracy if self.objective is None else self.objective.utility(trial)


class Agent(ABC):
    """Writes text in the JSON formats of `agentgraph.agents.feedback`; what it writes is parsed, never trusted.

    Attributes
    ----------
    cut
        Whether its last text ended at a limit of tokens.
    history
        How many rounds of its own words it wants to be shown, >= 0.
    proposes
        Whether it can write plans from the description of the space alone (`plans`).
    """

    name: str
    proposes: bool = False
    cut: bool = False
    history: int = 0

    def connect(self, call: ModelCall) -> None:
        """Receive the way to reach a model; agents that ask none ignore it."""
        del call

    @abstractmethod
    def feedback(self, evidence: Evidence, complaint: str = "") -> str:
        """Critique and nudges as JSON text; ``complaint`` says what was wrong with the last try."""

    @abstractmethod
    def choose(
        self, evidence: Evidence, mixes: Sequence[Sequence[int]], count: int, complaint: str = "", *, stage: int = 0
    ) -> str:
        """Which ``count`` of the mixes (models per entry of the stage's pool) to start from, as JSON text."""

    def plans(self, space: Space, count: int, known: Sequence[Plan], complaint: str = "", *, replicate: int = 0) -> str:
        """``count`` whole plans that are not among the ``known``, from the description of the space alone, as JSON text.

        The format is `agentgraph.agents.proposals.Proposal`. ``replicate`` tells requests of one search apart.

        Raises
        ------
        ConfigError
            If the agent does not propose.
        """
        del space, count, known, complaint, replicate
        raise ConfigError(f"agent {self.name!r} proposes no plans; use agent=language_model")

    def guideline(self, history: History) -> str:
        """What to try next and why, in words, for AgentTTS.

        Raises
        ------
        ConfigError
            If the agent writes none.
        """
        del history
        raise ConfigError(f"agent {self.name!r} writes no guidelines; use agent=rule_based or agent=language_model")

    def settings(self, history: History, complaint: str = "") -> str:
        """Settings to try next as JSON text (`agentgraph.agents.guidelines`), for AgentTTS; raises as `guideline` does."""
        del complaint
        return self.guideline(history)
