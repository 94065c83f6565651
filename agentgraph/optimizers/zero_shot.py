"""Zero-shot: a language model proposes plans from the description of the space, and is never told how they did.

Source: LLM zero-shot as a rival in Agent-REINFORCE (arXiv 2511.00086). Departures: it proposes the plans of each round
knowing which it has proposed, so that any number of rounds can be filled; what it proposes is checked against the space
and the budget. A reply or plan that cannot be used is dropped and counted; a round that is not full after `ATTEMPTS`
replies is filled as random search would, and that is counted too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentgraph.agents.base import Agent, ModelCall
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.optimizers.proposing import Proposing
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["ZeroShot"]


class ZeroShot(Optimizer):
    """Asks the agent's model for plans.

    Parameters
    ----------
    agent
        A language model (``agent=language_model agent.model=…``).
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        if not self.agent.proposes:
            raise ConfigError(
                f"optimizer=zero_shot asks a language model, got agent {self.agent.name!r}; "
                f"add agent=language_model agent.model=<name in the pool>, or agent.base_url=…"
            )
        self.agent.connect(call)
        self._untrained = Distribution(space)
        self.round = 0
        self.asking = Proposing(self.agent, space)
        self._known: dict[str, Plan] = {}

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        plans = self.asking.plans(k, self._known, self.round)
        if len(plans) == k:
            return plans
        more = draw_new(self._untrained, k - len(plans), rng, self._known.keys() | {plan.id for plan in plans})
        self.asking.counts["drawn at random"] += len(more)
        return [*plans, *more]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._known.update((trial.plan.id, trial.plan) for trial in trials)
        self.round += 1

    def state(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "counts": dict(sorted(self.asking.counts.items())),
            "rejects": dict(sorted(self.asking.rejects.items())),
        }

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.round = state["round"]
        self.asking.counts, self.asking.rejects = Counter(state["counts"]), Counter(state["rejects"])
        self._known = {trial.plan.id: trial.plan for trial in trials}

    def headline(self) -> str:
        asking = self.asking
        counted = [f"{count} {kind}" for kind, count in sorted(asking.counts.items())]
        return ", ".join([*counted, *(f"{count} rejected: {kind}" for kind, count in sorted(asking.rejects.items()))])
