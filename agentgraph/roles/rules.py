"""The rules of the roles, checked on a graph: parents, place, model, and who may not stand above whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentgraph.errors import GraphError
from agentgraph.graph import Graph
from agentgraph.roles.base import Role

__all__ = ["check_roles"]


def check_roles(graph: Graph, roles: Mapping[str, Role], *, ids: Sequence[int] | None = None) -> None:
    """Check that every node keeps the rules of its role.

    Parameters
    ----------
    graph
        The graph to check.
    roles
        Roles by name.
    ids
        What errors call the nodes; by default their numbers in ``graph``.

    Raises
    ------
    GraphError
        At the first broken rule: the node, its role, what it has and what it needs.
    """
    names = range(len(graph.nodes)) if ids is None else ids
    for i, node in enumerate(graph.nodes):
        if node.role not in roles:
            raise GraphError(
                f"node {names[i]} has the unknown role {node.role!r}; there are {', '.join(sorted(roles))}"
            )
    for i, node in enumerate(graph.nodes):
        for problem in _problems(graph, roles, i, names):
            raise GraphError(f"node {names[i]} ({node}) {problem}")


def _problems(graph: Graph, roles: Mapping[str, Role], i: int, names: Sequence[int]) -> Iterator[str]:
    """What is wrong with node i."""
    node, role = graph.nodes[i], roles[graph.nodes[i].role]
    count, children = len(graph.parents[i]), graph.children[i]
    if count < role.min_parents:
        yield f"has {count} parents, its role needs at least {role.min_parents}; add edges to it or change its role"
    if i == graph.sink and not role.may_be_sink:
        yield "is the sink, which its role may not be; change its role or hand its message on"
    if children and not role.may_be_inner:
        listed = ", ".join(str(names[j]) for j in children)
        yield f"hands its message to {listed}, but its role may only be the sink; remove these edges or change its role"
    if role.needs_model and not node.model:
        yield "names no model, its role needs one; name one of the pool"
    if node.model and not role.needs_model:
        yield f"names the model {node.model!r}, its role calls none; remove the model or change the role"
    for j in children:
        if roles[graph.nodes[j].role].kind in role.not_above:
            yield (
                f"hands its message to node {names[j]} ({graph.nodes[j]}); a {role.kind} may not stand above a "
                f"{roles[graph.nodes[j].role].kind}, remove the edge or change one of the two"
            )
