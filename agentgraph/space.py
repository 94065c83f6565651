"""Search space: which plans exist, what each costs, which fit the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agentgraph.budget import Budget, Cost, flops, total
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
    """

    name: str
    roles: tuple[Role, ...]
    pool: Pool
    max_nodes: int
    lengths: Lengths

    def __post_init__(self) -> None:
        if self.max_nodes < 1:
            raise SpaceError(f"max_nodes={self.max_nodes} leaves no node; give at least 1")
        names = [role.name for role in self.roles]
        if len(set(names)) != len(names):
            raise SpaceError(f"roles named twice: {names}; give each role its own name")
        if not any(role.min_parents == 0 and role.needs_model and role.may_be_sink for role in self.roles):
            raise SpaceError(f"roles {names} cannot solve a question; add one that needs no parents, such as assistant")

    @cached_property
    def by_name(self) -> Mapping[str, Role]:
        """Roles by name."""
        return {role.name: role for role in self.roles}

    @cached_property
    def flops_table(self) -> NDArray[np.float64]:
        """FLOPs of a node, shape (R, M, N): role r with model m and in-degree d.

        A role that still lacks its first parent (``min_parents`` 1, d = 0) stands at 0: nothing is paid yet.
        """
        table = np.zeros((len(self.roles), len(self.pool), self.max_nodes))
        for r, role in enumerate(self.roles):
            for m, model in enumerate(self.pool):
                for d in range(role.min_parents, self.max_nodes):
                    table[r, m, d] = sum(
                        flops(model.size, self.lengths.tokens(form.word, form.candidates, model.name))
                        for form in role.forms(d)
                    )
        return table

    @cached_property
    def cheapest(self) -> float:
        """FLOPs of the cheapest graph: one solve by the cheapest model."""
        solvers = [r for r, role in enumerate(self.roles) if role.min_parents == 0]
        return float(self.flops_table[solvers, :, 0].min())

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
        """Forecast cost of a graph for one question; its seconds are those of the longest path."""
        costs = [self.node_cost(node, len(graph.parents[i])) for i, node in enumerate(graph.nodes)]
        return replace(total(costs), seconds=graph.longest_path([cost.seconds for cost in costs]))


@dataclass(frozen=True)
class Space:
    """Plans: a graph for each stage, the sum of their prices within the budget.

    Raises
    ------
    BudgetError
        If not even the cheapest plan fits.
    """

    stages: tuple[StageSpace, ...]
    budget: Budget

    def __post_init__(self) -> None:
        if not self.budget.allows(self.cheapest):
            name = min(self.stages[0].pool, key=lambda model: model.parameters).name
            raise BudgetError(
                f"budget.flops={self.budget.flops:.4g} ({self.budget.units:.3g} units) buys no call: the cheapest plan, "
                f"one solve by {name!r} per stage, costs {self.cheapest:.4g} ({self.cheapest / self.budget.unit:.3g} "
                f"units); raise the budget or add a smaller model"
            )

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

    def feasible(self, plan: Plan) -> bool:
        """Whether the price of a plan is within the budget."""
        return self.budget.allows(self.price(plan).flops)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that is not in the space.

        Raises
        ------
        SpaceError
            If it has another number of stages, too many nodes, or an unknown role or model.
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
        price = self.price(plan).flops
        if not self.budget.allows(price):
            raise BudgetError(
                f"plan {plan.id} costs {price / self.budget.unit:.3g} units, the budget is {self.budget.units:.3g}"
            )
