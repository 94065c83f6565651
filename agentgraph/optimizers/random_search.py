"""Draws from the distribution as it starts, and learns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agentgraph.agents.base import ModelCall
from agentgraph.distribution import Distribution
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial


class RandomSearch(Optimizer):
    """The rival every search must beat: plans never seen before, drawn from the untrained tables."""

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        self.distribution = Distribution(space)
        self._known: set[str] = set()

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        if self.distribution is None:
            raise RuntimeError("setup() comes before ask()")
        return draw_new(self.distribution, k, rng, self._known)

    def tell(self, trials: Sequence[Trial]) -> None:
        self._known.update(trial.plan.id for trial in trials)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        del state
        self.tell(trials)
