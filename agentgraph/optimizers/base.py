"""Contract of an optimizer: proposes plans, learns from trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from agentgraph.agents.base import ModelCall
from agentgraph.distribution import Distribution
from agentgraph.lookup import Known
from agentgraph.objectives.base import Objective
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["Look", "Optimizer", "draw_new"]

Look = Callable[[Plan, Sequence[str]], Known]
"""Marks and missing calls of a plan on train questions, given by their ids, from earlier calls."""


class Optimizer(ABC):
    """Proposes plans and learns from their trials.

    Life: `setup` once; then `ask` and `tell` in turn; `state` after each `tell`. An optimizer made anew, set up, and
    given that state with the archive's trials goes on as if it had never stopped.

    Attributes
    ----------
    distribution
        The tables, for one that learns a distribution; else ``None``.
    rejects
        For one that asks a language model: what of its replies could not be used, counted by kind.
    races
        Whether the plans of a round race, so that what they leave of it goes to close contenders; the loop sets it.
    """

    distribution: Distribution | None = None
    rejects: Mapping[str, int] = MappingProxyType({})
    races: bool = False

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        """Bind to a search of ``rounds`` rounds over ``space``.

        Parameters
        ----------
        call
            For optimizers that ask a model.
        look
            For optimizers that choose by what needs no new call: what earlier calls say of a plan.
        """
        self.space, self.objective, self.rounds, self.call, self.look = space, objective, rounds, call, look

    def introduce(self, task: str, questions: Mapping[str, tuple[str, str]]) -> None:
        """Receive, after `setup`, the task's description, and text and gold answer of the train questions by id.

        For optimizers that ask a language model; others ignore it.
        """
        del task, questions

    @abstractmethod
    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        """Plans to try next, about ``k``, each within the space and the budget; no plan twice."""

    @abstractmethod
    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from the trials of the plans last asked for, each with all its marks."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What it learned, as JSON-able data."""

    @abstractmethod
    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        """Go on from a state; ``trials`` are the archive's, which a state need not repeat."""

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials that may be the best, best first; by default few marks are trusted less: utility less one standard error."""

        def rank(trial: Trial) -> tuple[float, float, int, int]:
            return trial.stderr - self.objective.utility(trial), trial.price.flops, trial.plan.nodes, trial.number

        return sorted(trials, key=rank)

    def report(self) -> str:
        """Readable account of the last `tell`: why it moved where it moved; '' if there is nothing to say."""
        return ""

    def headline(self) -> str:
        """One line of `report` for who watches."""
        return ""


def draw_new(
    distribution: Distribution, k: int, rng: np.random.Generator, known: set[str], tries: int = 8
) -> list[Plan]:
    """Draw up to ``k`` plans that differ from each other and from ``known``; fewer where the space is small."""
    plans: dict[str, Plan] = {}
    for _ in range(tries):
        for plan in distribution.sample(2 * k, int(rng.integers(2**62))):
            if plan.id not in known and plan.id not in plans and len(plans) < k:
                plans[plan.id] = plan
        if len(plans) == k:
            break
    return list(plans.values())
