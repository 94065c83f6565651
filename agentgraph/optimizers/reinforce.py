"""REINFORCE on the tables, without an agent.

Source: GPTSwarm (arXiv 2402.16823) as the rival in Agent-REINFORCE (arXiv 2511.00086): loss −mean(log P·u), Adam with
rate 0.1. Departures, all to make the step an unbiased estimate of the gradient of the mean utility:

- The log-probability is exact: every free choice of the draw counts, forced ones do not.
- The baseline of a draw is the mean utility of the others of its round (leave-one-out).
- Draws of a round are independent; a plan drawn twice is run once and counts twice, a plan of an earlier round is
  marked on this round's questions too. So a round may run fewer plans than were asked for.
- Stage shares are not learned: what a stage may cost is not differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentgraph.agents.base import ModelCall
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Optimizer
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial
from agentgraph.walk import Draws

__all__ = ["Reinforce", "policy_gradient"]


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

    def setup(self, space: Space, objective: Objective, *, rounds: int, call: ModelCall) -> None:
        super().setup(space, objective, rounds=rounds, call=call)
        self.tables = self.distribution = Distribution(space)
        self.adam = self._adam()
        self._drawn: list[str] = []  # plan of each draw of the round
        self._draws: tuple[Draws, ...] = ()
        self._headline = ""

    def _adam(self) -> torch.optim.Adam:
        return torch.optim.Adam([table for stage in self.tables.stages for table in stage.parameters()], lr=self.rate)

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
        gradient = policy_gradient(self.tables, [draws.rows(rows) for draws in self._draws], values)
        for table, ascent in zip(self.adam.param_groups[0]["params"], gradient, strict=True):
            table.grad = -ascent
        self.adam.step()
        self._headline = (
            f"mean utility {float(values.mean()):.3f} over {len(rows)} draws of {len(set(self._drawn))} plans"
        )

    def state(self) -> dict[str, Any]:
        moments = [
            {name: value.tolist() for name, value in self.adam.state[table].items()}
            for table in self.adam.param_groups[0]["params"]
        ]
        return {"tables": self.tables.state(), "adam": moments}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        del trials
        self.tables.load_state(state["tables"])
        self.adam = self._adam()
        for table, moments in zip(self.adam.param_groups[0]["params"], state["adam"], strict=True):
            for name, value in moments.items():
                kind = torch.float32 if name == "step" else torch.float64  # as torch keeps them
                self.adam.state[table][name] = torch.tensor(value, dtype=kind)

    def headline(self) -> str:
        return self._headline


def policy_gradient(tables: Distribution, draws: Sequence[Draws], utility: Tensor) -> list[Tensor]:
    """Leave-one-out REINFORCE estimate of the gradient of the mean utility, one tensor for each table of each stage.

    Parameters
    ----------
    draws
        K >= 2 independent draws from the tables, one `Draws` per stage.
    utility
        Shape (K,).
    """
    k = len(utility)
    advantage = utility - (utility.sum() - utility) / (k - 1)
    logits = [table for stage in tables.stages for table in stage.parameters()]
    for table in logits:
        table.requires_grad_()
    surrogate = (advantage * tables.log_prob(draws)).mean()
    found = torch.autograd.grad(surrogate, logits, materialize_grads=True)
    for table in logits:
        table.requires_grad_(False)
    return list(found)
