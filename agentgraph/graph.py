"""Collaboration graph of one stage: nodes (role, model), forward edges, one sink, every node useful."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import networkx as nx

from agentgraph.errors import GraphError

__all__ = ["Graph", "Node"]

_MAX_LEAVES: Final = (
    720  # of the canonical search; above it (only possible beyond 12 nodes or so) the first found is taken
)


@dataclass(frozen=True, order=True)
class Node:
    """What a node does and with which model; ``model`` is empty for roles that call none."""

    role: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.role}({self.model})" if self.model else self.role


@dataclass(frozen=True)
class Graph:
    """Nodes and forward edges; the last node is the sink.

    Parameters
    ----------
    nodes
        At least one.
    edges
        Pairs i -> j with i < j: the message of node i goes to node j. Stored sorted.

    Raises
    ------
    GraphError
        If an edge points backwards, names no node or stands twice, or a node does not reach the sink.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...] = ()
    parents: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)
    children: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if n == 0:
            raise GraphError("a graph needs at least one node, got none")
        edges = tuple(sorted((int(i), int(j)) for i, j in self.edges))
        parents: list[list[int]] = [[] for _ in range(n)]
        children: list[list[int]] = [[] for _ in range(n)]
        for i, j in edges:
            if not (0 <= i < n and 0 <= j < n):
                raise GraphError(f"edge ({i}, {j}) names a node that is not there; nodes are 0 to {n - 1}")
            if i >= j:
                raise GraphError(
                    f"edge ({i}, {j}) points backwards; edges must go from a lower to a higher node, reorder the nodes"
                )
            if j in children[i]:
                raise GraphError(f"edge ({i}, {j}) is listed twice; remove one")
            parents[j].append(i)
            children[i].append(j)
        useless = [i for i in range(n - 1) if not children[i]]
        if useless:
            raise GraphError(
                f"nodes {useless} do not reach the sink (node {n - 1}); remove them or add an edge from each"
            )
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "parents", tuple(map(tuple, parents)))
        object.__setattr__(self, "children", tuple(map(tuple, children)))

    @classmethod
    def from_any_order(cls, nodes: Sequence[Node], edges: Iterable[tuple[int, int]]) -> Graph:
        """A graph whose nodes come in any order: they are put in canonical order.

        Raises
        ------
        GraphError
            If there is a cycle (it is named), no single sink, or a node that does not reach it.
        """
        directed: nx.DiGraph[int] = nx.DiGraph()
        directed.add_nodes_from(range(len(nodes)))
        directed.add_edges_from(edges)
        strangers = sorted(set(directed) - set(range(len(nodes))))
        if strangers:
            raise GraphError(f"edges name nodes {strangers}; nodes are 0 to {len(nodes) - 1}")
        if not nx.is_directed_acyclic_graph(directed):
            cycle = [i for i, _ in nx.find_cycle(directed)]
            raise GraphError(
                f"the graph has the cycle {' -> '.join(map(str, [*cycle, cycle[0]]))}; remove one edge of it"
            )
        sinks = [i for i in directed if directed.out_degree(i) == 0]
        if len(sinks) != 1:
            raise GraphError(f"a graph needs exactly one sink, nodes without children are {sinks}; connect all but one")
        order = list(nx.topological_sort(directed))
        place = {node: rank for rank, node in enumerate(order)}
        return cls(tuple(nodes[i] for i in order), tuple((place[i], place[j]) for i, j in directed.edges)).canonical

    @property
    def sink(self) -> int:
        """Index of the node whose message is the answer."""
        return len(self.nodes) - 1

    @cached_property
    def depth(self) -> int:
        """Nodes on the longest path that ends in the sink, the sink included."""
        return int(self.longest_path([1.0] * len(self.nodes)))

    def longest_path(self, lengths: Sequence[float]) -> float:
        """Largest sum of the nodes' lengths over paths that end in the sink."""
        longest: list[float] = []
        for parents, length in zip(self.parents, lengths, strict=True):
            longest.append(length + max((longest[i] for i in parents), default=0.0))
        return longest[-1]

    @cached_property
    def width(self) -> int:
        """Number of nodes without parents."""
        return sum(not parents for parents in self.parents)

    @cached_property
    def canonical(self) -> Graph:
        """The same graph with its nodes in an order that does not depend on how they were numbered."""
        order = _canonical_order(self)
        place = {node: rank for rank, node in enumerate(order)}
        return Graph(tuple(self.nodes[i] for i in order), tuple((place[i], place[j]) for i, j in self.edges))

    def compact(self) -> list[object]:
        """``[[role, model], …], [[i, j], …]`` as JSON-able data."""
        return [[[node.role, node.model] for node in self.nodes], [list(edge) for edge in self.edges]]

    @classmethod
    def from_compact(cls, data: Sequence[Sequence[Sequence[object]]]) -> Graph:
        """Inverse of `compact`."""
        nodes, edges = data
        return cls(tuple(Node(*map(str, node)) for node in nodes), tuple((int(str(i)), int(str(j))) for i, j in edges))

    @cached_property
    def id(self) -> str:
        """12 hex digits; equal for equal graphs however their nodes are numbered."""
        text = json.dumps(self.canonical.compact(), separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _refined(graph: Graph, colours: list[int]) -> list[int]:
    """Colours refined by the colours of parents and children until nothing changes."""
    count = len(set(colours))
    while True:
        keys = [
            (
                colours[i],
                sorted(colours[p] for p in graph.parents[i]),
                sorted(colours[c] for c in graph.children[i]),
            )
            for i in range(len(colours))
        ]
        ranks = {json.dumps(key): rank for rank, key in enumerate(sorted({json.dumps(k): k for k in keys}.values()))}
        colours = [ranks[json.dumps(key)] for key in keys]
        if len(ranks) == count:
            return colours
        count = len(ranks)


def _topological(graph: Graph, colours: list[int]) -> list[int]:
    """Topological order, smallest colour first among ready nodes; colours are all different."""
    waiting = [len(parents) for parents in graph.parents]
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        node = min(ready, key=colours.__getitem__)
        ready.remove(node)
        order.append(node)
        for child in graph.children[node]:
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    return order


def _canonical_order(graph: Graph) -> list[int]:
    """Individualise and refine; nodes with the same parents and children are interchangeable and never branched on."""
    labels = sorted(set(graph.nodes))
    best: tuple[list[tuple[int, int]], list[int]] | None = None
    leaves = 0
    stack = [_refined(graph, [labels.index(node) for node in graph.nodes])]
    while stack and (leaves < _MAX_LEAVES or best is None):
        colours = stack.pop()
        cells: dict[int, list[int]] = {}
        for node, colour in enumerate(colours):
            cells.setdefault(colour, []).append(node)
        cell = next((cells[colour] for colour in sorted(cells) if len(cells[colour]) > 1), None)
        if cell is None:
            leaves += 1
            order = _topological(graph, colours)
            place = {node: rank for rank, node in enumerate(order)}
            form = sorted((place[i], place[j]) for i, j in graph.edges)
            if best is None or form < best[0]:
                best = (form, order)
            continue
        neighbours = {(graph.parents[i], graph.children[i]) for i in cell}
        for node in cell[:1] if len(neighbours) == 1 else cell:
            split = [2 * colour + 1 for colour in colours]
            split[node] -= 1
            stack.append(_refined(graph, split))
    if best is None:  # the stack is never empty before a leaf is met
        raise AssertionError
    return best[1]
