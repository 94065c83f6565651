"""Policy gradient: the leave-one-out REINFORCE estimate of how the mean utility changes with the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agentgraph.distribution import Distribution
from agentgraph.walk import Draws

__all__ = ["Ascent", "policy_gradient"]


class Ascent:
    """Adam on the tables of a distribution, along the policy gradient.

    Parameters
    ----------
    tables
        What is moved, in place.
    rate
        Adam's step, in logits.
    """

    def __init__(self, tables: Distribution, rate: float) -> None:
        self.tables, self.rate = tables, rate
        self._adam = self._new()

    def _new(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.tables.parameters(), lr=self.rate)

    def step(self, draws: Sequence[Draws], utility: Tensor) -> None:
        """One step; ``draws`` and ``utility`` as for `policy_gradient`."""
        gradient = policy_gradient(self.tables, draws, utility)
        for table, ascent in zip(self._adam.param_groups[0]["params"], gradient, strict=True):
            table.grad = -ascent
        self._adam.step()

    def state(self) -> list[dict[str, Any]]:
        """Moments of each table, as JSON-able data."""
        return [
            {name: value.tolist() for name, value in self._adam.state[table].items()}
            for table in self._adam.param_groups[0]["params"]
        ]

    def load_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from moments; the tables were loaded before."""
        self._adam = self._new()
        for table, moments in zip(self._adam.param_groups[0]["params"], state, strict=True):
            for name, value in moments.items():
                kind = torch.float32 if name == "step" else torch.float64  # as torch keeps them
                self._adam.state[table][name] = torch.tensor(value, dtype=kind)


def policy_gradient(tables: Distribution, draws: Sequence[Draws], utility: Tensor) -> list[Tensor]:
    """Leave-one-out REINFORCE estimate of the gradient of the mean utility, one tensor for each of the tables.

    Parameters
    ----------
    draws
        K >= 2 independent draws from the tables, one `Draws` per stage.
    utility
        Shape (K,).
    """
    k = len(utility)
    advantage = utility - (utility.sum() - utility) / (k - 1)
    logits = tables.parameters()
    for table in logits:
        table.requires_grad_()
    surrogate = (advantage * tables.log_prob(draws)).mean()
    found = torch.autograd.grad(surrogate, logits, materialize_grads=True)
    for table in logits:
        table.requires_grad_(False)
    return list(found)
