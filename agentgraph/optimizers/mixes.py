"""Which multisets of models spend a budget, and the graphs they are first tried in.

Source: Agent-REINFORCE (arXiv 2511.00086), its initialisation and warm-up; integer proxies as in its published code, with
the proxy of a model computed (solve price over the cheapest, rounded) instead of listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from agentgraph.graph import Graph, Node
from agentgraph.space import StageSpace

__all__ = ["Mix", "exact_spend", "proxies", "warm_up_graphs"]

Mix = tuple[int, ...]
"""How many nodes of each model, in pool order."""

MOST_MIXES: Final = 1000


def proxies(stage: StageSpace) -> tuple[int, ...]:
    """Integer price of a solve by each model, in units of the cheapest, >= 1."""
    solvers = [r for r, role in enumerate(stage.roles) if role.min_parents == 0]
    prices = stage.flops_table[solvers, :, 0].min(0)
    return tuple(max(1, round(price / prices.min())) for price in prices)


def exact_spend(prices: Sequence[int], budget: int, *, max_nodes: int, rng: np.random.Generator) -> list[Mix]:
    """Mixes whose proxies sum to exactly ``budget``, at most ``max_nodes`` models each.

    All of them up to 1,000; above that, a random 1,000. If none spends it exactly (no model costs 1), the largest sum
    below that can be spent is taken.
    """
    for spend in range(budget, 0, -1):
        found = _mixes(prices, spend, max_nodes)
        if found:
            break
    else:
        return []
    if len(found) > MOST_MIXES:
        found = [found[i] for i in sorted(rng.choice(len(found), MOST_MIXES, replace=False).tolist())]
    return found


def _mixes(prices: Sequence[int], spend: int, nodes: int) -> list[Mix]:
    if not prices:
        return [()] if spend == 0 else []
    first, rest = prices[0], prices[1:]
    return [
        (count, *tail)
        for count in range(min(spend // first, nodes), -1, -1)
        for tail in _mixes(rest, spend - count * first, nodes - count)
    ]


def warm_up_graphs(stage: StageSpace, mix: Mix, solver: Sequence[str], ceiling: float) -> list[Graph]:
    """Graphs to try a mix in, each within ``ceiling`` FLOPs: stars, a chain, chains side by side.

    Parameters
    ----------
    solver
        Name of the role in which each model of the pool solves best so far.
    ceiling
        FLOPs; models are left out, weakest first, until a graph fits.
    """
    names = [name for name, count in zip(stage.pool.names, mix, strict=True) for _ in range(count)]
    names.sort(key=lambda name: stage.pool.named(name).parameters)
    role_of = dict(zip(stage.pool.names, solver, strict=True))
    graphs: dict[str, Graph] = {}
    for shape in (*_sinks(stage), *_chains(stage)):
        kept = list(names)
        while kept:
            graph = _build(stage, shape, kept, role_of)
            if graph is not None and len(graph.nodes) <= stage.max_nodes and stage.price(graph).flops <= ceiling:
                graphs.setdefault(graph.id, graph)
                break
            kept.pop(0)
    return list(graphs.values())


def _sinks(stage: StageSpace) -> list[tuple[str, str]]:
    return [("star", role.name) for role in stage.roles if role.min_parents > 0 and role.may_be_sink]


def _chains(stage: StageSpace) -> list[tuple[str, str]]:
    links = [role.name for role in stage.roles if role.needs_model and role.may_be_inner and role.may_be_sink]
    votes = [role.name for role in stage.roles if not role.needs_model]
    chains = [("chain", link) for link in links if "fuser" not in stage.role(link).not_above]
    return [*chains, *(("pairs", f"{link}>{vote}") for _, link in chains for vote in votes[-1:])]


def _build(stage: StageSpace, shape: tuple[str, str], names: list[str], role_of: dict[str, str]) -> Graph | None:
    kind, word = shape
    solvers = [Node(role_of[name], name) for name in names]
    if kind == "chain":
        nodes = [solvers[0], *(Node(word, name) for name in names[1:])]
        return Graph(tuple(nodes), tuple((i, i + 1) for i in range(len(nodes) - 1)))
    if kind == "pairs":
        return _pairs(word, names, role_of)
    if not stage.role(word).needs_model:
        nodes = [*solvers, Node(word)]
    elif len(solvers) > 1:
        nodes = [*solvers[:-1], Node(word, names[-1])]
    else:
        return None
    return Graph(tuple(nodes), tuple((i, len(nodes) - 1) for i in range(len(nodes) - 1)))


def _pairs(word: str, names: list[str], role_of: dict[str, str]) -> Graph | None:
    """Chains of two, side by side, into a vote; an odd one stands alone."""
    link, vote = word.split(">")
    if len(names) < 3:
        return None
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    counts = Counter(names)
    spread = sorted(names, key=lambda name: (-counts[name], name))
    tails = []
    for i in range(0, len(spread), 2):
        nodes.append(Node(role_of[spread[i]], spread[i]))
        if i + 1 < len(spread):
            nodes.append(Node(link, spread[i + 1]))
            edges.append((len(nodes) - 2, len(nodes) - 1))
        tails.append(len(nodes) - 1)
    nodes.append(Node(vote))
    edges.extend((tail, len(nodes) - 1) for tail in tails)
    return Graph(tuple(nodes), tuple(edges))
