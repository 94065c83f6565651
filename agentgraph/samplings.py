"""Plans as AgentTTS has them: in each stage one model, sampled so many times, and its answers combined; as graphs of our roles.

Source: AgentTTS (arXiv 2508.00890): search space and initial trials. Departures: what combines the samples is a role (the
paper: the same model fuses, or answers are counted; a fuser's call is priced here, there it is not); a budget may limit any
resource, not AgentTTS units alone; a candidate of the initial trials that the budget does not pay is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from agentgraph.budget import TTS_REFERENCE, Cost, total
from agentgraph.errors import ConfigError
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.roles.base import Role
from agentgraph.space import Space, StageSpace

__all__ = ["MOST_SAMPLES", "Sampling", "Samplings", "Setting"]

MOST_SAMPLES: Final = 100
"""Samples of a stage, at most."""
_FIRST_SAMPLES: Final = 60  # of an initial trial, at most


class Sampling(NamedTuple):
    """What one stage does: a model by name, and how many samples of it, >= 1."""

    model: str
    samples: int

    def __str__(self) -> str:
        return f"{self.model}×{self.samples}"


Setting = tuple[Sampling, ...]
"""A sampling for each stage."""


class Samplings:
    """The settings of a space, their plans and prices.

    Parameters
    ----------
    space
        The plans; settings are a part of them.
    fuse
        Name of the role that combines the samples of a stage, or by stage; ``None`` is a fuser where a stage has one, else
        the first role that can. A stage that has none makes one sample.

    Raises
    ------
    ConfigError
        If a stage lacks the role, or the role cannot combine answers.
    """

    def __init__(self, space: Space, fuse: str | Mapping[str, str] | None = None) -> None:
        self.space = space
        self._costs: dict[tuple[int, Sampling], Cost] = {}
        self._settings: dict[str, Setting | None] = {}  # by plan
        self._fuse = [
            _sink(stage, fuse.get(stage.name) if isinstance(fuse, Mapping) else fuse) for stage in space.stages
        ]

    def models(self, s: int) -> list[str]:
        """Models of a stage that can be asked, by size; of equal size as in the pool."""
        stage = self.space.stages[s]
        return sorted(stage.solvers, key=lambda name: stage.pool.named(name).parameters)

    def largest(self, s: int) -> str:
        """The largest model of a stage, of equal ones the first of the pool."""
        stage = self.space.stages[s]
        return max(stage.solvers, key=lambda name: stage.pool.named(name).parameters)

    def graph(self, s: int, sampling: Sampling) -> Graph:
        """Graph of a sampling: that many nodes side by side, whose answers one node combines."""
        solver = Node(self.space.stages[s].solver.name, sampling.model)
        sink, n = self._fuse[s], sampling.samples
        if n == 1 or sink is None:
            return Graph((solver,))
        last = Node(sink.name, sampling.model if sink.needs_model else "")
        return Graph((*[solver] * n, last), tuple((i, n) for i in range(n)))

    def plan(self, setting: Setting) -> Plan:
        """Plan of a setting."""
        plan = Plan(tuple(self.graph(s, sampling) for s, sampling in enumerate(setting)))
        self._settings[plan.id] = setting
        return plan

    def of(self, plan: Plan) -> Setting | None:
        """The setting that a plan is, if it is one."""
        if plan.id not in self._settings:
            self._settings[plan.id] = self._setting(plan)
        return self._settings[plan.id]

    def _setting(self, plan: Plan) -> Setting | None:
        found = []
        for s, graph in enumerate(plan.stages):
            models = [node.model for node in graph.nodes if node.model]
            sampling = Sampling(models[0] if models else "", max(1, len(graph.nodes) - 1))
            if sampling.model not in self.space.stages[s].solvers or self.graph(s, sampling).id != graph.id:
                return None
            found.append(sampling)
        return tuple(found)

    def cost(self, s: int, sampling: Sampling) -> Cost:
        """Forecast cost of a stage: what `StageSpace.price` says of its graph, without the graph."""
        if (s, sampling) not in self._costs:
            stage, (model, n) = self.space.stages[s], sampling
            sink = self._fuse[s]
            solve = stage.node_cost(Node(stage.solver.name, model), 0)
            cost = solve.times(n)
            if n > 1 and sink is not None:
                last = stage.node_cost(Node(sink.name, model if sink.needs_model else ""), n)
                solve, cost = solve + last, cost + last
            shared = (n - 1) * stage.prompts[stage.pool.names.index(model)] + TTS_REFERENCE
            units = float(cost.tts_units - shared)
            self._costs[s, sampling] = replace(cost, seconds=solve.seconds, tts_units=units)
        return self._costs[s, sampling]

    def allows(self, setting: Setting) -> bool:
        """Whether a setting is in the space and within the budget."""
        within = all(sampling.samples <= self.ceiling(s, sampling.model) for s, sampling in enumerate(setting))
        return within and self.space.budget.allows(total(self.cost(s, one) for s, one in enumerate(setting)))

    def ceiling(self, s: int, model: str) -> int:
        """Samples of a model that a stage may make whatever they cost, >= 1: as many as its nodes and recorded answers allow."""
        stage = self.space.stages[s]
        widest = 1 if self._fuse[s] is None else max(1, stage.max_nodes - 1)
        return min(MOST_SAMPLES, widest, stage.samples.get(model, MOST_SAMPLES))

    def most(self, s: int, model: str, limits: Mapping[str, float], cap: int = MOST_SAMPLES) -> int:
        """How many samples of a model the limits pay in a stage, at most ``cap``; 0 if none."""

        def fits(samples: int) -> bool:
            cost = self.cost(s, Sampling(model, samples))
            return all(getattr(cost, name) <= limit + 1e-9 * abs(limit) for name, limit in limits.items())

        top = min(cap, self.ceiling(s, model))
        return bisect_right(range(1, top + 1), False, key=lambda samples: not fits(samples))

    def left(self, setting: Setting, s: int) -> dict[str, float]:
        """What the other stages of a setting leave of every limit for stage ``s``."""
        others = total(self.cost(t, one) for t, one in enumerate(setting) if t != s)
        return {name: limit - getattr(others, name) for name, limit in self.space.budget.limits.items()}

    def initial(self) -> list[Setting]:
        """Initial trials by insight 1: each model of each stage, as often as one sample of the largest would cost there.

        The other stages make one sample of their largest models, or of their smallest where that is too dear. A stage's
        budget is never more than what one sample of the smallest models leaves.
        """
        count = range(len(self.space.stages))
        small = tuple(Sampling(self.models(s)[0], 1) for s in count)
        large = tuple(Sampling(self.largest(s), 1) for s in count)
        settings = []
        for s in count:
            one = self.cost(s, large[s])
            share = {name: min(getattr(one, name), left) for name, left in self.left(small, s).items()}
            others = self.left(large, s)
            rest = large if all(others[name] > amount for name, amount in share.items()) else small
            for model in self.models(s):
                samples = self.most(s, model, share, _FIRST_SAMPLES)
                setting = (*rest[:s], Sampling(model, samples), *rest[s + 1 :])
                if samples and self.allows(setting):
                    settings.append(setting)
        return settings

    def random(self, rng: np.random.Generator) -> Setting:
        """A setting within the budget: stages in random order, models and samples uniform among what still fits."""
        setting = tuple(
            Sampling(min(self.models(s), key=lambda name, s=s: self.cost(s, Sampling(name, 1)).flops), 1)  # type: ignore[misc]
            for s in range(len(self.space.stages))
        )
        if not self.allows(setting):
            setting = self.of(self.space.least_plan) or setting
        for s in rng.permutation(len(setting)).tolist():
            most = {model: self.most(s, model, self.left(setting, s)) for model in self.models(s)}
            there = [model for model in most if most[model]]
            if there:
                model = there[int(rng.integers(len(there)))]
                sampling = Sampling(model, 1 + int(rng.integers(most[model])))
                setting = (*setting[:s], sampling, *setting[s + 1 :])
        return setting

    def text(self, setting: Setting) -> str:
        """One line for people: ``recall a-large×1, calc a-small×4``."""
        return ", ".join(f"{stage.name} {one}" for stage, one in zip(self.space.stages, setting, strict=True))


def _sink(stage: StageSpace, name: str | None) -> Role | None:
    able = {role.name: role for role in stage.roles if role.may_be_sink and role.min_parents and role.kind != "keep"}
    if name is None:
        fusers = [role for role in able.values() if role.kind == "fuser"]
        return next(iter([*fusers, *able.values()]), None)
    if name not in able:
        raise ConfigError(
            f"optimizer.fuse={name!r} combines no answers in stage {stage.name!r}; use one of {', '.join(able) or 'none'}, or add "
            "such a role"
        )
    return able[name]
