"""REINFORCE on the tables, without an agent.

Source: GPTSwarm (arXiv 2402.16823) as the rival in Agent-REINFORCE (arXiv 2511.00086): loss −mean(log P·u), Adam with
rate 0.1. Departures, all to make the step an unbiased estimate of the gradient of the mean utility:

- The log-probability is exact: every free choice of the draw counts, forced ones do not.
- The baseline of a draw is the mean utility of the others of its round (leave-one-out).
- Draws of a round are independent; a plan drawn twice is run once and counts twice, a plan of an earlier round is
  marked on this round's questions too. So a round may run fewer plans than were asked for.
- Stage shares are learned too: the split of the budget is a draw, and a plan's probability is summed over all splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agentgraph.agents.base import ModelCall
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer
from agentgraph.optimizers.policy import Ascent
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial
from agentgraph.walk import Draws

__all__ = ["Reinforce"]


class Reinforce(Optimizer):
    """Follows the gradient of the mean utility.

    Parameters
    ----------
    rate
        Adam's step, in logits.
    """

    def __init__(self, *, rate: float = 0.1) -> None:
        if rate <= 0:
            raise ConfigError(f"optimizer.rate={rate} does not move the tables; give a number above 0")
        self.rate = rate

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        self.tables = self.distribution = Distribution(space)
        self.ascent = Ascent(self.tables, self.rate)
        self._drawn: list[str] = []  # plan of each draw of the round
        self._draws: tuple[Draws, ...] = ()
        self._headline = ""

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        self._draws = self.tables.draw(k, torch.Generator().manual_seed(int(rng.integers(2**62))))
        plans = [self.tables.plan(self._draws, row) for row in range(k)]
        self._drawn = [plan.id for plan in plans]
        return list(dict(zip(self._drawn, plans, strict=True)).values())

    def tell(self, trials: Sequence[Trial]) -> None:
        utility = {trial.plan.id: self.objective.utility(trial) for trial in trials if trial.marks}
        rows = [row for row, name in enumerate(self._drawn) if name in utility]
        values = torch.tensor([utility[self._drawn[row]] for row in rows], dtype=torch.float64)
        if len(rows) < 2:
            self._headline = "fewer than two draws have marks; the tables stay as they are"
            return
        self.ascent.step([draws.rows(rows) for draws in self._draws], values)
        self._headline = (
            f"mean utility {float(values.mean()):.3f} over {len(rows)} draws of {len(set(self._drawn))} plans"
        )

    def state(self) -> dict[str, Any]:
        return {"tables": self.tables.state(), "ascent": self.ascent.state()}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        del trials
        self.tables.load_state(state["tables"])
        self.ascent.load_state(state["ascent"])

    def headline(self) -> str:
        return self._headline
