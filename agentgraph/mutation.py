"""Small changes of a graph: one edge, role or model changed, or one node more or less."""

from __future__ import annotations

import numpy as np

from agentgraph.graph import Graph, Node
from agentgraph.space import StageSpace

__all__ = ["mutated"]


def mutated(graph: Graph, stage: StageSpace, rng: np.random.Generator) -> Graph:
    """The graph with one edge, role or model changed, or one node more or less; roles and price are not looked at.

    Every node still leads to the sink, and there are at most ``stage.max_nodes``.
    """
    nodes, edges, n = list(graph.nodes), set(graph.edges), len(graph.nodes)
    kinds = ["role", "model"] + ["edge", "remove"] * (n > 1) + ["add"] * (n < stage.max_nodes)
    kind = kinds[int(rng.integers(len(kinds)))]
    at = int(rng.integers(n))
    if kind == "role":
        nodes[at] = _node(stage, rng, model=nodes[at].model)
    elif kind == "model":
        nodes[at] = _node(stage, rng, role=nodes[at].role)
    elif kind == "edge":
        i, j = sorted(int(i) for i in rng.choice(n, 2, replace=False))
        edges ^= {(i, j)}
    elif kind == "add":
        child = int(rng.integers(at, n))
        nodes.insert(at, _node(stage, rng))
        edges = {(i + (i >= at), j + (j >= at)) for i, j in edges} | {(at, child + 1)}
    else:
        at = int(rng.integers(n - 1))
        edges |= {(p, c) for p in graph.parents[at] for c in graph.children[at]}
        del nodes[at]
        edges = {(i - (i > at), j - (j > at)) for i, j in edges if at not in (i, j)}
    sink = len(nodes) - 1
    stranded = set(range(sink)) - {i for i, _ in edges}
    return Graph(tuple(nodes), tuple(edges | {(i, sink) for i in stranded}))


def _node(stage: StageSpace, rng: np.random.Generator, *, role: str = "", model: str = "") -> Node:
    """A node of this role and model, each drawn where it is not given or not needed so far."""
    names = list(stage.by_name)
    role = role or names[int(rng.integers(len(names)))]
    drawn = stage.pool.names[int(rng.integers(len(stage.pool)))]
    return Node(role, (model or drawn) if stage.role(role).needs_model else "")
