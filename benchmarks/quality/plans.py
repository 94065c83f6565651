"""Every plan of a space of one stage, up to isomorphism."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from agentgraph.budget import Cost
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.space import Space

Wiring = tuple[tuple[int, int], ...]


def every_plan(space: Space) -> Iterator[Plan]:
    """Each plan within the budget once; no model is used more often than it has samples."""
    seen = set()
    for n in range(1, space.stages[0].max_nodes + 1):
        for edges in _wirings(n):
            for nodes in _Labels(space, n, edges).all():
                plan = Plan((Graph(nodes, edges),))
                if plan.id not in seen and space.feasible(plan):
                    seen.add(plan.id)
                    yield plan


def _wirings(n: int) -> Iterator[Wiring]:
    """Every set of forward edges in which all nodes but the last have a child."""
    for children in itertools.product(
        *([c for size in range(1, n - i) for c in itertools.combinations(range(i + 1, n), size)] for i in range(n - 1))
    ):
        yield tuple((i, j) for i, row in enumerate(children) for j in row)


class _Labels:
    """The choices of roles and models for one wiring, found node by node."""

    def __init__(self, space: Space, n: int, edges: Wiring) -> None:
        self.space, self.stage, self.n, self.edges = space, space.stages[0], n, edges
        self.parents = [tuple(i for i, j in edges if j == node) for node in range(n)]
        children = [tuple(j for i, j in edges if i == node) for node in range(n)]
        # An earlier node with the same parents and children may be exchanged with this one: one order is enough.
        self.twin = [
            next(
                (j for j in reversed(range(i)) if self.parents[j] == self.parents[i] and children[j] == children[i]),
                None,
            )
            for i in range(n)
        ]
        self.options = [self._options(i) for i in range(n)]
        self.cost = cache(self.stage.node_cost)

    def _options(self, i: int) -> list[Node]:
        """Roles and models that the place of a node allows."""
        stage, degree, sink = self.stage, len(self.parents[i]), i == self.n - 1
        fitting = [
            role for role in stage.roles
            if degree >= role.min_parents and (role.may_be_sink if sink else role.may_be_inner)
        ]  # fmt: skip
        nodes = [Node(role.name, m) for role in fitting for m in (stage.pool.names if role.needs_model else ("",))]
        return sorted(node for node in nodes if self._affordable(stage.node_cost(node, degree)))

    def _affordable(self, cost: Cost) -> bool:
        return self.space.budget.allows(cost)

    def all(self, chosen: Sequence[Node] = (), spent: Cost | None = None) -> Iterator[tuple[Node, ...]]:
        """Every choice for the nodes that follow those chosen."""
        i, spent = len(chosen), spent or Cost()
        if i == self.n:
            yield tuple(chosen)
            return
        twin = self.twin[i]
        for node in self.options[i]:
            total = spent + self.cost(node, len(self.parents[i]))
            if (twin is None or chosen[twin] <= node) and self._affordable(total) and self._allowed(chosen, node, i):
                yield from self.all((*chosen, node), total)

    def _allowed(self, chosen: Sequence[Node], node: Node, i: int) -> bool:
        """Whether no parent's role refuses to stand above this one's, and the model has a sample left."""
        kind = self.stage.by_name[node.role].kind
        if any(kind in self.stage.by_name[chosen[parent].role].not_above for parent in self.parents[i]):
            return False
        left = self.stage.samples.get(node.model, self.n) - Counter(n.model for n in chosen)[node.model]
        return not node.model or left > 0
