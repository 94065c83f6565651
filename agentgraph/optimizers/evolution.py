"""Evolution: the best plans so far, mutated and crossed.

Elitist with truncation: parents are the best of all trials, and every trial competes for ever. Children are written down
freely and decoded as vectors (`encoding`), which puts right what is not valid or not within the budget: the walk takes
an allowed option where the wished one is not, nearest to the sink first. So no child is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from agentgraph.agents.base import ModelCall
from agentgraph.errors import ConfigError
from agentgraph.mutation import mutated
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.optimizers.encoding import Encoding, Vectors
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["Evolution"]

BROODS: Final = 8  # at finding children that are new; what is then missing is drawn at random


class Evolution(Optimizer):
    """Keeps the best, changes them a little.

    Parameters
    ----------
    parents
        How many of the best trials may have children, >= 1; so many plans are drawn at random first.
    crossing
        Share of children that have two parents, in [0, 1]: each slot comes from one or the other.
    again
        Chance of one more mutation after each, in [0, 1).
    """

    def __init__(self, *, parents: int = 6, crossing: float = 0.3, again: float = 0.2) -> None:
        if parents < 1:
            raise ConfigError(f"optimizer.parents={parents} leaves nothing to change; give at least 1")
        if not 0 <= crossing <= 1 or not 0 <= again < 1:
            raise ConfigError(f"optimizer.crossing={crossing} must be in [0, 1], optimizer.again={again} in [0, 1)")
        self.parents, self.crossing, self.again = parents, crossing, again

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        self.encoding = Encoding(space)
        self._trials: dict[str, Trial] = {}

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        best = self._best()
        plans: dict[str, Plan] = {}
        for _ in range(BROODS if len(best) == self.parents else 0):
            for plan in self.encoding.decode(self._brood(best, 2 * k, rng)):
                if plan.id not in self._trials and len(plans) < k:
                    plans.setdefault(plan.id, plan)
            if len(plans) == k:
                break
        missing = k - len(plans)
        known = self._trials.keys() | plans.keys()
        return [*plans.values(), *(draw_new(self.encoding.tables, missing, rng, known) if missing else [])]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._trials.update((trial.plan.id, trial) for trial in trials)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        del state
        self.tell(trials)

    def headline(self) -> str:
        best = self._best()
        return f"best of {len(self._trials)} trials: {self.objective.utility(best[0]):.3f}" if best else ""

    def _best(self) -> list[Trial]:
        """The best marked trials, best first, ties by lower price."""
        marked = [trial for trial in self._trials.values() if trial.marks]
        ranked = sorted(marked, key=lambda t: (-self.objective.utility(t), t.price.flops, t.number))
        return ranked[: self.parents]

    def _brood(self, best: Sequence[Trial], size: int, rng: np.random.Generator) -> Vectors:
        """Vectors of children, shape (size, C)."""
        mothers, fathers = (
            self.encoding.encode([best[i].plan for i in rng.integers(len(best), size=size)], rng) for _ in range(2)
        )
        slots = self.encoding.slots
        widest = int(slots[:, 1].max()) + 1
        takes = rng.random((size, int(slots[:, 0].max()) + 1, widest)) < 0.5
        crossed = rng.random(size) < self.crossing
        mixed = np.where(takes[:, slots[:, 0], slots[:, 1]] & crossed[:, None], fathers, mothers)
        changed = [self._mutated(plan, rng) for plan in self.encoding.decode(mixed)]
        return self.encoding.encode(changed, rng)

    def _mutated(self, plan: Plan, rng: np.random.Generator) -> Plan:
        stages = list(plan.stages)
        while True:
            s = int(rng.integers(len(stages)))
            stages[s] = mutated(stages[s], self.space.stages[s], rng)
            if rng.random() >= self.again:
                return Plan(tuple(stages))
