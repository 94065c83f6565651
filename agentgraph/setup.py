"""Everything that a run needs, checked before anything is asked; and the search space that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentgraph.backends.base import Backend
from agentgraph.budget import RESOURCES, Budget, is_number
from agentgraph.errors import ConfigError
from agentgraph.execute import Executor
from agentgraph.lengths import measured
from agentgraph.model import Pool
from agentgraph.node_run import Deadlines
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Optimizer
from agentgraph.race import Race
from agentgraph.roles.base import Role
from agentgraph.space import Space
from agentgraph.stages import StageChoice, chosen, first_shares
from agentgraph.tasks.base import SPLITS, Task

__all__ = ["Setup", "build_space"]

DEFAULT_UNITS: Final = 8.0
"""Budget where none is given."""


@dataclass(frozen=True)
class Setup:
    """Everything a run needs.

    Parameters
    ----------
    budget_units, budget_flops, budget_calls, budget_tokens, budget_usd, budget_seconds, budget_tts_units
        Limits of a plan's price for one question, one or more; units and FLOPs are the same resource, so at most one of
        these. A unit is a solve by the cheapest model; 8 of them if nothing is given.
    max_nodes
        Largest number of nodes of a graph.
    rounds, plans_per_round, questions_per_round
        Size of the search.
    finalists
        How many of the best plans are scored on validation questions; as many others of the front are too.
    race
        How the plans of a round compete; ``None`` marks all of them on the same questions.
    failure_share, outage
        Share of calls that may fail after retries before the run stops, in [0, 1]; seconds that a backend may be away, >= 0.
    deadlines
        How long a node and a question may take; ``None`` waits.
    stages
        What single stages have of models, roles and nodes, and their share of the budget at first, by name, see
        `agentgraph.stages.StageChoice`; what is not said is as for the whole search.
    hand_on
        Whether what a stage leaves of its share is the later stages' when plans are drawn.
    """

    task: Task
    pool: Pool
    backends: Mapping[str, Backend]
    roles: Sequence[Role]
    optimizer: Optimizer
    objective: Objective
    budget_units: float | None = None
    budget_flops: float | None = None
    budget_calls: float | None = None
    budget_tokens: float | None = None
    budget_usd: float | None = None
    budget_seconds: float | None = None
    budget_tts_units: float | None = None
    max_nodes: int = 8
    rounds: int = 10
    plans_per_round: int = 8
    questions_per_round: int = 64
    finalists: int = 8
    race: Race | None = None
    failure_share: float = 0.05
    outage: float = 60.0
    deadlines: Deadlines | None = None
    seed: int = 0
    stages: Mapping[str, object] | None = None
    hand_on: bool = False

    def __post_init__(self) -> None:
        for name, value in self.limits.items():
            if not is_number(value):
                raise ConfigError(f"budget.{name}={value!r} must be a number")
        if {"units", "flops"} <= self.limits.keys():
            raise ConfigError(
                f"budget.units={self.budget_units} with budget.flops={self.budget_flops}: give one of them, and null for the other"
            )
        for name in ("max_nodes", "rounds", "plans_per_round", "questions_per_round", "finalists", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if type(value) is not int or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")
        if not is_number(self.failure_share) or not 0 <= self.failure_share <= 1:
            raise ConfigError(f"failure_share={self.failure_share!r} must be in [0, 1]")
        if not is_number(self.outage) or self.outage < 0:
            raise ConfigError(f"outage={self.outage!r} must be 0 or more seconds")
        self.task.check()
        first_shares(self.stage_choices)
        for split in SPLITS:  # too few questions are said now, not after the search
            self.task.questions(split)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by the names that conf has below ``budget``."""
        given = {name: getattr(self, f"budget_{name}") for name in ("units", *RESOURCES)}
        return {name: value for name, value in given.items() if value is not None} or {"units": DEFAULT_UNITS}

    @property
    def stage_choices(self) -> dict[str, StageChoice]:
        """What each stage has, by name."""
        return chosen(self.stages, [stage.name for stage in self.task.stages], self.task.choices)

    def budget(self, unit: float) -> Budget:
        """The limits, where a unit is that many FLOPs."""
        limits = {name: float(value) for name, value in self.limits.items()}
        if "units" in limits:
            limits["flops"] = limits.pop("units") * unit
        return Budget(unit=unit, **limits)


def build_space(setup: Setup, executor: Executor) -> tuple[Space, list[str]]:
    """The search space, and notes on what was left out of it and why."""
    notes = []
    roles = list(setup.roles)
    choices = setup.stage_choices
    lengths, pool = measured(executor, roles, choices)  # first: asking shows what a server cannot do
    blind = sorted({m.name for m in setup.pool if not setup.backends[m.backend].has_logprobs} | executor.blind)
    if blind:
        dropped = [role.name for role in roles if role.needs_confidence]
        roles = [role for role in roles if not role.needs_confidence]
        if dropped:
            notes.append(f"left out {', '.join(dropped)}: no log-probabilities from {', '.join(blind)}")
    recorded = {model.name: setup.backends[model.backend].samples(model.served_name) for model in pool}
    samples = {name: count for name, count in recorded.items() if count is not None}
    stages = tuple(
        choice.space(name, roles, pool, setup.max_nodes, table, samples)
        for (name, choice), table in zip(choices.items(), lengths, strict=True)
    )
    return Space(stages, setup.budget(Space.unit(stages)), first_shares(choices), setup.hand_on), notes
