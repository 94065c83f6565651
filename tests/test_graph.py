"""Graphs: what is valid, and an identity that does not depend on how nodes are numbered."""

import numpy as np
import pytest
from generators import random_graph, random_plan

from agentgraph.errors import GraphError
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan

A, B, FUSER, VOTE = Node("assistant", "a"), Node("assistant", "b"), Node("fuser", "b"), Node("vote")


def shuffled(graph, seed):
    """The same graph, its nodes numbered at random: nodes and edges for `Graph.from_any_order`."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(graph.nodes))]
    return [graph.nodes[i] for i in order], [(order.index(i), order.index(j)) for i, j in graph.edges]


# ---- what is valid


def test_parents_children_and_sink():
    graph = Graph((A, B, FUSER, VOTE), ((2, 3), (0, 2), (1, 2), (1, 3)))
    assert graph.edges == ((0, 2), (1, 2), (1, 3), (2, 3))
    assert graph.parents == ((), (), (0, 1), (1, 2))
    assert graph.children == ((2,), (2, 3), (3,), ())
    assert (graph.sink, graph.depth, graph.width) == (3, 3, 2)


def test_single_node():
    graph = Graph((A,))
    assert (graph.sink, graph.depth, graph.width) == (0, 1, 1)


@pytest.mark.parametrize(
    ("nodes", "edges", "expected"),
    [
        ((), (), "a graph needs at least one node, got none"),
        ((A, B), ((0, 2),), r"edge \(0, 2\) names a node that is not there; nodes are 0 to 1"),
        ((A, B), ((-1, 1),), r"edge \(-1, 1\) names a node that is not there"),
        ((A, B, FUSER), ((0, 2), (1, 2), (2, 1)), r"edge \(2, 1\) points backwards; edges must go from a lower"),
        ((A, B), ((0, 1), (1, 1)), r"edge \(1, 1\) points backwards"),
        ((A, B), ((0, 1), (0, 1)), r"edge \(0, 1\) is listed twice; remove one"),
        ((A, B, FUSER), ((1, 2),), r"nodes \[0\] do not reach the sink \(node 2\); remove them or add an edge"),
    ],
)
def test_invalid_graph(nodes, edges, expected):
    with pytest.raises(GraphError, match=expected):
        Graph(nodes, edges)


# ---- nodes in any order


@pytest.mark.parametrize(
    ("nodes", "edges", "expected"),
    [
        ([A, B, FUSER], [(0, 1), (1, 2), (2, 0)], r"the graph has the cycle .*0.*; remove one edge of it"),
        ([A], [(0, 0)], "the graph has the cycle 0 -> 0"),
        ([A, B, FUSER, VOTE], [(0, 1), (1, 2), (2, 1), (2, 3)], "the cycle (1 -> 2 -> 1|2 -> 1 -> 2)"),
        ([A, B], [(0, 5)], r"edges name nodes \[5\]; nodes are 0 to 1"),
        ([A, B, FUSER], [(0, 1)], r"exactly one sink, nodes without children are \[1, 2\]; connect all but one"),
        ([], [], r"exactly one sink, nodes without children are \[\]"),
    ],
)
def test_invalid_graph_in_any_order(nodes, edges, expected):
    with pytest.raises(GraphError, match=expected):
        Graph.from_any_order(nodes, edges)


def test_any_order_is_put_in_order():
    assert Graph.from_any_order([VOTE, A, B], [(2, 0), (1, 0)]) == Graph((A, B, VOTE), ((0, 2), (1, 2))).canonical


# ---- identity


@pytest.mark.parametrize("seed", range(300))
def test_renumbering_keeps_the_identity(seed):
    graph = random_graph(seed)
    again = Graph.from_any_order(*shuffled(graph, seed))
    assert again.id == graph.id
    assert again == graph.canonical
    assert again.depth == graph.depth


@pytest.mark.parametrize("seed", range(100))
def test_canonical_form(seed):
    graph = random_graph(seed)
    assert graph.canonical.canonical == graph.canonical
    assert sorted(graph.canonical.nodes) == sorted(graph.nodes)
    assert len(graph.canonical.edges) == len(graph.edges)
    assert Graph.from_compact(graph.compact()) == graph
    plan = random_plan(seed)
    assert Plan.from_compact(plan.compact()) == plan
    assert Plan.from_compact(plan.compact()).id == plan.id


def test_different_graphs_have_different_identities():
    graphs = {random_graph(seed).canonical for seed in range(300)}
    assert len({graph.id for graph in graphs}) == len(graphs)


def test_equal_but_for_one_edge_or_one_model():
    chain, star = Graph((A, A, A), ((0, 1), (1, 2))), Graph((A, A, A), ((0, 2), (1, 2)))
    assert chain.id != star.id
    assert Graph((A, A, B), ((0, 1), (1, 2))).id != Graph((A, B, A), ((0, 1), (1, 2))).id
    # two pairs of twins, crossed or not: the same degrees everywhere
    assert (
        Graph((A, B, FUSER, FUSER, VOTE), ((0, 2), (1, 3), (2, 4), (3, 4))).id
        != Graph((A, B, FUSER, FUSER, VOTE), ((0, 2), (1, 2), (1, 3), (2, 4), (3, 4))).id
    )


@pytest.mark.parametrize(
    "graph",
    [
        Graph((*[A] * 12, VOTE), tuple((i, 12) for i in range(12))),
        Graph((A,) * 12, tuple((i, j) for j in range(12) for i in range(j))),
        Graph((*[A] * 12, VOTE), (*((i, i + 6) for i in range(6)), *((i, 12) for i in range(6, 12)))),
    ],
    ids=["star of 12", "all edges", "six pairs"],
)
def test_symmetric_graphs_end(graph):
    """Trying every order of the nodes, 12! of them, would not."""
    assert Graph.from_any_order(*shuffled(graph, 0)).id == graph.id


def test_plan_without_a_stage():
    with pytest.raises(GraphError, match="a plan needs a graph for each stage, got none"):
        Plan(())
