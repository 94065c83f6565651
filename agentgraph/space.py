"""Search space: which plans exist, what each costs, which fit the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agentgraph.budget import NOT_FOR_SALE, RESOURCES, TTS_REFERENCE, Budget, Cost, Rates, Tokens, total, tts_units
from agentgraph.errors import BudgetError, SpaceError
from agentgraph.graph import Graph, Node
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.roles.base import Role
from agentgraph.roles.rules import check_roles
from agentgraph.tasks.base import Lengths

__all__ = ["Space", "StageSpace"]


@dataclass(frozen=True)
class StageSpace:
    """The graphs of one stage.

    Parameters
    ----------
    name
        The stage.
    roles
        Roles that nodes may have; at least one needs no parents and may be the sink.
    pool
        Models that nodes may use.
    max_nodes
        N, the largest number of nodes, sink included, >= 1.
    lengths
        Token counts that prices are computed from.
    samples
        How many solves of a question a model has answers for, by name, >= 0; models that are not named have no end.
    """

    name: str
    roles: tuple[Role, ...]
    pool: Pool
    max_nodes: int
    lengths: Lengths
    samples: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_nodes < 1:
            raise SpaceError(f"max_nodes={self.max_nodes} leaves no node; give at least 1")
        names = [role.name for role in self.roles]
        if len(set(names)) != len(names):
            raise SpaceError(f"roles named twice: {names}; give each role its own name")
        if not any(role.min_parents == 0 and role.needs_model and role.may_be_sink for role in self.roles):
            raise SpaceError(f"roles {names} cannot solve a question; add one that needs no parents, such as assistant")
        if not self.solvers:
            raise SpaceError(
                f"no model can be asked: of {', '.join(self.pool.names)} every question needs an answer at least; "
                "record what is missing or add a model"
            )

    @cached_property
    def by_name(self) -> Mapping[str, Role]:
        """Roles by name."""
        return {role.name: role for role in self.roles}

    @cached_property
    def tables(self) -> Mapping[str, NDArray[np.float64]]:
        """What a node takes of each resource, by name, shape (R, M, N): role r with model m and in-degree d.

        A role that still lacks its first parent (``min_parents`` 1, d = 0) stands at 0: nothing is paid yet. In AgentTTS
        units each call pays its own prompt here: that solves of a model share one is up to `price` and to the draw.
        """
        tables = {name: np.zeros((len(self.roles), len(self.pool), self.max_nodes)) for name in RESOURCES}
        for r, role in enumerate(self.roles):
            for m, model in enumerate(self.pool):
                for d in range(role.min_parents, self.max_nodes):
                    cost = self.node_cost(Node(role.name, model.name), d)
                    for name, table in tables.items():
                        table[r, m, d] = getattr(cost, name)
        return tables

    @property
    def flops_table(self) -> NDArray[np.float64]:
        """FLOPs of a node, shape (R, M, N), as in `tables`."""
        return self.tables["flops"]

    @cached_property
    def solve_table(self) -> NDArray[np.int64]:
        """How many solves a node makes, shape (R, N): role r with in-degree d; without its first parent as with it."""
        rows = [
            [_solves(role, max(d, role.min_parents)) if role.needs_model else 0 for d in range(self.max_nodes)]
            for role in self.roles
        ]
        return np.array(rows, dtype=np.int64)

    @cached_property
    def prompts(self) -> NDArray[np.float64]:
        """AgentTTS units of the prompt of a solve, shape (M,): what solves by the same model share."""
        tokens = (self.lengths.tokens("solve", 0, model.name).prompt for model in self.pool)
        return np.array(
            [tts_units(model.parameters, Tokens(prompt, 0.0)) for model, prompt in zip(self.pool, tokens, strict=True)]
        )

    @cached_property
    def solver(self) -> Role:
        """The role that a parent is sure to have where one is owed: the cheapest that may stand anywhere."""
        roles = [role for role in self.roles if role.min_parents == 0 and role.needs_model and role.may_be_sink]
        anywhere = [role for role in roles if role.may_be_inner and not role.not_above] or roles
        return min(anywhere, key=lambda role: sum(self.node_cost(Node(role.name, m), 0).flops for m in self.pool.names))

    @cached_property
    def solvers(self) -> Mapping[str, Cost]:
        """Price of one solve alone by each model that can be asked."""
        names = [name for name in self.pool.names if self.samples.get(name, 1) > 0]
        prices = {name: self.price(Graph((Node(self.solver.name, name),))) for name in names}
        return {name: price for name, price in prices.items() if price.flops < NOT_FOR_SALE}

    @cached_property
    def cheapest(self) -> float:
        """FLOPs of the cheapest graph: one solve by the cheapest model."""
        return min(price.flops for price in self.solvers.values())

    def node_cost(self, node: Node, in_degree: int) -> Cost:
        """Forecast cost of a node."""
        role = self.role(node.role)
        if not role.needs_model:
            return Cost()
        model = self.pool.named(node.model)
        return total(
            model.cost(self.lengths.tokens(form.word, form.candidates, model.name)) for form in role.forms(in_degree)
        )

    def role(self, name: str) -> Role:
        """The role of that name.

        Raises
        ------
        SpaceError
            If the space has none.
        """
        if name not in self.by_name:
            raise SpaceError(f"the space has no role {name!r}; it has {', '.join(self.by_name)}; add it to roles=[…]")
        return self.by_name[name]

    def price(self, graph: Graph) -> Cost:
        """Forecast cost of a graph for one question.

        Its seconds are those of the longest path; in AgentTTS units the solves of a model share one prompt.
        """
        costs = [self.node_cost(node, len(graph.parents[i])) for i, node in enumerate(graph.nodes)]
        cost = total(costs)
        shared = sum(
            (count - 1) * self.prompts[self.pool.names.index(name)] for name, count in self.solves(graph).items()
        )
        return replace(
            cost,
            seconds=graph.longest_path([cost.seconds for cost in costs]),
            tts_units=float(cost.tts_units - shared - TTS_REFERENCE),
        )

    def solves(self, graph: Graph) -> Counter[str]:
        """How many solves a graph asks of each model that it asks any."""
        counts: Counter[str] = Counter()
        for i, node in enumerate(graph.nodes):
            number = _solves(self.role(node.role), len(graph.parents[i]))
            if node.model and number:
                counts[node.model] += number
        return counts

    def overdrawn(self, graph: Graph) -> list[str]:
        """Models of which a graph asks more solves than they have answers for."""
        return [name for name, count in self.solves(graph).items() if count > self.samples.get(name, count)]


def _solves(role: Role, in_degree: int) -> int:
    return sum(form.word == "solve" and not form.candidates for form in role.forms(in_degree))


@dataclass(frozen=True)
class Space:
    """Plans: a graph for each stage, the sum of their prices within the budget.

    Parameters
    ----------
    shares
        Of each stage, what part of the budget it has at first beyond its cheapest graph, > 0, summing to 1; none are
        equal ones. A search may move them.
    hand_on
        Whether what a stage's graph leaves of its share is the later stages' when plans are drawn.

    Raises
    ------
    SpaceError
        If the shares are not one for each stage, positive, and 1 in all.
    BudgetError
        If not even the cheapest plan fits.
    """

    stages: tuple[StageSpace, ...]
    budget: Budget
    shares: tuple[float, ...] = ()
    hand_on: bool = False

    def __post_init__(self) -> None:
        if self.shares:
            self._check_shares()
        for name in ("usd", "seconds"):
            if name in self.budget.limits and all(getattr(m, name) == Rates() for s in self.stages for m in s.pool):
                raise BudgetError(
                    f"budget.{name}={getattr(self.budget, name):.4g} limits nothing: no model says what a call takes; "
                    f"give '{name}: {{call: …, prompt_token: …, output_token: …}}' in the models' yaml"
                )
        if not self.budget.allows(total(self.least)):
            raise BudgetError(self._buys_nothing())

    def _check_shares(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(self.shares) != len(names):
            raise SpaceError(f"{len(self.shares)} shares for the stages {', '.join(names)}; give each stage its share")
        given = ", ".join(f"{name}={share:g}" for name, share in zip(names, self.shares, strict=True))
        if not min(self.shares) > 0:
            raise SpaceError(
                f"stage shares must be above 0: {given}; leave the stage its cheapest graph by a small share"
            )
        if abs(sum(self.shares) - 1) > 1e-6:
            raise SpaceError(f"stage shares sum to {sum(self.shares):g}, must sum to 1: {given}")

    def _buys_nothing(self) -> str:
        """Which resource is short: one alone, or several that no plan fits together."""
        budget = self.budget
        for name, limit in budget.limits.items():
            first = min(self.stages[0].solvers, key=lambda model: getattr(self.stages[0].solvers[model], name))
            least = total(min(stage.solvers.values(), key=lambda price: getattr(price, name)) for stage in self.stages)
            if not Budget(**{name: limit}).allows(least):
                amount = getattr(least, name)
                units = name == "flops"
                return (
                    f"budget.{name}={limit:.4g}{f' ({budget.units:.3g} units)' if units else ''} buys no call: the cheapest "
                    f"plan, one solve by {first!r} per stage, costs {amount:.4g}"
                    f"{f' ({amount / budget.unit:.3g} units)' if units else ''}; raise the budget or add a "
                    f"{'smaller model' if units else 'model that takes less'}"
                )
        nearest = ", ".join(dict.fromkeys(map(repr, self.reserves)))
        return (
            f"a budget of {budget.text()} buys no plan: each limit alone does, but what comes nearest to all of them, one solve "
            f"per stage by {nearest}, takes {budget.text(total(self.least))}; raise one of the limits"
        )

    @cached_property
    def reserves(self) -> tuple[str, ...]:
        """A model for each stage: its solve is kept in reserve for a parent that is owed.

        Together they take the smallest possible share of whatever limit they take the largest share of.
        """
        names = list(self.budget.limits) or ["flops"]
        kept: list[tuple[NDArray[np.float64], tuple[str, ...]]] = [(np.zeros(len(names)), ())]
        for stage in self.stages:
            longer = [
                (amounts + np.array([getattr(price, name) for name in names]), (*models, model))
                for amounts, models in kept
                for model, price in stage.solvers.items()
            ]
            longer.sort(key=lambda entry: tuple(entry[0]))
            kept = []
            for amounts, models in longer:
                if not any((other <= amounts).all() for other, _ in kept):
                    kept.append((amounts, models))
        limits = np.array([self.budget.limits.get(name, 1.0) for name in names])
        return min(kept, key=lambda entry: float((entry[0] / limits).max()))[1]

    @cached_property
    def least(self) -> tuple[Cost, ...]:
        """Price of the graph of each stage that is always within reach: a solve by its model in `reserves`."""
        return tuple(stage.solvers[model] for stage, model in zip(self.stages, self.reserves, strict=True))

    @cached_property
    def least_plan(self) -> Plan:
        """The plan of these graphs."""
        pairs = zip(self.stages, self.reserves, strict=True)
        return Plan(tuple(Graph((Node(stage.solver.name, model),)) for stage, model in pairs))

    @staticmethod
    def unit(stages: Sequence[StageSpace]) -> float:
        """FLOPs of one unit: a solve by the cheapest model, of the dearest stage."""
        return max(stage.cheapest for stage in stages)

    @cached_property
    def cheapest(self) -> float:
        """FLOPs of the cheapest plan."""
        return sum(stage.cheapest for stage in self.stages)

    def price(self, plan: Plan) -> Cost:
        """Forecast cost of a plan for one question."""
        return total(stage.price(graph) for stage, graph in zip(self.stages, plan.stages, strict=True))

    def split(self, plan: Plan) -> tuple[float, ...]:
        """What part of a plan's price each stage takes, of the limited resource that the price takes most of; sums to 1."""
        prices = [stage.price(graph) for stage, graph in zip(self.stages, plan.stages, strict=True)]

        def amounts(name: str) -> list[float]:
            gift = TTS_REFERENCE if name == "tts_units" else 0.0
            return [getattr(price, name) + gift for price in prices]

        limits = self.budget.limits or {"flops": 1.0}
        whole = {name: sum(amounts(name)) for name in limits}
        tightest = max(limits, key=lambda name: whole[name] / limits[name])
        if not whole[tightest]:
            return (1 / len(prices),) * len(prices)
        return tuple(amount / whole[tightest] for amount in amounts(tightest))

    def within_share(self, s: int, graph: Graph, share: float) -> bool:
        """Whether a graph of stage ``s`` fits in what that share of the budget gives it, of every limited resource."""
        price = self.stages[s].price(graph)
        for name, limit in self.budget.limits.items():
            least = getattr(self.least[s], name)
            free = limit - sum(getattr(cost, name) for cost in self.least)
            if getattr(price, name) > least + share * free + 1e-9 * abs(limit):
                return False
        return True

    def feasible(self, plan: Plan) -> bool:
        """Whether the price of a plan is within the budget, and all that it asks can be answered."""
        overdrawn = any(stage.overdrawn(graph) for stage, graph in zip(self.stages, plan.stages, strict=True))
        return not overdrawn and self.budget.allows(self.price(plan))

    def check(self, plan: Plan) -> None:
        """Refuse a plan that is not in the space.

        Raises
        ------
        SpaceError
            If it has another number of stages, too many nodes, an unknown role or model, or asks for more samples than
            there are.
        GraphError
            If a node breaks its role's rules.
        BudgetError
            If its price exceeds the budget.
        """
        if len(plan.stages) != len(self.stages):
            raise SpaceError(f"the plan has {len(plan.stages)} stages, the task has {len(self.stages)}")
        for stage, graph in zip(self.stages, plan.stages, strict=True):
            if len(graph.nodes) > stage.max_nodes:
                raise SpaceError(
                    f"stage {stage.name!r} has {len(graph.nodes)} nodes, at most {stage.max_nodes} are allowed"
                )
            for node in graph.nodes:
                if stage.role(node.role).needs_model:
                    stage.pool.named(node.model)
            check_roles(graph, stage.by_name)
            for name in stage.overdrawn(graph):
                raise SpaceError(
                    f"stage {stage.name!r} asks {stage.solves(graph)[name]} samples of {name!r}, {stage.samples[name]} "
                    f"were recorded; use this model at most {stage.samples[name]} times"
                )
        price = self.price(plan)
        if price.flops >= NOT_FOR_SALE:
            raise BudgetError(
                f"plan {plan.id} needs a call that cannot be had at any price; change the roles of its nodes"
            )
        if not self.budget.allows(price):
            raise BudgetError(f"plan {plan.id} costs {self.budget.text(price)}, more than the budget")
